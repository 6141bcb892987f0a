"""Log-probabilities of whole vocabularies."""

import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[R, V] float32 logits -> [R, V] float32 log-probabilities."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
