"""Scores of the top k tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.decoding.sequences import log_softmax
from cococli.engines.base import top_k_scores
from cococli.errors import ModelError


@given(st.integers(1, 900), st.integers(1, 14), st.integers(0, 2**32))
def test_top_k_scores_equal_those_of_the_vocabulary(size: int, k: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, size)).astype(np.float32) * 5
    scores = top_k_scores(logits, k)
    np.testing.assert_array_equal(scores.ids, np.argsort(-logits, axis=1, kind="stable")[:, :k])
    np.testing.assert_array_equal(scores.logprobs, np.take_along_axis(log_softmax(logits), scores.ids, axis=1))
    np.testing.assert_array_equal(scores.rows(slice(1, 3)).all_logits(), logits[1:])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_damaged_weights_are_reported(damage: float) -> None:
    with pytest.raises(ModelError, match="weights are damaged"):
        top_k_scores(np.array([[0, 1], [damage, 1]], np.float32), 1)
