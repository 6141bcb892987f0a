"""Linear layers by oneDNN on CPUs. Only this module calls private operators of torch (`torch.ops.mkldnn._*`).

In float32 torch itself calls MKL, which does not use AVX-512 on AMD and takes twice as long; in bfloat16 oneDNN reads
weights that are packed in its own layout.
"""

from typing import Any

import torch
from torch import Tensor

AVAILABLE = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")
_PACKED_ROWS = 64  # rows of input that weights are packed for; other numbers are only a little slower


def usable(x: Tensor) -> bool:
    """Return whether oneDNN can multiply this tensor. Traced graphs must not contain its operators."""
    return x.device.type == "cpu" and x.dtype != torch.float16 and AVAILABLE and not torch.jit.is_tracing()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `torch.nn.functional.linear`, with gradients if the weight is plain.

    Args:
        weight: [out, in], plain or from `pack`.
    """
    if torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias)
    return _linear(x, weight, bias)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """A linear layer whose gradients are computed by oneDNN, too."""

    @staticmethod
    def forward(context: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        context.save_for_backward(x, weight)
        return _linear(x, weight, bias)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = context.saved_tensors
        gradient, wanted = gradients[0], context.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            _linear(gradient, weight.T) if wanted[0] else None,
            _linear(rows.T, x.flatten(0, -2).T) if wanted[1] else None,
            rows.sum(0) if wanted[2] else None,
        )


def matmul(x: Tensor, other: Tensor) -> Tensor:
    """Multiply matrices."""
    return _linear(x, other.T) if usable(x) else x @ other


def pack(weight: Tensor) -> Tensor:
    """Return a copy of a weight [out, in] in the layout of oneDNN."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_ROWS)
