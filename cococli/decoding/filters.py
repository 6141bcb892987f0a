"""Rules on the next token: each takes the ids so far [R, T] and scores [R, V], and returns scores that obey it."""

import numpy as np

from ..engines.scores import best
from . import bans
from .options import SearchOptions


def obey(ids: np.ndarray, scores: np.ndarray, options: SearchOptions, eot_id: int) -> np.ndarray:
    """Apply the rules that hold for every method, in Hugging Face's order. `scores` is left as it is.

    Where the rules together leave no token, EOT is allowed after all: the caption ends, however short.
    """
    given = scores
    if options.repetition_penalty != 1:
        scores = penalise_repetition(ids, scores, options.repetition_penalty)
    if options.no_repeat_ngram:
        scores = forbid_repeated_ngrams(ids, scores, options.no_repeat_ngram)
    if options.ban:
        last = ids.shape[1] + 1 + options.force_eot >= options.max_length
        scores = forbid_words(ids, scores, bans.compiled(options.ban), last)
    if ids.shape[1] < options.min_length:
        scores = forbid(scores, eot_id)
    if options.no_repeat_ngram or options.ban:  # no other rule could forbid a whole vocabulary
        stuck = scores.max(axis=1) == -np.inf
        scores[stuck, eot_id] = given[stuck, eot_id]
    return scores


def penalise_repetition(ids: np.ndarray, scores: np.ndarray, penalty: float) -> np.ndarray:
    """Make tokens that were used less likely: divide positive scores, multiply negative ones (arXiv 1909.05858)."""
    used = np.take_along_axis(scores, ids, axis=1)  # [R, T]
    factor = np.float32(penalty)
    scores = scores.copy()
    np.put_along_axis(scores, ids, np.where(used < 0, used * factor, used / factor), axis=1)
    return scores


def forbid_repeated_ngrams(ids: np.ndarray, scores: np.ndarray, size: int) -> np.ndarray:
    """Forbid every token that would end a run of `size` tokens which stands in its row already (arXiv 1705.04304)."""
    if ids.shape[1] < size:
        return scores
    runs = np.lib.stride_tricks.sliding_window_view(ids, size, axis=1)  # [R, T - size + 1, size]
    begun = ids[:, ids.shape[1] - size + 1 :]  # [R, size - 1]
    rows, places = np.nonzero((runs[..., :-1] == begun[:, None]).all(axis=2))
    scores = scores.copy()
    scores[rows, runs[rows, places, -1]] = -np.inf
    return scores


def forbid_words(ids: np.ndarray, scores: np.ndarray, banned: bans.Bans, last: bool) -> np.ndarray:
    """Forbid every token that would complete a banned word; `last` when what a token leaves open stays so."""
    scores = scores.copy()
    for row, said in zip(scores, ids.tolist(), strict=True):
        row[bans.completing(said, banned, last)] = -np.inf
    return scores


def forbid(scores: np.ndarray, token: int) -> np.ndarray:
    """Forbid one token in every row."""
    scores = scores.copy()
    scores[:, token] = -np.inf
    return scores


def keep_top_k(scores: np.ndarray, count: int) -> np.ndarray:
    """Forbid what is below the `count` highest scores of its row (arXiv 1805.04833). Equals of the last one stay."""
    last = best(scores, min(count, scores.shape[1]))[:, -1:]
    return np.where(scores < np.take_along_axis(scores, last, axis=1), -np.inf, scores)


def keep_top_p(scores: np.ndarray, mass: float) -> np.ndarray:
    """Keep the likeliest tokens of each row until they hold `mass` of its probability (nucleus, arXiv 1904.09751)."""
    return np.stack([_nucleus(row, mass) for row in scores])


def _nucleus(row: np.ndarray, mass: float) -> np.ndarray:
    probabilities = np.exp(row.astype(np.float64) - row.max())
    probabilities /= probabilities.sum()
    count = 16
    while True:  # the nucleus is small as a rule: do not sort the whole vocabulary for it
        order = best(probabilities[None], min(count, len(row)))[0]
        before = np.cumsum(probabilities[order]) - probabilities[order]
        if before[-1] >= mass or count >= len(row):
            break
        count *= 8
    kept = order[before < mass]
    filtered = np.full_like(row, -np.inf)
    filtered[kept] = row[kept]
    return filtered
