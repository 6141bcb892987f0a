"""Half precision, for hardware that has it (arXiv 1710.03740): layers compute in 16 bits, weights stay float32."""

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
    """The function, computed in this precision; what goes in and comes out is float32."""
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
    """What losses are multiplied by so that float16 gradients do not vanish; 1 in any other precision.

    It is halved when a gradient overflows, and that step skipped; doubled when none has for long.
    """

    def __init__(self, precision: Precision) -> None:
        self._moves = precision == "fp16"
        self.value = FIRST_SCALE if self._moves else 1.0
        self._steps = 0  # since it last changed

    def overflowed(self) -> bool:
        """Take note of a gradient that is not finite; tells whether a smaller scale may mend it."""
        if self.value <= 1:
            return False
        self.value, self._steps = self.value / 2, 0
        return True

    def held(self) -> None:
        """Take note of a step whose gradients were finite."""
        self._steps += 1
        if self._moves and self._steps == PATIENCE:
            self.value, self._steps = min(2 * self.value, LAST_SCALE), 0

    def state(self) -> dict[str, np.ndarray]:
        return {"loss_scale": np.array([self.value, self._steps], np.float32)} if self._moves else {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        if self._moves:
            value, steps = state["loss_scale"].tolist()
            self.value, self._steps = value, int(steps)
