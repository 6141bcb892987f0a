"""CoCa on PyTorch, on CPUs and GPUs."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..catalog import CocaConfig, TextConfig
from ..checkpoints import architecture, ckpt
from ..errors import ModelError, UsageError
from ..model.arrays import group_by_length, split_rows, text_mask
from ..model.torch_network import (
    BLOCK,
    CrossKeysValues,
    DecodeStep,
    Pooler,
    TextTower,
    VisionTower,
    block_top_k,
    has_blocks,
    join_projections,
    normalize,
    pack,
)
from .base import ClipFeatures, Scores, pool_frames, top_k_scores
from .kv_cache import KVCache

TYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROWS_ON_CPU, ROWS_ON_GPU = 768, 33_000  # tokens in one matrix product: more are not faster
GROWTH = 8  # positions that caches grow by
SCORE_ROWS = 16  # rows of logits that fit into the processor's cache
SURPLUS = 20  # candidates beyond the top k, which usually include all that equal the last one


class TorchEngine:
    """CoCa on PyTorch. Implements `engines.base.Engine`."""

    def __init__(
        self, config: CocaConfig, weights: Mapping[str, np.ndarray], device: str = "cpu", precision: str = "fp32"
    ) -> None:
        """Wrap `weights`, named as in `checkpoints.architecture.parameters`. In fp32 on CPUs they are not copied.

        Args:
            device: As torch names it: cpu, cuda, cuda:1, mps.
            precision: fp32 or bf16; on GPUs fp16, too, and tf32, which rounds the factors of products to 10 bits.

        Raises:
            ModelError: A parameter is missing, unknown, or of another shape, or the device does not exist.
            UsageError: The device does not support the precision.
        """
        architecture.check(config, {name: array.shape for name, array in weights.items()})
        self.config = config
        self._device, self._type = check_device(device, precision)
        if precision in ("fp32", "tf32"):  # on GPUs, convolutions are in TF32 by default
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        self._rows_at_once = ROWS_ON_CPU if self._device.type == "cpu" else ROWS_ON_GPU
        self._weights = {name: self._weight(name, array) for name, array in weights.items()}
        if self._device.type != "cpu":
            self._weights = join_projections(self._weights)
        self._vision, self._pooler = VisionTower(config, self._weights), Pooler(config, self._weights)
        self._text, self._cross = TextTower(config, self._weights), CrossKeysValues(config, self._weights)
        self._step = DecodeStep(config, self._weights)

    @classmethod
    def open(cls, weights: Path, config: CocaConfig, device: str = "cpu", precision: str = "fp32") -> "TorchEngine":
        """Load a converted checkpoint. The file stays mapped while the engine lives."""
        return cls(config, ckpt.read(weights), device, precision)

    @torch.inference_mode()
    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        clips, frames = pixels.shape[:2]
        rows = self.config.vision.tokens
        sent = send(pixels.reshape(clips * frames, *pixels.shape[2:]), self._device)  # as uint8, a quarter of the bytes
        normalized = normalize(sent, self.config.preprocess).to(self._type).contiguous()
        tokens = torch.cat([self._vision(part) for part in normalized.split(max(1, self._rows_at_once // rows))])
        latents, pooled = pool_frames(tokens, clips, pool, self._pooler)
        return ClipFeatures(l2_normalized_array(latents), as_array(pooled) if pooled.device.type == "cpu" else pooled)

    @torch.inference_mode()
    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        latents = np.empty((len(ids), self.config.embed_dim), np.float32)
        for indices, group in group_by_length(ids, self.config):
            parts = split_rows(group, self._rows_at_once, group.shape[1] + 1)
            latents[indices] = np.concatenate([self._encode_texts(part) for part in parts])
        return latents

    def _encode_texts(self, ids: np.ndarray) -> np.ndarray:
        mask = self._mask(text_mask(ids, self.config.pad_id))
        return l2_normalized_array(self._text(self._integers(ids), mask))

    @torch.inference_mode()
    def begin(self, slots: int, beams: int, max_length: int, top_k: int = 1) -> "TorchCache":
        empty = torch.empty(0, dtype=self._type, device=self._device)
        return TorchCache(self.config, slots, beams, max_length, top_k, empty)

    @torch.inference_mode()
    def admit(self, state: "TorchCache", slot: int, tokens: np.ndarray | Tensor) -> None:
        state.reset(slot)
        state.image[:, slot] = torch.cat(self._cross(self._tensor(tokens[None])))

    @torch.inference_mode()
    def step(self, state: "TorchCache", slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        all_ids = self._integers(state.append(slots, ids, parents))
        state.grow(int(state.position[slots].max()))
        masks = [
            self._mask(np.concatenate((mask[..., : state.capacity], newest), -1))
            for mask, newest in state.split_masks(slots)
        ]
        caches = (cache for caches in (*state.caches, state.image) for cache in caches)
        logits, *new = self._step(all_ids, self._integers(state.position), *masks, *caches)
        state.write(slots, new)
        state.advance(slots)
        if len(slots) < state.slots:
            logits = logits[self._integers(slots)]
        return top_k_scores_of(logits.flatten(0, 1), state.top_k)

    @torch.inference_mode()
    def resize(self, state: "TorchCache", kept: np.ndarray, slots: int) -> "TorchCache":
        other = self.begin(slots, state.beams, state.entries // state.beams, state.top_k)
        other.copy_history(state, kept)
        other.caches, other.image = (
            [resized(cache, kept, slots) for cache in state.caches],
            resized(state.image, kept, slots),
        )
        return other

    def _weight(self, name: str, array: np.ndarray) -> Tensor:
        weight = self._tensor(array)
        shared = self._type == torch.float32 or self._device.type != "cpu"
        return weight if shared else pack(name, weight)

    def _tensor(self, array: np.ndarray | Tensor) -> Tensor:
        """Return the array in the engine's precision on its device, without a copy where possible."""
        return (array if isinstance(array, Tensor) else tensor(array)).to(self._device, self._type)

    def _integers(self, array: np.ndarray) -> Tensor:
        return tensor(array.astype(np.int64)).to(self._device)

    def _mask(self, mask: np.ndarray) -> Tensor:
        """Keep hidden scores finite, as in idle slots all are hidden."""
        return tensor(mask).clamp(min=torch.finfo(self._type).min / 2).to(self._device, self._type)


