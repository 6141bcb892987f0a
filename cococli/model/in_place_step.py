"""A decoding step of fixed shapes for CUDA graphs, which writes keys and values in place: maths only.

Shapes: C clips, B beams, R = C * B rows, S cache entries of a clip, T positions, N image tokens, D width, H heads.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ..catalog import CocaConfig
from .torch_network import (
    BLOCK,
    EPSILON,
    Weights,
    attend,
    block_top_k,
    feed_forward,
    has_blocks,
    hidden,
    join_heads,
    linear,
    split_heads,
)


class InPlaceStep:
    """One token of every sequence: `torch_network.DecodeStep` in half the kernels.

    The sum of `x` and `more` is the residual stream: an addition is computed together with the layer norm after it.

    Args:
        weights: From `torch_network.join_projections`.
        kernels: A module with `attend_history`, `add_norm` and `block_maxima`: this one, or `triton_kernels`.
    """

    def __init__(self, config: CocaConfig, weights: Weights, kernels: Any) -> None:
        self.config, self.weights, self.kernels = config, weights, kernels

    def __call__(
        self, ids: Tensor, positions: Tensor, histories: Tensor, caches: Sequence[Tensor], image: Tensor
    ) -> Tensor:
        """Return logits [R, V] of the next token.

        Args:
            ids: [R] int32.
            positions: [C] int32, of these tokens.
            histories: [2, R, T] int32 from `extend_histories`.
            caches: Of the text tower and of the decoder, each [layers, 2, C, S, D]: keys and values. Those of the new
                tokens are written to the entries position * B + beam.
            image: [layers, 2, C, N, D], keys and values of each cross-attention.
        """
        w, config, beams = self.weights, self.config, len(ids) // len(positions)
        x = functional.embedding(ids, w["text.token_embedding"])
        more = functional.embedding(positions, w["text.positional_embedding"]).repeat_interleave(beams, 0)
        for layer, cache in enumerate(caches[0]):
            name = f"text.transformer.resblocks.{layer}"
            x, more = self._block(x, more, name, cache, histories[0], positions, config.text.heads)
        for layer, (cache, keys_values) in enumerate(zip(caches[1], image, strict=True)):
            name = f"text_decoder.resblocks.{layer}"
            x, more = self._block(x, more, name, cache, histories[1], positions, config.decoder.heads)
            x, more = self._cross_block(x, more, f"text_decoder.cross_attn.{layer}", keys_values)
        return self._add_norm(x, more, "text_decoder.ln_final")[1] @ w["text_decoder.text_projection"]

    def top(self, logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return ids and values [R, count] of the highest logits [R, V], and `Scores.log_sum` [R].

        Of equal values the lower id is first, but of those that equal the last one any may be missing.
        """
        if has_blocks(logits.shape[1], count):
            maxima, log_sum = self.kernels.block_maxima(logits, BLOCK)
            ids, values = block_top_k(logits, maxima, count)
        else:
            values, ids = logits.float().topk(count)
            log_sum = (logits.float() - values[:, :1]).exp_().sum(-1).log()
        ids, order = ids.sort(dim=1)
        values, order = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        return ids.gather(1, order), values, log_sum

    def _block(
        self, x: Tensor, more: Tensor, name: str, cache: Tensor, history: Tensor, positions: Tensor, heads: int
    ) -> tuple[Tensor, Tensor]:
        x, normed = self._add_norm(x, more, f"{name}.ln_1")
        qkv = linear(normed, self.weights, f"{name}.attn.qkv_proj")
        mixed = self.kernels.attend_history(qkv, cache[0], cache[1], history, positions, heads)
        return self._feed_forward(x, linear(mixed, self.weights, f"{name}.attn.out_proj"), name)

    def _cross_block(self, x: Tensor, more: Tensor, name: str, keys_values: Tensor) -> tuple[Tensor, Tensor]:
        heads, clips = self.config.decoder.heads, keys_values.shape[1]
        x, normed = self._add_norm(x, more, f"{name}.ln_1")
        query = linear(normed, self.weights, f"{name}.attn.q_proj")
        parts = query.view(clips, -1, query.shape[1]), keys_values[0], keys_values[1]
        query, keys, values = (split_heads(part, heads) for part in parts)
        mixed = join_heads(attend(query, keys, values)).flatten(0, 1)
        return self._feed_forward(x, linear(mixed, self.weights, f"{name}.attn.out_proj"), name)

    def _feed_forward(self, x: Tensor, more: Tensor, name: str) -> tuple[Tensor, Tensor]:
        x, normed = self._add_norm(x, more, f"{name}.ln_2")
        return x, feed_forward(normed, self.weights, name, self.config.quick_gelu)

    def _add_norm(self, x: Tensor, more: Tensor, name: str) -> tuple[Tensor, Tensor]:
        found: tuple[Tensor, Tensor] = self.kernels.add_norm(
            x, more, self.weights[f"{name}.gamma"], self.weights[f"{name}.beta"], EPSILON
        )
        return found


