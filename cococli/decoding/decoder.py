"""Continuous batching of searches: a clip whose search is over makes room for one that waits (Orca, OSDI 2022)."""

import dataclasses
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from ..catalog import CocaConfig
from ..engines.base import DecodeState, Engine
from ..errors import UsageError
from . import bans
from .caption_search import Hypothesis, Search
from .search_options import SearchOptions

Key = TypeVar("Key")

RESIZE_SECONDS = 1.0  # about what compiling for another number of slots takes


class _Waiting(NamedTuple, Generic[Key]):
    """A clip that waits for a slot."""

    key: Key
    tokens: Any  # [N, D]
    seed: int


class Decoder(Generic[Key]):
    """Searches captions of clips, as many at once as there are slots."""

    def __init__(self, engine: Engine, options: SearchOptions, prompt: Sequence[int] = (), slots: int = 8) -> None:
        """
        Args:
            prompt: Token ids that every caption continues, without SOT. They count as part of the caption.
            slots: Largest number of clips that are searched at once.

        Raises:
            UsageError: Options or prompt do not fit the model or each other.
        """
        options.check(engine.config, len(prompt))
        check_prompt(engine.config, prompt, options.ban)
        if options.method == "beam" and options.beams == 1:
            # As `generate` does. They differ in repetition penalty: here of logits, in a beam of log-probabilities.
            options = dataclasses.replace(options, method="greedy")
        self._engine, self._options, self._prompt, self._max_slots = engine, options, prompt, slots
        self._waiting: deque[_Waiting[Key]] = deque()
        self._running: dict[int, Key] = {}  # by slot, ascending
        self._search = Search(engine.config, options, prompt, 0)
        self._state: DecodeState | None = None
        self._idle_seconds = 0.0  # spent on idle slots

    @property
    def waiting(self) -> int:
        """Number of clips without a slot."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._running)

    def add(self, key: Key, tokens: Any, seed: int) -> None:
        """Queue a clip.

        Args:
            tokens: [N, D], its row of `ClipFeatures.tokens`.
            seed: Seed of the clip's samples, together with options.seed; its index among all clips, for example.
        """
        self._waiting.append(_Waiting(key, tokens, seed))

    def step(self) -> dict[Key, list[Hypothesis]]:
        """Extend every running sequence by one token.

        Returns:
            The captions of each clip whose search is over, at most `options.rows`: of beams best first, of samples in
            the order of their index. They depend neither on other clips nor on `options.candidates`.

        Raises:
            ModelError: The model's scores are not numbers.
        """
        state = self._fill()
        slots = np.array([*self._running])
        start = time.perf_counter()
        scores = self._engine.step(state, slots, *self._search.inputs(slots))
        self._idle_seconds += (time.perf_counter() - start) * (1 - len(slots) / state.slots)
        over = self._search.advance(slots, scores).tolist()
        return {self._running.pop(slot): self._search.captions(slot) for slot in over}

    def _fill(self) -> DecodeState:
        """Return the state with waiting clips admitted to free slots."""
        state = self._resized(min(self._max_slots, len(self._running) + len(self._waiting)))
        for slot in range(state.slots):
            if slot not in self._running and self._waiting:
                clip = self._waiting.popleft()
                self._engine.admit(state, slot, clip.tokens)
                self._search.start(slot, clip.seed)
                self._running[slot] = clip.key
        self._running = dict(sorted(self._running.items()))
        return state

    def _resized(self, clips: int) -> DecodeState:
        """Return the state with slots for these clips: more when needed, fewer once idle slots have cost enough."""
        slots = 1 << (clips - 1).bit_length()
        state = self._state
        kept = np.array([*self._running], np.int64)
        if state is None:
            options = self._options
            state = self._engine.begin(slots, options.rows, options.max_length, options.top_tokens)
        elif slots > state.slots or (slots < state.slots and self._idle_seconds > RESIZE_SECONDS):
            state = self._engine.resize(state, kept, slots)
            self._running = dict(enumerate(self._running.values()))
            self._idle_seconds = 0.0
        else:
            return state
        self._search = self._search.resized(kept, slots)
        self._state = state
        return state


def check_prompt(config: CocaConfig, prompt: Sequence[int], ban: Sequence[str] = ()) -> None:
    """Reject a prompt that no caption can start with.

    Raises:
        UsageError: It contains a special token, a banned word, or an id that the model does not have.
    """
    if any(not 0 <= token < config.sot_id for token in prompt):
        raise UsageError("--prompt contains a start or end token, or a token that this model does not have")
    if ban and (word := bans.first_banned(prompt, ban)):
        raise UsageError(f"--prompt contains {word!r}, which --ban forbids")
