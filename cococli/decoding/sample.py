"""One token after the other: greedy, top-k and top-p."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..catalog import CocaConfig
from ..engines.scores import Scores
from . import filters
from .options import SearchOptions
from .rows import Candidate, Choices, Hypothesis, Rows, Search


def sample(config: CocaConfig, options: SearchOptions, prompt: Sequence[int] = (), seed: int = 0) -> Search:
    """Captions of a clip: the likeliest token each time, or one drawn at random.

    Each draw has its own stream, of (options.seed, the clip's seed, its number): a caption depends neither on the
    clip's neighbors nor on how many others are drawn.
    """
    rows = Rows(config, options, prompt)
    streams = [np.random.default_rng((options.seed, seed, draw)) for draw in range(rows.beams)]
    captions: dict[int, Hypothesis] = {}  # by draw
    scores = yield from rows.read_start()
    while True:
        chosen = _picked(rows, scores, streams, captions)
        for draw, candidate in enumerate(chosen):
            if draw not in captions and (candidate.token == rows.eot_id or rows.full):
                captions[draw] = rows.finish(candidate)
        if len(captions) == rows.beams:
            return [captions[draw] for draw in range(rows.beams)]
        scores = yield rows.advance(chosen)


def _picked(
    rows: Rows, scores: Scores, streams: Sequence[np.random.Generator], captions: Mapping[int, Hypothesis]
) -> list[Candidate]:
    """The next token of every draw; those that have their captions idle."""
    ends = rows.full and rows.options.force_eot
    choices = rows.all(scores) if ends else _weighed(rows, scores)
    chosen = [rows.idle(draw) for draw in range(rows.beams)]
    for draw, stream in enumerate(streams):
        if draw not in captions:
            place = rows.eot_id if ends else _drawn(choices.scores[draw], rows.options, stream)
            token, logprob = int(choices.tokens[draw, place]), float(choices.logprobs[draw, place])
            chosen[draw] = Candidate(0.0, draw, token, logprob)
    return chosen


def _weighed(rows: Rows, scores: Scores) -> Choices:
    """What may be picked: filters, temperature, then top-k or top-p, in Hugging Face's order."""
    if rows.options.few:
        choices = _weighed_choices(rows, rows.likeliest(scores))
        kept = np.where(choices.scores == -np.inf, np.inf, choices.scores).min(axis=1)
        if (choices.unseen < kept).all():
            return choices
    return _weighed_choices(rows, rows.all(scores))


def _weighed_choices(rows: Rows, choices: Choices) -> Choices:
    options, weighed = rows.options, choices.scores
    if options.method == "greedy":
        return choices._replace(scores=filters.keep_top_k(weighed, 1))
    weighed, unseen = (part / np.float32(options.temperature) for part in (weighed, choices.unseen))
    if options.method == "top-k":
        return choices._replace(scores=filters.keep_top_k(weighed, options.top_k), unseen=unseen)
    return choices._replace(scores=filters.keep_top_p(weighed, options.top_p), unseen=unseen)


def _drawn(scores: np.ndarray, options: SearchOptions, stream: np.random.Generator) -> int:
    """The place of one of [K] scores."""
    if options.method == "greedy":
        return int(scores.argmax())
    heights = np.cumsum(np.exp(scores.astype(np.float64) - scores.max()))
    return int(np.searchsorted(heights / heights[-1], stream.random(), side="right"))
