"""Low-rank adaptation (LoRA, arXiv 2106.09685) of the attention matrices, merged into the weights after each step."""

from collections.abc import Mapping, Sequence

import numpy as np
from mindspore import Tensor

from ..engines.mindspore import as_tensor

ALPHA = 1.0  # the update is ALPHA * B @ A for any rank, so one learning rate fits all


def adapted(names: Sequence[str]) -> list[str]:
    """Return the names of adapted weights: queries, keys, values and outputs of every attention."""
    return [name for name in names if ".attn." in name and name.endswith("_proj.weight")]


class Adapters:
    """Low-rank updates of matrices W [out, in]: an A [rank, in] and a B [out, rank] for each, W + B @ A."""

    def __init__(self, weights: Mapping[str, Tensor], rank: int, seed: int) -> None:
        """Initialize A at random and B with zeros, so that nothing changes at first.

        Args:
            weights: The matrices, which hold the sums from now on.
        """
        self._sums = weights
        self._bases = {name: weight.asnumpy().copy() for name, weight in weights.items()}
        draw = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        for name, base in self._bases.items():
            height, width = base.shape
            self.tensors[f"{name}.a"] = as_tensor(draw.normal(0, width**-0.5, (rank, width)).astype(np.float32))
            self.tensors[f"{name}.b"] = as_tensor(np.zeros((height, rank), np.float32))

    def gradients(self, of_sums: Sequence[Tensor]) -> list[Tensor]:
        """Return gradients of A and B of each matrix, in the order of `tensors`, from those of the sums."""
        found = []
        for name, gradient in zip(self._bases, of_sums, strict=True):
            a, b = self._pair(name)
            total = gradient.asnumpy()
            found += [as_tensor(ALPHA * b.T @ total), as_tensor(ALPHA * total @ a.T)]
        return found

    def merge(self) -> None:
        """Merge the updates into the matrices."""
        for name, base in self._bases.items():
            a, b = self._pair(name)
            self._sums[name].assign_value(Tensor(base + ALPHA * b @ a))

    def state(self) -> dict[str, np.ndarray]:
        """Return the adapters and the original matrices, not copied."""
        learned = {name: tensor.asnumpy() for name, tensor in self.tensors.items()}
        return learned | {f"{name}.base": base for name, base in self._bases.items()}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore a `state`."""
        for name in self._bases:
            self._bases[name] = np.array(state[f"{name}.base"])
        for name, tensor in self.tensors.items():
            tensor.assign_value(Tensor(np.array(state[name])))
        self.merge()

    def _pair(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self.tensors[f"{name}.a"].asnumpy(), self.tensors[f"{name}.b"].asnumpy()
