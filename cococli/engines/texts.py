"""Texts cut to the tokens that count. The same for every engine."""

from collections.abc import Iterator

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
    context = config.context_length
    lengths = np.array([*(length for length in LENGTHS if length < context), context])
    ends = ((ids != config.pad_id) * np.arange(1, ids.shape[1] + 1)).max(axis=1)
    of_text = lengths[np.searchsorted(lengths, np.minimum(ends + 1, context))]
    for length in np.unique(of_text).tolist():
        texts = np.flatnonzero(of_text == length)
        yield texts, np.pad(ids[texts], ((0, 0), (0, max(0, length - ids.shape[1]))))[:, :length]
