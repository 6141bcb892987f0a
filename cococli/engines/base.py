"""The engine interface between the program and a framework: numpy arrays in, numpy arrays out."""

from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from ..catalog import CocaConfig
from .scores import Scores


class ClipFeatures(NamedTuple):
    """Image features of a batch of clips."""

    embedding: np.ndarray  # [B, D] float32, L2-normalized: the joint space of images and texts
    tokens: np.ndarray  # [B, N, D] float32: input of the decoder's cross-attention


class DecodeState(Protocol):
    """Sequences being decoded, with a clip in each slot. Only the engine that made it reads it."""

    slots: int  # clips that it has room for
    beams: int  # sequences per clip


State = TypeVar("State", bound=DecodeState)


class Engine(Protocol[State]):
    """A network that encodes clips and texts and decodes captions. All engines agree within float tolerance."""

    config: CocaConfig

    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        """Encode clips of F frames each.

        Args:
            pixels: [B, F, 3, S, S] float32, normalized frames.
            pool: `joint` lets the pooler attend to the tokens of all frames at once
                (VideoCoCa, arXiv 2212.04979); `mean` averages its outputs for each frame.
        """

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        """[B, T] int32 token ids, zero-padded -> [B, D] float32, L2-normalized."""

    def begin(self, slots: int, beams: int, max_length: int, top_k: int = 1) -> State:
        """Return an empty state for captions of at most `max_length` tokens.

        Args:
            slots: Clips that it has room for.
            beams: Sequences per clip.
            top_k: Number of most likely tokens that each step returns.
        """

    def admit(self, state: State, slot: int, tokens: np.ndarray) -> None:
        """Place a clip [N, D] in a slot, replacing the one before."""

    def step(self, state: State, slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        """Feed one token to every sequence of some slots and score the next one.

        Args:
            state: Advanced in place by one position in these slots, which may be at different positions.
            slots: [K] ascending.
            ids: [K, beams] int32, the next token of each sequence.
            parents: [K, beams] int32, the sequence of its slot whose history each one continues. Ignored at the first
                position.

        Returns:
            Scores of K * beams sequences, slot by slot.
        """

    def resize(self, state: State, kept: np.ndarray, slots: int) -> State:
        """Move slots `kept` [K] to the first K slots of a state of another size. The old state becomes invalid."""
