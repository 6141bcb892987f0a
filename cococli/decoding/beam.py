"""Beam search, as Hugging Face and as open_clip's older releases do it."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from ..engines.base import Engine
from . import filters
from .options import SearchOptions
from .rows import Candidate, Hypothesis, Rows
from .scores import best, log_softmax


def beam_search(
    engine: Engine, tokens: np.ndarray, options: SearchOptions, prompt: Sequence[int] = ()
) -> list[list[Hypothesis]]:
    """The best captions of each clip of `tokens` [B, N, D], best first, token for token as the sources find them.

    Sources: for `beam`, transformers 4.57.1 `generate` with early_stopping=False; for `legacy`, open_clip 3.3.0
    `generate` with transformers 4.50.3. They differ in four things: legacy sums raw logits, not log-probabilities;
    it counts SOT in a caption's length; it stops by the best candidate even where that one just ended; and captions
    that never ended are compared only when there is no room left.
    """
    rows = Rows(engine, tokens, options.rows, options.max_length, prompt)
    pools = [Pool(rows.beams) for _ in range(len(tokens))]
    logits: np.ndarray | None = rows.read_start()
    while logits is not None:
        found = _candidates(rows, logits, options)
        choices = [
            _grow(rows, place, found[place], pools[clip], options) if rows.open[place] else []
            for place, clip in enumerate(rows.clips)
        ]
        logits = rows.advance(choices)
    return [pool.captions for pool in pools]


class Pool:
    """The best captions of one clip that have ended, best first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.captions: list[Hypothesis] = []
        self._losses: list[float] = []  # negated scores, ascending

    @property
    def worst(self) -> float:
        """What a caption must exceed to enter."""
        return -self._losses[-1] if len(self._losses) == self.size else -np.inf

    def add(self, score: float, caption: Hypothesis) -> None:
        """Take a caption in if it is good enough; of equals, the earlier is the better."""
        if score > self.worst:
            place = bisect_right(self._losses, -score)
            self._losses.insert(place, -score)
            self.captions.insert(place, caption)
            del self._losses[self.size :], self.captions[self.size :]


def _candidates(rows: Rows, logits: np.ndarray, options: SearchOptions) -> list[list[Candidate]]:
    """The 2 * beams best continuations of each clip: enough to go on if every beam's best is EOT."""
    vocabulary = logits.shape[1]
    logprobs = log_softmax(logits)
    scores = logits if options.method == "legacy" else logprobs
    scores = filters.obey(rows.flat_ids, scores, options, rows.engine.config.eot_id)
    scores = (scores + rows.scores.reshape(-1, 1)).reshape(len(rows.clips), -1)  # [B, beams * V]
    places = best(scores, 2 * rows.beams)
    found_scores = np.take_along_axis(scores, places, axis=1)
    found_logprobs = np.take_along_axis(logprobs.reshape(scores.shape), places, axis=1)
    beams, tokens = np.divmod(places, vocabulary)
    columns = (found_scores, beams, tokens, found_logprobs)
    return [
        [Candidate(*values) for values in zip(*row, strict=True)]
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _grow(rows: Rows, place: int, found: list[Candidate], pool: Pool, options: SearchOptions) -> list[Candidate]:
    """Put captions that end here into the pool; return the beams that go on, none when the clip's search is over."""
    legacy = options.method == "legacy"
    eot_id = rows.engine.config.eot_id
    length = rows.next_length if legacy else rows.next_length - len(rows.start)
    norm = length**options.length_penalty
    going = [c for c in found if c.token != eot_id][: rows.beams]
    for c in found[: rows.beams]:
        if c.token == eot_id or (rows.full and not legacy):
            pool.add(c.score / norm, rows.finish(place, c))
    hope = found[0] if legacy else going[0]
    if hope.score / norm <= pool.worst:
        return []
    if rows.full and legacy:
        for c in going:
            pool.add(c.score / norm, rows.finish(place, c))
    return [] if rows.full else going
