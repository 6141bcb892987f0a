"""Teacher forcing in PyTorch: all tokens of a caption at once, each predicting the next one; and CoCa's two losses.

Clips are one tensor, [B, Q, D]: the latent in row 0, not normalized, then the tokens that the decoder attends to.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..catalog import CocaConfig
from . import onednn
from .torch_network import (
    Pooler,
    VisionTower,
    Weights,
    attention,
    block,
    call,
    hidden,
    join_heads,
    linear,
    mlp,
    norm,
    normalize,
    project,
    split_heads,
)

LOSS_ROWS = 4096  # tokens whose logits are in memory at once

Run = Callable[..., Any]  # calls a function


def call_with_checkpoint(function: Callable[..., Any], x: Tensor, *rest: Any) -> Any:
    """Call a function, but recompute its intermediate results in the backward pass instead of keeping them."""

    def call_with_rest(x: Tensor) -> Any:  # torch would look for devices in each of hundreds of weights
        return function(x, *rest)

    # To save the state of random numbers would wait for the GPU.
    return checkpoint(call_with_rest, x, use_reentrant=False, preserve_rng_state=False)


def encode_images(config: CocaConfig, w: Weights, pixels: Tensor, run: Run = call) -> Tensor:
    """Encode clips: [B, F, S, S, 3] uint8, or [B, F, 3, S, S], normalized -> [B, Q, D]."""
    frames = normalize(pixels, config.preprocess).to(w["visual.conv1.weight"].dtype)
    tokens = VisionTower(config, w, run)(frames.flatten(0, 1))
    latents, pooled = run(Pooler(config, w), tokens.reshape(len(frames), -1, tokens.shape[-1]))
    return torch.cat((latents[:, None], pooled), 1)


def encode_texts(config: CocaConfig, w: Weights, ids: Tensor, latents: bool, run: Run = call) -> tuple[Tensor, Tensor]:
    """Run the text tower.

    Args:
        ids: [B, L], padded with at least one pad if latents are wanted.
        latents: Whether to compute the CLS, which no token attends to.

    Returns:
        Latents [B, D], not normalized, or an empty tensor, and outputs of all tokens but the last one, [B, L - 1, D].
    """
    text, positions = config.text, w["text.positional_embedding"]
    kept = ids if latents else ids[:, :-1]
    x = functional.embedding(kept, w["text.token_embedding"]).to(positions.dtype) + positions[: kept.shape[1]]
    if latents:
        x = torch.cat((x, (w["text.cls_emb"] + positions[-1]).expand(len(ids), 1, -1)), 1)
    mask = causal_mask(x)
    if latents:  # as `arrays.text_mask`
        after_pad = functional.pad(ids == config.pad_id, (1, 0))[:, None, None]
        mask = mask.expand(len(ids), 1, -1, -1).masked_fill(after_pad, hidden(x))
    for layer in range(text.layers):
        x = run(block, x, w, f"text.transformer.resblocks.{layer}", text.heads, config.quick_gelu, mask)
    if not latents:
        return x[:0, 0], x
    return project(norm(x[:, -1], w, "text.ln_final"), w["text.text_projection"]), x[:, :-2]


def causal_mask(x: Tensor) -> Tensor:
    """Return the causal mask [L, L] of tokens [B, L, D]."""
    return x.new_full((x.shape[1], x.shape[1]), hidden(x)).triu(1)


def decode(
    config: CocaConfig, w: Weights, words: Tensor, images: Tensor, constant: bool = False, run: Run = call
) -> Tensor:
    """Run the decoder: outputs of the text tower [B, L, D] and clips [B, Q, D] -> [B, L, D] after the last layer norm.

    Args:
        constant: Clips have no gradient.
    """
    x, heads, mask = words, config.decoder.heads, causal_mask(words)
    image = images[:, 1:]
    if constant:
        image = functional.layer_norm(image, image.shape[-1:])  # the part that all layers share
    cross = cross_block_to_constants if constant else cross_block
    for layer in range(config.decoder.layers):
        x = run(block, x, w, f"text_decoder.resblocks.{layer}", heads, config.quick_gelu, mask)
        x = run(cross, x, image, w, f"text_decoder.cross_attn.{layer}", heads, config.quick_gelu)
    return norm(x, w, "text_decoder.ln_final")


def cross_block(x: Tensor, image: Tensor, w: Weights, name: str, heads: int, quick_gelu: bool) -> Tensor:
    """Apply cross-attention to image tokens [B, N, D], then an MLP: [B, L, D] -> [B, L, D]."""
    context = norm(image, w, f"{name}.ln_1_kv")
    x = x + attention(norm(x, w, f"{name}.ln_1"), context, w, f"{name}.attn", heads)
    return x + mlp(x, w, name, quick_gelu)


def cross_block_to_constants(x: Tensor, image: Tensor, w: Weights, name: str, heads: int, quick_gelu: bool) -> Tensor:
    """Apply `cross_block` to standardized image tokens without a gradient, which are longer than the text.

    The weights of keys and values are applied to the text: q . (K n) = (q K) . n, and the weighted sum of V n is V
    times the weighted sum of n. The bias of the keys adds the same number to all scores of a row.
    """
    gamma, beta = w[f"{name}.ln_1_kv.gamma"], w[f"{name}.ln_1_kv.beta"]
    query = split_heads(linear(norm(x, w, f"{name}.ln_1"), w, f"{name}.attn.q_proj"), heads)  # [B, H, L, E]
    keys = w[f"{name}.attn.k_proj.weight"].unflatten(0, (heads, -1))  # [H, E, D]
    by_head = multiply_heads(query * query.shape[-1] ** -0.5, keys) * gamma  # [B, H, L, D]
    share = (by_head.flatten(1, 2) @ image.transpose(1, 2)).softmax(-1)
    mixed = (share @ image).unflatten(1, (heads, -1)) * gamma + beta
    values = w[f"{name}.attn.v_proj.weight"].unflatten(0, (heads, -1)).transpose(1, 2)  # [H, D, E]
    attended = join_heads(multiply_heads(mixed, values)) + w[f"{name}.attn.v_proj.bias"]
    x = x + linear(attended, w, f"{name}.attn.out_proj")
    return x + mlp(x, w, name, quick_gelu)


def multiply_heads(x: Tensor, matrices: Tensor) -> Tensor:
    """Multiply [B, H, L, I] by the matrix of each head [H, I, O] -> [B, H, L, O]."""
    rows = x.transpose(0, 1).flatten(1, 2) @ matrices
    return rows.unflatten(1, (len(x), -1)).transpose(0, 1)


def caption_loss(x: Tensor, projection: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the cross-entropies of the next token.

    Args:
        x: [R, D], outputs of the decoder for tokens that are followed by a word.
        projection: [D, V]
        labels: [R], the token after each.
    """
    if torch.is_grad_enabled():
        return _CaptionLoss.apply(x, projection, labels)
    loss = x.new_zeros((), dtype=torch.float32)
    for part, wanted in zip(x.split(LOSS_ROWS), labels.split(LOSS_ROWS), strict=True):
        loss += functional.cross_entropy(project(part, projection).float(), wanted, reduction="sum")
    return loss


