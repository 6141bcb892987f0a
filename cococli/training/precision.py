"""Mixed precision (arXiv 1710.03740): layers compute in 16 bits, weights stay float32."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Tensor

Precision = Literal["fp32", "bf16", "fp16"]

FIRST_SCALE, LAST_SCALE = 2.0**15, 2.0**24
PATIENCE = 2000  # steps without an overflow after which the scale is doubled


@functools.cache
def lowered(function: Callable[..., Any], precision: Precision) -> Callable[..., Any]:
    """Return a function computed in this precision, whose inputs and outputs are float32."""
    if precision == "fp32":
        return function
    dtype = ms.bfloat16 if precision == "bf16" else ms.float16

    def low(*inputs: Any) -> Any:
        lower = []
        for value in inputs:
            if isinstance(value, Tensor) and value.dtype == ms.float32:
                lower.append(value.astype(dtype))
            else:
                lower.append(value)
        given = function(*lower)
        if isinstance(given, tuple):
            return tuple([part.astype(ms.float32) for part in given])
        return given.astype(ms.float32)

    return low


class LossScale:
    """Factor of the losses that keeps float16 gradients from vanishing; 1 in other precisions.

    It is halved when a gradient overflows, which skips the step, and doubled after `PATIENCE` steps without overflow.
    """

    def __init__(self, precision: Precision) -> None:
        self._dynamic = precision == "fp16"
        self.value = FIRST_SCALE if self._dynamic else 1.0
        self._steps = 0

    def overflowed(self) -> bool:
        """Record a gradient that is not finite; return whether a smaller scale may help."""
        if self.value <= 1:
            return False
        self.value, self._steps = self.value / 2, 0
        return True

    def succeeded(self) -> None:
        """Record a step whose gradients were finite."""
        self._steps += 1
        if self._dynamic and self._steps == PATIENCE:
            self.value, self._steps = min(2 * self.value, LAST_SCALE), 0

    def state(self) -> dict[str, np.ndarray]:
        return {"loss_scale": np.array([self.value, self._steps], np.float32)} if self._dynamic else {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        if self._dynamic:
            value, steps = state["loss_scale"].tolist()
            self.value, self._steps = value, int(steps)
