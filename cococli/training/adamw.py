"""AdamW (arXiv 1711.05101), in place, equal to torch.optim.AdamW with open_clip's choice of what decays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from ..engines.mindspore import as_tensor
from .inplace import scale

_adam = ops.Adam()


@dataclass(frozen=True)
class AdamWOptions:
    """Defaults are open_clip's for a ViT."""

    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-6
    decay: float = 0.2  # of matrices; vectors and the logit scale do not decay


class AdamW:
    """The optimizer of some weights, which it changes in place."""

    def __init__(self, weights: Mapping[str, Tensor], options: AdamWOptions) -> None:
        self._weights, self._options = weights, options
        self._moments = {name: (_zeros(weight), _zeros(weight)) for name, weight in weights.items()}
        self.steps = 0

    def update(self, gradients: Sequence[Tensor], rate: float) -> None:
        """One step. The gradients stand in the order of the weights.

        torch divides m by `1 - beta1 ** t` and v by `1 - beta2 ** t`; here the rate and epsilon carry both.
        """
        self.steps += 1
        beta1, beta2 = self._options.beta1, self._options.beta2
        root = (1 - beta2**self.steps) ** 0.5
        corrected = rate * root / (1 - beta1**self.steps)
        numbers = (0, 0, corrected, beta1, beta2, self._options.epsilon * root)
        scalars = [Tensor(number, ms.float32) for number in numbers]
        for (name, weight), gradient in zip(self._weights.items(), gradients, strict=True):
            if weight.ndim > 1:
                scale(weight, 1 - rate * self._options.decay)
            _adam(weight, *self._moments[name], *scalars, gradient)

    def state(self) -> dict[str, np.ndarray]:
        """Both moments of each weight, as `NAME.m` and `NAME.v`, not copied, and the count of steps."""
        moments = {
            f"{name}.{kind}": moment.asnumpy()
            for name, pair in self._moments.items()
            for kind, moment in zip("mv", pair, strict=True)
        }
        return {"steps": np.array(self.steps), **moments}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a `state`, which is copied."""
        self.steps = int(state["steps"])
        for name in self._moments:
            self._moments[name] = (as_tensor(state[f"{name}.m"].copy()), as_tensor(state[f"{name}.v"].copy()))


def _zeros(weight: Tensor) -> Tensor:
    return as_tensor(np.zeros(weight.shape, np.float32))
