"""Captions of many clips side by side: a clip whose search is over makes room for one that waits.

So a step is never computed for captions that are finished while others are not begun (continuous batching, Orca,
OSDI 2022).
"""

import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from ..catalog import CocaConfig
from ..engines.base import DecodeState, Engine
from ..errors import UsageError
from . import bans
from .beam import beam_search
from .options import SearchOptions
from .rows import Feed, Hypothesis, Search
from .sample import sample

Key = TypeVar("Key")

RESIZE_SECONDS = 1.0  # about what an engine that compiles spends on a new number of lanes


class _Clip(NamedTuple, Generic[Key]):
    """A clip that waits."""

    key: Key
    tokens: np.ndarray  # [N, D]
    seed: int


@dataclasses.dataclass(eq=False)
class _Lane(Generic[Key]):
    """A clip under way."""

    key: Key
    search: Search
    feed: Feed


class Decoder(Generic[Key]):
    """Searches captions of clips, as many at once as there are lanes."""

    def __init__(self, engine: Engine, options: SearchOptions, prompt: Sequence[int] = (), lanes: int = 8) -> None:
        """Args:
            prompt: Token ids that every caption continues, without SOT. They count as part of the caption.
            lanes: How many clips are searched at once, at most.

        Raises:
            UsageError: options or prompt do not fit the model or each other.
        """
        options.check(engine.config, len(prompt))
        check_prompt(engine.config, prompt, options.ban)
        if options.method == "beam" and options.beams == 1:
            # As `generate` does. They differ in what repetition is penalised: here logits, in a beam log-probabilities.
            options = dataclasses.replace(options, method="greedy")
        self._engine, self._options, self._prompt, self._most = engine, options, prompt, lanes
        self._waiting: deque[_Clip[Key]] = deque()
        self._lanes: dict[int, _Lane[Key]] = {}  # by lane, ascending
        self._state: DecodeState | None = None
        self._idle_seconds = 0.0  # spent on idle lanes

    @property
    def waiting(self) -> int:
        """Clips that have no lane yet."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._lanes)

    def add(self, key: Key, tokens: np.ndarray, seed: int) -> None:
        """Let a clip wait for its turn.

        Args:
            tokens: [N, D] float32, what the vision tower says about it.
            seed: A number that is the clip's own, such as its place among all: with options.seed it decides what is
                drawn.
        """
        self._waiting.append(_Clip(key, tokens, seed))

    def step(self) -> dict[Key, list[Hypothesis]]:
        """Bring every caption under way one token further.

        Returns:
            For each clip whose search is over now the captions that it found, at most `options.rows`: those of beams
            best first, draws in the order in which they were drawn. They depend neither on other clips nor on
            `options.candidates`: more draws come after the first ones.

        Raises:
            ModelError: the model's scores are not numbers.
        """
        state = self._admitted()
        lanes = list(self._lanes.items())
        start = time.perf_counter()
        feeds = [lane.feed for _, lane in lanes]
        ids, parents = (np.stack(part) for part in zip(*feeds, strict=True))
        scores = self._engine.step(state, np.array([at for at, _ in lanes]), ids, parents)
        self._idle_seconds += (time.perf_counter() - start) * (1 - len(lanes) / state.lanes)
        found: dict[Key, list[Hypothesis]] = {}
        for place, (at, lane) in enumerate(lanes):
            try:
                lane.feed = lane.search.send(scores.of(slice(place * state.beams, (place + 1) * state.beams)))
            except StopIteration as over:
                found[lane.key] = over.value
                del self._lanes[at]
        return found

    def _admitted(self) -> DecodeState:
        """The state, with as many clips in it as have room."""
        state = self._fitting(min(self._most, len(self._lanes) + len(self._waiting)))
        for at in range(state.lanes):
            if at not in self._lanes and self._waiting:
                clip = self._waiting.popleft()
                self._engine.admit(state, at, clip.tokens)
                search = self._search(clip.seed)
                self._lanes[at] = _Lane(clip.key, search, next(search))
        self._lanes = dict(sorted(self._lanes.items()))
        return state

    def _fitting(self, clips: int) -> DecodeState:
        """The state, of more lanes where these are too few, and of fewer where idle ones have cost enough."""
        lanes = 1 << (clips - 1).bit_length()
        state = self._state
        if state is None:
            options = self._options
            state = self._engine.begin(lanes, options.rows, options.max_length, max(1, options.few))
        elif lanes > state.lanes or (lanes < state.lanes and self._idle_seconds > RESIZE_SECONDS):
            state = self._engine.resize(state, np.array([*self._lanes], np.int64), lanes)
            self._lanes = dict(enumerate(self._lanes.values()))
            self._idle_seconds = 0.0
        self._state = state
        return state

    def _search(self, seed: int) -> Search:
        if self._options.method in ("beam", "legacy"):
            return beam_search(self._engine.config, self._options, self._prompt)
        return sample(self._engine.config, self._options, self._prompt, seed)


def check_prompt(config: CocaConfig, prompt: Sequence[int], ban: Sequence[str] = ()) -> None:
    """Refuse a prompt that no caption can start with.

    Raises:
        UsageError: a mark that starts or ends a text is inside, an id that the model does not have, or a banned word.
    """
    if any(not 0 <= token < config.sot_id for token in prompt):
        raise UsageError("--prompt holds a mark that starts or ends a text, or a token that this model does not have")
    if ban and (word := bans.first_said(prompt, ban)):
        raise UsageError(f"--prompt says {word!r}, which --ban forbids")
