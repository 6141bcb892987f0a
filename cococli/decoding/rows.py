"""Captions of one clip under way: its rows, and what stands in them."""

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from ..catalog import CocaConfig
from ..engines.scores import Scores
from . import filters
from .options import SearchOptions
from .scores import log_softmax


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


class Feed(NamedTuple):
    """What the engine is to read next."""

    ids: np.ndarray  # [beams] int32
    parents: np.ndarray  # [beams] int32


class Choices(NamedTuple):
    """Tokens that may come next, [beams, K] each, in the order of their ids."""

    tokens: np.ndarray
    scores: np.ndarray  # filtered: -inf where a token is forbidden
    logprobs: np.ndarray  # before any filter
    unseen: np.ndarray  # [beams]: no token that is not among them has a higher score


Search = Generator[Feed, Scores, list[Hypothesis]]
"""The search of one clip: yields what is to be read, is sent the scores of what comes next, returns its captions."""


class Rows:
    """Captions of a clip.

    Attributes:
        ids: [beams, T] int32, what stands in the rows: SOT, the prompt, and what was chosen.
        scores: [beams] float32, scores of the chosen candidates.
        logprobs: [beams] sums of the log-probabilities of the chosen tokens.
    """

    def __init__(self, config: CocaConfig, options: SearchOptions, prompt: Sequence[int]) -> None:
        self.options, self.eot_id, self.beams = options, config.eot_id, options.rows
        self.start = np.array([config.sot_id, *prompt], np.int32)
        self.ids = np.tile(self.start, (self.beams, 1))
        self.scores = np.full(self.beams, -np.inf, np.float32)
        self.scores[0] = 0  # all beams are equal as yet: only the first may be continued
        self.logprobs = np.zeros(self.beams)

    @property
    def next_length(self) -> int:
        """Tokens of a caption after the next one is chosen."""
        return self.ids.shape[1] + 1

    @property
    def full(self) -> bool:
        """Whether the next token is the last that fits."""
        return self.next_length >= self.options.max_length

    def read_start(self) -> Generator[Feed, Scores, Scores]:
        """Feed SOT and the prompt; returns the scores of what comes after them."""
        same = np.arange(self.beams, dtype=np.int32)
        for token in self.start[:-1]:
            yield Feed(np.full(self.beams, token, np.int32), same)
        return (yield Feed(np.full(self.beams, self.start[-1], np.int32), same))

    def likeliest(self, scores: Scores) -> Choices:
        """The few likeliest tokens, where the only filter is the shortest length."""
        order = np.argsort(scores.ids, axis=1)
        raw = scores.logits if self.options.ranks_by_logits else scores.logprobs
        tokens, values = (np.take_along_axis(part, order, axis=1) for part in (scores.ids, raw))
        if self.ids.shape[1] < self.options.min_length:
            values = np.where(tokens == self.eot_id, -np.inf, values)
        return Choices(tokens, values, np.take_along_axis(scores.logprobs, order, axis=1), raw[:, -1])

    def all(self, scores: Scores) -> Choices:
        """The whole vocabulary."""
        logits = scores.every()
        logprobs = log_softmax(logits)
        filtered = filters.obey(
            self.ids, logits if self.options.ranks_by_logits else logprobs, self.options, self.eot_id
        )
        tokens = np.broadcast_to(np.arange(logits.shape[1], dtype=np.int32), logits.shape)
        return Choices(tokens, filtered, logprobs, np.full(self.beams, -np.inf, np.float32))

    def advance(self, chosen: Sequence[Candidate]) -> Feed:
        """Write the next token of every row."""
        parents = np.array([candidate.beam for candidate in chosen], np.int32)
        tokens = np.array([candidate.token for candidate in chosen], np.int32)
        self.scores = np.array([candidate.score for candidate in chosen], np.float32)
        self.logprobs = self.logprobs[parents] + [candidate.logprob for candidate in chosen]
        self.ids = np.column_stack([self.ids[parents], tokens])
        return Feed(tokens, parents)

    def idle(self, beam: int) -> Candidate:
        """What a row is fed when its caption is over but others of its clip are not."""
        return Candidate(0.0, beam, self.eot_id, 0.0)

    def finish(self, last: Candidate) -> Hypothesis:
        """The caption that ends with this candidate."""
        ids = (*self.ids[last.beam].tolist(), last.token)
        logprob = float(self.logprobs[last.beam]) + last.logprob
        return Hypothesis(ids, logprob / (len(ids) - len(self.start)), last.token == self.eot_id)
