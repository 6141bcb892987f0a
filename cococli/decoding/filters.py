"""Filters of the next token: each takes the ids so far [R, T] and scores [R, V], and returns filtered scores."""

import numpy as np

from ..model.arrays import top_k
from . import bans
from .options import SearchOptions


def apply(ids: np.ndarray, scores: np.ndarray, options: SearchOptions, eot_id: int) -> np.ndarray:
    """Apply the filters of all methods, in Hugging Face's order, to a copy of the scores.

    If they leave no token, EOT is allowed regardless: the caption ends, however short it is.
    """
    original = scores
    if options.repetition_penalty != 1:
        scores = penalize_repetition(ids, scores, options.repetition_penalty)
    if options.no_repeat_ngram:
        scores = forbid_repeated_ngrams(ids, scores, options.no_repeat_ngram)
    if options.ban:
        last = ids.shape[1] + 1 + options.force_eot >= options.max_length
        scores = forbid_words(ids, scores, bans.compiled(options.ban), last)
    if ids.shape[1] < options.min_length:
        scores = forbid(scores, eot_id)
    if options.no_repeat_ngram or options.ban:  # no other filter could forbid the whole vocabulary
        stuck = scores.max(axis=1) == -np.inf
        scores[stuck, eot_id] = original[stuck, eot_id]
    return scores


def penalize_repetition(ids: np.ndarray, scores: np.ndarray, penalty: float) -> np.ndarray:
    """Make used tokens less likely: divide positive scores, multiply negative ones (arXiv 1909.05858)."""
    used = np.take_along_axis(scores, ids, axis=1)  # [R, T]
    factor = np.float32(penalty)
    scores = scores.copy()
    np.put_along_axis(scores, ids, np.where(used < 0, used * factor, used / factor), axis=1)
    return scores


def forbid_repeated_ngrams(ids: np.ndarray, scores: np.ndarray, size: int) -> np.ndarray:
    """Forbid every token that would complete an n-gram that its sequence already contains (arXiv 1705.04304)."""
    if ids.shape[1] < size:
        return scores
    ngrams = np.lib.stride_tricks.sliding_window_view(ids, size, axis=1)  # [R, T - size + 1, size]
    prefix = ids[:, ids.shape[1] - size + 1 :]  # [R, size - 1]
    rows, starts = np.nonzero((ngrams[..., :-1] == prefix[:, None]).all(axis=2))
    scores = scores.copy()
    scores[rows, ngrams[rows, starts, -1]] = -np.inf
    return scores


def forbid_words(ids: np.ndarray, scores: np.ndarray, banned: bans.Bans, last: bool) -> np.ndarray:
    """Forbid every token that would complete a banned word; see `bans.completing` for `last`."""
    scores = scores.copy()
    for row, sequence in zip(scores, ids.tolist(), strict=True):
        row[bans.completing(sequence, banned, last)] = -np.inf
    return scores


def forbid(scores: np.ndarray, token: int) -> np.ndarray:
    """Forbid one token in every sequence."""
    scores = scores.copy()
    scores[:, token] = -np.inf
    return scores


def keep_top_k(scores: np.ndarray, count: int) -> np.ndarray:
    """Keep the `count` highest scores of each row, and scores equal to the last one (arXiv 1805.04833)."""
    last = top_k(scores, min(count, scores.shape[1]))[:, -1:]
    return np.where(scores < np.take_along_axis(scores, last, axis=1), -np.inf, scores)


def keep_top_p(scores: np.ndarray, mass: float) -> np.ndarray:
    """Keep the most likely tokens of each row that together have probability `mass` (nucleus, arXiv 1904.09751)."""
    return np.stack([_nucleus(row, mass) for row in scores])


def _nucleus(row: np.ndarray, mass: float) -> np.ndarray:
    probabilities = np.exp(row.astype(np.float64) - row.max())
    probabilities /= probabilities.sum()
    count = 16
    while True:  # usually the nucleus is small: avoid sorting the whole vocabulary
        order = top_k(probabilities[None], min(count, len(row)))[0]
        before = np.cumsum(probabilities[order]) - probabilities[order]
        if before[-1] >= mass or count >= len(row):
            break
        count *= 8
    kept = order[before < mass]
    filtered = np.full_like(row, -np.inf)
    filtered[kept] = row[kept]
    return filtered
