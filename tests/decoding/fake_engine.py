"""An engine with no network: logits come from a function of the clip and the ids so far."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cococli.catalog import CocaConfig, TextConfig
from cococli.engines.scores import Scores, few_best

Logits = Callable[[int, tuple[int, ...]], np.ndarray]  # clip's number, ids from SOT on -> [V]


def clips(*numbers: int) -> np.ndarray:
    """[B, 1, 1] float32 tokens of clips that have nothing but a number."""
    return np.array(numbers, np.float32).reshape(-1, 1, 1)


def chance(vocabulary: int, scale: float = 1.0, end: float = 0.0) -> Logits:
    """Logits that look random but depend on clip and ids only; `end` makes EOT likelier."""

    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        drawn = np.random.default_rng((clip, *ids)).normal(size=vocabulary) * scale
        drawn[-1] += end
        return drawn

    return logits


def script(vocabulary: int, *probabilities: dict[int, float]) -> Logits:
    """The same probabilities in every caption: one dict for each position after SOT, what is left to id 0."""

    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        given = probabilities[min(len(ids), len(probabilities)) - 1]
        row = np.full(vocabulary, 1e-9)
        row[0] = max(1 - sum(given.values()), 1e-9)
        row[list(given)] = list(given.values())
        return np.log(row)

    return logits


@dataclass
class FakeState:
    lanes: int
    beams: int
    few: int
    numbers: dict[int, int] = field(default_factory=dict)  # of the clip in each lane
    ids: dict[int, np.ndarray] = field(default_factory=dict)  # [beams, position]


class FakeEngine:
    """The decoder's half of the engine protocol. Remembers how many rows each step had."""

    def __init__(self, logits: Logits, vocabulary: int, context_length: int = 76) -> None:
        text = TextConfig(context_length=context_length, vocab_size=vocabulary)
        self.config = CocaConfig(text=text, decoder=text)
        self.logits = logits
        self.rows_fed: list[int] = []
        self.lanes_made: list[int] = []

    def begin(self, lanes: int, beams: int, max_length: int, few: int = 1) -> FakeState:
        self.lanes_made.append(lanes)
        return FakeState(lanes, beams, few)

    def admit(self, state: FakeState, lane: int, tokens: np.ndarray) -> None:
        assert 0 <= lane < state.lanes
        state.numbers[lane], state.ids[lane] = int(tokens[0, 0]), np.zeros((state.beams, 0), int)

    def step(self, state: FakeState, lanes: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        assert ids.dtype == parents.dtype == np.int32
        assert ids.shape == parents.shape == (len(lanes), state.beams)
        assert (np.diff(lanes) > 0).all()
        self.rows_fed.append(ids.size)
        rows = []
        for lane, new, continued in zip(lanes.tolist(), ids, parents, strict=True):
            state.ids[lane] = np.column_stack([state.ids[lane][continued], new])
            rows += [self.logits(state.numbers[lane], tuple(row)) for row in state.ids[lane].tolist()]
        return few_best(np.array(rows, np.float32), state.few)

    def resize(self, state: FakeState, kept: np.ndarray, lanes: int) -> FakeState:
        self.lanes_made.append(lanes)
        numbers, ids = (
            {at: part[lane] for at, lane in enumerate(kept.tolist())} for part in (state.numbers, state.ids)
        )
        return FakeState(lanes, state.beams, state.few, numbers, ids)
