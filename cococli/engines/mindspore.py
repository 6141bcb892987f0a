"""The first engine: CoCa on MindSpore, in graph mode."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ..catalog import CocaConfig
from ..checkpoints import ckpt
from ..errors import ModelError
from ..model.coca import Coca
from ..model.decode import CachedStep
from ..model.towers import HIDDEN, text_mask
from .base import ClipFeatures

ROWS_AT_ONCE = 512  # tokens in one matrix product of the ViT; more gain nothing on CPU


class MindSporeEngine:
    """CoCa on MindSpore. Implements `engines.base.Engine`.

    Every new shape is compiled, which takes seconds at vit-l-14 size, so work is cut to few shapes: frames go
    through the ViT in chunks of one fixed size or singly, clips through the pooler singly, and captions are
    decoded by the smallest step that is compiled and large enough.
    """

    def __init__(self, config: CocaConfig, weights: Mapping[str, np.ndarray]) -> None:
        """Build the network around `weights`, named as in `checkpoints.architecture.parameters`, without copying them.

        Raises:
            ModelError: a parameter is missing, unknown, or of another shape.
        """
        self.config = config
        self.network = Coca(config)
        load_weights(self.network, weights)
        self.network.set_train(False)
        self._frame_tokens = ms.jit(self.network.visual.frame_tokens)
        self._pool = ms.jit(self.network.visual.pool)
        self._text = ms.jit(self.network.text.construct)
        self._steps: dict[tuple[int, int, int], CompiledStep] = {}

    @classmethod
    def open(cls, weights: Path, config: CocaConfig) -> "MindSporeEngine":
        """Load a converted checkpoint. The file stays mapped, and read, while the engine lives."""
        return cls(config, ckpt.read(weights))

    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        clips, frames = pixels.shape[:2]
        tokens = self._encode_frames(pixels.reshape(clips * frames, *pixels.shape[2:]))
        if pool == "joint":
            latents, pooled = self._pool_each(tokens.reshape(clips, -1, tokens.shape[-1]))
        else:
            latents, pooled = self._pool_each(tokens)
            latents = latents.reshape(clips, frames, -1).mean(1)
            pooled = pooled.reshape(clips, frames, *pooled.shape[1:]).mean(1)
        return ClipFeatures(normalised(latents), pooled)

    def _encode_frames(self, frames: np.ndarray) -> np.ndarray:
        """[N, 3, S, S] -> [N, T, W] ViT tokens."""
        chunk = max(1, ROWS_AT_ONCE // self.config.vision.tokens)
        return np.concatenate(
            [self._frame_tokens(Tensor(part)).asnumpy()[:count] for part, count in chunks(frames, chunk)]
        )

    def _pool_each(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[B, K, W] ViT tokens -> [B, D] latents and [B, N, D] tokens."""
        pooled = [self._pool(Tensor(clip[None])) for clip in tokens]
        return tuple(np.concatenate([part.asnumpy() for part in parts]) for parts in zip(*pooled, strict=True))

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        length = self.config.context_length
        ids = np.pad(ids, ((0, 0), (0, length - ids.shape[1]))).astype(np.int32)
        mask = text_mask(ids, self.config.pad_id)
        latents = [self._text(Tensor(ids[i : i + 1]), Tensor(mask[i : i + 1]))[0].asnumpy() for i in range(len(ids))]
        return normalised(np.concatenate(latents))

    def begin(self, tokens: np.ndarray, beams: int, max_length: int) -> "State":
        return State(self._step_for(len(tokens), beams, max_length), self.config, tokens)

    def step(self, state: "State", ids: np.ndarray, parents: np.ndarray) -> np.ndarray:
        return state.advance(ids, parents)

    def keep(self, state: "State", clips: np.ndarray) -> "State":
        state.select(clips)
        size = power_of_two(state.clips)
        present = state.compiled
        if size < present.clips:
            key = (size, present.beams, present.max_length)
            # Compiling for fewer clips pays once the time that idle rows have cost would have covered it.
            if key in self._steps or present.idle_seconds > present.compile_seconds:
                state.move(self._compiled(*key))
        return state

    def _step_for(self, clips: int, beams: int, max_length: int) -> "CompiledStep":
        """The smallest compiled step that is large enough, else a new one for the next power of two."""
        fitting = [size for size, *shape in self._steps if shape == [beams, max_length] and size >= clips]
        return self._compiled(min(fitting, default=power_of_two(clips)), beams, max_length)

    def _compiled(self, clips: int, beams: int, max_length: int) -> "CompiledStep":
        key = (clips, beams, max_length)
        if key not in self._steps:
            self._steps[key] = CompiledStep(CachedStep(self.network, *key), max_length)
        return self._steps[key]


