"""The CoCa network in PyTorch, which also OpenVINO's graphs are traced from: maths only.

The modules share one mapping of weights, named as in `checkpoints.architecture.parameters`.
Shapes: C clips, B beams, H heads, S cache entries, N image tokens, D width, E = D / H.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..catalog import CocaConfig, Preprocess
from . import onednn
from .arrays import HIDDEN

EPSILON = 1e-5  # of every layer norm
BLOCK = 64  # adjacent logits whose maximum is compared first
PROJECTIONS = ("visual.proj", "text.text_projection", "text_decoder.text_projection")

Weights = Mapping[str, Tensor]


def call(function: Callable[..., Any], *inputs: Any) -> Any:
    return function(*inputs)


class VisionTower(nn.Module):
    """Encode frames into ViT tokens before any norm: [N, 3, S, S] -> [N, T, W].

    Args:
        run: Calls a block; in training it may recompute it in the backward pass.
    """

    def __init__(self, config: CocaConfig, weights: Weights, run: Callable[..., Any] = call) -> None:
        super().__init__()
        self.weights, self.config, self.run = weights, config, run

    def forward(self, frames: Tensor) -> Tensor:
        w, vision = self.weights, self.config.vision
        patches = (
            functional.conv2d(frames, w["visual.conv1.weight"], stride=vision.patch_size).flatten(2).transpose(1, 2)
        )
        cls = w["visual.class_embedding"].expand(frames.shape[0], 1, -1)
        x = norm(torch.cat((cls, patches), 1) + w["visual.positional_embedding"], w, "visual.ln_pre")
        for layer in range(vision.layers):
            x = self.run(block, x, w, f"visual.transformer.resblocks.{layer}", vision.heads, self.config.quick_gelu)
        return x


class Pooler(nn.Module):
    """Pool ViT tokens of clips [C, K, W] to latents [C, D], not normalized, and tokens [C, N, D]."""

    def __init__(self, config: CocaConfig, weights: Weights) -> None:
        super().__init__()
        self.weights, self.heads = weights, config.vision.pooler_heads

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        w, pool = self.weights, "visual.attn_pool"
        query = norm(w[f"{pool}.query"], w, f"{pool}.ln_q").expand(tokens.shape[0], -1, -1)
        context = norm(tokens, w, f"{pool}.ln_k")
        x = attention(query, context, w, f"{pool}.attn", self.heads)
        x = norm(x, w, "visual.ln_post")
        return project(x[:, 0], w["visual.proj"]), x[:, 1:]


class TextTower(nn.Module):
    """Encode texts: ids [C, T] and the mask of `arrays.text_mask` -> latents [C, D], not normalized."""

    def __init__(self, config: CocaConfig, weights: Weights) -> None:
        super().__init__()
        self.weights, self.config = weights, config

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        w, text = self.weights, self.config.text
        positions = w["text.positional_embedding"]
        words = functional.embedding(ids, w["text.token_embedding"]) + positions[: ids.shape[1]]
        x = torch.cat((words, (w["text.cls_emb"] + positions[-1]).expand(ids.shape[0], 1, -1)), 1)
        for layer in range(text.layers):
            x = block(x, w, f"text.transformer.resblocks.{layer}", text.heads, self.config.quick_gelu, mask)
        return project(norm(x[:, -1], w, "text.ln_final"), w["text.text_projection"])


class CrossKeysValues(nn.Module):
    """Return alternating keys and values [C, H, N, E] of each cross-attention to image tokens [C, N, D]."""

    def __init__(self, config: CocaConfig, weights: Weights) -> None:
        super().__init__()
        self.weights, self.decoder = weights, config.decoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        w, keys_values = self.weights, []
        for layer in range(self.decoder.layers):
            name = f"text_decoder.cross_attn.{layer}"
            context = norm(image, w, f"{name}.ln_1_kv")
            keys_values += projections(context, w, f"{name}.attn", "kv", self.decoder.heads)
        return tuple(keys_values)


class DecodeStep(nn.Module):
    """One token of every sequence, with cached keys and values.

    Inputs: ids [C, B] int, positions [C] int, masks [C, 1, B, S + 1] of the text tower and of the decoder, added to
    the scores of cached tokens and of the sequence's new token; then keys and values [C, H, S, E] of each layer of the
    text tower and of the decoder, and those of `CrossKeysValues`.

    Outputs: logits [C, B, V]; then the new keys and values [C, H, B, E] of each layer of the text tower and the
    decoder, in the same order, for the caller to write into free cache entries.
    """

    def __init__(self, config: CocaConfig, weights: Weights) -> None:
        super().__init__()
        self.weights, self.config = weights, config

    def forward(
        self, ids: Tensor, positions: Tensor, text_mask: Tensor, mask: Tensor, *caches: Tensor
    ) -> tuple[Tensor, ...]:
        w, config = self.weights, self.config
        pairs = list(zip(caches[::2], caches[1::2], strict=True))
        text, decoder = pairs[: config.text.layers], pairs[config.text.layers :]
        x = functional.embedding(ids, w["text.token_embedding"])
        x = x + functional.embedding(positions, w["text.positional_embedding"])[:, None]
        new: list[Tensor] = []
        for layer, cache in enumerate(text):
            name = f"text.transformer.resblocks.{layer}"
            x = cached_block(x, cache, text_mask, new, w, name, config.text.heads, config.quick_gelu)
        own, image = decoder[: config.decoder.layers], decoder[config.decoder.layers :]
        for layer, (cache, keys_values) in enumerate(zip(own, image, strict=True)):
            name = f"text_decoder.resblocks.{layer}"
            x = cached_block(x, cache, mask, new, w, name, config.decoder.heads, config.quick_gelu)
            x = cross_block(
                x, keys_values, w, f"text_decoder.cross_attn.{layer}", config.decoder.heads, config.quick_gelu
            )
        logits = project(norm(x, w, "text_decoder.ln_final"), w["text_decoder.text_projection"])
        return logits, *new


def cached_block(
    x: Tensor,
    cache: Sequence[Tensor],
    mask: Tensor,
    new: list[Tensor],
    w: Weights,
    name: str,
    heads: int,
    quick_gelu: bool,
) -> Tensor:
    """Apply a block to one new token per sequence, [C, B, D] -> [C, B, D]; append its key and value to `new`."""
    normed = norm(x, w, f"{name}.ln_1")
    query, key, value = projections(normed, w, f"{name}.attn", "qkv", heads)
    query = query * query.shape[-1] ** -0.5
    scores = torch.cat((query @ cache[0].transpose(-1, -2), (query * key).sum(-1, keepdim=True)), -1)
    share = (scores + mask).softmax(-1)  # [C, H, B, S + 1]
    mixed = share[..., :-1] @ cache[1] + share[..., -1:] * value
    new += [key, value]
    x = x + linear(join_heads(mixed), w, f"{name}.attn.out_proj")
    return x + mlp(x, w, name, quick_gelu)


def cross_block(
    x: Tensor, keys_values: Sequence[Tensor], w: Weights, name: str, heads: int, quick_gelu: bool
) -> Tensor:
    query = split_heads(linear(norm(x, w, f"{name}.ln_1"), w, f"{name}.attn.q_proj"), heads)
    x = x + linear(join_heads(attend(query, *keys_values)), w, f"{name}.attn.out_proj")
    return x + mlp(x, w, name, quick_gelu)


def block(x: Tensor, w: Weights, name: str, heads: int, quick_gelu: bool, mask: Tensor | None = None) -> Tensor:
    """Apply a pre-norm transformer block, [C, L, D] -> [C, L, D]; `mask` is added to the scores."""
    normed = norm(x, w, f"{name}.ln_1")
    x = x + attention(normed, normed, w, f"{name}.attn", heads, mask)
    return x + mlp(x, w, name, quick_gelu)


def attention(x: Tensor, context: Tensor, w: Weights, name: str, heads: int, mask: Tensor | None = None) -> Tensor:
    """Attend from [C, L, D] to [C, K, D'] -> [C, L, D]."""
    if x is context:
        query, key, value = projections(x, w, name, "qkv", heads)
    else:
        (query,), (key, value) = projections(x, w, name, "q", heads), projections(context, w, name, "kv", heads)
    return linear(join_heads(attend(query, key, value, mask)), w, f"{name}.out_proj")


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attend with queries [C, H, L, E] to keys and values [C, H, K, E] -> [C, H, L, E]."""
    if not torch.jit.is_tracing() and (query.device.type != "cpu" or query.dtype != torch.bfloat16):
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    # Twice as fast in bf16 as torch's fused operator, which OpenVINO expands to a transposition of keys in every step.
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(-1) @ value


def mlp(x: Tensor, w: Weights, name: str, quick_gelu: bool) -> Tensor:
    return feed_forward(norm(x, w, f"{name}.ln_2"), w, name, quick_gelu)


def feed_forward(normed: Tensor, w: Weights, name: str, quick_gelu: bool) -> Tensor:
    hidden = linear(normed, w, f"{name}.mlp.c_fc")
    hidden = hidden * torch.sigmoid(1.702 * hidden) if quick_gelu else functional.gelu(hidden)
    return linear(hidden, w, f"{name}.mlp.c_proj")


def has_blocks(vocabulary: int, count: int) -> bool:
    """Return whether `block_top_k` can find this many of the highest logits, and faster than `Tensor.topk`."""
    return vocabulary % BLOCK == 0 and vocabulary >= 2 * count * BLOCK


def block_top_k(logits: Tensor, maxima: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return ids and float32 values like `Tensor.topk`, but sort only the blocks of the highest maxima.

    Args:
        logits: [R, V]
        maxima: [R, V / BLOCK], of each block of adjacent logits.
    """
    blocks = maxima.topk(count, sorted=False).indices  # they contain the highest logits
    ids = (blocks[..., None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    values, chosen = logits.gather(1, ids).float().topk(count)
    return ids.gather(1, chosen), values


def normalize(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """Compute `arrays.normalize`, equal to the last bit: [..., S, S, 3] uint8 -> [..., 3, S, S] float32."""
    if pixels.dtype != torch.uint8:
        return pixels
    # Tensors, as GPUs multiply by the reciprocal of a number instead of dividing.
    levels, mean, std = (
        pixels.new_tensor(values, dtype=torch.float32) for values in (255, preprocess.mean, preprocess.std)
    )
    return ((pixels / levels - mean) / std).movedim(-1, -3)


def hidden(x: Tensor) -> float:
    """Return what is added to a score to mask it, finite in the precision of a tensor."""
    return max(HIDDEN, torch.finfo(x.dtype).min / 2)


def projections(x: Tensor, w: Weights, name: str, parts: str, heads: int) -> list[Tensor]:
    """Return the projections `q`, `k`, `v` of [C, L, D] in `parts`, each [C, H, L, E]."""
    if f"{name}.{parts}_proj.weight" in w:
        return [split_heads(part, heads) for part in linear(x, w, f"{name}.{parts}_proj").chunk(len(parts), -1)]
    return [split_heads(linear(x, w, f"{name}.{part}_proj"), heads) for part in parts]


def join_projections(w: Weights) -> dict[str, Tensor]:
    """Return weights in which all projections of the same input are one product, as `projections` uses them.

    GPUs compute one large product faster than three, CPUs do not.
    """
    joined = dict(w)
    for name in w:
        owner, found, _ = name.rpartition(".attn.k_proj.weight")
        if found:
            parts = "qkv" if ".resblocks." in owner else "kv"
            for leaf in ("weight", "bias"):
                together = torch.cat([joined.pop(f"{owner}.attn.{part}_proj.{leaf}") for part in parts])
                joined[f"{owner}.attn.{parts}_proj.{leaf}"] = together
    return joined


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    weight, bias = w[f"{name}.weight"], w[f"{name}.bias"]
    return onednn.linear(x, weight, bias) if onednn.usable(x) else functional.linear(x, weight, bias)


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply [..., D] by a matrix [D, D'] -> [..., D']."""
    return onednn.linear(x, weight if weight.is_mkldnn else weight.T, None) if onednn.usable(x) else x @ weight


def pack(name: str, weight: Tensor) -> Tensor:
    """Return a copy of a weight of `linear` or `project` as oneDNN reads it fastest; other weights unchanged."""
    if not onednn.AVAILABLE or weight.ndim != 2 or not name.endswith((".weight", *PROJECTIONS)):
        return weight
    return onednn.pack(weight.T if name in PROJECTIONS else weight)


def norm(x: Tensor, w: Weights, name: str) -> Tensor:
    gamma = w[f"{name}.gamma"]
    return functional.layer_norm(x, gamma.shape, gamma, w[f"{name}.beta"], EPSILON)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Split heads: [C, L, D] -> [C, H, L, E]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """Join heads: [C, H, L, E] -> [C, L, D]."""
    return x.transpose(1, 2).flatten(2)
