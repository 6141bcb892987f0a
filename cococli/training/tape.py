"""Backpropagation layer by layer: what runs forward is noted, and each layer's own gradient runs on the way back.

All layers of a tower share one graph forward and one backward, each compiled in half a second. What a layer computed
inside is not kept but computed again (gradient checkpointing, arXiv 1604.06174): a third more arithmetic, for the
memory of one layer in place of all.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import mindspore as ms
from mindspore import Tensor

from .precision import Precision, lowered

Function = Callable[..., Tensor]  # of tensors and constants, to one tensor
Loss = Callable[..., tuple[Tensor, ...]]  # of a weight and inputs, to its value and the weighted gradients of the first


class Note(NamedTuple):
    """A layer that was run."""

    function: Function
    inputs: tuple[Any, ...]
    wanted: tuple[int, ...]  # places of the inputs that need a gradient
    output: Tensor


class Tape:
    """Computes with some tensors and knows the gradients of losses for them. Tensors are told apart by identity."""

    def __init__(self, wanted: Iterable[Tensor], precision: Precision = "fp32") -> None:
        self._precision: Precision = precision
        self._leaves = list(wanted)
        self._wanted = {id(tensor) for tensor in self._leaves}
        self._notes: list[Note] = []
        self._gradients: dict[int, Tensor] = {}

    def run(self, function: Function, *inputs: Any) -> Tensor:
        """The function's output; noted when it depends on a wanted tensor."""
        function = lowered(function, self._precision)
        output = compiled(function)(*inputs)
        if wanted := tuple(at for at, value in enumerate(inputs) if id(value) in self._wanted):
            self._notes.append(Note(function, inputs, wanted, output))
            self._wanted.add(id(output))
        return output

    def loss(self, function: Loss, weight: float, *inputs: Any) -> Tensor:
        """The value of a loss, not weighted. Its gradients are computed at once, with what value and they share."""
        value, *gradients = compiled(function)(ms.Tensor(weight, ms.float32), *inputs)
        for tensor, gradient in zip(inputs, gradients, strict=False):
            self._add(tensor, gradient)
        return value

    def gradients(self) -> list[Tensor]:
        """The gradients of all losses for the wanted tensors, in their order. Each must have come into a loss."""
        while self._notes:
            note = self._notes.pop()
            if (gradient := self._gradients.pop(id(note.output), None)) is not None:
                found = pullback(note.function, note.wanted)(gradient, *note.inputs)
                for at, gradient in zip(note.wanted, found, strict=True):
                    self._add(note.inputs[at], gradient)
        return [self._gradients.pop(id(tensor)) for tensor in self._leaves]

    def _add(self, tensor: Tensor, gradient: Tensor) -> None:
        if id(tensor) in self._wanted:
            before = self._gradients.get(id(tensor))
            self._gradients[id(tensor)] = gradient if before is None else before + gradient


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in graph mode: compiled for each shape of its tensors and each value of its constants."""
    return ms.jit(function)


@functools.cache
def pullback(function: Function, wanted: tuple[int, ...]) -> Callable[..., tuple[Tensor, ...]]:
    """Of the gradient of the function's output and its inputs, to gradients of the inputs at the places `wanted`."""

    def paired(gradient: Tensor, *inputs: Any) -> Tensor:
        return (function(*inputs) * gradient).sum()

    gradients = ms.grad(paired, grad_position=tuple(1 + at for at in wanted))

    def pull(gradient: Tensor, *inputs: Any) -> tuple[Tensor, ...]:
        found = gradients(gradient, *inputs)
        return found if len(wanted) > 1 else (found,)  # MindSpore gives a single one bare

    return ms.jit(pull)
