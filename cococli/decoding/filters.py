"""Filters of the next token, and the random choice among what they leave."""

from typing import NamedTuple

import numpy as np

from ..engines.base import Scores
from ..model.arrays import top_k
from ..tokenizer import EOT_ID
from . import bans
from .search_options import SearchOptions

NUCLEUS = 512  # tokens that top-p sorts at first: usually they are enough


class Choices(NamedTuple):
    """Possible next tokens, [K, B, N] each, in the order of their ids: all of the vocabulary, or the most likely."""

    tokens: np.ndarray
    scores: np.ndarray  # filtered: -inf where a token is forbidden
    logprobs: np.ndarray  # before any filter
    bound: np.ndarray  # [K, B]: no other token has a higher score


def top_choices(scores: Scores, options: SearchOptions, vocab_size: int) -> Choices:
    """Return the choices of K * B sequences among their most likely tokens, before any filter."""
    order = np.argsort(scores.ids, axis=1)
    tokens, logits = (np.take_along_axis(part, order, axis=1) for part in (scores.ids, scores.logits))
    return _choices(tokens, logits, scores, options, complete=tokens.shape[1] == vocab_size)


def all_choices(scores: Scores, options: SearchOptions) -> Choices:
    """Return the choices of K * B sequences among the whole vocabulary, before any filter."""
    logits = scores.lookup(slice(None), slice(None))
    tokens = np.broadcast_to(np.arange(logits.shape[1], dtype=np.int32), logits.shape)
    return _choices(tokens, logits, scores, options, complete=True)