class _CaptionLoss(torch.autograd.Function):
    """The loss with its gradients: computed together, the logits, by far the largest tensor, are never kept."""

    @staticmethod
    def forward(context: Any, x: Tensor, projection: Tensor, labels: Tensor) -> Tensor:
        loss = x.new_zeros((), dtype=torch.float32)
        x_gradient, gradient = torch.empty_like(x), None
        for start in range(0, len(x), LOSS_ROWS):
            rows = slice(start, start + LOSS_ROWS)
            part = x[rows]
            logits = onednn.matmul(part, projection).float()
            peak, own = logits.amax(-1, keepdim=True), logits.gather(1, labels[rows, None])
            surplus = logits.sub_(peak).exp_()
            total = surplus.sum(-1, keepdim=True)
            loss += (total.log() + peak - own).sum()
            surplus /= total
            surplus[torch.arange(len(part), device=x.device), labels[rows]] -= 1
            surplus = surplus.to(x.dtype)
            x_gradient[rows] = onednn.matmul(surplus, projection.T)
            product = onednn.matmul(part.T, surplus)
            gradient = product if gradient is None else gradient.float().add_(product)
        context.save_for_backward(x_gradient, gradient)
        return loss

    @staticmethod
    def backward(context: Any, *weight: Tensor) -> tuple[Tensor, Tensor, None]:
        x_gradient, gradient = context.saved_tensors
        return x_gradient * weight[0].to(x_gradient.dtype), gradient * weight[0], None


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """Return symmetric InfoNCE between latents of clips and texts, [B, D] each, that belong together in pairs."""
    images, texts = (functional.normalize(latents.float(), dim=-1) for latents in (images, texts))
    logits = logit_scale.exp() * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
