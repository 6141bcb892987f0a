"""Linear layers by oneDNN on CPUs. Only this module calls private operators of torch (`torch.ops.mkldnn._*`).

In float32 torch itself calls MKL, which does not use AVX-512 on AMD and takes twice as long; in bfloat16 oneDNN reads
weights that are packed in its own layout.
"""

import torch
from torch import Tensor

AVAILABLE = torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")
_PACKED_ROWS = 64  # rows of input that weights are packed for; other numbers are only a little slower


def usable(x: Tensor) -> bool:
    """Return whether oneDNN can multiply this tensor. Traced graphs must not contain its operators."""
    return x.device.type == "cpu" and AVAILABLE and not torch.jit.is_tracing()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `torch.nn.functional.linear`.

    Args:
        weight: [out, in], plain or from `pack`.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def pack(weight: Tensor) -> Tensor:
    """Return a copy of a weight [out, in] in the layout of oneDNN."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, _PACKED_ROWS)
