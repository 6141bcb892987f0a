"""An engine without a network: logits are a function of the clip and the ids so far."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cococli.catalog import CocaConfig, TextConfig
from cococli.engines.base import Scores, top_k_scores

Logits = Callable[[int, tuple[int, ...]], np.ndarray]  # index of the clip, ids from SOT on -> [V]


def clips(*numbers: int) -> np.ndarray:
    """Return [B, 1, 1] float32 tokens of clips that consist of a number."""
    return np.array(numbers, np.float32).reshape(-1, 1, 1)


def chance(vocabulary: int, scale: float = 1.0, end: float = 0.0) -> Logits:
    """Return logits that are random but depend only on clip and ids; `end` makes EOT more likely."""

    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        drawn = np.random.default_rng((clip, *ids)).normal(size=vocabulary) * scale
        drawn[-1] += end
        return drawn

    return logits


def script(vocabulary: int, *probabilities: dict[int, float]) -> Logits:
    """Return the same probabilities for all clips: a dict for each position after SOT; id 0 has the rest."""

    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        given = probabilities[min(len(ids), len(probabilities)) - 1]
        row = np.full(vocabulary, 1e-9)
        row[0] = max(1 - sum(given.values()), 1e-9)
        row[list(given)] = list(given.values())
        return np.log(row)

    return logits


@dataclass
class FakeState:
    slots: int
    beams: int
    top_k: int
    numbers: dict[int, int] = field(default_factory=dict)  # of the clip in each slot
    ids: dict[int, np.ndarray] = field(default_factory=dict)  # [beams, position]


class FakeEngine:
    """The decoding half of the engine interface. Records the number of rows of each step."""

    def __init__(self, logits: Logits, vocabulary: int, context_length: int = 76) -> None:
        text = TextConfig(context_length=context_length, vocab_size=vocabulary)
        self.config = CocaConfig(text=text, decoder=text)
        self.logits = logits
        self.rows_fed: list[int] = []
        self.slots_made: list[int] = []

    def begin(self, slots: int, beams: int, max_length: int, top_k: int = 1) -> FakeState:
        self.slots_made.append(slots)
        return FakeState(slots, beams, top_k)

    def admit(self, state: FakeState, slot: int, tokens: np.ndarray) -> None:
        assert 0 <= slot < state.slots
        state.numbers[slot], state.ids[slot] = int(tokens[0, 0]), np.zeros((state.beams, 0), int)

    def step(self, state: FakeState, slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        assert ids.dtype == parents.dtype == np.int32
        assert ids.shape == parents.shape == (len(slots), state.beams)
        assert (np.diff(slots) > 0).all()
        self.rows_fed.append(ids.size)
        rows = []
        for slot, new, continued in zip(slots.tolist(), ids, parents, strict=True):
            state.ids[slot] = np.column_stack([state.ids[slot][continued], new])
            rows += [self.logits(state.numbers[slot], tuple(row)) for row in state.ids[slot].tolist()]
        return top_k_scores(np.array(rows, np.float32), state.top_k)

    def resize(self, state: FakeState, kept: np.ndarray, slots: int) -> FakeState:
        self.slots_made.append(slots)
        numbers, ids = (
            {at: part[slot] for at, slot in enumerate(kept.tolist())} for part in (state.numbers, state.ids)
        )
        return FakeState(slots, state.beams, state.top_k, numbers, ids)
