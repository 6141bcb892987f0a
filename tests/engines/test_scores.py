"""Top-k scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.decoding.sequences import log_softmax
from cococli.engines.scores import top_k, top_k_scores
from cococli.errors import ModelError


@given(st.integers(1, 700), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32))
def test_top_k_equals_a_stable_sort(size: int, k: int, levels: int, seed: int) -> None:
    draws = np.random.default_rng(seed).integers(0, levels, (3, size))  # few levels: many equal scores
    scores = np.where(draws == 0, -np.inf, draws).astype(np.float32)
    k = min(k, size)
    np.testing.assert_array_equal(top_k(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])


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
