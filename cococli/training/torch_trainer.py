"""Training on PyTorch: gradients of one or several micro-batches, clipping, and AdamW."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..catalog import CocaConfig
from ..checkpoints import architecture
from ..datasets.pairs import trimmed
from ..engines.torch import TYPES, TorchEngine, as_array, check_device, send, tensor
from ..model import torch_teacher_forcing as forcing
from .objective import MAX_LOGIT_SCALE, AdamWOptions, Batch, Losses, Objective, Step, token_count
from .parallel import ALONE, Workers

FIRST_LOSS_SCALE, STEPS_PER_LOSS_SCALE = 2.0**15, 2000
LORA_ALPHA = 1.0  # the update is LORA_ALPHA * B @ A for any rank, so one learning rate fits all
JOINING = ("cuda",)  # devices
KEPT_IN_FP32 = ("logit_scale", "text.token_embedding")  # rounded after they are looked up

Arrays = Mapping[str, np.ndarray]


class Trainer:
    """Weights under training, and their optimizer.

    Example:
        A step at vit-l-14 size with random weights::

            config = catalog.MODELS["vit-l-14"].config
            trainer = Trainer(config, initial(config), Objective(caption=2.0, contrastive=1.0), device="cuda",
                              precision="bf16")
            ids = tokenize(captions, config.context_length)                       # [64, 76] int32
            pixels = np.zeros((64, 1, 224, 224, 3), np.uint8)
            trainer.step([Batch(ids, pixels)], learning_rate=1e-5, max_norm=1.0)  # several batches are accumulated

        With `Objective(lock_image=True)` a batch may have `images=trainer.encode_images(pixels)` instead of pixels.
    """

    def __init__(
        self,
        config: CocaConfig,
        weights: Arrays,
        objective: Objective,
        adamw: AdamWOptions | None = None,
        lora: int = 0,
        seed: int = 0,
        workers: Workers = ALONE,
        precision: str = "fp32",
        device: str = "cpu",
        checkpointing: bool = False,
        ema: float = 0.0,
    ) -> None:
        """Copy the weights that the objective trains; on CPUs others are not copied.

        Args:
            lora: Rank of adapters of the attention matrices, which are then all that is trained; 0 for none.
            seed: Seed of the initial adapters.
            workers: Processes that train together.
            precision: Precision of the computation; weights under training are float32.
            checkpointing: Recompute activations in the backward pass instead of keeping them.
            ema: Decay of a moving average of the weights, which is then what `weights` returns; 0 for none.

        Raises:
            ModelError: A parameter is missing, unknown, or of another shape, or the device does not exist.
        """
        architecture.check(config, {name: array.shape for name, array in weights.items()})
        self.config, self.objective, self._workers, self._precision = config, objective, workers, precision
        self._device, _ = check_device(device, "fp32")
        self._type = TYPES[precision]
        if precision == "fp32":
            torch.backends.cudnn.allow_tf32 = False
        self._run = forcing.call_with_checkpoint if checkpointing else forcing.call
        names = objective.trained(config)
        names = tuple(filter(is_adapted, names)) if lora else names
        self._locked = {name: array for name, array in weights.items() if name not in names}
        self._constants = {name: self._lowered(name, self._moved(array)) for name, array in self._locked.items()}
        self._trained = {name: self._moved(np.array(weights[name], np.float32)) for name in names}
        self._bases = {name: weight.clone() for name, weight in self._trained.items()} if lora else {}
        self._parameters = self._adapters(lora, seed) if lora else self._trained
        self._joined = self._projections(joins=self._device.type in JOINING and not lora)
        for parameter in self._parameters.values():
            parameter.requires_grad_()
        self._optimizer = self._adamw(adamw or AdamWOptions())
        self._scaler = torch.amp.GradScaler(
            self._device.type,
            init_scale=FIRST_LOSS_SCALE,
            growth_interval=STEPS_PER_LOSS_SCALE,
            enabled=precision == "fp16",
        )
        self._steps, self._ema = 0, ema
        self._averages = {name: weight.detach().clone() for name, weight in self._trained.items()} if ema else {}

    def _moved(self, array: np.ndarray) -> Tensor:
        return tensor(array).to(self._device)

    def _lowered(self, name: str, weight: Tensor) -> Tensor:
        """Return a weight in the precision of the computation."""
        return weight if name in KEPT_IN_FP32 else weight.to(self._type)

    def _projections(self, joins: bool) -> dict[str, list[str]]:
        """Return the names of weights that are lowered, by the name of what they are joined to.

        Args:
            joins: Whether queries, keys and values of self-attention are one product, as `torch_network.projections`
                uses it. GPUs start one faster than three.
        """
        joined: dict[str, list[str]] = {}
        for name in self._trained:
            if name not in KEPT_IN_FP32:
                whole = re.sub(r"(.*\.resblocks\..*\.attn\.)[qkv]_proj", r"\1qkv_proj", name) if joins else name
                joined.setdefault(whole, []).append(name)
        return joined

    def _adapters(self, rank: int, seed: int) -> dict[str, Tensor]:
        """Return low-rank updates (LoRA, arXiv 2106.09685) of matrices: A [rank, in] at random, B [out, rank] 0."""
        draw, found = np.random.default_rng(seed), {}
        for name, base in self._bases.items():
            height, width = base.shape
            found[f"{name}.a"] = self._moved(draw.normal(0, width**-0.5, (rank, width)).astype(np.float32))
            found[f"{name}.b"] = self._moved(np.zeros((height, rank), np.float32))
        return found

    def _adamw(self, options: AdamWOptions) -> torch.optim.AdamW:
        """Return open_clip's optimizer, which decays matrices only."""
        parameters = list(self._parameters.values())
        groups = [
            {"params": [one for one in parameters if one.ndim >= 2], "weight_decay": options.weight_decay},
            {"params": [one for one in parameters if one.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            betas=(options.beta1, options.beta2),
            eps=options.epsilon,
            fused=self._device.type in ("cpu", "cuda"),
        )
        for one in parameters:
            step = torch.zeros((), device=self._device if optimizer.defaults["fused"] else "cpu")
            optimizer.state[one] = {"step": step, "exp_avg": torch.zeros_like(one), "exp_avg_sq": torch.zeros_like(one)}
        return optimizer

    def _merged(self) -> Mapping[str, Tensor]:
        """Return the weights under training, with the adapters in them."""
        if not self._bases:
            return self._trained
        a_of, b_of = ({name: self._parameters[f"{name}.{part}"] for name in self._bases} for part in "ab")
        return {name: base + LORA_ALPHA * b_of[name] @ a_of[name] for name, base in self._bases.items()}

    def _network(self) -> dict[str, Tensor]:
        """Return all weights in the precision of the computation; gradients reach those under training."""
        weights = dict(self._merged())
        if self._type != torch.float32:
            given = [weights.pop(name) for group in self._joined.values() for name in group]
            sizes = [len(group) for group in self._joined.values()]
            weights |= zip(self._joined, _Lowered.apply(self._type, sizes, *given), strict=True)
        return self._constants | weights

    @torch.no_grad()
    def _current(self) -> Mapping[str, Tensor]:
        """Return the weights to save: under training, or their moving average."""
        return self._averages or {name: weight.detach() for name, weight in self._merged().items()}

    def weights(self) -> dict[str, np.ndarray]:
        """Return all weights, on CPUs not copied: the next step changes them."""
        return self._locked | {name: as_array(weight) for name, weight in self._current().items()}

    def state(self) -> dict[str, np.ndarray]:
        """Return both moments of each weight, as `NAME.m` and `NAME.v`, and all else that resuming needs."""
        found = {"steps": np.array(self._steps)}
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state[parameter]
            found[f"{name}.m"], found[f"{name}.v"] = as_array(moments["exp_avg"]), as_array(moments["exp_avg_sq"])
        if self._bases:
            found |= {f"{name}.base": as_array(base) for name, base in self._bases.items()}
        if self._bases or self._ema:
            found |= {name: as_array(parameter) for name, parameter in self._parameters.items()}
        if self._scaler.is_enabled():
            scaler = self._scaler.state_dict()
            found["loss_scale"] = np.array([scaler["scale"], scaler["_growth_tracker"]], np.float32)
        return found

    @torch.no_grad()
    def load(self, state: Arrays) -> None:
        """Restore the `state` that belongs to the weights."""
        self._steps = int(state["steps"])
        for name, parameter in self._parameters.items():
            moments = self._optimizer.state[parameter]
            moments["step"].fill_(self._steps)
            moments["exp_avg"].copy_(tensor(state[f"{name}.m"]))
            moments["exp_avg_sq"].copy_(tensor(state[f"{name}.v"]))
            if self._bases or self._ema:
                parameter.copy_(tensor(state[name]))
        for name, base in self._bases.items():
            base.copy_(tensor(state[f"{name}.base"]))
        if self._scaler.is_enabled():
            scale, steps = state["loss_scale"].tolist()
            self._scaler.load_state_dict(self._scaler.state_dict() | {"scale": scale, "_growth_tracker": int(steps)})

    def step(self, batches: Sequence[Batch], learning_rate: float, max_norm: float = math.inf) -> Step:
        """Train on the micro-batches of one step, unless a loss or gradient is not finite.

        Losses and gradients are those of one large batch. Several workers each give their parts of the micro-batches.

        Args:
            max_norm: Norm to which all gradients together are clipped.
        """
        self._optimizer.zero_grad()
        caption, contrastive = self._backward(batches)
        gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
        self._workers.sum([*gradients, caption])
        if self._scaler.is_enabled():
            self._scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = (self.objective.caption * caption + self.objective.contrastive * contrastive + norm).isfinite()
        self._update(learning_rate, ((norm + 1e-6) / max_norm).clamp(min=1), finite)  # as torch's clip_grad_norm_
        losses, length = self._losses(*torch.stack((caption, contrastive, norm)).tolist())  # waits for the device
        applied = math.isfinite(losses.total + length)
        skipped = not applied and self._scaler.is_enabled() and self._scaler.get_scale() > 1
        if self._scaler.is_enabled():
            self._scaler.update()
        self._steps += applied
        if applied and self._averages:
            decay = min(self._ema, (1 + self._steps) / (10 + self._steps))  # so that the first weights fade at once
            with torch.no_grad():
                torch._foreach_lerp_([*self._averages.values()], [*self._merged().values()], 1 - decay)
        return Step(losses, length, applied, skipped)

    def _losses(self, caption: float, contrastive: float, norm: float = 0.0) -> tuple[Losses, float]:
        total = self.objective.caption * caption + self.objective.contrastive * contrastive
        return Losses(caption, contrastive, total), norm

    @torch.no_grad()
    def _update(self, learning_rate: float, divisor: Tensor, finite: Tensor) -> None:
        """Change the weights by gradients that are divided first, unless these are not finite."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        if self._optimizer.defaults["fused"]:  # divides and skips on the device, as GradScaler makes it do
            self._optimizer.grad_scale, self._optimizer.found_inf = divisor, (~finite).float()
        elif not finite:
            return
        else:
            torch._foreach_div_([one.grad for one in self._parameters.values() if one.grad is not None], divisor)
        self._optimizer.step()
        if (scale := self._parameters.get("logit_scale")) is not None:
            scale.clamp_(0, MAX_LOGIT_SCALE)

    def _backward(self, batches: Sequence[Batch]) -> tuple[Tensor, Tensor]:
        """Compute all gradients; return this worker's part of the caption loss, and the contrastive loss.

        The contrastive loss needs the latents of all batches and workers. They are computed first, and the loss is
        differentiated for them; then each batch is computed anew, with gradients, as by open_clip's `--accum-freq`.
        """
        tokens = self._workers.total(token_count(self.config, batches))
        caption = contrastive = torch.zeros((), device=self._device)
        features: list[_Features] = []
        if self.objective.contrastive:
            with torch.set_grad_enabled(len(batches) == 1):
                network = self._network()
                features = [self._features(network, batch) for batch in batches]
            contrastive, gradients = self._contrastive(features, network["logit_scale"])
        for index, batch in enumerate(batches):
            if len(batches) > 1 or not features:
                network = self._network()
                batch_features = self._features(network, batch)
            else:
                batch_features = features[0]
            total = torch.zeros((), device=self._device)
            if self.objective.caption:
                loss = self._caption_loss(network, batch, batch_features) / tokens
                caption = caption + loss.detach()
                total = self.objective.caption * loss
            if self.objective.contrastive:
                latents = batch_features.images[:, 0], batch_features.texts
                for part, gradient in zip(latents, gradients[index], strict=True):
                    total = total + (part.float() * gradient).sum()
            if total.requires_grad:
                self._scaler.scale(total).backward()
        return caption, contrastive

    def _features(self, network: Mapping[str, Tensor], batch: Batch) -> "_Features":
        if batch.images is not None:
            images = send(batch.images, self._device).to(self._type)
        else:
            assert batch.pixels is not None
            images = forcing.encode_images(self.config, network, send(batch.pixels, self._device), self._run)
        ids = send(trimmed(batch.ids, self.config.pad_id), self._device).long()
        latents = self.objective.contrastive > 0
        return _Features(images, *forcing.encode_texts(self.config, network, ids, latents, self._run))

    def _caption_loss(self, network: Mapping[str, Tensor], batch: Batch, features: "_Features") -> Tensor:
        """Return the sum over the tokens of a batch."""
        constant = not features.images.requires_grad
        x = forcing.decode(self.config, network, features.words, features.images, constant, self._run)
        labels = trimmed(batch.ids, self.config.pad_id)[:, 1:].reshape(-1)
        words = np.flatnonzero(labels != self.config.pad_id)
        rows = x.flatten(0, 1).index_select(0, send(words, self._device))
        return forcing.caption_loss(
            rows, network["text_decoder.text_projection"], send(labels[words], self._device).long()
        )

    def _contrastive(
        self, features: "Sequence[_Features]", logit_scale: Tensor
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Return the contrastive loss of all batches and workers, and its gradients for the latents of each batch."""
        sizes = [len(one.texts) for one in features]
        own = [torch.cat([one.images[:, 0] for one in features]), torch.cat([one.texts for one in features])]
        images, texts = (self._workers.gather(latents.detach().float()).requires_grad_() for latents in own)
        scale = logit_scale.detach().requires_grad_()
        with torch.enable_grad():
            loss = forcing.contrastive_loss(images, texts, scale)
            gradients = torch.autograd.grad(self.objective.contrastive * loss, (images, texts, scale))
        if (parameter := self._parameters.get("logit_scale")) is not None:
            parameter.grad = self._scaler.scale(gradients[2] / self._workers.count)
        first = self._workers.rank * sum(sizes)
        parts = (gradient[first : first + sum(sizes)].split(sizes) for gradient in gradients[:2])
        return loss.detach(), list(zip(*parts, strict=True))

    @torch.no_grad()
    def losses(self, batches: Sequence[Batch], objective: Objective) -> Losses:
        """Return the caption loss of batches, and the mean of their contrastive losses, of the weights to save."""
        mine, self.objective = self.objective, objective
        try:
            network = self._constants | {name: self._lowered(name, it) for name, it in self._current().items()}
            caption = contrastive = 0.0
            for batch in batches:
                features = self._features(network, batch)
                if objective.contrastive:
                    latents = features.images[:, 0], features.texts
                    contrastive += float(forcing.contrastive_loss(*latents, network["logit_scale"])) / len(batches)
                if objective.caption:
                    caption += float(self._caption_loss(network, batch, features))
            return self._losses(caption / max(1, token_count(self.config, batches)), contrastive)[0]
        finally:
            self.objective = mine

    @torch.no_grad()
    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Encode frames, as in `Batch` -> [B, Q, D] float32: the latent in row 0, not normalized, then image tokens."""
        return as_array(forcing.encode_images(self.config, self._network(), send(pixels, self._device)).float())

    def engine(self) -> TorchEngine:
        """Return an engine with the weights to save, not copied where it computes in float32."""
        engine: type[TorchEngine] = TorchEngine
        if self._device.type == "cuda":
            from ..engines.cuda import CudaEngine as engine
        return engine(self.config, self._locked | {**self._current()}, str(self._device), self._precision)


class _Lowered(torch.autograd.Function):
    """Copies of weights in a lower precision, all at once: on GPUs, hundreds of small operators take longer."""

    @staticmethod
    def forward(context: Any, dtype: torch.dtype, sizes: list[int], *weights: Tensor) -> tuple[Tensor, ...]:
        """Join as many consecutive weights as `sizes` has for each result, along their rows."""
        context.set_materialize_grads(False)
        remaining = iter(weights)
        groups = [[next(remaining) for _ in range(size)] for size in sizes]
        context.rows = [[len(weight) for weight in group] for group in groups]
        lowered = tuple(
            group[0].new_empty((sum(rows), *group[0].shape[1:]), dtype=dtype)
            for group, rows in zip(groups, context.rows, strict=True)
        )
        parts = [part for whole, rows in zip(lowered, context.rows, strict=True) for part in whole.split(rows)]
        torch._foreach_copy_(parts, weights)
        return lowered

    @staticmethod
    def backward(context: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        parts: list[Tensor | None] = []
        for gradient, rows in zip(gradients, context.rows, strict=True):
            parts += [None] * len(rows) if gradient is None else gradient.split(rows)
        given = [part for part in parts if part is not None]
        raised = [torch.empty_like(part, dtype=torch.float32) for part in given]
        if given:
            torch._foreach_copy_(raised, given)
        found = iter(raised)
        return None, None, *(None if part is None else next(found) for part in parts)


@dataclass(frozen=True)
class _Features:
    """Features of a batch on the device."""

    images: Tensor  # [B, Q, D], the latents in row 0, not normalized
    texts: Tensor  # [B, D] latents, not normalized; empty if not computed
    words: Tensor  # [B, L, D], inputs of the decoder


def is_adapted(name: str) -> bool:
    """Return whether a weight has an adapter: those of queries, keys, values and outputs of every attention."""
    return ".attn." in name and name.endswith("_proj.weight")
