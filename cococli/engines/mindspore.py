"""The first engine: CoCa on MindSpore, in graph mode."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ..catalog import CocaConfig, TextConfig
from ..checkpoints import architecture, ckpt
from ..model import decode, layers, masks, towers
from .arrays import normalized
from .base import ClipFeatures
from .captions import History, InLanes
from .scores import Scores, few_best
from .texts import by_length

ROWS_AT_ONCE = 512  # tokens in one matrix product of the ViT; more gain nothing on CPU
LAYERS_AT_ONCE = 4  # of a decoding step in one graph: more are hardly faster, and take longer to compile

# Compiled anew for each shape of their inputs, in some tenths of a second; weights are inputs like any other.
_embed_patches = ms.jit(towers.embed_patches)
_block = ms.jit(layers.block)
_pool = ms.jit(towers.pool)
_project = ms.jit(towers.project)
_look = ms.jit(decode.look)
_cached_blocks = ms.jit(decode.cached_blocks)
_decoder_blocks = ms.jit(decode.decoder_blocks)
_write = ms.jit(decode.write_lanes)


class MindSporeEngine:
    """CoCa on MindSpore. Implements `engines.base.Engine`.

    Work is cut to few shapes, as every new one is compiled: frames go through the ViT in chunks of one fixed size or
    singly, clips through the pooler singly, and captions are decoded in all lanes, idle ones too.
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
        return ClipFeatures(normalized(latents), pooled)

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
        for texts, some in by_length(ids, self.config):
            parts = chunks(some, max(1, ROWS_AT_ONCE // (some.shape[1] + 1)))
            cls = np.concatenate([self.text_rows(part)[:count, -1] for part, count in parts])
            latents[texts] = _project(Tensor(cls), *self._named("text", towers.LAST)).asnumpy()
        return normalized(latents)

    def text_rows(self, ids: np.ndarray) -> np.ndarray:
        """[B, T] ids -> [B, T + 1, D] what leaves the text tower, the CLS last, whatever T is.

        The tokens enter the decoder as they are; the CLS is yet to be normed and projected.
        """
        words = np.concatenate([self._token_embedding[ids], np.tile(self._cls, (len(ids), 1, 1))], 1)
        positions = np.concatenate([self._positions[: ids.shape[1]], self._positions[-1:]])
        x, mask = Tensor(words + positions), Tensor(masks.text_mask(ids, self.config.pad_id))
        for weights in self._text_blocks:
            x = _block(x, mask, self.config.text.heads, self.config.quick_gelu, *weights)
        return x.asnumpy()

    def begin(self, lanes: int, beams: int, max_length: int, few: int = 1) -> "Captions":
        vision, decoder = self.config.vision, self.config.decoder
        shape = (lanes, decoder.heads, vision.pooler_queries - 1, decoder.width // decoder.heads)
        image = [(_zeros(shape), _zeros(shape)) for _ in range(decoder.layers)]
        return Captions(self.config, History(lanes, beams, max_length, self.config.pad_id), image, few)

    def admit(self, state: "Captions", lane: int, tokens: np.ndarray) -> None:
        state.history.clear(lane)
        image, at = Tensor(tokens[None]), Tensor([lane], ms.int32)
        for weights, caches in zip(self._lookers, state.image, strict=True):
            for cache, new in zip(caches, _look(image, self.config.decoder.heads, *weights), strict=True):
                _write(cache, at, new)

    def step(self, state: "Captions", lanes: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        logits = self._logits(state, lanes, state.history.feed(lanes, ids, parents))
        state.history.advance(lanes)
        logits = logits.reshape(state.lanes, state.beams, -1)
        if len(lanes) < state.lanes:
            logits = logits[lanes]
        return few_best(logits.reshape(len(lanes) * state.beams, -1), state.few)

    def _logits(self, state: "Captions", lanes: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """[C, B] ids -> [C * B, V] logits of the next token."""
        text, decoder, quick_gelu, history = (
            self.config.text,
            self.config.decoder,
            self.config.quick_gelu,
            state.history,
        )
        x = Tensor(self._token_embedding[ids] + self._positions[history.position][:, None])
        text_mask, mask = map(Tensor, history.masks(lanes))
        slots = state.new_slots(text)
        for tensors in grouped(state.text, self._text_blocks):
            x = _cached_blocks(x, slots, text_mask, text.heads, quick_gelu, *tensors)
        slots = state.new_slots(decoder)
        for tensors in grouped(state.decoder, self._decoder_blocks, state.image, self._cross_blocks):
            x = _decoder_blocks(x, slots, mask, decoder.heads, quick_gelu, *tensors)
        return _project(x, *self._named("text_decoder", towers.LAST)).asnumpy()

    def resize(self, state: "Captions", kept: np.ndarray, lanes: int) -> "Captions":
        return state.resized(kept, lanes)


Cache = tuple[Tensor, Tensor]  # keys and values of one attention


class Captions(InLanes):
    """Captions under way and their caches. Implements `engines.base.DecodeState`."""

    def __init__(self, config: CocaConfig, history: History, image: list[Cache], few: int) -> None:
        """Args:
        image: Keys and values [C, H, N, E] of each cross-attention.
        """
        super().__init__(history, few)
        self.config, self.image = config, image
        self.text = [self._empty_cache(config.text) for _ in range(config.text.layers)]
        self.decoder = [self._empty_cache(config.decoder) for _ in range(config.decoder.layers)]

    def _empty_cache(self, tower: TextConfig) -> Cache:
        shape = (self.lanes * tower.heads * self.history.slots, tower.width // tower.heads)
        return _zeros(shape), _zeros(shape)

    def new_slots(self, tower: TextConfig) -> Tensor:
        """[C * H * B] int32: where this step's keys and values go."""
        base = np.arange(self.lanes * tower.heads).reshape(self.lanes, tower.heads, 1) * self.history.slots
        return Tensor((base + self.history.new_slots()[:, None]).astype(np.int32).reshape(-1))

    def resized(self, kept: np.ndarray, lanes: int) -> "Captions":
        image = [tuple(self._carried(part, kept, lanes) for part in pair) for pair in self.image]
        other = Captions(self.config, self.history.resized(kept, lanes), image, self.few)
        for mine, theirs in ((self.text, other.text), (self.decoder, other.decoder)):
            theirs[:] = [tuple(self._carried(part, kept, lanes) for part in pair) for pair in mine]
        return other

    def _carried(self, cache: Tensor, kept: np.ndarray, lanes: int) -> Tensor:
        """The kept lanes of a cache, laid out lane by lane, and zeros up to so many lanes."""
        by_lane = cache.asnumpy().reshape(self.lanes, -1)
        carried = np.zeros((lanes, by_lane.shape[1]), np.float32)
        carried[: len(kept)] = by_lane[kept]
        return Tensor(carried.reshape(-1, *cache.shape[1:]))


def start_threads() -> None:
    """Compute something small: MindSpore starts its threads with that, as many as it finds cores then."""
    one = _zeros((1, 1))
    _project(one, one[0], one[0], one)


def _zeros(shape: tuple[int, ...]) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


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
