"""CoCa on PyTorch: on the processor, or on a card where there is one."""

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
from ..model.masks import text_mask
from ..model.torch_network import Looks, Pooler, Step, Texts, Vision, packed
from .arrays import chunks
from .base import ClipFeatures
from .captions import History, InLanes
from .scores import Scores, few_best
from .texts import by_length

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
ROWS_ON_CPU, ROWS_ON_CARD = 768, 16384  # tokens in one matrix product: more gain nothing
GROWTH = 8  # positions that caches grow by
ROWS_OF_SCORES = 16  # rows of logits that fit into the processor's cache
BLOCK = 64  # neighbors in a row of logits
MORE = 20  # tokens looked at beyond the few best, among which equals of the last one usually are


class TorchEngine:
    """CoCa on PyTorch. Implements `engines.base.Engine`."""

    def __init__(
        self, config: CocaConfig, weights: Mapping[str, np.ndarray], device: str = "cpu", precision: str = "fp32"
    ) -> None:
        """Wrap `weights`, named as in `checkpoints.architecture.parameters`. In fp32 on the processor none is copied.

        Args:
            device: As torch names it: cpu, cuda, cuda:1, mps.
            precision: What is computed in: fp32, bf16, or on a card fp16.

        Raises:
            ModelError: a parameter is missing, unknown, or of another shape, or there is no such device.
            UsageError: torch does not compute in this precision there.
        """
        architecture.check(config, {name: array.shape for name, array in weights.items()})
        self.config = config
        self._device, self._type = placed(device, precision)
        self._rows_at_once = ROWS_ON_CPU if self._device.type == "cpu" else ROWS_ON_CARD
        self._weights = {name: self._weight(name, array) for name, array in weights.items()}
        self._vision, self._pooler = Vision(config, self._weights), Pooler(config, self._weights)
        self._texts, self._looks = Texts(config, self._weights), Looks(config, self._weights)
        self._step = Step(config, self._weights)

    @classmethod
    def open(cls, weights: Path, config: CocaConfig, device: str = "cpu", precision: str = "fp32") -> "TorchEngine":
        """Load a converted checkpoint. The file stays mapped while the engine lives."""
        return cls(config, ckpt.read(weights), device, precision)

    @torch.inference_mode()
    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        clips, frames = pixels.shape[:2]
        parts = chunks(pixels.reshape(clips * frames, *pixels.shape[2:]), self._rows_at_once, self.config.vision.tokens)
        tokens = torch.cat([self._vision(self._tensor(part)) for part in parts])
        if pool == "joint":
            latents, pooled = self._pooler(tokens.reshape(clips, -1, tokens.shape[-1]))
        else:
            latents, pooled = (part.unflatten(0, (clips, frames)).mean(1) for part in self._pooler(tokens))
        return ClipFeatures(normalized(latents), as_array(pooled))

    @torch.inference_mode()
    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        latents = np.empty((len(ids), self.config.embed_dim), np.float32)
        for texts, some in by_length(ids, self.config):
            parts = chunks(some, self._rows_at_once, some.shape[1] + 1)
            latents[texts] = np.concatenate([self._encode_texts(part) for part in parts])
        return latents

    def _encode_texts(self, ids: np.ndarray) -> np.ndarray:
        mask = self._mask(text_mask(ids, self.config.pad_id))
        return normalized(self._texts(self._numbers(ids), mask))

    @torch.inference_mode()
    def begin(self, lanes: int, beams: int, max_length: int, few: int = 1) -> "Captions":
        text, decoder = self.config.text, self.config.decoder
        history = History(lanes, beams, max_length, self.config.pad_id)
        caches = [self._zeros(tower, lanes, 0) for tower in (text, decoder)]
        return Captions(history, caches, self._zeros(decoder, lanes, self.config.vision.pooler_queries - 1), few)

    def _zeros(self, tower: TextConfig, lanes: int, slots: int) -> Tensor:
        shape = (2 * tower.layers, lanes, tower.heads, slots, tower.width // tower.heads)
        return torch.zeros(shape, dtype=self._type, device=self._device)

    @torch.inference_mode()
    def admit(self, state: "Captions", lane: int, tokens: np.ndarray) -> None:
        state.history.clear(lane)
        state.image[:, lane] = torch.cat(self._looks(self._tensor(tokens[None])))

    @torch.inference_mode()
    def step(self, state: "Captions", lanes: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        history = state.history
        in_lanes = self._numbers(history.feed(lanes, ids, parents))
        state.make_room(int(history.position[lanes].max()))
        apart = history.masks_apart(lanes)
        masks = [self._mask(np.concatenate((mask[..., : state.slots], newest), -1)) for mask, newest in apart]
        caches = (cache for caches in (*state.caches, state.image) for cache in caches)
        logits, *new = self._step(in_lanes, self._numbers(history.position), *masks, *caches)
        state.write(lanes, new)
        history.advance(lanes)
        if len(lanes) < history.lanes:
            logits = logits[self._numbers(lanes)]
        return few_best_of(logits.flatten(0, 1), state.few)

    @torch.inference_mode()
    def resize(self, state: "Captions", kept: np.ndarray, lanes: int) -> "Captions":
        return state.resized(kept, lanes)

    def _weight(self, name: str, array: np.ndarray) -> Tensor:
        weight = self._tensor(array)
        shared = self._type == torch.float32 or self._device.type != "cpu"
        return weight if shared else packed(name, weight)

    def _tensor(self, array: np.ndarray) -> Tensor:
        """In the engine's precision on its device; uncopied where it is there."""
        return tensor(array).to(self._device, self._type)

    def _numbers(self, array: np.ndarray) -> Tensor:
        return tensor(array.astype(np.int64)).to(self._device)

    def _mask(self, mask: np.ndarray) -> Tensor:
        """What hides must stay finite: a row of an idle lane sees nothing at all."""
        return tensor(mask).clamp(min=torch.finfo(self._type).min / 2).to(self._device, self._type)


class Captions(InLanes):
    """Captions under way and their caches. Implements `engines.base.DecodeState`."""

    def __init__(self, history: History, caches: Sequence[Tensor], image: Tensor, few: int) -> None:
        """Args:
        caches: Keys and values of each layer of the text tower [2 * layers, C, H, S, E], and of the decoder. They
            grow with the captions.
        image: Keys and values of each cross-attention [2 * layers, C, H, N, E].
        """
        super().__init__(history, few)
        self.caches, self.image = caches, image

    @property
    def slots(self) -> int:
        """That there is room for as yet."""
        return self.caches[0].shape[3]

    def make_room(self, position: int) -> None:
        """Let the caches reach beyond a position. No slice of larger ones would do: bf16 products copy slices."""
        if position * self.beams >= self.slots:
            more = min(GROWTH * self.beams, self.history.slots - self.slots)
            self.caches = [functional.pad(cache, (0, 0, 0, more)) for cache in self.caches]

    def write(self, lanes: np.ndarray, new: Sequence[Tensor]) -> None:
        """Put keys and values [C, H, B, E] of each layer into the slots of the newest token of some lanes."""
        first = len(self.caches[0])
        for cache, parts in zip(self.caches, (new[:first], new[first:]), strict=True):
            layers = torch.stack(parts)
            for lane, slot in zip(lanes.tolist(), self.history.new_slots()[lanes, 0].tolist(), strict=True):
                cache[:, lane, :, slot : slot + self.beams] = layers[:, lane]

    def resized(self, kept: np.ndarray, lanes: int) -> "Captions":
        def carried(cache: Tensor) -> Tensor:
            other = cache.new_zeros((len(cache), lanes, *cache.shape[2:]))
            other[:, : len(kept)] = cache[:, torch.from_numpy(kept).to(cache.device)]
            return other

        caches = [carried(cache) for cache in self.caches]
        return Captions(self.history.resized(kept, lanes), caches, carried(self.image), self.few)


def placed(device: str, precision: str) -> tuple[torch.device, torch.dtype]:
    """A device that is there, and the type to compute in."""
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError):
        hint = "Use --device cpu, or a build of torch for that device."
        raise ModelError(f"torch finds no device {device!r} here", hint) from None
    known = [name for name in TYPES if name != "fp16" or place.type != "cpu"]
    if precision not in known:
        raise UsageError(f"torch does not compute in {precision} on {place.type}", f"Use one of {', '.join(known)}.")
    return place, TYPES[precision]


def tensor(array: np.ndarray) -> Tensor:
    """The array as a tensor, uncopied where it is laid out in rows. Nobody writes into it, so it may be read-only."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array, order="C"))


def as_array(values: Tensor) -> np.ndarray:
    return values.float().cpu().numpy()


def normalized(vectors: Tensor) -> np.ndarray:
    """[B, D] scaled to length 1."""
    return as_array(functional.normalize(vectors.float(), dim=-1))


def few_best_of(logits: Tensor, few: int) -> Scores:
    """`few_best` of [R, V] logits where they are: only the few best are handed over."""
    vocabulary = logits.shape[1]
    parts = [likeliest(part.float(), min(few + MORE, vocabulary)) for part in logits.split(ROWS_OF_SCORES)]
    ids, values, log_sum = (torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))
    if values.shape[1] < vocabulary and (values[:, -1] == values[:, few - 1]).any():
        return few_best(as_array(logits), few)  # so many equals that those of the lowest ids may be missing
    order = np.lexsort((ids, -values))[:, :few]
    ids, values = (np.take_along_axis(part, order, axis=1) for part in (ids, values))
    return Scores(ids.astype(np.int32), values, log_sum, lambda: as_array(logits))


def likeliest(logits: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Ids and values of the best of [R, V] float32 logits, of equals any, and `Scores.log_sum`."""
    ids, values = best_of(logits, count)
    return ids, values, (logits - values[:, :1]).exp_().sum(-1).log()


def best_of(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`topk` of [R, V], sorting only the blocks of the highest peaks: they hold it, as each has one that high."""
    if logits.shape[1] % BLOCK or logits.shape[1] < 2 * count * BLOCK:
        values, ids = logits.topk(count)
        return ids, values
    blocks = logits.unflatten(1, (-1, BLOCK)).amax(-1).topk(count).indices
    ids = (blocks[..., None] * BLOCK + torch.arange(BLOCK, device=logits.device)).flatten(1)
    values, places = logits.gather(1, ids).topk(count)
    return ids.gather(1, places), values