def extend_histories(
    histories: Tensor, last: Tensor, ids: Tensor, parents: Tensor, positions: Tensor, active: Tensor, pad_id: int
) -> None:
    """Give each sequence its parent's history, and one more token.

    The text tower hides the token after a pad, see `arrays.text_mask`.

    Args:
        histories: [2, C, B, T] int32, of the text tower and of the decoder, changed in place: the cache entries of the
            tokens of a sequence; -1 for those that it does not attend to. Entries after `positions` have no meaning.
        last: [C, B], ids of the tokens before, changed in place to the new ones.
        ids: [C, B], the new tokens.
        parents: [C, B].
        positions: [C], of the new tokens.
        active: [C] bool. The others keep their last ids; what is written to their histories, a later token overwrites.
    """
    parents, beams = parents.long(), ids.shape[1]
    histories.copy_(histories.gather(2, parents[None, :, :, None].expand_as(histories)))
    before = last.gather(1, parents)
    newest = positions[:, None] * beams + torch.arange(beams, device=ids.device, dtype=torch.int32)
    visible = torch.where((before == pad_id) & (positions[:, None] > 0), -1, newest)
    at = positions.long()[None, :, None, None].expand(2, -1, beams, 1)
    histories.scatter_(3, at, torch.stack([visible, newest])[..., None])
    last.copy_(torch.where(active[:, None], ids, before))


# The operations that `triton_kernels` has a kernel for, in torch.


def attend_history(qkv: Tensor, keys: Tensor, values: Tensor, history: Tensor, positions: Tensor, heads: int) -> Tensor:
    """Attend from the newest tokens to their histories [R, D], and write their keys and values [C, S, D] in place.

    Args:
        qkv: [R, 3 * D], queries, keys and values of the newest tokens.
        history: [R, T], of one of the towers.
        positions: [C].
    """
    clips, entries, width = keys.shape
    beams = len(qkv) // clips
    first = (torch.arange(clips, device=qkv.device) * entries)[:, None]
    newest = (positions[:, None] * beams).clamp(max=entries - beams) + torch.arange(beams, device=qkv.device)
    query, key, value = qkv.chunk(3, -1)
    for cache, new in ((keys, key), (values, value)):
        cache.view(-1, width)[(first + newest).flatten()] = new
    at = (first.repeat_interleave(beams, 0) + history.clamp(min=0)).long()
    own_keys, own_values = (
        cache.view(-1, width)[at].unflatten(-1, (heads, -1)).transpose(1, 2) for cache in (keys, values)
    )
    later = torch.arange(history.shape[1], device=qkv.device) > positions.repeat_interleave(beams)[:, None]
    mask = torch.where((history < 0) | later, hidden(qkv), 0.0).to(qkv.dtype)
    mixed = attend(query.unflatten(-1, (heads, -1))[:, :, None], own_keys, own_values, mask[:, None, None])
    return mixed.flatten(1)


def add_norm(x: Tensor, more: Tensor, gamma: Tensor, beta: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return x + more, and its layer norm: [R, D] each."""
    total = x + more
    return total, functional.layer_norm(total, gamma.shape, gamma, beta, epsilon)


def block_maxima(logits: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Return the maximum of each block of adjacent logits [R, V], [R, V / block] float32, and `Scores.log_sum` [R]."""
    maxima = logits.unflatten(1, (-1, block)).amax(-1).float()
    return maxima, (logits.float() - maxima.amax(1, keepdim=True)).exp_().sum(-1).log()
