"""Beam search, as Hugging Face and as open_clip's older releases do it."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from ..catalog import CocaConfig
from ..engines.scores import Scores, best
from .options import SearchOptions
from .rows import Candidate, Choices, Hypothesis, Rows, Search


def beam_search(config: CocaConfig, options: SearchOptions, prompt: Sequence[int] = ()) -> Search:
    """The best captions of a clip, best first, token for token as the sources find them.

    Sources: for `beam`, transformers 4.57.1 `generate` with early_stopping=False; for `legacy`, open_clip 3.3.0
    `generate` with transformers 4.50.3. They differ in four things: legacy sums raw logits, not log-probabilities;
    it counts SOT in a caption's length; it stops by the best candidate even where that one just ended; and captions
    that never ended are compared only when there is no room left.
    """
    rows, pool = Rows(config, options, prompt), Pool(options.rows)
    scores = yield from rows.read_start()
    while chosen := _grow(rows, _candidates(rows, scores), pool):
        scores = yield rows.advance(chosen)
    return pool.captions


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


def _candidates(rows: Rows, scores: Scores) -> list[Candidate]:
    """The 2 * beams best continuations: enough to go on if every beam's best is EOT."""
    if rows.options.few:
        choices = rows.likeliest(scores)
        found = _best(rows, choices)
        if (rows.scores + choices.unseen < found[-1].score).all():
            return found
    return _best(rows, rows.all(scores))


def _best(rows: Rows, choices: Choices) -> list[Candidate]:
    totals = choices.scores + rows.scores[:, None]
    places = best(totals.reshape(1, -1), 2 * rows.beams)[0]
    columns = (part.reshape(-1)[places].tolist() for part in (totals, choices.tokens, choices.logprobs))
    beams = (places // totals.shape[1]).tolist()
    return [Candidate(score, beam, *token) for beam, score, *token in zip(beams, *columns, strict=True)]


def _grow(rows: Rows, found: list[Candidate], pool: Pool) -> list[Candidate]:
    """Put captions that end here into the pool; return the beams that go on, none when the search is over."""
    legacy = rows.options.method == "legacy"
    length = rows.next_length if legacy else rows.next_length - len(rows.start)
    norm = length**rows.options.length_penalty
    going = [c for c in found if c.token != rows.eot_id][: rows.beams]
    for c in found[: rows.beams]:
        if c.token == rows.eot_id or (rows.full and not legacy):
            pool.add(c.score / norm, rows.finish(c))
    hope = found[0] if legacy else going[0]
    if hope.score / norm <= pool.worst:
        return []
    if rows.full and legacy:
        for c in going:
            pool.add(c.score / norm, rows.finish(c))
    return [] if rows.full else going
