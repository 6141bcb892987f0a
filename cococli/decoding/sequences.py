"""The sequences of one clip that a search extends token by token."""

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from ..catalog import CocaConfig
from ..engines.base import Scores
from . import filters
from .options import SearchOptions


class Hypothesis(NamedTuple):
    """A caption that the search found."""

    ids: tuple[int, ...]  # from SOT and the prompt to EOT, if there is one
    logprob: float  # mean log-probability of the tokens after the prompt, including EOT, before any filter
    finished: bool  # ends in EOT; otherwise it reached the maximum length


class Continuation(NamedTuple):
    """A next token of one of a clip's sequences."""

    score: float  # of the whole sequence: what the search ranks by
    beam: int  # index of the sequence that it continues
    token: int
    logprob: float  # of the token alone, before any filter


class Feed(NamedTuple):
    """Input of the next step for one clip."""

    ids: np.ndarray  # [beams] int32
    parents: np.ndarray  # [beams] int32


class Choices(NamedTuple):
    """Possible next tokens, [beams, K] each, in the order of their ids."""

    tokens: np.ndarray
    scores: np.ndarray  # filtered: -inf where a token is forbidden
    logprobs: np.ndarray  # before any filter
    bound: np.ndarray  # [beams]: no other token has a higher score


Search = Generator[Feed, Scores, list[Hypothesis]]
"""The search of one clip: yields the input of each step, receives its scores, and returns captions."""


class Sequences:
    """Sequences of one clip.

    Attributes:
        ids: [beams, T] int32: SOT, the prompt, and the tokens chosen so far.
        scores: [beams] float32, scores of the continuations chosen last.
        logprobs: [beams] sums of the log-probabilities of the chosen tokens.
    """

    def __init__(self, config: CocaConfig, options: SearchOptions, prompt: Sequence[int]) -> None:
        self.options, self.eot_id, self.beams = options, config.eot_id, options.rows
        self.start = np.array([config.sot_id, *prompt], np.int32)
        self.ids = np.tile(self.start, (self.beams, 1))
        self.scores = np.full(self.beams, -np.inf, np.float32)
        self.scores[0] = 0  # all sequences are still equal: only the first may be continued
        self.logprobs = np.zeros(self.beams)

    @property
    def next_length(self) -> int:
        """Tokens of a sequence after the next one is chosen."""
        return self.ids.shape[1] + 1

    @property
    def full(self) -> bool:
        """True if the next token is the last that fits."""
        return self.next_length >= self.options.max_length

    def read_start(self) -> Generator[Feed, Scores, Scores]:
        """Feed SOT and the prompt; return the scores of the token after them."""
        parents = np.arange(self.beams, dtype=np.int32)
        for token in self.start[:-1]:
            yield Feed(np.full(self.beams, token, np.int32), parents)
        return (yield Feed(np.full(self.beams, self.start[-1], np.int32), parents))

    def top_tokens(self, scores: Scores) -> Choices:
        """Return the top k tokens, if the minimum length is the only filter."""
        order = np.argsort(scores.ids, axis=1)
        raw = scores.logits if self.options.ranks_by_logits else scores.logprobs
        tokens, values = (np.take_along_axis(part, order, axis=1) for part in (scores.ids, raw))
        if self.ids.shape[1] < self.options.min_length:
            values = np.where(tokens == self.eot_id, -np.inf, values)
        return Choices(tokens, values, np.take_along_axis(scores.logprobs, order, axis=1), raw[:, -1])

    def all_tokens(self, scores: Scores) -> Choices:
        """Return the whole vocabulary."""
        logits = scores.all_logits()
        logprobs = log_softmax(logits)
        raw = logits if self.options.ranks_by_logits else logprobs
        filtered = filters.apply(self.ids, raw, self.options, self.eot_id)
        tokens = np.broadcast_to(np.arange(logits.shape[1], dtype=np.int32), logits.shape)
        return Choices(tokens, filtered, logprobs, np.full(self.beams, -np.inf, np.float32))

    def advance(self, chosen: Sequence[Continuation]) -> Feed:
        """Append the next token of every sequence."""
        parents = np.array([continuation.beam for continuation in chosen], np.int32)
        tokens = np.array([continuation.token for continuation in chosen], np.int32)
        self.scores = np.array([continuation.score for continuation in chosen], np.float32)
        self.logprobs = self.logprobs[parents] + [continuation.logprob for continuation in chosen]
        self.ids = np.column_stack([self.ids[parents], tokens])
        return Feed(tokens, parents)

    def idle(self, beam: int) -> Continuation:
        """Return the input of a sequence that has ended while others of its clip have not."""
        return Continuation(0.0, beam, self.eot_id, 0.0)

    def finish(self, last: Continuation) -> Hypothesis:
        """Return the caption that ends with this continuation."""
        ids = (*self.ids[last.beam].tolist(), last.token)
        logprob = float(self.logprobs[last.beam]) + last.logprob
        return Hypothesis(ids, logprob / (len(ids) - len(self.start)), last.token == self.eot_id)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[R, V] float32 logits -> [R, V] float32 log-probabilities."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted
