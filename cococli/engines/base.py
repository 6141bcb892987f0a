"""The boundary between the program and a framework: numpy arrays in, numpy arrays out."""

from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from ..catalog import CocaConfig


class ClipFeatures(NamedTuple):
    """What the vision tower says about a batch of clips."""

    embedding: np.ndarray  # [B, D] float32, L2-normalised: the joint space of images and texts
    tokens: np.ndarray  # [B, N, D] float32: what the decoder cross-attends to


class DecodeState(Protocol):
    """Key/value caches of a batch of captions under way. Owned by the engine that made it."""

    clips: int  # B
    beams: int  # rows of one clip; row r belongs to clip r // beams
    position: int  # tokens fed so far


State = TypeVar("State", bound=DecodeState)


class Engine(Protocol[State]):
    """A network that can encode and decode. Every engine gives the same numbers, within float tolerance."""

    config: CocaConfig

    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        """Encode clips of F frames each.

        Args:
            pixels: [B, F, 3, S, S] float32, normalised frames.
            pool: `joint` lets the pooler read the tokens of all frames at once
                (VideoCoCa, arXiv 2212.04979); `mean` averages what it makes of each frame.
        """

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        """[B, T] int32 token ids, zero-padded -> [B, D] float32, L2-normalised."""

    def begin(self, tokens: np.ndarray, beams: int, max_length: int) -> State:
        """Start captions of at most `max_length` tokens, `beams` rows for each clip of `tokens` [B, N, D].

        Captions begun before and still under way may end by it: finish or drop them first.
        """

    def step(self, state: State, ids: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """Feed one token to every row and score the next one.

        Args:
            state: Advanced in place by one position.
            ids: [R] int32, the token of each of the R = B * beams rows.
            parents: [R] int32, the row of the previous step whose history each row continues,
                always a row of the same clip. Ignored at the first position.

        Returns:
            [R, V] float32 logits of the next token. Belongs to the caller.
        """

    def keep(self, state: State, clips: np.ndarray) -> State:
        """The state of only these clips ([K] indices, ascending). The old state must not be used again."""
