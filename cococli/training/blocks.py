"""The blocks of the network, forward and backward, without computing a matrix product twice.

A block is cut where its products are: what stands between two cuts is kept on the way forward, and on the way back
each part is differentiated by itself. What little else is in a part, norms, GELU and softmax, is computed again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import mindspore as ms
from mindspore import Tensor

from ..model import layers, teacher

Tensors = tuple[Tensor, ...]


class Block(NamedTuple):
    """A function of constants, then tensors, that keeps what its gradients need."""

    forward: Callable[..., Tensors]  # the output, then what is kept
    backward: Callable[..., Tensors]  # of the output's gradient, what was kept and all inputs, to those of the tensors
    constants: int  # so many inputs have no gradient


def pullback(function: Callable[..., Any], wanted: tuple[int, ...], outputs: int = 1) -> Callable[..., Tensors]:
    """Of the gradients of a function's outputs, then its inputs, to the gradients of the inputs at places `wanted`."""

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
        return found if len(wanted) > 1 else (found,)  # MindSpore gives a single one bare

    return pull


_narrowed = pullback(teacher.add_narrowed, (0, 1, 3, 4))
_widened = pullback(layers.widen, (0, 1, 2, 3, 4))
_attended = pullback(teacher.add_attention, (0, 1, 2, 3, 5, 6))
_inputs = pullback(layers.attention_inputs, (0, *range(2, 10)), 3)
_asked = pullback(teacher.ask, (0, 2, 3, 4, 5))
_looked = pullback(teacher.look_at, (0, *range(2, 8)), 2)
_scored = pullback(teacher.scores_of, (0, 2, 3, 4, 5))
_mixed = pullback(teacher.mix, (0,))
_added = pullback(teacher.add_mixed, tuple(range(8)))


def _forward(mask: Tensor | None, heads: int, quick_gelu: bool, x: Tensor, *weights: Tensor) -> Tensors:
    """`layers.block`."""
    queries, keys, values = layers.attention_inputs(x, heads, *weights[:8])
    attended = teacher.add_attention(x, queries, keys, values, mask, *weights[8:10])
    return *_mlp(quick_gelu, attended, *weights[10:]), queries, keys, values


def _backward(
    gradient: Tensor, kept: Tensors, mask: Tensor | None, heads: int, quick_gelu: bool, x: Tensor, *weights: Tensor
) -> Tensors:
    mlp = _mlp_backward(gradient, kept[:2], quick_gelu, *weights[10:])
    attention = _attended(mlp[0], x, *kept[2:], mask, *weights[8:10])
    inputs = _inputs(*attention[1:4], x, heads, *weights[:8])
    return attention[0] + inputs[0], *inputs[1:], *attention[4:], *mlp[1:]


def _forward_looking(heads: int, quick_gelu: bool, x: Tensor, images: Tensor, *weights: Tensor) -> Tensors:
    """Cross-attention to images [B, Q, D], then an MLP. Weights: `decode.LOOK`, then `decode.CROSS`."""
    asked = teacher.ask(x, heads, *weights[6:10])
    keys, values = teacher.look_at(images, heads, *weights[:6])
    attended = teacher.add_attention(x, asked, keys, values, None, *weights[10:12])
    return *_mlp(quick_gelu, attended, *weights[12:]), asked, keys, values


def _backward_looking(
    gradient: Tensor, kept: Tensors, heads: int, quick_gelu: bool, x: Tensor, images: Tensor, *weights: Tensor
) -> Tensors:
    mlp = _mlp_backward(gradient, kept[:2], quick_gelu, *weights[12:])
    attention = _attended(mlp[0], x, *kept[2:], None, *weights[10:12])
    asked = _asked(attention[1], x, heads, *weights[6:10])
    looked = _looked(*attention[2:4], images, heads, *weights[:6])
    return attention[0] + asked[0], *looked, *asked[1:], *attention[4:], *mlp[1:]


def _forward_still(tokens: Tensor, heads: int, quick_gelu: bool, x: Tensor, *weights: Tensor) -> Tensors:
    """The same for images that nothing trains, of which `tokens` is what `teacher.normalized` gives."""
    asked = teacher.ask(x, heads, *weights[6:10])
    scores = teacher.scores_of(asked, tokens, *weights[:4])
    attended = teacher.add_mixed(x, teacher.mix(scores, tokens), *weights[:2], *weights[4:6], *weights[10:12])
    return *_mlp(quick_gelu, attended, *weights[12:]), asked, scores


def _backward_still(
    gradient: Tensor, kept: Tensors, tokens: Tensor, heads: int, quick_gelu: bool, x: Tensor, *weights: Tensor
) -> Tensors:
    asked, scores = kept[2:]
    mixed = teacher.mix(scores, tokens)  # not kept: as wide as an image for every head, the largest there would be
    mlp = _mlp_backward(gradient, kept[:2], quick_gelu, *weights[12:])
    added = _added(mlp[0], x, mixed, *weights[:2], *weights[4:6], *weights[10:12])
    scored = _scored(*_mixed(added[1], scores, tokens), asked, tokens, *weights[:4])
    asked = _asked(scored[0], x, heads, *weights[6:10])
    norm = scored[1] + added[2], scored[2] + added[3]
    return added[0] + asked[0], *norm, *scored[3:], *added[4:6], *asked[1:], *added[6:], *mlp[1:]


def _mlp(quick_gelu: bool, x: Tensor, *weights: Tensor) -> Tensors:
    """x and what `layers.mlp` adds to it; then what is kept."""
    hidden = layers.widen(x, *weights[:4])
    return teacher.add_narrowed(x, hidden, quick_gelu, *weights[4:]), x, hidden


def _mlp_backward(gradient: Tensor, kept: Tensors, quick_gelu: bool, *weights: Tensor) -> Tensors:
    x, hidden = kept
    narrowed = _narrowed(gradient, x, hidden, quick_gelu, *weights[4:])
    widened = _widened(narrowed[1], x, *weights[:4])
    return narrowed[0] + widened[0], *widened[1:], *narrowed[2:]


SELF = Block(_forward, _backward, constants=3)
CROSS = Block(_forward_looking, _backward_looking, constants=2)
CROSS_STILL = Block(_forward_still, _backward_still, constants=3)
