"""A training step: gradients of one or several micro-batches, clipping, and the optimizer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from mindspore import Tensor

from ..catalog import CocaConfig
from ..checkpoints import architecture
from ..engines.mindspore import as_tensor
from . import inplace
from .adamw import AdamW, AdamWOptions
from .lora import Adapters, adapted
from .network import Batch, Losses, Objective, losses_and_gradients, token_count, trained
from .parallel import ALONE, Workers
from .precision import LossScale, Precision

MAX_LOGIT_SCALE = math.log(100)


@dataclass(frozen=True)
class Step:
    """Result of a step.

    Attributes:
        losses: Losses of the whole step.
        norm: Norm of all gradients, before clipping.
        applied: False if the loss or the norm is not finite, so that nothing has changed.
        skipped: float16 overflowed, so that the next steps use a smaller loss scale.
    """

    losses: Losses
    norm: float
    applied: bool
    skipped: bool = False


class Trainer:
    """Weights under training, and their optimizer."""

    def __init__(
        self,
        config: CocaConfig,
        weights: Mapping[str, np.ndarray],
        objective: Objective,
        adamw: AdamWOptions,
        lora: int = 0,
        seed: int = 0,
        workers: Workers = ALONE,
        precision: Precision = "fp32",
    ) -> None:
        """Copy the weights that the objective trains; others are neither copied nor read.

        Args:
            lora: Rank of adapters, which are then all that is trained; 0 for none.
            seed: Seed of the initial adapters.
            workers: Processes that train together.
            precision: Precision of layers.

        Raises:
            ModelError: A parameter is missing, unknown, or of another shape.
        """
        architecture.check(config, {name: array.shape for name, array in weights.items()})
        names = adapted(trained(config, objective)) if lora else trained(config, objective)
        self.config, self.objective, self._workers = config, objective, workers
        self.tensors = {name: as_tensor(array) for name, array in weights.items()}
        self._trained = {name: as_tensor(np.array(weights[name], np.float32)) for name in names}
        self.tensors |= self._trained
        self._adapters = Adapters(self._trained, lora, seed) if lora else None
        self._precision: Precision = precision
        self._loss_scale = LossScale(precision)
        self.optimizer = AdamW(self._adapters.tensors if self._adapters else self._trained, adamw)

    def weights(self) -> dict[str, np.ndarray]:
        """Return all weights, not copied: the next step changes them."""
        return {name: tensor.asnumpy() for name, tensor in self.tensors.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return the state of the optimizer, the loss scale and the adapters, not copied."""
        adapters = self._adapters.state() if self._adapters else {}
        return self.optimizer.state() | self._loss_scale.state() | adapters

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the `state` that belongs to the weights."""
        self.optimizer.load(state)
        self._loss_scale.load(state)
        if self._adapters:
            self._adapters.load(state)

    def step(self, batches: Sequence[Batch], learning_rate: float, max_norm: float = math.inf) -> Step:
        """Train on the micro-batches of one step, unless a loss or gradient is not finite.

        The caption loss is that of one large batch: the mean over the tokens of all micro-batches. The contrastive loss
        compares the captions of one micro-batch with each other, never those of two, and is averaged over them. Several
        workers each give their parts of the same micro-batches.

        Args:
            max_norm: Norm to which all gradients together are clipped.
        """
        losses, gradients = self._accumulated(batches)
        if self._adapters:
            gradients = self._adapters.gradients(gradients)
        gradients = self._workers.sum(gradients)
        norm = global_norm(gradients) / self._loss_scale.value
        if not math.isfinite(losses.total + norm):
            return Step(losses, norm, applied=False, skipped=self._loss_scale.overflowed())
        if self._loss_scale.value != 1:
            inplace.scale(gradients, 1 / self._loss_scale.value)
        self._loss_scale.succeeded()
        if norm > max_norm:
            inplace.scale(gradients, max_norm / (norm + 1e-6))  # as torch.nn.utils.clip_grad_norm_
        self.optimizer.update(gradients, learning_rate)
        if self._adapters:
            self._adapters.merge()
        if "logit_scale" in self._trained:
            inplace.clamp(self._trained["logit_scale"], 0, MAX_LOGIT_SCALE)
        return Step(losses, norm, applied=True)

    def _accumulated(self, batches: Sequence[Batch]) -> tuple[Losses, list[Tensor]]:
        """Return the losses and gradients of all batches."""
        own = sum(token_count(self.config, batch) for batch in batches)
        tokens = int(self._workers.total(own))
        found, gradients = self._backward(batches[0], tokens, len(batches))
        each = [found]
        for batch in batches[1:]:
            found, more = self._backward(batch, tokens, len(batches))
            each.append(found)
            inplace.add(gradients, more)
        return Losses(*(sum(values) for values in zip(*map(astuple, each), strict=True))), gradients

    def _backward(self, batch: Batch, tokens: int, batches: int) -> tuple[Losses, list[Tensor]]:
        names = list(self._trained)
        how = self._workers, self._precision, self._loss_scale.value, tokens, batches
        return losses_and_gradients(self.config, self.tensors, names, batch, self.objective, *how)


def global_norm(gradients: Sequence[Tensor]) -> float:
    """Return the L2 norm of all gradients as one vector."""
    flat = (gradient.asnumpy().reshape(-1) for gradient in gradients)
    return math.sqrt(sum(float(np.vdot(values, values)) for values in flat))
