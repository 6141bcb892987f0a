"""CoCa on OpenVINO: the fastest on CPUs, in float32, bfloat16 or int8."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..catalog import CocaConfig, TextConfig
from ..checkpoints import architecture, ckpt
from ..model.arrays import group_by_length, l2_normalize, normalize, split_rows, text_mask
from ..reporting import Progress
from . import openvino_graphs
from .base import ClipFeatures, Scores, pool_frames, scores_from
from .kv_cache import KVCache
from .openvino_graphs import ov

ROWS_AT_ONCE = 1024  # tokens in one matrix product: more are not faster
CACHE_TYPES = {"bf16": np.uint16}  # NumPy has no bfloat16; its bits are only copied
QUANTIZATION_GROUP = 256  # activations that share a scale in int8: fewer cost time, more lose precision


class OpenVinoEngine:
    """CoCa on OpenVINO. Implements `engines.base.Engine`.

    A graph is loaded when it is first used. All its sizes are dynamic: graphs compiled for fixed sizes are not faster
    and load several times slower.
    """

    def __init__(
        self,
        config: CocaConfig,
        weights: Mapping[str, np.ndarray],
        precision: str,
        cache: Path,
        progress: Progress,
        threads: int = 0,
    ) -> None:
        """Wrap `weights`, named as in `checkpoints.architecture.parameters`. Float32 weights are not copied.

        Args:
            precision: fp32, bf16, or int8, which quantizes weights and activations.
            cache: A folder for the graphs of these weights.
            progress: Describes what is compiled.
            threads: 0 for all cores that the process may use.

        Raises:
            ModelError: A parameter is missing, unknown, or of another shape, or the cache cannot be written to.
        """
        architecture.check(config, {name: array.shape for name, array in weights.items()})
        self.config = config
        self._cache_type = CACHE_TYPES.get(precision, np.float32)
        self._weights = {name: np.asarray(array, np.float32) for name, array in weights.items()}
        self._core = ov.Core()
        self._compiled: dict[str, ov.CompiledModel] = {}
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": QUANTIZATION_GROUP,
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        }
        self._graphs = openvino_graphs.build(config, cache, progress)
        if precision == "int8":
            self._graphs = openvino_graphs.quantize(self._graphs, self._weights, progress)

    @classmethod
    def open(
        cls,
        weights: Path,
        config: CocaConfig,
        precision: str,
        cache: Path,
        progress: Progress,
        threads: int = 0,
    ) -> "OpenVinoEngine":
        """Load a converted checkpoint, see `__init__`. The file stays mapped while the engine lives."""
        return cls(config, ckpt.read(weights), precision, cache, progress, threads)

    def _graph(self, name: str) -> ov.CompiledModel:
        if name not in self._compiled:
            model = openvino_graphs.bind(self._graphs / f"{name}.xml", self._weights)
            if name == "DecodeStep":
                openvino_graphs.add_log_sum(model)
            if name in ("CrossKeysValues", "DecodeStep") and self._cache_type != np.float32:
                model = openvino_graphs.with_bf16_caches(model)
            self._compiled[name] = self._core.compile_model(model, "CPU", self._options)
        return self._compiled[name]

    def _run(self, name: str, *inputs: np.ndarray) -> list[np.ndarray]:
        return list(self._graph(name)(list(inputs)).values())

    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        pixels = normalize(pixels, self.config.preprocess)
        clips, frames = pixels.shape[:2]
        parts = split_rows(pixels.reshape(clips * frames, *pixels.shape[2:]), ROWS_AT_ONCE, self.config.vision.tokens)
        tokens = np.concatenate([self._run("VisionTower", part)[0] for part in parts])
        latents, pooled = pool_frames(tokens, clips, pool, lambda tokens: self._run("Pooler", tokens))
        return ClipFeatures(l2_normalize(latents), pooled)

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        latents = np.empty((len(ids), self.config.embed_dim), np.float32)
        for indices, group in group_by_length(ids, self.config):
            parts = split_rows(group, ROWS_AT_ONCE, group.shape[1] + 1)
            masked = ((part.astype(np.int64), text_mask(part, self.config.pad_id)) for part in parts)
            latents[indices] = np.concatenate([self._run("TextTower", *inputs)[0] for inputs in masked])
        return l2_normalize(latents)

    def begin(self, slots: int, beams: int, max_length: int, top_k: int = 1) -> "OpenVinoCache":
        graph = self._graph("DecodeStep")
        return OpenVinoCache(self.config, slots, beams, max_length, top_k, graph, self._cache_type)

    def admit(self, state: "OpenVinoCache", slot: int, tokens: np.ndarray) -> None:
        state.reset(slot)
        request = self._graph("CrossKeysValues").create_infer_request()
        for index, part in enumerate(state.image[:, slot : slot + 1]):
            request.set_output_tensor(index, _shared(part))
        request.infer([tokens[None]])

    def step(self, state: "OpenVinoCache", slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        logits, log_sum = state.step(slots, ids, parents)
        if len(slots) < state.slots:
            logits, log_sum = logits[slots], log_sum[slots]
        logits, log_sum = logits.reshape(ids.size, -1), log_sum.reshape(-1).copy()
        return scores_from(logits, log_sum, state.top_k)

    def resize(self, state: "OpenVinoCache", kept: np.ndarray, slots: int) -> "OpenVinoCache":
        other = self.begin(slots, state.beams, state.entries // state.beams, state.top_k)
        other.copy_history(state, kept)
        for ours, theirs in zip((*other.caches, other.image), (*state.caches, state.image), strict=True):
            ours[:, : len(kept)] = theirs[:, kept]
        return other


class OpenVinoCache(KVCache):
    """Keys and values that OpenVINO reads in place.

    Attributes:
        caches: Of the text tower and of the decoder, each [2 * layers, C, H, S, E]: keys and values by turns; in the
            precision of the graph, which would convert others in every step.
        image: [2 * layers, C, H, N, E], likewise of each cross-attention.
    """

    def __init__(
        self,
        config: CocaConfig,
        slots: int,
        beams: int,
        max_length: int,
        top_k: int,
        graph: ov.CompiledModel,
        dtype: type[np.generic],
    ) -> None:
        super().__init__(slots, beams, max_length, config.pad_id, top_k)

        def zeros(tower: TextConfig, entries: int) -> np.ndarray:
            return np.zeros((2 * tower.layers, slots, tower.heads, entries, tower.width // tower.heads), dtype)

        towers = (config.text, config.decoder)
        self.caches = [zeros(tower, self.entries) for tower in towers]
        self.image = zeros(config.decoder, config.vision.pooler_queries - 1)
        self._new = [zeros(tower, beams) for tower in towers]
        self._all_ids, self._positions = np.zeros((slots, beams), np.int64), np.zeros(slots, np.int64)
        self._masks = [np.zeros((slots, 1, beams, self.entries + 1), np.float32) for _ in towers]
        inputs = [self._all_ids, self._positions, *self._masks, *(c for part in self.caches for c in part), *self.image]
        self._logits = np.zeros((slots, beams, config.vocab_size), np.float32)
        self._log_sum = np.zeros((slots, beams), np.float32)
        outputs = [self._logits, *(new for part in self._new for new in part), self._log_sum]
        self._request = graph.create_infer_request()
        for index, array in enumerate(inputs):
            self._request.set_input_tensor(index, _shared(array))
        for index, array in enumerate(outputs):
            self._request.set_output_tensor(index, _shared(array))

    def step(self, slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return logits [C, B, V] of the next token and `Scores.log_sum` [C, B], valid until the next step."""
        self._all_ids[:] = self.append(slots, ids, parents)
        self._positions[:] = self.position
        for ours, (mask, newest) in zip(self._masks, self.split_masks(slots), strict=True):
            ours[..., :-1], ours[..., -1:] = mask, newest
        self._request.infer()
        first_entries = self.new_entries()[:, 0]
        for cache, new in zip(self.caches, self._new, strict=True):
            for slot, entry in enumerate(first_entries):
                cache[:, slot, :, entry : entry + self.beams] = new[:, slot]
        self.advance(slots)
        return self._logits, self._log_sum


def _shared(array: np.ndarray) -> ov.Tensor:
    """Return the memory of an array as a tensor; uint16 stands for bfloat16."""
    if array.dtype == np.uint16:
        return ov.Tensor(array, ov.Shape(array.shape), ov.Type.bf16)
    return ov.Tensor(array, shared_memory=True)
