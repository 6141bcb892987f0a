"""Captions under way in an engine: the rows of a batch, and what stands in them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..engines.base import Engine


class Hypothesis(NamedTuple):
    """A caption that the search found."""

    ids: tuple[int, ...]  # from SOT and the prompt to EOT, when there is one
    logprob: float  # mean log-probability of the tokens after the prompt, EOT included, before any filter
    finished: bool  # ends in EOT; else it was as long as it may be


class Candidate(NamedTuple):
    """A token that may come next in one of a clip's beams."""

    score: float  # of the whole caption: what the search ranks by
    beam: int  # which of the clip's beams it continues
    token: int
    logprob: float  # of the token alone, before any filter


class Rows:
    """Captions of the clips that are still searched, `beams` rows for each.

    Attributes:
        clips: [B] which of the caller's clips still have rows.
        open: [B] bool, False where a clip's search is over but its rows are still there.
        ids: [B, beams, T] int32, what stands in the rows: SOT, the prompt, and what was chosen.
        scores: [B, beams] float32, scores of the chosen candidates.
        logprobs: [B, beams] sums of the log-probabilities of the chosen tokens.
    """

    def __init__(self, engine: Engine, tokens: np.ndarray, beams: int, max_length: int, prompt: Sequence[int]) -> None:
        self.engine = engine
        self.state = engine.begin(tokens, beams, max_length)
        self.beams = beams
        self.max_length = max_length
        self.start = np.array([engine.config.sot_id, *prompt], np.int32)
        self.clips = np.arange(len(tokens))
        self.open = np.ones(len(tokens), bool)
        self.ids = np.tile(self.start, (len(tokens), beams, 1))
        self.scores = np.full((len(tokens), beams), -np.inf, np.float32)
        self.scores[:, 0] = 0  # all beams are equal as yet: only the first may be continued
        self.logprobs = np.zeros((len(tokens), beams))

    @property
    def flat_ids(self) -> np.ndarray:
        """[R, T]: row by row, as the engine has them."""
        return self.ids.reshape(len(self.clips) * self.beams, -1)

    @property
    def next_length(self) -> int:
        """Tokens of a caption after the next one is chosen."""
        return self.ids.shape[2] + 1

    @property
    def full(self) -> bool:
        """Whether the next token is the last that fits."""
        return self.next_length >= self.max_length

    def read_start(self) -> np.ndarray:
        """Feed SOT and the prompt. Returns [R, V] logits of the first token after them."""
        rows = np.arange(len(self.clips) * self.beams, dtype=np.int32)
        for token in self.start:
            logits = self.engine.step(self.state, np.full(len(rows), token, np.int32), rows)
        return logits

    def advance(self, choices: list[list[Candidate]]) -> np.ndarray | None:
        """Write the next token of every row and feed it.

        Args:
            choices: For each of `clips`, `beams` candidates, or none: that clip's search is over.

        Returns:
            [R, V] logits of the token after, for the clips that are left; None when no clip is.
        """
        self.open = np.array([bool(chosen) for chosen in choices])
        if not self.open.any():
            return None
        if _pays_to_drop(int(self.open.sum()), len(self.open)):
            choices = [chosen for chosen in choices if chosen]
            self._drop_closed()
        idle = [self.idle(beam) for beam in range(self.beams)]
        choices = [chosen or idle for chosen in choices]
        parents = np.array([[c.beam for c in chosen] for chosen in choices])
        tokens = np.array([[c.token for c in chosen] for chosen in choices], np.int32)
        gains = np.array([[c.logprob for c in chosen] for chosen in choices])
        self.scores = np.array([[c.score for c in chosen] for chosen in choices], np.float32)
        self.logprobs = np.take_along_axis(self.logprobs, parents, axis=1) + gains
        history = np.take_along_axis(self.ids, parents[..., None], axis=1)
        self.ids = np.concatenate([history, tokens[..., None]], axis=2)
        first_rows = self.beams * np.arange(len(choices))[:, None]
        return self.engine.step(self.state, tokens.reshape(-1), (first_rows + parents).astype(np.int32).reshape(-1))

    def idle(self, beam: int) -> Candidate:
        """What a row is fed when its caption is over but others of its clip, or its batch, are not."""
        return Candidate(0.0, beam, self.engine.config.eot_id, 0.0)

    def finish(self, place: int, last: Candidate) -> Hypothesis:
        """The caption of the clip at this place of the batch that ends with this candidate."""
        ids = (*self.ids[place, last.beam].tolist(), last.token)
        logprob = float(self.logprobs[place, last.beam]) + last.logprob
        return Hypothesis(ids, logprob / (len(ids) - len(self.start)), last.token == self.engine.config.eot_id)

    def _drop_closed(self) -> None:
        kept = np.flatnonzero(self.open)
        self.state = self.engine.keep(self.state, kept)
        self.clips, self.open = self.clips[kept], self.open[kept]
        self.ids, self.logprobs = self.ids[kept], self.logprobs[kept]


def _pays_to_drop(still_open: int, clips: int) -> bool:
    """Copying the caches of the open clips once costs less than computing for closed ones, if those are many."""
    return still_open < clips and 2 * still_open <= clips