class TorchCache(KVCache):
    """Keys and values as tensors that grow with the captions.

    Attributes:
        caches: Of the text tower and of the decoder, each [2 * layers, C, H, S', E]: keys and values by turns.
        image: [2 * layers, C, H, N, E], likewise of each cross-attention.
    """

    def __init__(self, config: CocaConfig, slots: int, beams: int, max_length: int, top_k: int, like: Tensor) -> None:
        super().__init__(slots, beams, max_length, config.pad_id, top_k)

        def zeros(tower: TextConfig, length: int) -> Tensor:
            return like.new_zeros((2 * tower.layers, slots, tower.heads, length, tower.width // tower.heads))

        self.caches = [zeros(tower, 0) for tower in (config.text, config.decoder)]
        self.image = zeros(config.decoder, config.vision.pooler_queries - 1)

    @property
    def capacity(self) -> int:
        """Entries that the tensors have room for so far: S'."""
        return self.caches[0].shape[3]

    def grow(self, position: int) -> None:
        """Make room for a position. Slices of larger tensors would be copied by each bf16 product."""
        if position * self.beams >= self.capacity:
            more = min(GROWTH * self.beams, self.entries - self.capacity)
            self.caches = [functional.pad(cache, (0, 0, 0, more)) for cache in self.caches]

    def write(self, slots: np.ndarray, new: Sequence[Tensor]) -> None:
        """Write keys and values [C, H, B, E] of each layer to the entries of the newest tokens in some slots."""
        first = len(self.caches[0])
        for cache, parts in zip(self.caches, (new[:first], new[first:]), strict=True):
            layers = torch.stack(parts)
            for slot, entry in zip(slots.tolist(), self.new_entries()[slots, 0].tolist(), strict=True):
                cache[:, slot, :, entry : entry + self.beams] = layers[:, slot]


def resized(cache: Tensor, kept: np.ndarray, slots: int) -> Tensor:
    """Copy the kept slots of a cache and add empty ones."""
    other = cache.new_zeros((len(cache), slots, *cache.shape[2:]))
    other[:, : len(kept)] = cache[:, torch.from_numpy(kept).to(cache.device)]
    return other


def check_device(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """Return the device and the data type of computation.

    Raises:
        ModelError: The device does not exist.
        UsageError: It does not support the precision.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError):
        hint = "use --device cpu, or a build of torch for that device"
        raise ModelError(f"torch finds no device {device!r} here", hint) from None
    unsupported = {"cpu": ("fp16", "tf32"), "cuda": ()}.get(found.type, ("tf32",))
    supported = [name for name in TYPES if name not in unsupported]
    if precision not in supported:
        raise UsageError(f"torch does not support {precision} on {found.type}", f"use one of {', '.join(supported)}")
    return found, TYPES[precision]


def tensor(array: np.ndarray) -> Tensor:
    """Return the array as a tensor, without a copy if it is contiguous. Nothing may write to it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array, order="C"))


def send(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array on a device. To an NVIDIA GPU it is copied while that computes; on CPUs it is not copied."""
    return (
        tensor(array).pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor(array).to(device)
    )


def as_array(values: Tensor) -> np.ndarray:
    """Return a tensor as an array of float32; one in float32 on a CPU is not copied."""
    return values.detach().float().cpu().numpy()


def l2_normalized_array(vectors: Tensor) -> np.ndarray:
    """L2-normalize vectors [B, D]."""
    return as_array(functional.normalize(vectors.float(), dim=-1))


def top_k_scores_of(logits: Tensor, k: int) -> Scores:
    """Return `top_k_scores` of [R, V] logits. They stay on the device; only the top k are transferred."""
    parts = [most_likely(part.float(), min(k + SURPLUS, logits.shape[1])) for part in logits.split(SCORE_ROWS)]
    ids, values, log_sum = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    order = np.lexsort((ids, -values))
    ids, values = (np.take_along_axis(part, order, axis=1) for part in (ids, values))
    return scores_of_candidates(logits, ids.astype(np.int32), values, log_sum, k)


def scores_of_candidates(logits: Tensor, ids: np.ndarray, values: np.ndarray, log_sum: np.ndarray, k: int) -> Scores:
    """Return `top_k_scores` of [R, V] logits, of which more than k of the highest are known.

    Args:
        ids: [R, N], of the candidates, best first, of equal ones the lower id first.
        values: [R, N], their logits.
        log_sum: [R], of `Scores`.
    """
    if values.shape[1] < logits.shape[1] and (values[:, -1] == values[:, k - 1]).any():
        return top_k_scores(as_array(logits), k)  # so many are equal that those of the lowest ids may be missing
    return Scores(ids[:, :k], values[:, :k], log_sum, lambda rows, tokens: as_array(logits[rows, tokens]))


def most_likely(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids and values of the highest of [R, V] float32 logits, any of equal ones, and `Scores.log_sum`."""
    if has_blocks(logits.shape[1], count):
        ids, values = block_top_k(logits, logits.unflatten(1, (-1, BLOCK)).amax(-1), count)
    else:
        values, ids = logits.topk(count)
    return ids, values, (logits - values[:, :1]).exp_().sum(-1).log()
