"""The boundary between the program and a framework: numpy arrays in, numpy arrays out."""

from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from ..catalog import CocaConfig
from .scores import Scores


class ClipFeatures(NamedTuple):
    """What the vision tower says about a batch of clips."""

    embedding: np.ndarray  # [B, D] float32, L2-normalized: the joint space of images and texts
    tokens: np.ndarray  # [B, N, D] float32: what the decoder cross-attends to


class DecodeState(Protocol):
    """Captions under way, a clip in each lane. Owned by the engine that made it."""

    lanes: int  # clips that there is room for
    beams: int  # rows of one clip


State = TypeVar("State", bound=DecodeState)


class Engine(Protocol[State]):
    """A network that can encode and decode. Every engine gives the same numbers, within float tolerance."""

    config: CocaConfig

    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        """Encode clips of F frames each.

        Args:
            pixels: [B, F, 3, S, S] float32, normalized frames.
            pool: `joint` lets the pooler read the tokens of all frames at once
                (VideoCoCa, arXiv 2212.04979); `mean` averages what it makes of each frame.
        """

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        """[B, T] int32 token ids, zero-padded -> [B, D] float32, L2-normalized."""

    def begin(self, lanes: int, beams: int, max_length: int, few: int = 1) -> State:
        """Make room for captions of at most `max_length` tokens: idle lanes of `beams` rows each.

        Args:
            few: How many of the likeliest tokens a step hands over at once.
        """

    def admit(self, state: State, lane: int, tokens: np.ndarray) -> None:
        """Start captions of a clip [N, D] in a lane, whatever went on there before."""

    def step(self, state: State, lanes: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        """Feed one token to every row of some lanes and score the next one.

        Args:
            state: Advanced in place by one position in these lanes, which need not be at the same one.
            lanes: [K] ascending.
            ids: [K, beams] int32, the token of each row.
            parents: [K, beams] int32, the row of its lane whose history each row continues. Ignored at the first
                position.

        Returns:
            Scores of K * beams rows, lane by lane.
        """

    def resize(self, state: State, kept: np.ndarray, lanes: int) -> State:
        """Carry lanes `kept` [K] to the first K of so many lanes, the others idle. The old state is of no use then."""
