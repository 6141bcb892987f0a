"""Teacher forcing in MindSpore: all tokens of a caption at once, each predicting the next one; and CoCa's two losses.

Clips are one tensor, [B, Q, D]: the latent in row 0, not normalized, then the tokens that the decoder attends to.
"""

from collections.abc import Iterator, Mapping, Sequence

import mindspore as ms
from mindspore import Tensor, ops

from ..catalog import CocaConfig
from . import mindspore_network as net
from .arrays import HIDDEN

Weights = Mapping[str, Tensor]


def encode_images(config: CocaConfig, weights: Weights, pixels: Tensor) -> Tensor:
    """Encode clips: normalized frames [B, F, 3, S, S] -> [B, Q, D]."""
    vision = config.vision
    x = net.embed_patches(pixels.reshape(-1, *pixels.shape[2:]), *_named(weights, "visual", net.PATCHES))
    for block in _blocks(weights, "visual.transformer.resblocks", vision.layers, net.BLOCK):
        x = net.block(x, None, vision.heads, config.quick_gelu, *block)
    x = x.reshape(pixels.shape[0], -1, x.shape[-1])  # the frames of a clip are one image
    latents, pooled = net.pool(x, vision.pooler_heads, *_named(weights, "visual", net.POOLER))
    return ops.cat((latents[:, None], pooled), axis=1)


def encode_texts(config: CocaConfig, weights: Weights, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Run the text tower, whose last token is the CLS.

    Args:
        ids: [B, L], padded with at least one pad.
        mask: `arrays.text_mask` of the ids.

    Returns:
        Latents [B, D], not normalized, and outputs of all tokens but the last one and the CLS, [B, L - 1, D].
    """
    text, positions = config.text, weights["text.positional_embedding"]
    words = ops.gather(weights["text.token_embedding"], ids, 0) + positions[: ids.shape[1]]
    cls = ops.broadcast_to((weights["text.cls_emb"] + positions[-1])[None, None], (ids.shape[0], 1, text.width))
    x = ops.cat((words, cls), axis=1)
    for block in _blocks(weights, "text.transformer.resblocks", text.layers, net.BLOCK):
        x = net.block(x, mask, text.heads, config.quick_gelu, *block)
    return net.project(x[:, -1], *_named(weights, "text", net.LAST)), x[:, :-2]


def decode(config: CocaConfig, weights: Weights, words: Tensor, images: Tensor) -> Tensor:
    """Run the decoder: outputs of the text tower [B, L, D] and clips [B, Q, D] -> logits [B * L, V]."""
    x, decoder, length = words, config.decoder, words.shape[1]
    mask = ops.triu(ops.full((length, length), HIDDEN, dtype=ms.float32), 1).astype(x.dtype)
    own = _blocks(weights, "text_decoder.resblocks", decoder.layers, net.BLOCK)
    contexts = _blocks(weights, "text_decoder.cross_attn", decoder.layers, net.CROSS_CONTEXT)
    crossing = _blocks(weights, "text_decoder.cross_attn", decoder.layers, net.CROSS)
    for block, context, cross in zip(own, contexts, crossing):
        x = net.block(x, mask, decoder.heads, config.quick_gelu, *block)
        keys, values = net.cross_keys_values(images[:, 1:], decoder.heads, *context)
        x = net.cross_block(x, decoder.heads, config.quick_gelu, keys, values, *cross)
    return net.project(x, *_named(weights, "text_decoder", net.LAST))


def caption_loss(logits: Tensor, labels: Tensor, pad_id: int) -> Tensor:
    """Return the sum of the cross-entropies of the next token: logits [R, V], labels [R] -> ()."""
    return ops.cross_entropy(logits.astype(ms.float32), labels, ignore_index=pad_id, reduction="sum")


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Return symmetric InfoNCE between latents of clips and texts, [B, D] each, that belong together in pairs."""
    logits = ops.exp(logit_scale) * ops.matmul(_normalized(images), _normalized(texts).T)
    own = ops.arange(logits.shape[0]).astype(ms.int32)
    return (ops.cross_entropy(logits, own) + ops.cross_entropy(logits.T, own)) / 2


def _normalized(x: Tensor) -> Tensor:
    """L2-normalize rows [B, D]."""
    return x / ops.sqrt((x * x).sum(-1, keepdims=True))


def _named(weights: Weights, prefix: str, names: Sequence[str]) -> list[Tensor]:
    return [weights[f"{prefix}.{name}"] for name in names]


def _blocks(weights: Weights, prefix: str, count: int, names: Sequence[str]) -> Iterator[list[Tensor]]:
    return (_named(weights, f"{prefix}.{layer}", names) for layer in range(count))
