"""Backpropagation layer by layer: the forward pass records layers, and the backward pass runs each layer's gradient.

All layers of a tower share one forward and one backward graph, each compiled in half a second. A block keeps what its
gradients need; a plain function recomputes its intermediate results.
"""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import mindspore as ms
from mindspore import Tensor

from .blocks import Block, pullback
from .precision import Precision, lowered

Function = Callable[..., Tensor]  # from tensors and constants to one tensor
Loss = Callable[..., tuple[Tensor, ...]]  # from a weight and inputs to its value and weighted gradients of the first
Backward = Callable[..., tuple[Tensor, ...]]  # from an output's gradient and inputs to gradients of inputs


class TapeEntry(NamedTuple):
    """A layer that was run."""

    output: Tensor
    wanted: list[Tensor]  # inputs that need a gradient
    backward: Backward
    inputs: tuple[Any, ...]  # of backward, after the output's gradient


class Tape:
    """Computes with tensors and returns gradients of losses for some of them, which it identifies by `id`."""

    def __init__(self, wanted: Iterable[Tensor], precision: Precision = "fp32") -> None:
        self._precision: Precision = precision
        self._leaves = list(wanted)
        self._wanted = {id(tensor) for tensor in self._leaves}
        self._entries: list[TapeEntry] = []
        self._gradients: dict[int, Tensor] = {}

    def run(self, function: Function, *inputs: Any) -> Tensor:
        """Return the output of a function; record it if it depends on a wanted tensor."""
        output = compiled(lowered(function, self._precision))(*inputs)
        if indices := self._indices(inputs):
            backward = _backward_of_function(function, indices, self._precision)
            self._record(TapeEntry(output, [inputs[at] for at in indices], backward, inputs))
        return output

    def through(self, block: Block, *inputs: Any) -> Tensor:
        """Return the output of a block; record it if it depends on a wanted tensor."""
        output, *kept = compiled(lowered(block.forward, self._precision))(*inputs)
        if indices := self._indices(inputs):
            backward = _backward_of_block(block, indices, len(kept), self._precision)
            self._record(TapeEntry(output, [inputs[at] for at in indices], backward, (*kept, *inputs)))
        return output

    def loss(self, function: Loss, weight: float, *inputs: Any) -> Tensor:
        """Return the unweighted value of a loss. Its gradients are computed together with it."""
        value, *gradients = compiled(function)(ms.Tensor(weight, ms.float32), *inputs)
        for tensor, gradient in zip(inputs, gradients, strict=False):
            self._add(tensor, gradient)
        return value

    def gradients(self) -> list[Tensor]:
        """Return the gradients of all losses for the wanted tensors, in order. Each must have contributed to a loss."""
        while self._entries:
            entry = self._entries.pop()
            if (gradient := self._gradients.pop(id(entry.output), None)) is not None:
                for tensor, found in zip(entry.wanted, entry.backward(gradient, *entry.inputs), strict=True):
                    self._add(tensor, found)
        return [self._gradients.pop(id(tensor)) for tensor in self._leaves]

    def _indices(self, inputs: tuple[Any, ...]) -> tuple[int, ...]:
        """Return the indices of inputs that need a gradient."""
        return tuple(at for at, value in enumerate(inputs) if id(value) in self._wanted)

    def _record(self, entry: TapeEntry) -> None:
        self._entries.append(entry)
        self._wanted.add(id(entry.output))

    def _add(self, tensor: Tensor, gradient: Tensor) -> None:
        if id(tensor) in self._wanted:
            before = self._gradients.get(id(tensor))
            self._gradients[id(tensor)] = gradient if before is None else before + gradient


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function in graph mode, compiled for each shape of its tensors and each value of its constants."""
    return ms.jit(function)


@functools.cache
def _backward_of_function(function: Function, indices: tuple[int, ...], precision: Precision) -> Backward:
    return ms.jit(lowered(pullback(function, indices), precision))


@functools.cache
def _backward_of_block(block: Block, indices: tuple[int, ...], kept: int, precision: Precision) -> Backward:
    """Return the compiled backward of a block, reduced to the gradients of the inputs at `indices`."""
    whole, chosen = block.backward, tuple(at - block.constants for at in indices)

    def backward(gradient: Tensor, *given: Any) -> tuple[Tensor, ...]:
        found = whole(gradient, given[:kept], *given[kept:])
        return tuple([found[at] for at in chosen])

    return ms.jit(lowered(backward, precision))
