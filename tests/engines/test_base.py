"""Scores of the top k tokens."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from cococli.engines.base import top_k_scores
from cococli.errors import ModelError


@given(st.integers(1, 900), st.integers(1, 14), st.integers(0, 2**32))
def test_top_k_scores_equal_those_of_the_vocabulary(size: int, k: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, size)).astype(np.float32) * 5
    scores = top_k_scores(logits, k)
    np.testing.assert_array_equal(scores.ids, np.argsort(-logits, axis=1, kind="stable")[:, :k])
    exact = log_softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(scores.logprobs_of(logits), exact, atol=1e-4)
    np.testing.assert_allclose(scores.sums(1.0), np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1), 1e-5)
    np.testing.assert_array_equal(scores.rows(slice(1, 3)).lookup(slice(None), slice(None)), logits[1:])


def test_scores_of_some_rows() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
    scores = top_k_scores(logits, 3).rows(np.array([False, True, False, True])).rows(slice(1, 2))
    np.testing.assert_array_equal(scores.ids, np.argsort(-logits[3:], axis=1)[:, :3])
    np.testing.assert_array_equal(scores.lookup(np.array([True]), 7), logits[3:, 7])
    colder = np.exp((logits[3:] - logits[3].max()) / 0.5).sum(axis=1)
    np.testing.assert_allclose(scores.sums(0.5), colder, rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_damaged_weights_are_reported(damage: float) -> None:
    with pytest.raises(ModelError, match="weights are damaged"):
        top_k_scores(np.array([[0, 1], [damage, 1]], np.float32), 1)
