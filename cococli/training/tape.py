"""Backpropagation layer by layer: what runs forward is noted, and each layer's own gradient runs on the way back.

All layers of a tower share one graph forward and one backward, each compiled in half a second. A block keeps what its
gradients need; what a plain function computed inside is computed again.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import mindspore as ms
from mindspore import Tensor

from .blocks import Block, pullback
from .precision import Precision, lowered

Function = Callable[..., Tensor]  # of tensors and constants, to one tensor
Loss = Callable[..., tuple[Tensor, ...]]  # of a weight and inputs, to its value and the weighted gradients of the first
Backward = Callable[..., tuple[Tensor, ...]]  # of an output's gradient and inputs, to gradients of inputs


class Note(NamedTuple):
    """A layer that was run."""

    output: Tensor
    wanted: list[Tensor]  # what it was made of that needs a gradient
    backward: Backward
    inputs: tuple[Any, ...]  # of backward, behind the output's gradient


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
        output = compiled(lowered(function, self._precision))(*inputs)
        if places := self._places(inputs):
            backward = _backward_of_function(function, places, self._precision)
            self._note(Note(output, [inputs[at] for at in places], backward, inputs))
        return output

    def through(self, block: Block, *inputs: Any) -> Tensor:
        """The block's output; noted likewise."""
        output, *kept = compiled(lowered(block.forward, self._precision))(*inputs)
        if places := self._places(inputs):
            backward = _backward_of_block(block, places, len(kept), self._precision)
            self._note(Note(output, [inputs[at] for at in places], backward, (*kept, *inputs)))
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
                for tensor, found in zip(note.wanted, note.backward(gradient, *note.inputs), strict=True):
                    self._add(tensor, found)
        return [self._gradients.pop(id(tensor)) for tensor in self._leaves]

    def _places(self, inputs: tuple[Any, ...]) -> tuple[int, ...]:
        """Of the inputs that need a gradient."""
        return tuple(at for at, value in enumerate(inputs) if id(value) in self._wanted)

    def _note(self, note: Note) -> None:
        self._notes.append(note)
        self._wanted.add(id(note.output))

    def _add(self, tensor: Tensor, gradient: Tensor) -> None:
        if id(tensor) in self._wanted:
            before = self._gradients.get(id(tensor))
            self._gradients[id(tensor)] = gradient if before is None else before + gradient


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function in graph mode: compiled for each shape of its tensors and each value of its constants."""
    return ms.jit(function)


@functools.cache
def _backward_of_function(function: Function, places: tuple[int, ...], precision: Precision) -> Backward:
    return ms.jit(lowered(pullback(function, places), precision))


@functools.cache
def _backward_of_block(block: Block, places: tuple[int, ...], kept: int, precision: Precision) -> Backward:
    """The compiled backward of a block, of which the gradients of the inputs at `places` are wanted."""
    whole, chosen = block.backward, tuple(at - block.constants for at in places)

    def backward(gradient: Tensor, *given: Any) -> tuple[Tensor, ...]:
        found = whole(gradient, given[:kept], *given[kept:])
        return tuple([found[at] for at in chosen])

    return ms.jit(lowered(backward, precision))
