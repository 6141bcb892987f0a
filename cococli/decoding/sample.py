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
) -> list[list[Hypothesis]]:
    """Captions of each clip of `tokens` [B, N, D]: the likeliest token each time, or one drawn at random.

    Each draw has its own stream, of (options.seed, the clip's seed, its number): a caption depends neither on the
    clip's neighbours nor on how many others are drawn.
    """
    rows = Rows(engine, tokens, options.rows, options.max_length, prompt)
    streams = [[np.random.default_rng((options.seed, seed, draw)) for draw in range(rows.beams)] for seed in seeds]
    captions: dict[tuple[int, int], Hypothesis] = {}  # by clip and draw
    logits: np.ndarray | None = rows.read_start()
    while logits is not None:
        logprobs = log_softmax(logits)
        scores = _weighed(rows, logits, options)
        choices: list[list[Candidate]] = []
        for place, clip in enumerate(rows.clips.tolist()):
            chosen = [rows.idle(draw) for draw in range(rows.beams)]
            for draw, stream in enumerate(streams[clip]):
                if (clip, draw) in captions:
                    continue
                row = place * rows.beams + draw
                token = _pick(scores[row], rows, options, stream)
                chosen[draw] = Candidate(0.0, draw, token, float(logprobs[row, token]))
                if token == engine.config.eot_id or rows.full:
                    captions[clip, draw] = rows.finish(place, chosen[draw])
            over = all((clip, draw) in captions for draw in range(rows.beams))
            choices.append([] if over else chosen)
        logits = rows.advance(choices)
    return [[captions[clip, draw] for draw in range(rows.beams)] for clip in range(len(tokens))]


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
