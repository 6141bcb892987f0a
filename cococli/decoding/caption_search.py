"""Search for captions token by token, of many clips at once: beam search, greedy search and sampling.

Arrays are [K, B, ...]: B sequences of each of K clips. Each clip has a slot; clips in different slots may be at
different lengths. A step reads the top tokens of each sequence, and the vocabulary only where these do not decide.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..catalog import CocaConfig
from ..engines.base import Scores
from ..model.arrays import top_k
from . import filters
from .filters import Choices
from .search_options import SearchOptions


class Hypothesis(NamedTuple):
    """A caption that the search found."""

    ids: tuple[int, ...]  # from SOT and the prompt to EOT, if there is one
    logprob: float  # mean log-probability of the tokens after the prompt, including EOT, before any filter
    finished: bool  # ends in EOT; otherwise it reached the maximum length


class Search:
    """The searches in C slots. Each step of the engine extends all of their sequences by one token.

    A sequence is a record: its ids and their number, the sum of their log-probabilities, the score by which the search
    ranks it, and the beam that its last token extended. Captions have a score above -inf.
    """

    def __init__(self, config: CocaConfig, options: SearchOptions, prompt: Sequence[int], slots: int) -> None:
        self._config, self._options, self._prompt = config, options, prompt
        self._start = np.array([config.sot_id, *prompt], np.int32)
        fields = [("ids", np.int32, options.max_length), ("count", np.int64), ("logprob", np.float64)]
        sequence = np.dtype([*fields, ("score", np.float64), ("beam", np.int32)])
        self._sequences = np.zeros((slots, options.rows), sequence)  # being extended
        self._captions = np.zeros((slots, options.rows), sequence)  # ended: of beams the best first
        self._length = np.zeros(slots, np.int64)  # of the sequences
        self._read = np.zeros(slots, np.int64)  # ids of each sequence that the engine has read
        self._random = np.zeros((slots, options.rows, options.max_length))  # a number for each token
        lengths = range(1, options.max_length + 1)
        self._norms = np.array([np.nan, *(length**options.length_penalty for length in lengths)])  # by length

    def start(self, slot: int, seed: int) -> None:
        """Start to search captions of a clip.

        Each sample has its own random numbers, seeded by (options.seed, the clip's seed, its index): a caption depends
        neither on other clips nor on the number of samples.
        """
        first = self._sequences[slot]
        first["ids"][:, : len(self._start)] = self._start
        first["count"], first["logprob"], first["beam"] = len(self._start), 0, np.arange(len(first))
        first["score"] = np.where(first["beam"], -np.inf, 0)  # all are equal: only the first may be continued
        self._captions[slot]["score"] = -np.inf
        self._length[slot], self._read[slot] = len(self._start), 0
        if self._options.method in ("top-k", "top-p"):
            for index, numbers in enumerate(self._random[slot]):
                numbers[:] = np.random.default_rng((self._options.seed, seed, index)).random(len(numbers))

    def inputs(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids and parents [K, B] int32 that the engine reads next in slots [K]."""
        return self._sequences["ids"][slots, :, self._read[slots]], self._sequences["beam"][slots]

    def advance(self, slots: np.ndarray, scores: Scores) -> np.ndarray:
        """Extend the sequences in slots [K] by one token, given the scores of K * B rows.

        Returns:
            The slots whose search is over.
        """
        self._read[slots] += 1
        ready = self._read[slots] == self._length[slots]  # the others read their prompt
        if not ready.any():
            return slots[ready]
        if not ready.all():
            slots, scores = slots[ready], scores.rows(np.repeat(ready, self._options.rows))
        step = self._extend_beams if self._options.method in ("beam", "legacy") else self._extend_samples
        over = step(slots, scores)
        self._length[slots] += 1
        return slots[over | (self._length[slots] == self._options.max_length)]

    def captions(self, slot: int) -> list[Hypothesis]:
        """Return the captions of a clip: of beams the best first, of samples in the order of their index."""
        found = self._captions[slot][self._captions[slot]["score"] > -np.inf]
        means = (found["logprob"] / (found["count"] - len(self._start))).tolist()
        ids = [tuple(row["ids"][: row["count"]].tolist()) for row in found]
        return [Hypothesis(row, mean, row[-1] == self._config.eot_id) for row, mean in zip(ids, means, strict=True)]

    def resized(self, kept: np.ndarray, slots: int) -> "Search":
        """Return a search with another number of slots, of which the first are the slots `kept` [K] of this one."""
        other = Search(self._config, self._options, self._prompt, slots)
        for name in ("_sequences", "_captions", "_length", "_read", "_random"):
            getattr(other, name)[: len(kept)] = getattr(self, name)[kept]
        return other

    def _extend_beams(self, slots: np.ndarray, scores: Scores) -> np.ndarray:
        """Extend beams, token for token like the references; return [K]: the captions found cannot be improved.

        References: for `beam`, transformers 4.57.1 `generate` with early_stopping=False; for `legacy`, open_clip 3.3.0
        `generate` with transformers 4.50.3. Legacy differs in four ways: it sums raw logits, not log-probabilities;
        it counts SOT in a caption's length; it stops by the best continuation even if that one just ended; and
        captions that never ended are compared only when the maximum length is reached.
        """
        legacy, beams = self._options.method == "legacy", self._options.rows
        best, length = self._best_continuations(slots, scores), self._length[slots] + 1
        full = length[:, None] == self._options.max_length
        norm = self._norms[length if legacy else length - len(self._start)][:, None]
        ended = best["ids"][np.arange(len(slots)), :, length - 1] == self._config.eot_id
        # The best B that did not end are the next beams; of the best B, those that ended are captions.
        running = np.take_along_axis(best, np.argsort(ended, axis=1, kind="stable")[:, :beams], axis=1)
        self._collect(slots, best[:, :beams], ended[:, :beams] | (full & (not legacy)), norm)
        # The search is over once the best beam, at its present length, is no better than the worst caption.
        attainable = (best if legacy else running)["score"][:, :1] / norm
        over = attainable <= self._captions["score"][slots, -1:]
        if legacy:
            self._collect(slots, running, np.broadcast_to(full & ~over, running.shape), norm)
        self._sequences[slots] = running
        return over[:, 0]

    def _best_continuations(self, slots: np.ndarray, scores: Scores) -> np.ndarray:
        """Return the 2 * B best continuations [K, 2 * B]: enough to go on if the best one of every beam is EOT."""
        past, top = self._sequences["score"][slots], self._top_choices(slots, scores)
        best = self._best(slots, top)
        undecided = past.astype(np.float32) + top.bound >= best["score"][:, -1:]
        undecided |= (top.scores.max(axis=2) == -np.inf) & np.isfinite(past)
        for index in np.flatnonzero(undecided.any(axis=1)).tolist():
            best[index] = self._best(slots[[index]], self._all_choices(slots, scores, index))[0]
        return best

    def _best(self, slots: np.ndarray, choices: Choices) -> np.ndarray:
        """Return the 2 * B best sequences [K, 2 * B] that choices [K, B, N] lead to."""
        past = self._sequences["score"][slots, :, None].astype(np.float32)
        totals = (choices.scores + past).reshape(len(slots), -1)
        chosen = top_k(totals, 2 * self._options.rows)
        return self._extended(slots, choices, chosen, np.take_along_axis(totals, chosen, axis=1))

    def _extended(
        self, slots: np.ndarray, choices: Choices, chosen: np.ndarray, scores: np.ndarray | float
    ) -> np.ndarray:
        """Return sequences [K, M] extended by the choices with these indices [K, M] among B * N, and their scores."""
        rows, (beams, columns) = np.arange(len(slots))[:, None], np.divmod(chosen, choices.tokens.shape[2])
        extended = self._sequences[slots[:, None], beams]
        ids, end = extended["ids"], self._length[slots, None]
        ids[rows, np.arange(beams.shape[1]), end] = choices.tokens[rows, beams, columns]
        extended["logprob"] += choices.logprobs[rows, beams, columns]
        extended["score"] = scores
        extended["count"] += 1
        extended["beam"] = beams
        return extended

    def _collect(self, slots: np.ndarray, sequences: np.ndarray, ended: np.ndarray, norm: np.ndarray) -> None:
        """Add the sequences [K, M] that ended to the captions, of which the best are kept; earlier ones win ties."""
        some = np.flatnonzero(ended.any(axis=1))
        new = sequences[some]
        new["score"] = np.where(ended[some], new["score"] / norm[some], -np.inf)
        captions = np.concatenate([self._captions[slots[some]], new], axis=1)
        order = np.argsort(-captions["score"], axis=1, kind="stable")[:, : self._options.rows]
        self._captions[slots[some]] = np.take_along_axis(captions, order, axis=1)

    def _extend_samples(self, slots: np.ndarray, scores: Scores) -> np.ndarray:
        """Extend each sequence by its best or by a random token; return [K]: all have ended."""
        options, eot, length = self._options, self._config.eot_id, self._length[slots]
        captions, numbers = self._captions[slots], self._random[slots, :, length - len(self._start)]
        ended, forced = captions["score"] > -np.inf, (length + 1 == options.max_length) & options.force_eot
        top = self._top_choices(slots, scores)
        mass = filters.vocabulary_log_mass(scores, length, options, eot) if options.method == "top-p" else None
        columns, decided = filters.draw(top, numbers, options, mass)
        extended = self._sampled(slots, top, columns)
        for index in np.flatnonzero(forced | ~(decided | ended).all(axis=1)).tolist():
            every = self._all_choices(slots, scores, index)
            columns = filters.draw(every, numbers[[index]], options)[0]
            extended[index] = self._sampled(slots[[index]], every, np.where(forced[index], eot, columns))[0]
        at_end = (*np.ogrid[: len(slots), : options.rows], length[:, None])
        extended["ids"][at_end] = np.where(ended, eot, extended["ids"][at_end])  # what idle sequences read
        ends = ~ended & ((extended["ids"][at_end] == eot) | (length[:, None] + 1 == options.max_length))
        captions[ends] = extended[ends]
        self._sequences[slots], self._captions[slots] = extended, captions
        return (ended | ends).all(axis=1)

    def _sampled(self, slots: np.ndarray, choices: Choices, columns: np.ndarray) -> np.ndarray:
        """Return sequences [K, B], each extended by the choice in its column [K, B]."""
        chosen = np.arange(self._options.rows) * choices.tokens.shape[2] + columns
        return self._extended(slots, choices, chosen, 0.0)

    def _top_choices(self, slots: np.ndarray, scores: Scores) -> Choices:
        """Return the filtered choices [K, B, N] among the top tokens."""
        return self._filtered(slots, filters.top_choices(scores, self._options, self._config.vocab_size))

    def _all_choices(self, slots: np.ndarray, scores: Scores, index: int) -> Choices:
        """Return the filtered choices [1, B, V] of one of the slots among the whole vocabulary."""
        rows = slice(index * self._options.rows, (index + 1) * self._options.rows)
        return self._filtered(slots[[index]], filters.all_choices(scores.rows(rows), self._options))

    def _filtered(self, slots: np.ndarray, choices: Choices) -> Choices:
        ids, length = self._sequences["ids"][slots], self._length[slots]
        return filters.apply(ids, length, choices, self._options, self._config.eot_id)