def _choices(tokens: np.ndarray, logits: np.ndarray, scores: Scores, options: SearchOptions, complete: bool) -> Choices:
    logprobs = scores.logprobs_of(logits)
    ranked = logits if options.ranks_by_logits else logprobs
    bound = np.full(len(ranked), -np.inf, np.float32) if complete else ranked.min(axis=1)
    shape = (len(ranked) // options.rows, options.rows, -1)
    return Choices(tokens.reshape(shape), ranked.reshape(shape), logprobs.reshape(shape), bound.reshape(shape[:2]))


def apply(ids: np.ndarray, length: np.ndarray, choices: Choices, options: SearchOptions, eot_id: int) -> Choices:
    """Apply the filters of all methods, in Hugging Face's order.

    If they leave no token of the whole vocabulary, EOT is allowed regardless: the caption ends, however short it is.

    Args:
        ids: [K, B, T], of which the first `length` [K] are the ids so far.
    """
    tokens, scores, bound = choices.tokens, choices.scores, choices.bound
    if options.repetition_penalty != 1 or options.no_repeat_ngram or options.ban:
        past = np.where(np.arange(ids.shape[2]) < length[:, None, None], ids, -1)
    if options.repetition_penalty != 1:
        scores = penalize_repetition(past, tokens, scores, options.repetition_penalty)
        if options.repetition_penalty < 1:
            bound = penalized(bound, options.repetition_penalty)
    if options.no_repeat_ngram:
        scores = np.where(contains(repeating(past, length, options.no_repeat_ngram), tokens), -np.inf, scores)
    if options.ban:
        last = length + 1 + options.force_eot >= options.max_length
        scores = forbid_words(past, last, tokens, scores, bans.compiled(options.ban))
    if options.min_length:
        early = (length < options.min_length)[:, None, None]
        scores = np.where(early & (tokens == eot_id), -np.inf, scores)
    if options.no_repeat_ngram or options.ban:  # no other filter could forbid the whole vocabulary
        stuck = (scores.max(axis=2) == -np.inf) & (bound == -np.inf)
        scores = np.where(stuck[..., None] & (tokens == eot_id), choices.scores, scores)
    return choices._replace(scores=scores, bound=bound)


def penalized(scores: np.ndarray, penalty: float) -> np.ndarray:
    """Make tokens less likely: divide positive scores, multiply negative ones (arXiv 1909.05858)."""
    factor = np.float32(penalty)
    return np.where(scores < 0, scores * factor, scores / factor)


def penalize_repetition(past: np.ndarray, tokens: np.ndarray, scores: np.ndarray, penalty: float) -> np.ndarray:
    """Make used tokens less likely."""
    return np.where(contains(past, tokens), penalized(scores, penalty), scores)


def repeating(past: np.ndarray, length: np.ndarray, size: int) -> np.ndarray:
    """Return the tokens that complete an n-gram which their sequence already contains (arXiv 1705.04304).

    Args:
        past: [K, B, T] ids so far, -1 after the first `length` [K].

    Returns:
        [K, B, M], -1 where there is none.
    """
    if past.shape[2] < size:
        return past[..., :0]
    ngrams = np.lib.stride_tricks.sliding_window_view(past, size, axis=2)  # [K, B, T - size + 1, size]
    at = length[:, None, None] + np.arange(1 - size, 0)
    prefix = np.take_along_axis(past, np.maximum(at, 0), axis=2)  # [K, B, size - 1]
    repeats = (ngrams[..., :-1] == prefix[:, :, None]).all(axis=3) & (at >= 0).all(axis=2)[..., None]
    return np.where(repeats, ngrams[..., -1], -1)


def contains(ids: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """[K, B, M] ids and [K, B, N] tokens -> [K, B, N]: the token is one of the ids."""
    found = np.zeros(tokens.shape, bool)
    for column in range(ids.shape[2]):
        found |= tokens == ids[..., column, None]
    return found


def forbid_words(
    past: np.ndarray, last: np.ndarray, tokens: np.ndarray, scores: np.ndarray, banned: bans.Bans
) -> np.ndarray:
    """Forbid every token that would complete a banned word; see `bans.completing` for `last` [K]."""
    scores, forbidden = scores.copy(), np.zeros(EOT_ID + 1, bool)
    for clip, (sequences, is_last) in enumerate(zip(past.tolist(), last.tolist(), strict=True)):
        for beam, sequence in enumerate(sequences):
            completing = bans.completing([token for token in sequence if token >= 0], banned, is_last)
            forbidden[completing] = True
            scores[clip, beam, forbidden[tokens[clip, beam]]] = -np.inf
            forbidden[completing] = False
    return scores


def keep_top_k(scores: np.ndarray, count: int) -> np.ndarray:
    """Keep the `count` highest of the last axis, and scores equal to the last one (arXiv 1805.04833)."""
    count = min(count, scores.shape[-1])
    lowest = np.partition(scores, -count, axis=-1)[..., -count, None]
    return np.where(scores < lowest, -np.inf, scores)


def keep_top_p(scores: np.ndarray, p: float, log_mass: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Keep the most likely tokens that together have probability `p` (nucleus, arXiv 1904.09751).

    Args:
        scores: [R, N].
        log_mass: [R] logarithm of the sum of the exponentiated scores of the whole vocabulary, by default of these.

    Returns:
        [R, N] scores, and [R]: these tokens are enough.
    """
    best = scores.max(axis=1, keepdims=True).astype(np.float64)
    weights = np.exp(scores - best)
    weights /= weights.sum(axis=1, keepdims=True) if log_mass is None else np.exp(log_mass[:, None] - best)
    for count in sorted({min(NUCLEUS, scores.shape[1]), scores.shape[1]}):
        order = top_k(weights, count)
        falling = np.take_along_axis(weights, order, axis=1)
        before = np.cumsum(falling, axis=1) - falling
        enough = before[:, -1] + falling[:, -1] >= p
        if enough.all():
            break
    if log_mass is not None:  # float32, which cannot tell which side of `p` a close sum is on
        enough &= (np.abs(before - p) > 1e-5).all(axis=1)
    kept = np.zeros(scores.shape, bool)
    np.put_along_axis(kept, order, before < p, axis=1)
    return np.where(kept, scores, -np.inf), enough


def vocabulary_log_mass(scores: Scores, length: np.ndarray, options: SearchOptions, eot_id: int) -> np.ndarray:
    """Return [K, B] for `draw` from the top tokens of sequences of `length` [K]; inf where it is not known exactly."""
    shape = len(length), options.rows
    if options.repetition_penalty != 1 or options.no_repeat_ngram or options.ban:
        return np.full(shape, np.inf)
    best, total = scores.logits[:, 0].astype(np.float64), scores.sums(options.temperature)
    early = np.repeat(length < options.min_length, options.rows)
    allowed = total.copy()
    allowed[early] -= np.exp((scores.lookup(early, eot_id) - best[early]) / options.temperature)
    exact = allowed > total / 1000  # otherwise the difference of float32 numbers has few digits
    logs = np.log(allowed, where=exact, out=np.full_like(total, np.inf))
    return (best / options.temperature + logs).reshape(shape)


def draw(
    choices: Choices, numbers: np.ndarray, options: SearchOptions, log_mass: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a token for each sequence.

    Args:
        numbers: [K, B] uniform random numbers.
        log_mass: See `keep_top_p`, [K, B].

    Returns:
        [K, B] columns of the choices, and [K, B]: no token outside the choices could have been chosen.
    """
    if options.method == "greedy":
        return choices.scores.argmax(axis=2), choices.bound < choices.scores.max(axis=2)
    scores, bound = (part / np.float32(options.temperature) for part in (choices.scores, choices.bound))
    if options.method == "top-k":
        scores = keep_top_k(scores, options.top_k)
        decided = bound < np.where(scores == -np.inf, np.inf, scores).min(axis=2)
    else:
        mass = None if log_mass is None else log_mass.reshape(-1)
        rows, enough = keep_top_p(scores.reshape(-1, scores.shape[2]), options.top_p, mass)
        scores, decided = rows.reshape(scores.shape), enough.reshape(numbers.shape)
    shares = np.cumsum(np.exp(scores.astype(np.float64) - scores.max(axis=2, keepdims=True)), axis=2)
    return (shares / shares[..., -1:] <= numbers[..., None]).sum(axis=2), decided
