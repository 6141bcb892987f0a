"""CoCa forward and backward: from a batch of pictures or clips and their captions to losses and gradients.

Weights are a mapping, which keeps variants of training outside: LoRA passes `weight + B @ A` for some weights, trains
nothing else, and derives its gradients from theirs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from mindspore import Tensor

from ..catalog import CocaConfig
from ..checkpoints.architecture import parameters
from ..engines.mindspore import as_tensor
from ..model import mindspore_network as net
from ..model import mindspore_teacher_forcing as forcing
from ..model.arrays import causal_mask, text_mask
from . import losses
from .blocks import CROSS, CROSS_FROZEN, SELF
from .pairs import trimmed
from .parallel import ALONE, Workers
from .precision import Precision
from .tape import Tape

Weights = Mapping[str, Tensor]
Frozen = Literal["vision", "text", "none"]


@dataclass(frozen=True)
class Objective:
    """Loss weights, and the frozen part of the network.

    Attributes:
        caption: Caption loss weight; 0 neither runs nor trains the decoder.
        contrastive: Contrastive loss weight; 0 computes no text latents.
        frozen: `vision` is the ViT with its pooler, `text` the text tower with its embeddings.
    """

    caption: float = 2.0
    contrastive: float = 1.0
    frozen: Frozen = "none"


@dataclass(frozen=True)
class Batch:
    """Captions with their pixels, or with the image features that `encode_images` returns."""

    ids: np.ndarray  # [B, T] int32, zero-padded
    pixels: np.ndarray | None = None  # [B, F, 3, S, S] float32
    images: np.ndarray | None = None  # [B, Q, D], if vision is frozen


@dataclass(frozen=True)
class Losses:
    caption: float  # 0 if not computed
    contrastive: float  # 0 if not computed
    total: float  # weighted


def trained(config: CocaConfig, objective: Objective) -> tuple[str, ...]:
    """Return the names of the weights with gradients, in the order of the gradients."""
    idle: tuple[str, ...] = ()
    if objective.frozen != "none":
        idle += ("visual.",) if objective.frozen == "vision" else ("text.",)
    if not objective.caption:
        idle += ("text_decoder.",)
    if not objective.contrastive:
        idle += ("logit_scale", "visual.proj", "text.cls_emb", *(f"text.{name}" for name in net.LAST))
    return tuple(name for name in parameters(config) if not name.startswith(idle))


def losses_and_gradients(
    config: CocaConfig,
    weights: Weights,
    names: Sequence[str],
    batch: Batch,
    objective: Objective,
    workers: Workers = ALONE,
    precision: Precision = "fp32",
    scale: float = 1.0,
    tokens: int | None = None,
    batches: int = 1,
) -> tuple[Losses, list[Tensor]]:
    """Return the losses of a batch, and the gradients of their weighted sum for the named weights.

    If workers share the batch, the losses are those of the whole batch, and the caller sums the gradients of all
    workers. The caller also sums losses and gradients of the micro-batches of a step: the caption loss is divided by
    the tokens of the whole step, the contrastive loss by the number of micro-batches.

    Args:
        precision: Precision of layers; losses are computed in float32.
        scale: Factor of the gradients.
        tokens: Caption tokens (see `token_count`) of the step, over all micro-batches and workers; by default those of
            this batch.
        batches: Micro-batches of the step.

    Raises:
        KeyError: The objective does not train one of the weights (see `trained`).
    """
    tape = Tape((weights[name] for name in names), precision)
    images = _images(tape, config, weights, batch)
    ids = trimmed(batch.ids, config.pad_id)
    caption = contrastive = 0.0
    if objective.contrastive:
        x = _read(tape, config, weights, ids)
        texts = tape.run(forcing.project_cls, x, *_named(weights, "text", net.LAST))
        latents = images, texts, weights["logit_scale"]
        weight = scale * objective.contrastive / batches
        if workers.count == 1:
            value = tape.loss(losses.contrastive_loss, weight, *latents)
        else:
            others = workers.others(images[:, :1]), workers.others(texts)
            value = tape.loss(losses.part_of_contrastive_loss, weight, *latents, *others)
        contrastive = value / batches
        x = tape.run(forcing.drop_last_and_cls, x)
    else:
        x = _read_words(tape, config, weights, ids[:, :-1])
    if objective.caption:
        x = _decode(tape, config, weights, x, images, frozen=batch.images is not None)
        projection = weights["text_decoder.text_projection"]
        labels = ids[:, 1:]
        own = token_count(config, batch)
        share = own / (workers.total(own) if tokens is None else tokens)
        words = x, projection, Tensor(labels), config.pad_id
        caption = share * tape.loss(losses.caption_loss, scale * objective.caption * share, *words)
    gradients = tape.gradients()
    caption, contrastive = workers.total(float(caption)), workers.total(float(contrastive))
    total = objective.caption * caption + objective.contrastive * contrastive
    return Losses(caption, contrastive, total), gradients


def token_count(config: CocaConfig, batch: Batch) -> int:
    """Count the tokens that the caption loss of a batch is averaged over."""
    return int(np.count_nonzero(batch.ids[:, 1:] != config.pad_id))


def encode_images(config: CocaConfig, weights: Weights, pixels: np.ndarray) -> np.ndarray:
    """Encode clips, [B, F, 3, S, S] -> [B, Q, D]: the latent in row 0, not normalized, then the image tokens."""
    return _encode_frames(Tape(()), config, weights, pixels).asnumpy()


def _images(tape: Tape, config: CocaConfig, weights: Weights, batch: Batch) -> Tensor:
    if batch.images is not None:
        return as_tensor(batch.images)
    assert batch.pixels is not None
    return _encode_frames(tape, config, weights, batch.pixels)


def _encode_frames(tape: Tape, config: CocaConfig, weights: Weights, pixels: np.ndarray) -> Tensor:
    vision, frames = config.vision, as_tensor(pixels.reshape(-1, *pixels.shape[2:]))
    x = tape.run(net.embed_patches, frames, *_named(weights, "visual", net.PATCHES))
    for block in _blocks(weights, "visual.transformer.resblocks", vision.layers, net.BLOCK):
        x = tape.run(net.block, x, None, vision.heads, config.quick_gelu, *block)
    pooler = _named(weights, "visual", net.POOLER)
    return tape.run(forcing.pool_clips, x, pixels.shape[1], vision.pooler_heads, *pooler)


def _read(tape: Tape, config: CocaConfig, weights: Weights, ids: np.ndarray) -> Tensor:
    """Run the text tower: [B, L] -> [B, L + 1, D], the CLS last."""
    x = tape.run(forcing.embed_tokens_and_cls, Tensor(ids), *_named(weights, "text", forcing.EMBEDDINGS_AND_CLS))
    return _text_blocks(tape, config, weights, x, text_mask(ids, config.pad_id))


def _read_words(tape: Tape, config: CocaConfig, weights: Weights, ids: np.ndarray) -> Tensor:
    """Run the text tower without the CLS: [B, L] -> [B, L, D]."""
    x = tape.run(forcing.embed_tokens, Tensor(ids), *_named(weights, "text", forcing.EMBEDDINGS))
    return _text_blocks(tape, config, weights, x, causal_mask(ids.shape[1]))


def _text_blocks(tape: Tape, config: CocaConfig, weights: Weights, x: Tensor, mask: np.ndarray) -> Tensor:
    heads, hidden = config.text.heads, Tensor(mask)
    for block in _blocks(weights, "text.transformer.resblocks", config.text.layers, net.BLOCK):
        x = tape.through(SELF, hidden, heads, config.quick_gelu, x, *block)
    return x


def _decode(tape: Tape, config: CocaConfig, weights: Weights, x: Tensor, images: Tensor, frozen: bool) -> Tensor:
    """Run the decoder: words [B, L, D] and images [B, Q, D] -> [B, L, D] after the final layer norm.

    Args:
        frozen: Images need no gradient.
    """
    heads, mask = config.decoder.heads, Tensor(causal_mask(x.shape[1]))
    own = _blocks(weights, "text_decoder.resblocks", config.decoder.layers, net.BLOCK)
    crossing = _blocks(weights, "text_decoder.cross_attn", config.decoder.layers, (*net.CROSS_CONTEXT, *net.CROSS))
    tokens = tape.run(forcing.standardize, images) if frozen else None
    for block, cross in zip(own, crossing, strict=True):
        x = tape.through(SELF, mask, heads, config.quick_gelu, x, *block)
        if tokens is not None:
            x = tape.through(CROSS_FROZEN, tokens, heads, config.quick_gelu, x, *cross)
        else:
            x = tape.through(CROSS, heads, config.quick_gelu, x, images, *cross)
    return tape.run(net.layer_norm, x, *_named(weights, "text_decoder", net.norm_names("ln_final")))


def _named(weights: Weights, prefix: str, names: Sequence[str]) -> list[Tensor]:
    return [weights[f"{prefix}.{name}"] for name in names]


def _blocks(weights: Weights, prefix: str, count: int, names: Sequence[str]) -> Iterator[list[Tensor]]:
    return (_named(weights, f"{prefix}.{layer}", names) for layer in range(count))
