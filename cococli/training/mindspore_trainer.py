"""Training on MindSpore, for Ascend: the reference that `torch_trainer` is compared with.

`mindspore.value_and_grad` differentiates the network in `model.mindspore_teacher_forcing`, and MindSpore's AdamW takes
the step. Under msrun each process computes its part of every batch, and gradients are summed over all of them.
"""

import math
from collections.abc import Mapping, Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, ParameterTuple, Tensor, nn, ops
from mindspore.experimental import optim

from ..catalog import CocaConfig
from ..checkpoints import architecture
from ..datasets.pairs import trimmed
from ..engines.mindspore import MindSporeEngine, as_tensor
from ..model import mindspore_teacher_forcing as forcing
from ..model.arrays import normalize, text_mask
from .objective import MAX_LOGIT_SCALE, AdamWOptions, Batch, Losses, Objective, Step, token_count
from .parallel import ALONE, Workers

Arrays = Mapping[str, np.ndarray]


class Trainer:
    """Weights under training, and their optimizer. Implements `validation.Trainer`."""

    def __init__(
        self,
        config: CocaConfig,
        weights: Arrays,
        objective: Objective,
        adamw: AdamWOptions | None = None,
        workers: Workers = ALONE,
        precision: str = "fp32",
    ) -> None:
        """Copy the weights that the objective trains.

        Args:
            workers: Processes that train together.
            precision: fp32, or bf16 on Ascend; weights under training are float32.

        Raises:
            ModelError: A parameter is missing, unknown, or of another shape.
        """
        architecture.check(config, {name: array.shape for name, array in weights.items()})
        self.config, self.objective, self._workers = config, objective, workers
        self._type = ms.bfloat16 if precision == "bf16" else ms.float32
        names = objective.trained(config)
        self._tensors = {name: as_tensor(array) for name, array in weights.items()}
        self._tensors |= {name: Parameter(np.array(weights[name], np.float32), name) for name in names}
        self._optimizer = self._adamw([self._tensors[name] for name in names], adamw or AdamWOptions())
        self._parameters = ParameterTuple(self._optimizer.parameters)
        self._loss_and_gradients = ms.value_and_grad(self._loss, None, self._parameters, has_aux=True)
        self._contrastive_loss_and_gradients = ms.value_and_grad(forcing.contrastive_loss, (0, 1, 2))
        self._summed = nn.DistributedGradReducer(self._parameters, mean=False) if workers.count > 1 else None

    def _adamw(self, parameters: list[Parameter], options: AdamWOptions) -> optim.AdamW:
        """Return open_clip's optimizer, which decays matrices only."""
        matrices, vectors = ([one for one in parameters if (one.ndim >= 2) == is_matrix] for is_matrix in (True, False))
        groups = [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        betas = options.beta1, options.beta2
        return optim.AdamW([group for group in groups if group["params"]], betas=betas, eps=options.epsilon)

    def step(self, batches: Sequence[Batch], learning_rate: float, max_norm: float = math.inf) -> Step:
        """Train on the micro-batches of one step, unless a loss or gradient is not finite.

        Losses and gradients are those of one large batch. Several workers each give their parts of the micro-batches.

        Args:
            max_norm: Norm to which all gradients together are clipped.
        """
        losses, gradients = self.losses_and_gradients(batches)
        norm = math.sqrt(sum(float((gradient * gradient).sum()) for gradient in gradients))
        if not math.isfinite(losses.total + norm):
            return Step(losses, norm, applied=False)
        if norm > max_norm:
            gradients = [gradient * (max_norm / (norm + 1e-6)) for gradient in gradients]
        for group in self._optimizer.param_groups:
            ops.assign(group["lr"], Tensor(learning_rate, ms.float32))
        self._optimizer(tuple(gradients))
        if isinstance(scale := self._tensors["logit_scale"], Parameter):
            ops.assign(scale, ops.clamp(scale, 0, MAX_LOGIT_SCALE))
        return Step(losses, norm, applied=True)

    def losses_and_gradients(self, batches: Sequence[Batch]) -> tuple[Losses, list[Tensor]]:
        """Return the losses of a step, and their weighted gradients in the order of the optimizer's parameters."""
        tokens = self._workers.total(token_count(self.config, batches))
        contrastive, latent_gradients, scale_gradient = self._contrast(batches)
        caption, gradients = 0.0, [ops.zeros_like(parameter) for parameter in self._parameters]
        for batch, of_latents in zip(batches, latent_gradients, strict=True):
            (_, part), more = self._loss_and_gradients(self._inputs(batch), tokens, *of_latents)
            caption += float(part)
            gradients = [total + one for total, one in zip(gradients, more, strict=True)]
        for index, parameter in enumerate(self._parameters):
            if parameter.name == "logit_scale":
                gradients[index] += scale_gradient / self._workers.count
        if self._summed:
            gradients = list(self._summed(tuple(gradients)))
        return self._weighted(self._workers.total(caption), contrastive), gradients

    def _loss(self, inputs: tuple[Tensor, ...], tokens: float, *latent_gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weighted loss of a batch, to be differentiated, and its part of the caption loss.

        The contrastive loss compares the latents of all batches and workers. Its gradients for the latents of this
        batch are given, and `(latents * gradients).sum()` passes them on to the weights.
        """
        images, texts, words = self._forward(*inputs)
        caption = loss = ops.zeros((), ms.float32)
        if self.objective.caption:
            caption = self._caption_loss(inputs[0], images, words) / tokens
            loss = loss + self.objective.caption * caption
        if self.objective.contrastive:
            for latents, gradients in zip((images[:, 0], texts), latent_gradients, strict=True):
                loss = loss + (latents.astype(ms.float32) * gradients).sum()
        return loss, caption

    def _contrast(self, batches: Sequence[Batch]) -> tuple[float, list[tuple[Tensor, ...]], Tensor | float]:
        """Return the contrastive loss of all batches and workers, and its weighted gradients.

        Returns:
            The loss, its gradients for the latents of each batch of this worker, and that for the logit scale.
        """
        if not self.objective.contrastive:
            return 0.0, [()] * len(batches), 0.0
        own = [self._forward(*self._inputs(batch))[:2] for batch in batches]
        latents = np.array([[images[:, 0].asnumpy(), texts.asnumpy()] for images, texts in own])  # [batches, 2, B, D]
        images, texts = np.stack(self._workers.exchange(latents)).transpose(2, 0, 1, 3, 4)  # [workers, batches, B, D]
        rows = (Tensor(array.reshape(-1, array.shape[-1])) for array in (images, texts))
        loss, gradients = self._contrastive_loss_and_gradients(*rows, self._tensors["logit_scale"])
        *of_latents, of_scale = (self.objective.contrastive * gradient for gradient in gradients)
        mine = [gradient.reshape(images.shape)[self._workers.rank] for gradient in of_latents]
        return float(loss), list(zip(*mine, strict=True)), of_scale

    def _inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return ids, the mask of the text tower, and pixels or images as tensors."""
        ids = trimmed(batch.ids, self.config.pad_id)
        if batch.images is not None:
            return Tensor(ids), Tensor(text_mask(ids, self.config.pad_id)), Tensor(batch.images)
        assert batch.pixels is not None
        return (
            Tensor(ids),
            Tensor(text_mask(ids, self.config.pad_id)),
            Tensor(normalize(batch.pixels, self.config.preprocess)),
        )

    def _forward(self, ids: Tensor, mask: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return clips [B, Q, D], text latents [B, D], and inputs of the decoder [B, L, D]."""
        weights = self._lowered()
        images = pixels.astype(self._type)
        if pixels.ndim > 3:
            images = forcing.encode_images(self.config, weights, images)
        return images, *forcing.encode_texts(self.config, weights, ids, mask.astype(self._type))

    def _caption_loss(self, ids: Tensor, images: Tensor, words: Tensor) -> Tensor:
        """Return the sum over all tokens."""
        logits = forcing.decode(self.config, self._lowered(), words, images)
        return forcing.caption_loss(logits, ids[:, 1:].reshape(-1), self.config.pad_id)

    def _lowered(self) -> dict[str, Tensor]:
        """Return all weights in the precision of the computation."""
        return {name: weight.astype(self._type) for name, weight in self._tensors.items()}

    def _weighted(self, caption: float, contrastive: float) -> Losses:
        total = self.objective.caption * caption + self.objective.contrastive * contrastive
        return Losses(caption, contrastive, total)

    def weights(self) -> dict[str, np.ndarray]:
        """Return all weights."""
        return {name: tensor.asnumpy() for name, tensor in self._tensors.items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return both moments of each weight, as `NAME.m` and `NAME.v`, and the number of steps."""
        moments = {f"{name}.{kind}": moment.asnumpy() for name, kind, moment in self._moments()}
        return {"steps": np.array(int(self._optimizer.state_step)), **moments}

    def load(self, state: Arrays) -> None:
        """Restore the `state` that belongs to the weights."""
        for name, kind, moment in self._moments():
            moment.set_data(as_tensor(state[f"{name}.{kind}"].copy()))
        self._optimizer.state_step.set_data(Tensor(int(state["steps"]), self._optimizer.state_step.dtype))

    def _moments(self) -> list[tuple[str, str, Parameter]]:
        """Return the name of each parameter with its first moment, m, and its second, v."""
        both = {"m": self._optimizer.exp_avg, "v": self._optimizer.exp_avg_sq}
        return [
            (parameter.name, kind, moment)
            for kind, moments in both.items()
            for parameter, moment in zip(self._parameters, moments, strict=True)
        ]

    def losses(self, batches: Sequence[Batch], objective: Objective) -> Losses:
        """Return the caption loss of batches, and the mean of their contrastive losses."""
        caption = contrastive = 0.0
        for batch in batches:
            inputs = self._inputs(batch)
            images, texts, words = self._forward(*inputs)
            if objective.caption:
                caption += float(self._caption_loss(inputs[0], images, words))
            if objective.contrastive:
                latents = images[:, 0].astype(ms.float32), texts.astype(ms.float32)
                contrastive += float(forcing.contrastive_loss(*latents, self._tensors["logit_scale"])) / len(batches)
        caption /= max(1, token_count(self.config, batches))
        return Losses(caption, contrastive, objective.caption * caption + objective.contrastive * contrastive)

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Encode frames, as in `Batch` -> [B, Q, D] float32: the latent in row 0, not normalized, then image tokens."""
        frames = Tensor(normalize(pixels, self.config.preprocess)).astype(self._type)
        return forcing.encode_images(self.config, self._lowered(), frames).astype(ms.float32).asnumpy()

    def engine(self) -> MindSporeEngine:
        """Return an engine with a copy of the weights."""
        return MindSporeEngine(self.config, self.weights())
