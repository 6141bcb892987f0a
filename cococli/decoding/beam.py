"""Beam search, as in Hugging Face and in older releases of open_clip."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from ..catalog import CocaConfig
from ..engines.base import Scores
from ..model.arrays import top_k
from .options import SearchOptions
from .sequences import Choices, Continuation, Hypothesis, Search, Sequences


def beam_search(config: CocaConfig, options: SearchOptions, prompt: Sequence[int] = ()) -> Search:
    """Search the best captions of a clip, best first, token for token like the references.

    References: for `beam`, transformers 4.57.1 `generate` with early_stopping=False; for `legacy`, open_clip 3.3.0
    `generate` with transformers 4.50.3. Legacy differs in four ways: it sums raw logits, not log-probabilities;
    it counts SOT in a caption's length; it stops by the best continuation even if that one just ended; and captions
    that never ended are compared only when the maximum length is reached.
    """
    sequences, pool = Sequences(config, options, prompt), Pool(options.rows)
    scores = yield from sequences.read_start()
    while chosen := _grow(sequences, _best_continuations(sequences, scores), pool):
        scores = yield sequences.advance(chosen)
    return pool.captions


class Pool:
    """The best captions of one clip that have ended, best first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.captions: list[Hypothesis] = []
        self._losses: list[float] = []  # negated scores, ascending

    @property
    def worst(self) -> float:
        """Score that a caption must exceed to enter."""
        return -self._losses[-1] if len(self._losses) == self.size else -np.inf

    def add(self, score: float, caption: Hypothesis) -> None:
        """Add a caption if its score is high enough; of equal ones, the earlier ranks higher."""
        if score > self.worst:
            index = bisect_right(self._losses, -score)
            self._losses.insert(index, -score)
            self.captions.insert(index, caption)
            del self._losses[self.size :], self.captions[self.size :]


def _best_continuations(sequences: Sequences, scores: Scores) -> list[Continuation]:
    """Return the 2 * beams best continuations: enough to go on if the best one of every beam is EOT."""
    if sequences.options.top_tokens:
        choices = sequences.top_tokens(scores)
        best = _ranked(sequences, choices)
        if (sequences.scores + choices.bound < best[-1].score).all():
            return best
    return _ranked(sequences, sequences.all_tokens(scores))


def _ranked(sequences: Sequences, choices: Choices) -> list[Continuation]:
    totals = choices.scores + sequences.scores[:, None]
    indices = top_k(totals.reshape(1, -1), 2 * sequences.beams)[0]
    columns = (part.reshape(-1)[indices].tolist() for part in (totals, choices.tokens, choices.logprobs))
    beams = (indices // totals.shape[1]).tolist()
    return [Continuation(score, beam, *token) for beam, score, *token in zip(beams, *columns, strict=True)]


def _grow(sequences: Sequences, best: list[Continuation], pool: Pool) -> list[Continuation]:
    """Add captions that end here to the pool; return the beams that continue, none when the search is over."""
    legacy = sequences.options.method == "legacy"
    length = sequences.next_length if legacy else sequences.next_length - len(sequences.start)
    norm = length**sequences.options.length_penalty
    going = [c for c in best if c.token != sequences.eot_id][: sequences.beams]
    for c in best[: sequences.beams]:
        if c.token == sequences.eot_id or (sequences.full and not legacy):
            pool.add(c.score / norm, sequences.finish(c))
    hope = best[0] if legacy else going[0]
    if hope.score / norm <= pool.worst:
        return []
    if sequences.full and legacy:
        for c in going:
            pool.add(c.score / norm, sequences.finish(c))
    return [] if sequences.full else going
