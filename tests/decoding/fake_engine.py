"""An engine with no network: logits come from a function of the clip and the ids so far."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cococli.catalog import CocaConfig, TextConfig

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
    numbers: np.ndarray  # [B]
    beams: int
    ids: np.ndarray  # [R, position]

    @property
    def clips(self) -> int:
        return len(self.numbers)

    @property
    def position(self) -> int:
        return self.ids.shape[1]


class FakeEngine:
    """The decoder's half of the engine protocol. Remembers how many rows each step had."""

    def __init__(self, logits: Logits, vocabulary: int, context_length: int = 76) -> None:
        text = TextConfig(context_length=context_length, vocab_size=vocabulary)
        self.config = CocaConfig(text=text, decoder=text)
        self.logits = logits
        self.rows_fed: list[int] = []

    def begin(self, tokens: np.ndarray, beams: int, max_length: int) -> FakeState:
        return FakeState(tokens[:, 0, 0].astype(int), beams, np.zeros((len(tokens) * beams, 0), int))

    def step(self, state: FakeState, ids: np.ndarray, parents: np.ndarray) -> np.ndarray:
        clip_of_row = np.arange(len(ids)) // state.beams
        assert ids.dtype == parents.dtype == np.int32
        assert state.position == 0 or (parents // state.beams == clip_of_row).all()
        state.ids = np.column_stack([state.ids[parents], ids])
        self.rows_fed.append(len(ids))
        rows = zip(state.numbers[clip_of_row].tolist(), state.ids.tolist(), strict=True)
        return np.array([self.logits(clip, tuple(row)) for clip, row in rows], np.float32)

    def keep(self, state: FakeState, clips: np.ndarray) -> FakeState:
        rows = state.ids.reshape(state.clips, state.beams, -1)[clips]
        return FakeState(state.numbers[clips], state.beams, rows.reshape(-1, state.position))
