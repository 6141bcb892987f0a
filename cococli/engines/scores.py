"""What a step says of the next token, without handing over the whole vocabulary."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import ModelError

_BLOCKS = 64  # rows are split into this many pieces, laid side by side, to find a lower bound of their best


@dataclass(frozen=True)
class Scores:
    """Scores of the next token of R rows. They hold until the next step.

    Attributes:
        ids: [R, K] int32, the likeliest tokens, best first; of equals the lower id first.
        logits: [R, K] float32, theirs.
        log_sum: [R] float32. The log-probability of a token is its logit less the best one, less this.
        every: Gives the logits [R, V] float32 of all tokens.

    Raises:
        ModelError: a row has no probabilities, because a logit is NaN or infinite.
    """

    ids: np.ndarray
    logits: np.ndarray
    log_sum: np.ndarray
    every: Callable[[], np.ndarray]

    def __post_init__(self) -> None:
        if not np.isfinite(self.log_sum).all():
            raise ModelError(
                "this model's scores are not numbers: its weights are damaged", "Fetch or convert it again."
            )

    @property
    def logprobs(self) -> np.ndarray:
        """[R, K] float32 log-probabilities of the likeliest tokens."""
        return (self.logits - self.logits[:, :1]) - self.log_sum[:, None]

    def of(self, rows: slice) -> "Scores":
        """Those of some rows."""
        return Scores(self.ids[rows], self.logits[rows], self.log_sum[rows], lambda: self.every()[rows])


def few_best(logits: np.ndarray, few: int) -> Scores:
    """The scores of [R, V] float32 logits, of which the few best are found without sorting the rest."""
    log_sum = np.array([_log_sum(row) for row in logits], np.float32)
    ids = best(logits if np.isfinite(log_sum).all() else np.zeros_like(logits), min(few, logits.shape[1]))
    return Scores(ids.astype(np.int32), np.take_along_axis(logits, ids, axis=1), log_sum, lambda: logits)


def _log_sum(row: np.ndarray) -> np.float32:
    """Row by row, as each fits into the processor's cache."""
    with np.errstate(invalid="ignore"):  # told by `Scores`, in words
        return np.log(np.exp(row - row.max()).sum())


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
