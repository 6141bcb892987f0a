"""Texts cut to the tokens that count. The same for every engine."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..catalog import CocaConfig

LENGTHS = (16, 32)  # tokens that texts are cut to, if they are shorter, or else to the whole context


def by_length(ids: np.ndarray, config: CocaConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Texts that fit into so many tokens with one pad, which the CLS sees; it sees nothing of what comes after.

    Args:
        ids: [B, T] int32, zero-padded.

    Yields:
        Which texts, [K], and their ids, [K, L], for each length L that there is.
    """
    of_text = padded_lengths(ids, config.pad_id, LENGTHS, config.context_length)
    for length in np.unique(of_text).tolist():
        texts = np.flatnonzero(of_text == length)
        yield texts, np.pad(ids[texts], ((0, 0), (0, max(0, length - ids.shape[1]))))[:, :length]


def padded_lengths(ids: np.ndarray, pad_id: int, lengths: Sequence[int], context: int) -> np.ndarray:
    """[B, T] texts -> [B] int64: the least of some lengths that holds each with one pad, or else the whole context."""
    known = np.array([*(length for length in lengths if length < context), context])
    ends = ((ids != pad_id) * np.arange(1, ids.shape[1] + 1)).max(axis=1)  # ids 0 inside a text are no pads
    return known[np.searchsorted(known, np.minimum(ends + 1, context))]
