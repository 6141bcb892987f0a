"""The engine interface between the program and a framework: numpy arrays in, numpy arrays out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from ..catalog import CocaConfig
from ..errors import ModelError
from ..model.arrays import top_k


class ClipFeatures(NamedTuple):
    """Image features of a batch of clips."""

    embedding: np.ndarray  # [B, D] float32, L2-normalized: the joint space of images and texts
    tokens: Any  # [B, N, D], an array of the engine on its device: input of the decoder's cross-attention


@dataclass(frozen=True)
class Scores:
    """Scores of the next token of R sequences, valid until the next step: of the top k, and of others on request.

    Attributes:
        ids: [R, K] int32, the most likely tokens, best first; of equal ones the lower id first.
        logits: [R, K] float32, their logits.
        log_sum: [R] float32. The log-probability of a token is its logit minus the best logit minus this.
        lookup: Returns logits by rows and tokens, each an index of [R, V] float32 logits in numpy's terms.

    Raises:
        ModelError: A logit is NaN or infinite, so there are no probabilities.
    """

    ids: np.ndarray
    logits: np.ndarray
    log_sum: np.ndarray
    lookup: Callable[[Any, Any], np.ndarray]

    def __post_init__(self) -> None:
        if not np.isfinite(self.log_sum).all():
            raise ModelError(
                "this model's scores are not numbers: its weights are damaged", "fetch or convert it again"
            )

    def logprobs_of(self, logits: np.ndarray) -> np.ndarray:
        """Return log-probabilities [R, N] of tokens by their logits [R, N]."""
        return (logits - self.logits[:, :1]) - self.log_sum[:, None]

    def sums(self, temperature: float) -> np.ndarray:
        """Return [R] float64: sums of exponentiated logits, minus the best one, over the temperature."""
        if temperature == 1:
            return np.exp(self.log_sum.astype(np.float64))
        rows = (self.lookup(row, slice(None)) - self.logits[row, 0] for row in range(len(self.logits)))
        return np.array([np.exp(row / np.float32(temperature)).sum() for row in rows], np.float64)

    def rows(self, rows: Any) -> "Scores":
        """Return the scores of some sequences, by an index of R."""
        chosen = np.arange(len(self.ids))[rows]
        parts = (self.ids[rows], self.logits[rows], self.log_sum[rows])
        return Scores(*parts, lambda rows, tokens: self.lookup(chosen[rows], tokens))


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
            pixels: [B, F, S, S, 3] uint8, frames from `media.preprocess.crop`; or normalized, [B, F, 3, S, S] float32.
            pool: `joint` lets the pooler attend to the tokens of all frames at once
                (VideoCoCa, arXiv 2212.04979); `mean` averages its outputs for each frame.
        """

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        """Embed texts: [B, T] int32 token ids, zero-padded -> [B, D] float32, L2-normalized."""

    def begin(self, slots: int, beams: int, max_length: int, top_k: int = 1) -> State:
        """Return an empty state for captions of at most `max_length` tokens.

        Args:
            slots: Clips that it has room for.
            beams: Sequences per clip.
            top_k: Number of most likely tokens that each step returns.
        """

    def admit(self, state: State, slot: int, tokens: Any) -> None:
        """Place a clip, a row of `ClipFeatures.tokens`, in a slot, replacing the one before."""

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


def top_k_scores(logits: np.ndarray, k: int) -> Scores:
    """Return the scores of [R, V] float32 logits."""
    log_sum = np.array([_log_sum(row) for row in logits], np.float32)
    return scores_from(logits, log_sum, k)


def scores_from(logits: np.ndarray, log_sum: np.ndarray, k: int) -> Scores:
    """Return the scores of [R, V] float32 logits whose `Scores.log_sum` is known."""
    comparable = logits if np.isfinite(log_sum).all() else np.zeros_like(logits)
    ids = top_k(comparable, min(k, logits.shape[1]))
    top = np.take_along_axis(logits, ids, axis=1)
    return Scores(ids.astype(np.int32), top, log_sum, lambda rows, tokens: logits[rows, tokens])


def _log_sum(row: np.ndarray) -> np.float32:
    """Return `Scores.log_sum` of one row, which fits into the processor's cache."""
    with np.errstate(invalid="ignore"):  # `Scores` raises
        return np.log(np.exp(row - row.max()).sum())


def pool_frames(tokens: Any, clips: int, pool: str, pooler: Callable[[Any], Sequence[Any]]) -> Sequence[Any]:
    """Pool the ViT tokens of clips, see `Engine.encode_clips`.

    Args:
        tokens: [B * F, T, W], an array or a tensor.
        clips: B.
        pooler: [B, K, W] -> latents [B, D] and tokens [B, N, D].
    """
    if pool == "joint":
        return pooler(tokens.reshape(clips, -1, tokens.shape[-1]))
    return [part.reshape(clips, -1, *part.shape[1:]).mean(1) for part in pooler(tokens)]
