"""One token after the other: greedy, top-k and top-p."""

from collections.abc import Sequence

import numpy as np

from ..engines.base import Engine
from . import filters
from .options import SearchOptions
from .rows import Candidate, Hypothesis, Rows
from .scores import log_softmax


def sample(
    engine: Engine, tokens: np.ndarray, options: SearchOptions, prompt: Sequence[int], seeds: Sequence[int]
) -> list[Hypothesis]:
    """A caption for each clip of `tokens` [B, N, D]: the likeliest token each time, or one drawn at random.

    Clip i draws from its own stream, of (options.seed, seeds[i]): its caption does not depend on its neighbours.
    """
    rows = Rows(engine, tokens, 1, options.max_length, prompt)
    streams = [np.random.default_rng((options.seed, seed)) for seed in seeds]
    captions: dict[int, Hypothesis] = {}
    logits: np.ndarray | None = rows.read_start()
    while logits is not None:
        logprobs = log_softmax(logits)
        scores = _weighed(rows, logits, options)
        choices: list[list[Candidate]] = []
        for place, clip in enumerate(rows.clips.tolist()):
            if not rows.open[place]:
                choices.append([])
                continue
            token = _pick(scores[place], rows, options, streams[clip])
            chosen = Candidate(0.0, 0, token, float(logprobs[place, token]))
            ended = token == engine.config.eot_id or rows.full
            if ended:
                captions[clip] = rows.finish(place, chosen)
            choices.append([] if ended else [chosen])
        logits = rows.advance(choices)
    return [captions[clip] for clip in range(len(tokens))]


def _weighed(rows: Rows, logits: np.ndarray, options: SearchOptions) -> np.ndarray:
    """[B, V] scores to pick from: filters, temperature, then top-k or top-p, in Hugging Face's order."""
    scores = filters.obey(rows.flat_ids, logits, options, rows.engine.config.eot_id)
    if options.method == "greedy":
        return scores
    scores = scores / np.float32(options.temperature)
    if options.method == "top-k":
        return filters.keep_top_k(scores, options.top_k)
    return filters.keep_top_p(scores, options.top_p)


def _pick(scores: np.ndarray, rows: Rows, options: SearchOptions, stream: np.random.Generator) -> int:
    if rows.full and options.force_eot:
        return rows.engine.config.eot_id
    if options.method == "greedy":
        return int(scores.argmax())
    heights = np.cumsum(np.exp(scores.astype(np.float64) - scores.max()))
    return int(np.searchsorted(heights / heights[-1], stream.random(), side="right"))
