"""Scores of the next token, of which an engine returns only the top k until the whole vocabulary is needed."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ModelError

_BLOCKS = 64  # rows are split into this many blocks, compared side by side, to find a lower bound of the top k


@dataclass(frozen=True)
class Scores:
    """Scores of the next token of R sequences, valid until the next step.

    Attributes:
        ids: [R, K] int32, the most likely tokens, best first; of equal ones the lower id first.
        logits: [R, K] float32, their logits.
        log_sum: [R] float32. The log-probability of a token is its logit minus the best logit minus this.
        all_logits: Returns the logits [R, V] float32 of all tokens.

    Raises:
        ModelError: A logit is NaN or infinite, so there are no probabilities.
    """

    ids: np.ndarray
    logits: np.ndarray
    log_sum: np.ndarray
    all_logits: Callable[[], np.ndarray]

    def __post_init__(self) -> None:
        if not np.isfinite(self.log_sum).all():
            raise ModelError(
                "this model's scores are not numbers: its weights are damaged", "Fetch or convert it again."
            )

    @property
    def logprobs(self) -> np.ndarray:
        """[R, K] float32 log-probabilities of the most likely tokens."""
        return (self.logits - self.logits[:, :1]) - self.log_sum[:, None]

    def rows(self, rows: slice) -> "Scores":
        """Return the scores of some sequences."""
        return Scores(self.ids[rows], self.logits[rows], self.log_sum[rows], lambda: self.all_logits()[rows])


def top_k_scores(logits: np.ndarray, k: int) -> Scores:
    """Return the scores of [R, V] float32 logits."""
    log_sum = np.array([_log_sum(row) for row in logits], np.float32)
    return scores_from(logits, log_sum, k)


def scores_from(logits: np.ndarray, log_sum: np.ndarray, k: int) -> Scores:
    """Return the scores of [R, V] float32 logits whose `Scores.log_sum` is known."""
    comparable = logits if np.isfinite(log_sum).all() else np.zeros_like(logits)
    ids = top_k(comparable, min(k, logits.shape[1]))
    return Scores(ids.astype(np.int32), np.take_along_axis(logits, ids, axis=1), log_sum, lambda: logits)


def _log_sum(row: np.ndarray) -> np.float32:
    """Return `Scores.log_sum` of one row, which fits into the processor's cache."""
    with np.errstate(invalid="ignore"):  # `Scores` raises
        return np.log(np.exp(row - row.max()).sum())


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Find the highest scores of each row without sorting the rest.

    Args:
        scores: [B, N], N at least `k`.

    Returns:
        [B, k] int64 indices, highest score first; of equal scores the lower index first.
    """
    return np.stack([_top_k_of_row(row, k) for row in scores])


def _top_k_of_row(row: np.ndarray, k: int) -> np.ndarray:
    """Return `top_k` of one row [N], after discarding what is below the k-th highest of some of its scores."""
    width = len(row) // _BLOCKS
    if width < k:
        candidates = np.arange(len(row))
    else:
        peaks = row[: width * _BLOCKS].reshape(_BLOCKS, width).max(axis=0)
        candidates = np.flatnonzero(row >= np.partition(peaks, -k)[-k])
    return candidates[np.argsort(-row[candidates], kind="stable")[:k]]
