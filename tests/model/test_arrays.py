"""Numpy helpers of the engines."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cococli.model.arrays import l2_normalize, top_k


@given(st.integers(1, 700), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**32))
def test_top_k_equals_a_stable_sort(size: int, k: int, levels: int, seed: int) -> None:
    draws = np.random.default_rng(seed).integers(0, levels, (3, size))  # few levels: many equal scores
    scores = np.where(draws == 0, -np.inf, draws).astype(np.float32)
    k = min(k, size)
    np.testing.assert_array_equal(top_k(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])


def test_l2_normalize_keeps_zeros() -> None:
    np.testing.assert_array_equal(l2_normalize(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])
