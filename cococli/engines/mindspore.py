"""CoCa on MindSpore in graph mode, on CPUs and Ascend."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor

from ..catalog import CocaConfig, TextConfig
from ..checkpoints import architecture, ckpt
from ..model import mindspore_network as net
from ..model.arrays import group_by_length, l2_normalize, normalize, text_mask
from .base import ClipFeatures, Scores, pool_frames, top_k_scores
from .kv_cache import KVCache

ROWS_AT_ONCE = 512  # tokens in one matrix product of the ViT: more are not faster on CPUs
LAYERS_AT_ONCE = 4  # of a decoding step in one graph: more are hardly faster, and take longer to compile

# Each new shape of inputs is compiled, in some tenths of a second; weights are inputs like any other.
_embed_patches = ms.jit(net.embed_patches)
_block = ms.jit(net.block)
_pool = ms.jit(net.pool)
_project = ms.jit(net.project)
_cross_keys_values = ms.jit(net.cross_keys_values)
_cached_blocks = ms.jit(net.cached_blocks)
_decoder_blocks = ms.jit(net.decoder_blocks)
_write_slots = ms.jit(net.write_slots)


class MindSporeEngine:
    """CoCa on MindSpore. Implements `engines.base.Engine`.

    Batches have few shapes, as each new one is compiled: frames go through the ViT in chunks of one size or singly,
    clips through the pooler singly, and captions are decoded in all slots, idle ones included.
    """

    def __init__(self, config: CocaConfig, weights: Mapping[str, np.ndarray]) -> None:
        """Wrap `weights`, named as in `checkpoints.architecture.parameters`. Float32 weights are not copied.

        Raises:
            ModelError: A parameter is missing, unknown, or of another shape.
        """
        architecture.check(config, {name: array.shape for name, array in weights.items()})
        self.config = config
        self._tensors = {name: as_tensor(array) for name, array in weights.items()}
        vision, text, decoder = config.vision, config.text, config.decoder
        self._vision_blocks = self._layers("visual.transformer.resblocks", vision.layers, net.BLOCK)
        self._text_blocks = self._layers("text.transformer.resblocks", text.layers, net.BLOCK)
        self._decoder_blocks = self._layers("text_decoder.resblocks", decoder.layers, net.BLOCK)
        self._cross_blocks = self._layers("text_decoder.cross_attn", decoder.layers, net.CROSS)
        self._cross_contexts = self._layers("text_decoder.cross_attn", decoder.layers, net.CROSS_CONTEXT)
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
        pixels = normalize(pixels, self.config.preprocess)
        clips, frames = pixels.shape[:2]
        tokens = self._encode_frames(pixels.reshape(clips * frames, *pixels.shape[2:]))
        latents, pooled = pool_frames(tokens, clips, pool, self._pool_each)
        return ClipFeatures(l2_normalize(latents), pooled)

    def _encode_frames(self, frames: np.ndarray) -> np.ndarray:
        """Encode frames into ViT tokens: [N, 3, S, S] -> [N, T, W]."""
        size = max(1, ROWS_AT_ONCE // self.config.vision.tokens)
        return np.concatenate([self._encode_chunk(chunk)[:count] for chunk, count in fixed_chunks(frames, size)])

    def _encode_chunk(self, frames: np.ndarray) -> np.ndarray:
        x = _embed_patches(Tensor(frames), *self._named("visual", net.PATCHES))
        for weights in self._vision_blocks:
            x = _block(x, None, self.config.vision.heads, self.config.quick_gelu, *weights)
        return x.asnumpy()

    def _pool_each(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pool ViT tokens [B, K, W] to latents [B, D] and tokens [B, N, D]."""
        heads, weights = self.config.vision.pooler_heads, self._named("visual", net.POOLER)
        pooled = [_pool(Tensor(clip[None]), heads, *weights) for clip in tokens]
        return tuple(np.concatenate([part.asnumpy() for part in parts]) for parts in zip(*pooled, strict=True))

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        latents = np.empty((len(ids), self.config.embed_dim), np.float32)
        for indices, group in group_by_length(ids, self.config):
            chunks = fixed_chunks(group, max(1, ROWS_AT_ONCE // (group.shape[1] + 1)))
            cls = np.concatenate([self.text_outputs(chunk)[:count, -1] for chunk, count in chunks])
            latents[indices] = _project(Tensor(cls), *self._named("text", net.LAST)).asnumpy()
        return l2_normalize(latents)

    def text_outputs(self, ids: np.ndarray) -> np.ndarray:
        """Return outputs of the last block of the text tower: [B, T] ids -> [B, T + 1, D], the CLS last.

        The tokens are inputs of the decoder; the CLS still needs its layer norm and projection.
        """
        tokens = np.concatenate([self._token_embedding[ids], np.tile(self._cls, (len(ids), 1, 1))], 1)
        positions = np.concatenate([self._positions[: ids.shape[1]], self._positions[-1:]])
        x, mask = Tensor(tokens + positions), Tensor(text_mask(ids, self.config.pad_id))
        for weights in self._text_blocks:
            x = _block(x, mask, self.config.text.heads, self.config.quick_gelu, *weights)
        return x.asnumpy()

    def begin(self, slots: int, beams: int, max_length: int, top_k: int = 1) -> "MindSporeCache":
        return MindSporeCache(self.config, slots, beams, max_length, top_k)

    def admit(self, state: "MindSporeCache", slot: int, tokens: np.ndarray) -> None:
        state.reset(slot)
        image, index = Tensor(tokens[None]), Tensor([slot], ms.int32)
        for weights, caches in zip(self._cross_contexts, state.image, strict=True):
            keys_values = _cross_keys_values(image, self.config.decoder.heads, *weights)
            for cache, new in zip(caches, keys_values, strict=True):
                _write_slots(cache, index, new)

    def step(self, state: "MindSporeCache", slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        logits = self._logits(state, slots, state.append(slots, ids, parents))
        state.advance(slots)
        logits = logits.reshape(state.slots, state.beams, -1)
        if len(slots) < state.slots:
            logits = logits[slots]
        return top_k_scores(logits.reshape(ids.size, -1), state.top_k)

    def _logits(self, state: "MindSporeCache", slots: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """Return logits of the next token: [C, B] ids -> [C * B, V]."""
        text, decoder, quick_gelu = self.config.text, self.config.decoder, self.config.quick_gelu
        x = Tensor(self._token_embedding[ids] + self._positions[state.position][:, None])
        text_tower_mask, mask = map(Tensor, state.masks(slots))
        entries = state.entries_of_heads(text)
        for tensors in grouped(state.text, self._text_blocks):
            x = _cached_blocks(x, entries, text_tower_mask, text.heads, quick_gelu, *tensors)
        entries = state.entries_of_heads(decoder)
        for tensors in grouped(state.decoder, self._decoder_blocks, state.image, self._cross_blocks):
            x = _decoder_blocks(x, entries, mask, decoder.heads, quick_gelu, *tensors)
        return _project(x, *self._named("text_decoder", net.LAST)).asnumpy()

    def resize(self, state: "MindSporeCache", kept: np.ndarray, slots: int) -> "MindSporeCache":
        other = self.begin(slots, state.beams, state.entries // state.beams, state.top_k)
        other.copy_history(state, kept)
        for name in ("text", "decoder", "image"):
            moved = [tuple(_resized(part, state.slots, kept, slots) for part in pair) for pair in getattr(state, name)]
            setattr(other, name, moved)
        return other


KeysValues = tuple[Tensor, Tensor]  # of one attention layer


class MindSporeCache(KVCache):
    """Keys and values of each layer as tensors that graphs write in place.

    Attributes:
        text: Of each layer of the text tower, [C * H * S, E].
        decoder: Of each self-attention of the decoder, [C * H * S, E].
        image: Of each cross-attention, [C, H, N, E].
    """

    def __init__(self, config: CocaConfig, slots: int, beams: int, max_length: int, top_k: int) -> None:
        super().__init__(slots, beams, max_length, config.pad_id, top_k)
        text, decoder = config.text, config.decoder
        self.text = [self._keys_values(slots * text.heads * self.entries, tower=text) for _ in range(text.layers)]
        self.decoder = [
            self._keys_values(slots * decoder.heads * self.entries, tower=decoder) for _ in range(decoder.layers)
        ]
        shape = (slots, decoder.heads, config.vision.pooler_queries - 1)
        self.image = [self._keys_values(*shape, tower=decoder) for _ in range(decoder.layers)]

    @staticmethod
    def _keys_values(*shape: int, tower: TextConfig) -> KeysValues:
        shape = (*shape, tower.width // tower.heads)
        return _zeros(shape), _zeros(shape)

    def entries_of_heads(self, tower: TextConfig) -> Tensor:
        """Return the entries of the newest tokens in the caches of a tower: [C * H * B] int32."""
        base = np.arange(self.slots * tower.heads).reshape(self.slots, tower.heads, 1) * self.entries
        return Tensor((base + self.new_entries()[:, None]).astype(np.int32).reshape(-1))


def start(device: str) -> None:
    """Select the device: cpu, ascend or ascend:1. MindSpore starts its threads, one for each core that it finds now."""
    kind, _, number = device.partition(":")
    target = {"cpu": "CPU", "ascend": "Ascend"}[kind]
    if number or ms.get_context("device_target") != target:  # it cannot be set again after the first computation
        ms.set_device(target, int(number) if number else None)
    one = _zeros((1, 1))
    _project(one, one[0], one[0], one)


def _resized(cache: Tensor, old_slots: int, kept: np.ndarray, slots: int) -> Tensor:
    """Copy the kept slots of a cache, which is laid out slot by slot, and add empty ones."""
    by_slot = cache.asnumpy().reshape(old_slots, -1)
    resized = np.zeros((slots, by_slot.shape[1]), np.float32)
    resized[: len(kept)] = by_slot[kept]
    return Tensor(resized.reshape(-1, *cache.shape[1:]))


def _zeros(shape: tuple[int, ...]) -> Tensor:
    return Tensor(np.zeros(shape, np.float32))


def as_tensor(array: np.ndarray) -> Tensor:
    """Return the array as a float32 tensor, without a copy where possible."""
    array = np.asarray(array, np.float32)
    return Tensor.from_numpy(array) if array.ndim else Tensor(array)


def grouped(*parts: Sequence[Sequence[Tensor]]) -> Iterator[list[Tensor]]:
    """Yield the tensors of `LAYERS_AT_ONCE` layers at a time; each part has one entry per layer."""
    layers = [[tensor for part in layer for tensor in part] for layer in zip(*parts, strict=True)]
    for start in range(0, len(layers), LAYERS_AT_ONCE):
        yield [tensor for layer in layers[start : start + LAYERS_AT_ONCE] for tensor in layer]


def fixed_chunks(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Split [N, ...] into chunks of `size`, the last one zero-padded or in singles, whichever computes less.

    Yields:
        A chunk, and how many of its rows are not padding.
    """
    start = 0
    while left := len(rows) - start:
        length = size if left > size // 2 else 1
        chunk = rows[start : start + length]
        count = len(chunk)
        yield np.pad(chunk, ((0, length - count), *((0, 0),) * (rows.ndim - 1))), count
        start += count
