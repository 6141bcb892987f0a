"""What a run optimizes: its losses, the weights that change, and the batches and results of a step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..catalog import CocaConfig
from ..checkpoints.architecture import parameters

MAX_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class Objective:
    """Loss weights, and the locked parts of the network.

    Attributes:
        caption: Caption loss weight; 0 neither runs nor trains the decoder.
        contrastive: Contrastive loss weight; 0 computes no text latents.
        lock_image: Lock the vision tower: the ViT with its pooler.
        unlocked_groups: Groups of a locked vision tower that are trained, from its end: the pooler with the projection,
            then one for each block.
        lock_text: Lock the text tower with its embeddings.
    """

    caption: float = 2.0
    contrastive: float = 1.0
    lock_image: bool = False
    unlocked_groups: int = 0
    lock_text: bool = False

    @property
    def constant_images(self) -> bool:
        """Whether image features never change, so that they can be computed once."""
        return self.lock_image and not self.unlocked_groups

    def trained(self, config: CocaConfig) -> tuple[str, ...]:
        """Return the names of the weights that are trained."""
        idle = self._locked(config)
        if not self.caption:
            idle += ("text_decoder.",)
        if not self.contrastive:
            idle += ("logit_scale", "visual.proj", "text.cls_emb", "text.ln_final.", "text.text_projection")
        return tuple(name for name in parameters(config) if not name.startswith(idle))

    def _locked(self, config: CocaConfig) -> tuple[str, ...]:
        """Return prefixes of the names of locked weights."""
        locked: tuple[str, ...] = ("text.",) if self.lock_text else ()
        if not self.lock_image or self.unlocked_groups > config.vision.layers + 1:
            return locked
        if not self.unlocked_groups:
            return (*locked, "visual.")
        first = ("visual.conv1.", "visual.class_embedding", "visual.positional_embedding", "visual.ln_pre.")
        blocks = range(config.vision.layers + 1 - self.unlocked_groups)
        return (*locked, *first, *(f"visual.transformer.resblocks.{layer}." for layer in blocks))


@dataclass(frozen=True)
class AdamWOptions:
    """Options of AdamW, by default open_clip's for a ViT."""

    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-6
    weight_decay: float = 0.2  # of matrices; vectors and the logit scale do not decay


@dataclass(frozen=True)
class Batch:
    """Captions with their frames, or with the image features that a trainer's `encode_images` returns."""

    ids: np.ndarray  # [B, T] int32, zero-padded
    pixels: np.ndarray | None = None  # [B, F, S, S, 3] uint8, or [B, F, 3, S, S] float32, normalized
    images: np.ndarray | None = None  # [B, Q, D]


@dataclass(frozen=True)
class Losses:
    """Losses of a step.

    Attributes:
        caption: 0 if not computed.
        contrastive: 0 if not computed.
        total: Their weighted sum.
    """

    caption: float
    contrastive: float
    total: float


@dataclass(frozen=True)
class Step:
    """Result of a step.

    Attributes:
        losses: Losses of the whole step.
        norm: Norm of all gradients, before clipping.
        applied: False if the loss or the norm is not finite, so that nothing has changed.
        skipped: float16 overflowed, so that the next steps use a smaller loss scale.
    """

    losses: Losses
    norm: float
    applied: bool
    skipped: bool = False


def token_count(config: CocaConfig, batches: Sequence[Batch]) -> int:
    """Count the tokens that the caption loss of batches is averaged over."""
    return sum(int(np.count_nonzero(batch.ids[:, 1:] != config.pad_id)) for batch in batches)
