"""CoCa forward and backward: from a batch of pictures or clips and their captions to losses and gradients.

Weights come as a mapping, so what differs from plain training stays outside: LoRA gives `weight + B @ A` in place of
some weights, trains nothing else, and goes on from their gradients.
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
    """What is trained, and for what."""

    caption: float = 2.0  # weight of the caption loss; 0: no decoder is run, nor trained
    contrastive: float = 1.0  # of the contrastive loss; 0: no text latents are computed
    frozen: Frozen = "none"  # vision is the ViT with its pooler, text is the text tower with its embeddings


@dataclass(frozen=True)
class Batch:
    """Captions, and what they tell of: pixels, or what `encode_images` made of them."""

    ids: np.ndarray  # [B, T] int32, zero-padded
    pixels: np.ndarray | None = None  # [B, F, 3, S, S] float32
    images: np.ndarray | None = None  # [B, Q, D], where vision is frozen


@dataclass(frozen=True)
class Losses:
    caption: float  # 0 where it is not computed
    contrastive: float  # likewise
    total: float  # weighted


def trained(config: CocaConfig, objective: Objective) -> tuple[str, ...]:
    """Names of the weights that get gradients, in the order of the gradients."""
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
    """The losses of a batch, and the gradients of their weighted sum for the weights called `names`.

    Where several workers have a part of the batch each, the losses are those of the whole, and the gradients of all
    workers are to be summed. Where a step has several micro-batches, their losses and gradients are to be summed, too:
    the caption loss is divided by the tokens of the whole step, the contrastive loss by the number of micro-batches.

    Args:
        precision: What layers compute in; losses are computed in float32.
        scale: The gradients are multiplied by it.
        tokens: Caption tokens (see `token_count`) of the step, over all micro-batches and workers; None: of this batch.
        batches: Micro-batches of the step.

    Raises:
        KeyError: a name is none that the objective trains (see `trained`).
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
    """[B, F, 3, S, S] -> [B, Q, D], the latent in row 0, not normalized, then the decoder's tokens."""
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
    """[B, L] -> [B, L + 1, D], the CLS last."""
    x = tape.run(forcing.embed_tokens_and_cls, Tensor(ids), *_named(weights, "text", forcing.EMBEDDINGS_AND_CLS))
    return _text_blocks(tape, config, weights, x, text_mask(ids, config.pad_id))


def _read_words(tape: Tape, config: CocaConfig, weights: Weights, ids: np.ndarray) -> Tensor:
    """[B, L] -> [B, L, D], as in `_read` but for the CLS."""
    x = tape.run(forcing.embed_tokens, Tensor(ids), *_named(weights, "text", forcing.EMBEDDINGS))
    return _text_blocks(tape, config, weights, x, causal_mask(ids.shape[1]))


def _text_blocks(tape: Tape, config: CocaConfig, weights: Weights, x: Tensor, mask: np.ndarray) -> Tensor:
    heads, hidden = config.text.heads, Tensor(mask)
    for block in _blocks(weights, "text.transformer.resblocks", config.text.layers, net.BLOCK):
        x = tape.through(SELF, hidden, heads, config.quick_gelu, x, *block)
    return x


def _decode(tape: Tape, config: CocaConfig, weights: Weights, x: Tensor, images: Tensor, frozen: bool) -> Tensor:
    """[B, L, D] words and [B, Q, D] images -> [B, L, D], normed.

    Args:
        frozen: The images need no gradient.
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
