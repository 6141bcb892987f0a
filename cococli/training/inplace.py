"""Arithmetic on tensors where they lie. `Tensor.mul_` and `add_` change nothing on CPU in MindSpore 2.10."""

import mindspore as ms
from mindspore import Tensor, ops

add = ops.AssignAdd()  # add(tensor, addend)

_descend = ops.ApplyGradientDescent()  # tensor -= rate * slope


def scale(tensor: Tensor, factor: float) -> None:
    """Multiply a tensor."""
    _descend(tensor, Tensor(1 - factor, ms.float32), tensor)


def clamp(number: Tensor, least: float, most: float) -> None:
    """Bring a number within bounds."""
    number.assign_value(Tensor(min(max(float(number), least), most), ms.float32))
