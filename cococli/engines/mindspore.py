"""The first engine: CoCa on MindSpore, in graph mode."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ..catalog import CocaConfig
from ..checkpoints import architecture, ckpt
from ..model import decode, layers, towers
from .base import ClipFeatures
from .captions import Captions

ROWS_AT_ONCE = 512  # tokens in one matrix product of the ViT; more gain nothing on CPU
TEXT_LENGTHS = (16, 32)  # tokens that texts are cut to, if they are shorter, or else to the whole context
LAYERS_AT_ONCE = 4  # of a decoding step in one graph: more are hardly faster, and take longer to compile
COMPILE_SECONDS = 1.0  # about what decoding in a batch of a new size costs; see `keep`

# Compiled anew for each shape of their inputs, in some tenths of a second; weights are inputs like any other.
_embed_patches = ms.jit(towers.embed_patches)
_block = ms.jit(layers.block)
_pool = ms.jit(towers.pool)
_project = ms.jit(towers.project)
_look = ms.jit(decode.look)
_cached_blocks = ms.jit(decode.cached_blocks)
_decoder_blocks = ms.jit(decode.decoder_blocks)


class MindSporeEngine:
    """CoCa on MindSpore. Implements `engines.base.Engine`.

    Work is cut to few shapes, as every new one is compiled: frames go through the ViT in chunks of one fixed size or
    singly, clips through the pooler singly, and captions are decoded in batches of a power of two.
    """

    def __init__(self, config: CocaConfig, weights: Mapping[str, np.ndarray]) -> None:
        """Wrap `weights`, named as in `checkpoints.architecture.parameters`. What is float32 is not copied.

        Raises:
            ModelError: a parameter is missing, unknown, or of another shape.
        """
        architecture.check(config, {name: array.shape for name, array in weights.items()})
        self.config = config
        self._tensors = {name: as_tensor(array) for name, array in weights.items()}
        vision, text, decoder = config.vision, config.text, config.decoder
        self._vision_blocks = self._layers("visual.transformer.resblocks", vision.layers, layers.BLOCK)
        self._text_blocks = self._layers("text.transformer.resblocks", text.layers, layers.BLOCK)
        self._decoder_blocks = self._layers("text_decoder.resblocks", decoder.layers, layers.BLOCK)
        self._cross_blocks = self._layers("text_decoder.cross_attn", decoder.layers, decode.CROSS)
        self._lookers = self._layers("text_decoder.cross_attn", decoder.layers, decode.LOOK)
        self._token_embedding, self._cls, self._positions = (
            self._tensors[f"text.{name}"].asnumpy() for name in ("token_embedding", "cls_emb", "positional_embedding")
        )

    @classmethod
    def open(cls, weights: Path, config: CocaConfig) -> "MindSporeEngine":
        """Load a converted checkpoint. The file stays mapped, and read, while the engine lives."""
        return cls(config, ckpt.read(weights))

    def _named(self, prefix: str, names: Sequence[str]) -> list[Tensor]:
        return [self._tensors[f"{prefix}.{name}"] for name in names]

    def _layers(self, prefix: str, count: int, names: Sequence[str]) -> list[list[Tensor]]:
        return [self._named(f"{prefix}.{layer}", names) for layer in range(count)]

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
        return np.concatenate([self._encode_chunk(part)[:count] for part, count in chunks(frames, chunk)])

    def _encode_chunk(self, frames: np.ndarray) -> np.ndarray:
        x = _embed_patches(Tensor(frames), *self._named("visual", towers.PATCHES))
        for weights in self._vision_blocks:
            x = _block(x, None, self.config.vision.heads, self.config.quick_gelu, *weights)
        return x.asnumpy()

    def _pool_each(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[B, K, W] ViT tokens -> [B, D] latents and [B, N, D] tokens."""
        heads, weights = self.config.vision.pooler_heads, self._named("visual", towers.POOLER)
        pooled = [_pool(Tensor(clip[None]), heads, *weights) for clip in tokens]
        return tuple(np.concatenate([part.asnumpy() for part in parts]) for parts in zip(*pooled, strict=True))

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        latents = np.empty((len(ids), self.config.embed_dim), np.float32)
        for length, texts in self._by_length(ids):
            some = np.pad(ids[texts], ((0, 0), (0, max(0, length - ids.shape[1]))))[:, :length]
            parts = chunks(some, max(1, ROWS_AT_ONCE // (length + 1)))
            cls = np.concatenate([self.text_rows(part)[:count, -1] for part, count in parts])
            latents[texts] = _project(Tensor(cls), *self._named("text", towers.LAST)).asnumpy()
        return normalised(latents)

    def _by_length(self, ids: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Texts that fit into so many tokens with one pad, which the CLS sees; it sees nothing of what comes after."""
        context = self.config.context_length
        ends = (ids != self.config.pad_id) * np.arange(1, ids.shape[1] + 1)
        lengths = np.array([*(length for length in TEXT_LENGTHS if length < context), context])
        of_text = lengths[np.searchsorted(lengths, np.minimum(ends.max(axis=1) + 1, context))]
        for length in np.unique(of_text):
            yield int(length), np.flatnonzero(of_text == length)

    def text_rows(self, ids: np.ndarray) -> np.ndarray:
        """[B, T] ids -> [B, T + 1, D] what leaves the text tower, the CLS last, whatever T is.

        The tokens enter the decoder as they are; the CLS is yet to be normed and projected.
        """
        words = np.concatenate([self._token_embedding[ids], np.tile(self._cls, (len(ids), 1, 1))], 1)
        positions = np.concatenate([self._positions[: ids.shape[1]], self._positions[-1:]])
        x, mask = Tensor(words + positions), Tensor(towers.text_mask(ids, self.config.pad_id))
        for weights in self._text_blocks:
            x = _block(x, mask, self.config.text.heads, self.config.quick_gelu, *weights)
        return x.asnumpy()

    def begin(self, tokens: np.ndarray, beams: int, max_length: int) -> Captions:
        lanes = power_of_two(len(tokens))
        image = Tensor(np.pad(tokens, ((0, lanes - len(tokens)), (0, 0), (0, 0))))
        keys_and_values = [_look(image, self.config.decoder.heads, *weights) for weights in self._lookers]
        return Captions(self.config, keys_and_values, len(tokens), beams, max_length)

    def step(self, state: Captions, ids: np.ndarray, parents: np.ndarray) -> np.ndarray:
        start = time.perf_counter()
        logits = self._logits(state, state.feed(ids, parents))
        state.idle_seconds += (time.perf_counter() - start) * (1 - state.clips / state.width)
        state.position += 1
        return logits.reshape(state.width, state.beams, -1)[state.lanes].reshape(state.rows, -1)

    def _logits(self, state: Captions, ids: np.ndarray) -> np.ndarray:
        """[C, B] ids -> [C * B, V] logits of the next token."""
        text, decoder, quick_gelu = self.config.text, self.config.decoder, self.config.quick_gelu
        x = Tensor(self._token_embedding[ids] + self._positions[state.position])
        text_mask, mask = state.masks()
        slots = state.new_slots(text)
        for tensors in grouped(state.text, self._text_blocks):
            x = _cached_blocks(x, slots, text_mask, text.heads, quick_gelu, *tensors)
        slots = state.new_slots(decoder)
        for tensors in grouped(state.decoder, self._decoder_blocks, state.image, self._cross_blocks):
            x = _decoder_blocks(x, slots, mask, decoder.heads, quick_gelu, *tensors)
        return _project(x, *self._named("text_decoder", towers.LAST)).asnumpy()

    def keep(self, state: Captions, clips: np.ndarray) -> Captions:
        state.select(clips)
        width = power_of_two(state.clips)
        if width < state.width and state.idle_seconds > COMPILE_SECONDS:
            state.narrow(width)
        return state


def as_tensor(array: np.ndarray) -> Tensor:
    """The array as a float32 tensor, uncopied where it is one."""
    array = np.asarray(array, np.float32)
    return Tensor.from_numpy(array) if array.ndim else Tensor(array)


def grouped(*parts: Sequence[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """What the layers take, each part one entry a layer, flat, for `LAYERS_AT_ONCE` layers at a time."""
    layers = [[tensor for part in layer for tensor in part] for layer in zip(*parts, strict=True)]
    for at in range(0, len(layers), LAYERS_AT_ONCE):
        yield [tensor for layer in layers[at : at + LAYERS_AT_ONCE] for tensor in layer]


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
