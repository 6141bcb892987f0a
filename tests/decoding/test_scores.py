"""The best of many scores, and log-probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax

from cococli.decoding.scores import log_softmax
from cococli.engines.scores import best, few_best
from cococli.errors import ModelError


@given(st.integers(1, 700), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32))
def test_best_is_the_head_of_a_stable_sort(size: int, count: int, levels: int, seed: int) -> None:
    draws = np.random.default_rng(seed).integers(0, levels, (3, size))  # few levels: many equal scores
    scores = np.where(draws == 0, -np.inf, draws).astype(np.float32)
    count = min(count, size)
    np.testing.assert_array_equal(best(scores, count), np.argsort(-scores, axis=1, kind="stable")[:, :count])


def test_log_probabilities_are_exact_for_large_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32) * 30 + 500
    ours = log_softmax(logits)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, scipy_log_softmax(logits.astype(np.float64), axis=1), atol=1e-4)


def test_a_forbidden_token_has_no_probability() -> None:
    ours = log_softmax(np.array([[0, -np.inf, 0]], np.float32))
    np.testing.assert_allclose(ours, [[np.log(0.5), -np.inf, np.log(0.5)]], atol=1e-6)


@given(st.integers(1, 900), st.integers(1, 14), st.integers(0, 2**32))
def test_the_few_best_are_those_of_the_whole_vocabulary(size: int, few: int, seed: int) -> None:
    logits = np.random.default_rng(seed).normal(size=(3, size)).astype(np.float32) * 5
    scores = few_best(logits, few)
    np.testing.assert_array_equal(scores.ids, np.argsort(-logits, axis=1, kind="stable")[:, :few])
    np.testing.assert_array_equal(scores.logprobs, np.take_along_axis(log_softmax(logits), scores.ids, axis=1))
    np.testing.assert_array_equal(scores.of(slice(1, 3)).every(), logits[1:])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_scores_that_are_not_numbers_are_the_models_fault(damage: float) -> None:
    with pytest.raises(ModelError, match="weights are damaged"):
        few_best(np.array([[0, 1], [damage, 1]], np.float32), 1)
