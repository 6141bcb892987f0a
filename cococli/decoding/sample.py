"""Greedy search, and sampling by top-k and top-p."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..catalog import CocaConfig
from ..engines.base import Scores
from . import filters
from .options import SearchOptions
from .sequences import Choices, Continuation, Hypothesis, Search, Sequences


def sample(config: CocaConfig, options: SearchOptions, prompt: Sequence[int] = (), seed: int = 0) -> Search:
    """Generate captions of a clip from the most likely token each time, or from random ones.

    Each sample has its own random stream, seeded by (options.seed, the clip's seed, its index): a caption depends
    neither on other clips nor on the number of samples.
    """
    sequences = Sequences(config, options, prompt)
    streams = [np.random.default_rng((options.seed, seed, index)) for index in range(sequences.beams)]
    captions: dict[int, Hypothesis] = {}  # by index
    scores = yield from sequences.read_start()
    while True:
        chosen = _next_tokens(sequences, scores, streams, captions)
        for index, continuation in enumerate(chosen):
            if index not in captions and (continuation.token == sequences.eot_id or sequences.full):
                captions[index] = sequences.finish(continuation)
        if len(captions) == sequences.beams:
            return [captions[index] for index in range(sequences.beams)]
        scores = yield sequences.advance(chosen)


def _next_tokens(
    sequences: Sequences, scores: Scores, streams: Sequence[np.random.Generator], captions: Mapping[int, Hypothesis]
) -> list[Continuation]:
    """Return the next token of every sample; finished ones are idle."""
    forced = sequences.full and sequences.options.force_eot
    choices = sequences.all_tokens(scores) if forced else _filtered(sequences, scores)
    chosen = [sequences.idle(index) for index in range(sequences.beams)]
    for index, stream in enumerate(streams):
        if index not in captions:
            column = sequences.eot_id if forced else _draw(choices.scores[index], sequences.options, stream)
            token, logprob = int(choices.tokens[index, column]), float(choices.logprobs[index, column])
            chosen[index] = Continuation(0.0, index, token, logprob)
    return chosen


def _filtered(sequences: Sequences, scores: Scores) -> Choices:
    """Apply filters, temperature, and top-k or top-p, in Hugging Face's order."""
    if sequences.options.top_tokens:
        choices = _truncated(sequences.options, sequences.top_tokens(scores))
        lowest = np.where(choices.scores == -np.inf, np.inf, choices.scores).min(axis=1)
        if (choices.bound < lowest).all():
            return choices
    return _truncated(sequences.options, sequences.all_tokens(scores))


def _truncated(options: SearchOptions, choices: Choices) -> Choices:
    if options.method == "greedy":
        return choices._replace(scores=filters.keep_top_k(choices.scores, 1))
    scores, bound = (part / np.float32(options.temperature) for part in (choices.scores, choices.bound))
    if options.method == "top-k":
        return choices._replace(scores=filters.keep_top_k(scores, options.top_k), bound=bound)
    return choices._replace(scores=filters.keep_top_p(scores, options.top_p), bound=bound)


def _draw(scores: np.ndarray, options: SearchOptions, stream: np.random.Generator) -> int:
    """Return the index of one of [K] scores."""
    if options.method == "greedy":
        return int(scores.argmax())
    cumulative = np.cumsum(np.exp(scores.astype(np.float64) - scores.max()))
    return int(np.searchsorted(cumulative / cumulative[-1], stream.random(), side="right"))
