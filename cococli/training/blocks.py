"""The blocks of the network, forward and backward, without computing a matrix product twice.

A block is split at its matrix products: the forward pass keeps the tensors between two parts, and the backward pass
differentiates each part by itself. Layer norms, GELU and softmax within a part are recomputed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import mindspore as ms
from mindspore import Tensor

from ..model import mindspore_network as net
from ..model import mindspore_teacher_forcing as forcing

Tensors = tuple[Tensor, ...]


class Block(NamedTuple):
    """A function of constants, then tensors, that keeps what its gradients need.

    Attributes:
        forward: Returns the output, then the tensors to keep.
        backward: From the output's gradient, the kept tensors and all inputs, returns the gradients of the tensors.
        constants: Number of leading inputs without a gradient.
    """

    forward: Callable[..., Tensors]
    backward: Callable[..., Tensors]
    constants: int


def pullback(function: Callable[..., Any], wanted: tuple[int, ...], outputs: int = 1) -> Callable[..., Tensors]:
    """Return a function from gradients of the outputs and the inputs to gradients of the inputs at indices `wanted`."""

    def paired(*given: Any) -> Tensor:
        found = function(*given[outputs:])
        if outputs == 1:
            return (found * given[0]).sum()
        total = 0
        for at in range(outputs):
            total += (found[at] * given[at]).sum()
        return total

    gradients = ms.grad(paired, grad_position=tuple(outputs + at for at in wanted))

    def pull(*given: Any) -> Tensors:
        found = gradients(*given)
        return found if len(wanted) > 1 else (found,)

    return pull


_mlp_out_back = pullback(forcing.add_mlp_out, (0, 1, 3, 4))
_mlp_in_back = pullback(net.mlp_in, (0, 1, 2, 3, 4))
_attention_back = pullback(forcing.add_attention, (0, 1, 2, 3, 5, 6))
_inputs_back = pullback(net.attention_inputs, (0, *range(2, 10)), 3)
_queries_back = pullback(forcing.cross_queries, (0, 2, 3, 4, 5))
_keys_values_back = pullback(forcing.image_keys_values, (0, *range(2, 8)), 2)
_scores_back = pullback(forcing.frozen_scores, (0, 2, 3, 4, 5))
_mix_back = pullback(forcing.frozen_mix, (0,))
_add_mix_back = pullback(forcing.add_frozen_mix, tuple(range(8)))


def _forward(mask: Tensor | None, heads: int, quick_gelu: bool, x: Tensor, *weights: Tensor) -> Tensors:
    """Compute `net.block`."""
    queries, keys, values = net.attention_inputs(x, heads, *weights[:8])
    attended = forcing.add_attention(x, queries, keys, values, mask, *weights[8:10])
    return *_mlp(quick_gelu, attended, *weights[10:]), queries, keys, values


def _backward(
    gradient: Tensor, kept: Tensors, mask: Tensor | None, heads: int, quick_gelu: bool, x: Tensor, *weights: Tensor
) -> Tensors:
    mlp = _mlp_backward(gradient, kept[:2], quick_gelu, *weights[10:])
    attention = _attention_back(mlp[0], x, *kept[2:], mask, *weights[8:10])
    inputs = _inputs_back(*attention[1:4], x, heads, *weights[:8])
    return attention[0] + inputs[0], *inputs[1:], *attention[4:], *mlp[1:]


def _forward_cross(heads: int, quick_gelu: bool, x: Tensor, images: Tensor, *weights: Tensor) -> Tensors:
    """Apply cross-attention to images [B, Q, D], then an MLP. Weights: `CROSS_CONTEXT`, then `CROSS`."""
    query = forcing.cross_queries(x, heads, *weights[6:10])
    keys, values = forcing.image_keys_values(images, heads, *weights[:6])
    attended = forcing.add_attention(x, query, keys, values, None, *weights[10:12])
    return *_mlp(quick_gelu, attended, *weights[12:]), query, keys, values


def _backward_cross(
    gradient: Tensor, kept: Tensors, heads: int, quick_gelu: bool, x: Tensor, images: Tensor, *weights: Tensor
) -> Tensors:
    mlp = _mlp_backward(gradient, kept[:2], quick_gelu, *weights[12:])
    attention = _attention_back(mlp[0], x, *kept[2:], None, *weights[10:12])
    query = _queries_back(attention[1], x, heads, *weights[6:10])
    context = _keys_values_back(*attention[2:4], images, heads, *weights[:6])
    return attention[0] + query[0], *context, *query[1:], *attention[4:], *mlp[1:]


def _forward_cross_frozen(tokens: Tensor, heads: int, quick_gelu: bool, x: Tensor, *weights: Tensor) -> Tensors:
    """Compute `_forward_cross` for frozen images; `tokens` is their `forcing.standardize`."""
    query = forcing.cross_queries(x, heads, *weights[6:10])
    scores = forcing.frozen_scores(query, tokens, *weights[:4])
    mixed = forcing.frozen_mix(scores, tokens)
    attended = forcing.add_frozen_mix(x, mixed, *weights[:2], *weights[4:6], *weights[10:12])
    return *_mlp(quick_gelu, attended, *weights[12:]), query, scores


def _backward_cross_frozen(
    gradient: Tensor, kept: Tensors, tokens: Tensor, heads: int, quick_gelu: bool, x: Tensor, *weights: Tensor
) -> Tensors:
    query, scores = kept[2:]
    mixed = forcing.frozen_mix(scores, tokens)  # not kept: one image per head, the largest tensor
    mlp = _mlp_backward(gradient, kept[:2], quick_gelu, *weights[12:])
    added = _add_mix_back(mlp[0], x, mixed, *weights[:2], *weights[4:6], *weights[10:12])
    scored = _scores_back(*_mix_back(added[1], scores, tokens), query, tokens, *weights[:4])
    query = _queries_back(scored[0], x, heads, *weights[6:10])
    norm = scored[1] + added[2], scored[2] + added[3]
    return added[0] + query[0], *norm, *scored[3:], *added[4:6], *query[1:], *added[6:], *mlp[1:]


def _mlp(quick_gelu: bool, x: Tensor, *weights: Tensor) -> Tensors:
    """Return x plus `net.mlp`, then the tensors to keep."""
    hidden = net.mlp_in(x, *weights[:4])
    return forcing.add_mlp_out(x, hidden, quick_gelu, *weights[4:]), x, hidden


def _mlp_backward(gradient: Tensor, kept: Tensors, quick_gelu: bool, *weights: Tensor) -> Tensors:
    x, hidden = kept
    narrowed = _mlp_out_back(gradient, x, hidden, quick_gelu, *weights[4:])
    widened = _mlp_in_back(narrowed[1], x, *weights[:4])
    return narrowed[0] + widened[0], *widened[1:], *narrowed[2:]


SELF = Block(_forward, _backward, constants=3)
CROSS = Block(_forward_cross, _backward_cross, constants=2)
CROSS_FROZEN = Block(_forward_cross_frozen, _backward_cross_frozen, constants=3)
