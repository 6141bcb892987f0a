"""AdamW (arXiv 1711.05101) in place, equal to torch.optim.AdamW with open_clip's choice of decayed weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from ..engines.mindspore import as_tensor
from . import inplace

_adam = ops.Adam()


@dataclass(frozen=True)
class AdamWOptions:
    """Options of AdamW, by default open_clip's for a ViT."""

    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-6
    weight_decay: float = 0.2  # of matrices; vectors and the logit scale do not decay


_Part = tuple[Tensor, Tensor, tuple[Tensor, Tensor]]  # a weight, its gradient, its moments


class AdamW:
    """The optimizer of some weights, which it changes in place."""

    def __init__(self, weights: Mapping[str, Tensor], options: AdamWOptions) -> None:
        self._weights, self._options = weights, options
        self._moments = {name: (_zeros(weight), _zeros(weight)) for name, weight in weights.items()}
        self.steps = 0

    def update(self, gradients: Sequence[Tensor], learning_rate: float) -> None:
        """Take one step. The gradients are in the order of the weights."""
        self.steps += 1
        step = self._step_in_host_memory if inplace.in_host_memory() else self._step_on_device
        parts = list(zip(self._weights.values(), gradients, self._moments.values(), strict=True))
        for decays, weight_decay in ((True, self._options.weight_decay), (False, 0.0)):
            if alike := [part for part in parts if (part[0].ndim > 1) == decays]:
                step(alike, learning_rate, weight_decay)

    def _step_in_host_memory(self, parts: Sequence[_Part], learning_rate: float, weight_decay: float) -> None:
        """Update with torch, in one pass over the memory: MindSpore's kernels take six times as long."""
        import torch
        from torch.optim.adamw import adamw

        weights, gradients, moments = zip(*parts, strict=True)
        options = self._options
        adamw(
            *(inplace.shared(tensors) for tensors in (weights, gradients, *zip(*moments, strict=True))),
            max_exp_avg_sqs=[],
            state_steps=list(torch.full((len(parts),), self.steps - 1.0).unbind()),
            fused=True,
            amsgrad=False,
            maximize=False,
            beta1=options.beta1,
            beta2=options.beta2,
            eps=options.epsilon,
            lr=learning_rate,
            weight_decay=weight_decay,
        )

    def _step_on_device(self, parts: Sequence[_Part], learning_rate: float, weight_decay: float) -> None:
        """Update with MindSpore's kernel. The learning rate and epsilon include the bias corrections of m and v."""
        beta1, beta2 = self._options.beta1, self._options.beta2
        root = (1 - beta2**self.steps) ** 0.5
        corrected = learning_rate * root / (1 - beta1**self.steps)
        numbers = (0, 0, corrected, beta1, beta2, self._options.epsilon * root)
        scalars = [Tensor(number, ms.float32) for number in numbers]
        for weight, gradient, moments in parts:
            if weight_decay:
                inplace.scale([weight], 1 - learning_rate * weight_decay)
            _adam(weight, *moments, *scalars, gradient)

    def state(self) -> dict[str, np.ndarray]:
        """Return both moments of each weight, as `NAME.m` and `NAME.v`, not copied, and the number of steps."""
        moments = {
            f"{name}.{kind}": moment.asnumpy()
            for name, pair in self._moments.items()
            for kind, moment in zip("mv", pair, strict=True)
        }
        return {"steps": np.array(self.steps), **moments}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a `state`, which is copied."""
        self.steps = int(state["steps"])
        for name in self._moments:
            self._moments[name] = (as_tensor(state[f"{name}.m"].copy()), as_tensor(state[f"{name}.v"].copy()))


def _zeros(weight: Tensor) -> Tensor:
    return as_tensor(np.zeros(weight.shape, np.float32))