class CompiledStep:
    """A `CachedStep` of one shape, and what it has cost so far."""

    def __init__(self, network: CachedStep, max_length: int) -> None:
        self.network = network
        self.clips, self.beams, self.max_length = network.clips, network.beams, max_length
        self.compile_seconds = 0.0
        self.idle_seconds = 0.0  # spent on rows of clips that had left
        self.owner: State | None = None  # the captions whose keys and values stand in the caches

    def look(self, tokens: np.ndarray) -> None:
        """Fill the caches of the images with [K, N, D] tokens, K at most the step's clips."""
        missing = self.clips - len(tokens)
        self.network.look(Tensor(np.pad(tokens, ((0, missing), (0, 0), (0, 0)))))

    def run(self, live: float, *inputs: np.ndarray) -> np.ndarray:
        """One step, of which the share `live` of the rows is wanted."""
        start = time.perf_counter()
        logits = self.network(*map(Tensor, inputs)).asnumpy()
        seconds = time.perf_counter() - start
        if self.compile_seconds:
            self.idle_seconds += seconds * (1 - live)
        else:
            self.compile_seconds = seconds
        return logits


class State:
    """Captions under way. Implements `engines.base.DecodeState`.

    Clips stand in lanes of the compiled step; lanes beyond them idle. Each row knows the slot of every token of
    its history, which is all that changes when beams swap parents.
    """

    def __init__(self, compiled: CompiledStep, config: CocaConfig, tokens: np.ndarray) -> None:
        self.compiled, self.config = compiled, config
        self.beams, self.position = compiled.beams, 0
        self.lanes = np.arange(len(tokens))
        self.history = np.zeros((self.rows, compiled.max_length), np.int64)  # slot of each token so far
        self.ids = np.full((self.rows, compiled.max_length), -1, np.int32)
        compiled.look(tokens)
        compiled.owner = self

    @property
    def clips(self) -> int:
        return len(self.lanes)

    @property
    def rows(self) -> int:
        return self.clips * self.beams

    def advance(self, ids: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """Feed one token per row; see `engines.base.Engine.step`."""
        if self.compiled.owner is not self:
            raise RuntimeError("these captions have ended: newer ones took their caches")
        if self.position:
            self.history, self.ids = self.history[parents], self.ids[parents]
        beam = np.arange(self.rows) % self.beams
        self.history[:, self.position] = self.position * self.beams + beam
        self.ids[:, self.position] = ids
        logits = self.compiled.run(self.clips / self.compiled.clips, *self._inputs(ids))
        self.position += 1
        return logits.reshape(self.compiled.clips, self.beams, -1)[self.lanes].reshape(self.rows, -1)

    def _inputs(self, ids: np.ndarray) -> tuple[np.ndarray, ...]:
        """What `CachedStep.construct` takes, idle lanes filled with zeros."""
        all_ids = np.zeros((self.compiled.clips, self.beams), np.int32)
        all_ids[self.lanes] = ids.reshape(self.clips, self.beams)
        return (
            all_ids.reshape(-1),
            np.array(self.position, np.int32),
            self._new_slots(self.config.text.heads),
            self._new_slots(self.config.decoder.heads),
            *self._masks(),
        )

    def _new_slots(self, heads: int) -> np.ndarray:
        """[C * H * B] int32: where this step's keys and values go."""
        slots = self.compiled.network.slots
        base = np.arange(self.compiled.clips * heads)[:, None] * slots + self.position * self.beams
        return (base + np.arange(self.beams)).astype(np.int32).reshape(-1)

    def _masks(self) -> tuple[np.ndarray, np.ndarray]:
        """[C, 1, B, S] float32 for the text tower and for the decoder: each row sees its own history."""
        seen = self.history[:, : self.position + 1]
        after_pad = np.pad(self.ids[:, : self.position] == self.config.pad_id, ((0, 0), (1, 0)))
        text = self._mask(seen, np.where(after_pad, np.float32(HIDDEN), np.float32(0)))
        return text, self._mask(seen, np.float32(0))

    def _mask(self, seen: np.ndarray, scores: Any) -> np.ndarray:
        slots = self.compiled.network.slots
        rows = np.full((self.rows, slots), HIDDEN, np.float32)
        np.put_along_axis(rows, seen, scores, axis=1)
        mask = np.full((self.compiled.clips, 1, self.beams, slots), HIDDEN, np.float32)
        mask[self.lanes, 0] = rows.reshape(self.clips, self.beams, slots)
        return mask

    def select(self, clips: np.ndarray) -> None:
        """Drop all but these clips; their lanes idle."""
        rows = (np.asarray(clips)[:, None] * self.beams + np.arange(self.beams)).reshape(-1)
        self.lanes, self.history, self.ids = self.lanes[clips], self.history[rows], self.ids[rows]

    def move(self, target: CompiledStep) -> None:
        """Carry the caches of the live lanes to a step for fewer clips."""
        pairs = zip(self.compiled.network.caches(), target.network.caches(), strict=True)
        target.network.restore(*(Tensor(self._carried(source, to.shape, target.clips)) for source, to in pairs))
        self.lanes = np.arange(self.clips)
        self.compiled = target
        target.owner = self

    def _carried(self, cache: Tensor, shape: tuple[int, ...], clips: int) -> np.ndarray:
        """The live lanes of a cache, the rest zero, in the shape of a step for `clips` clips."""
        by_clip = cache.asnumpy().reshape(self.compiled.clips, -1)
        carried = np.zeros((clips, by_clip.shape[1]), np.float32)
        carried[: self.clips] = by_clip[self.lanes]
        return carried.reshape(shape)


def load_weights(network: Coca, weights: Mapping[str, np.ndarray]) -> None:
    """Fill every parameter with the array of its name, uncopied."""
    parameters = {parameter.name: parameter for parameter in network.get_parameters()}
    if wrong := sorted(parameters.keys() ^ weights.keys()):
        raise ModelError(f"this checkpoint does not fit its config: {len(wrong)} parameters differ, first {wrong[0]}")
    for name, parameter in parameters.items():
        array = weights[name]
        if array.shape != parameter.shape:
            raise ModelError(f"{name} has shape {array.shape}, but the config says {parameter.shape}")
        parameter.set_data(Tensor.from_numpy(array) if array.ndim else Tensor(array))


def chunks(frames: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Cut [N, ...] into parts of `size`, the last one zero-padded or in singles, whichever computes less."""
    start = 0
    while left := len(frames) - start:
        part = size if left > size // 2 else 1
        wanted = frames[start : start + part]
        count = len(wanted)
        yield np.pad(wanted, ((0, part - count), *((0, 0),) * (frames.ndim - 1))), count
        start += count


def power_of_two(number: int) -> int:
    """The smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


def normalised(vectors: np.ndarray) -> np.ndarray:
    """[B, D] scaled to length 1, as torch's F.normalize does."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
