"""Arithmetic on tensors where they lie.

On a processor that is memory which others may write to, and torch does it there in a tenth of the time that MindSpore's
kernels take. `Tensor.mul_` and `add_` of MindSpore 2.10 change nothing on CPU.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mindspore as ms
from mindspore import Tensor, ops

if TYPE_CHECKING:
    import torch

_add = ops.AssignAdd()
_descend = ops.ApplyGradientDescent()  # tensor -= rate * slope


def in_host_memory() -> bool:
    return ms.get_context("device_target") == "CPU"


def shared(tensors: Sequence[Tensor]) -> "list[torch.Tensor]":
    """The same numbers, not copied, where they lie in host memory."""
    import torch

    return [torch.from_numpy(tensor.asnumpy()) for tensor in tensors]


def scale(tensors: Sequence[Tensor], factor: float) -> None:
    """Multiply tensors."""
    if in_host_memory():
        for numbers in shared(tensors):
            numbers.mul_(factor)
    else:
        for tensor in tensors:
            _descend(tensor, Tensor(1 - factor, ms.float32), tensor)


def add(tensors: Sequence[Tensor], addends: Sequence[Tensor]) -> None:
    """Add to each tensor its addend."""
    if in_host_memory():
        for numbers, more in zip(shared(tensors), shared(addends), strict=True):
            numbers.add_(more)
    else:
        for tensor, addend in zip(tensors, addends, strict=True):
            _add(tensor, addend)


def clamp(number: Tensor, least: float, most: float) -> None:
    """Bring a number within bounds."""
    number.assign_value(Tensor(min(max(float(number), least), most), ms.float32))
