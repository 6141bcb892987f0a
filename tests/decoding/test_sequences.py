"""Log-probabilities."""

import numpy as np
from scipy.special import log_softmax as scipy_log_softmax

from cococli.decoding.sequences import log_softmax


def test_log_softmax_is_exact_for_large_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(4, 1000)).astype(np.float32) * 30 + 500
    ours = log_softmax(logits)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, scipy_log_softmax(logits.astype(np.float64), axis=1), atol=1e-4)


def test_forbidden_tokens_have_no_probability() -> None:
    ours = log_softmax(np.array([[0, -np.inf, 0]], np.float32))
    np.testing.assert_allclose(ours, [[np.log(0.5), -np.inf, np.log(0.5)]], atol=1e-6)
