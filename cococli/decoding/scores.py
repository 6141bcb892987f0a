"""Scores of whole vocabularies: log-probabilities, and the best few without sorting the rest."""

import numpy as np

from ..errors import ModelError

_BLOCKS = 64  # rows are split into this many pieces, laid side by side, to find a lower bound of their best


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[R, V] float32 logits -> [R, V] float32 log-probabilities.

    Raises:
        ModelError: a row has no log-probabilities, because a logit is NaN or infinite.
    """
    with np.errstate(invalid="ignore"):  # said below, in words
        shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.exp(shifted).sum(axis=1, keepdims=True)
    if not np.isfinite(total).all():
        raise ModelError("this model's scores are not numbers: its weights are damaged", "Fetch or convert it again.")
    shifted -= np.log(total)
    return shifted


def best(scores: np.ndarray, count: int) -> np.ndarray:
    """Where the highest scores of each row stand.

    Args:
        scores: [B, N], N at least `count`.

    Returns:
        [B, count] int64 indices, highest score first; of equal scores the lower index first.
    """
    return np.stack([_best_of(row, count) for row in scores])


def _best_of(row: np.ndarray, count: int) -> np.ndarray:
    """`best` of one row [N]: only scores that reach the count-th highest of some distinct scores can be among them."""
    width = len(row) // _BLOCKS
    if width < count:
        candidates = np.arange(len(row))
    else:
        peaks = row[: width * _BLOCKS].reshape(_BLOCKS, width).max(axis=0)
        candidates = np.flatnonzero(row >= np.partition(peaks, -count)[-count])
    return candidates[np.argsort(-row[candidates], kind="stable")[:count]]
