"""In-place arithmetic on tensors.

On CPU, torch works in the memory of MindSpore's tensors, in a tenth of the time of MindSpore's kernels. `Tensor.mul_`
and `add_` of MindSpore 2.10 have no effect on CPU.
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
    """Return torch tensors that share the host memory of MindSpore's."""
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
    """Add an addend to each tensor."""
    if in_host_memory():
        for numbers, more in zip(shared(tensors), shared(addends), strict=True):
            numbers.add_(more)
    else:
        for tensor, addend in zip(tensors, addends, strict=True):
            _add(tensor, addend)


def clamp(number: Tensor, least: float, most: float) -> None:
    """Clamp a number to bounds."""
    number.assign_value(Tensor(min(max(float(number), least), most), ms.float32))
