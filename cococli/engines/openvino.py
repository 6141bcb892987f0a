"""CoCa on OpenVINO: the fastest on a processor, in float32, bfloat16 or int8."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ..catalog import CocaConfig, TextConfig
from ..checkpoints import architecture, ckpt
from ..model.masks import text_mask
from . import compiled
from .arrays import chunks, normalized
from .base import ClipFeatures
from .captions import History, InLanes
from .compiled import ov
from .scores import Scores, best
from .texts import by_length

ROWS_AT_ONCE = 1024  # tokens in one matrix product: more gain nothing
QUANTISED_TOGETHER = 256  # activations of a row that have one scale in int8: fewer cost time, more lose digits


class OpenVinoEngine:
    """CoCa on OpenVINO. Implements `engines.base.Engine`.

    A network is loaded when it is first used. All sizes are free, as those of a graph that is compiled for fixed ones
    gain nothing, and load several times slower.
    """

    def __init__(
        self,
        config: CocaConfig,
        weights: Mapping[str, np.ndarray],
        precision: str,
        cache: Path,
        progress: Callable[[str], object],
        threads: int = 0,
    ) -> None:
        """Wrap `weights`, named as in `checkpoints.architecture.parameters`. What is float32 is not copied.

        Args:
            precision: fp32, bf16, or int8: weights in int8, and what they are multiplied with too.
            cache: A folder of these weights, for what is made of them once.
            progress: Told of what takes long and is done once.
            threads: 0 for all cores that the process may use.

        Raises:
            ModelError: a parameter is missing, unknown, or of another shape, or the cache cannot be written to.
        """
        architecture.check(config, {name: array.shape for name, array in weights.items()})
        self.config = config
        self._weights = {name: np.asarray(array, np.float32) for name, array in weights.items()}
        self._core = ov.Core()
        self._networks: dict[str, ov.CompiledModel] = {}
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": QUANTISED_TOGETHER,
            **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
        }
        self._graphs = compiled.graphs(config, cache, progress)
        if precision == "int8":
            self._graphs = compiled.in_int8(self._graphs, self._weights, progress)

    @classmethod
    def open(
        cls,
        weights: Path,
        config: CocaConfig,
        precision: str,
        cache: Path,
        progress: Callable[[str], object],
        threads: int = 0,
    ) -> "OpenVinoEngine":
        """Load a converted checkpoint, see `__init__`. The file stays mapped while the engine lives."""
        return cls(config, ckpt.read(weights), precision, cache, progress, threads)

    def _network(self, name: str) -> ov.CompiledModel:
        if name not in self._networks:
            model = compiled.bound(self._graphs / f"{name}.xml", self._weights)
            if name == "Step":
                compiled.add_log_sum(model)
            self._networks[name] = self._core.compile_model(model, "CPU", self._options)
        return self._networks[name]

    def _run(self, name: str, *inputs: np.ndarray) -> list[np.ndarray]:
        return list(self._network(name)(list(inputs)).values())

    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        clips, frames = pixels.shape[:2]
        parts = chunks(pixels.reshape(clips * frames, *pixels.shape[2:]), ROWS_AT_ONCE, self.config.vision.tokens)
        tokens = np.concatenate([self._run("Vision", part)[0] for part in parts])
        if pool == "joint":
            latents, pooled = self._run("Pooler", tokens.reshape(clips, -1, tokens.shape[-1]))
        else:
            found = self._run("Pooler", tokens)
            latents, pooled = (part.reshape(clips, frames, *part.shape[1:]).mean(1) for part in found)
        return ClipFeatures(normalized(latents), pooled)

    def encode_texts(self, ids: np.ndarray) -> np.ndarray:
        latents = np.empty((len(ids), self.config.embed_dim), np.float32)
        for texts, some in by_length(ids, self.config):
            parts = chunks(some, ROWS_AT_ONCE, some.shape[1] + 1)
            found = [self._run("Texts", part.astype(np.int64), text_mask(part, self.config.pad_id)) for part in parts]
            latents[texts] = np.concatenate([part for (part,) in found])
        return normalized(latents)

    def begin(self, lanes: int, beams: int, max_length: int, few: int = 1) -> "Captions":
        history = History(lanes, beams, max_length, self.config.pad_id)
        return Captions(self.config, history, few, self._network("Step"))

    def admit(self, state: "Captions", lane: int, tokens: np.ndarray) -> None:
        state.history.clear(lane)
        state.image[:, lane] = np.concatenate(self._run("Looks", tokens[None]))

    def step(self, state: "Captions", lanes: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        logits, log_sum = state.step(lanes, ids, parents)
        if len(lanes) < state.lanes:
            logits, log_sum = logits[lanes], log_sum[lanes]
        rows, log_sum = logits.reshape(len(lanes) * state.beams, -1), log_sum.reshape(-1).copy()
        ids = best(rows if np.isfinite(log_sum).all() else np.zeros_like(rows), min(state.few, rows.shape[1]))
        few = np.take_along_axis(rows, ids, axis=1)
        return Scores(ids.astype(np.int32), few, log_sum, rows.copy)  # the next step overwrites them

    def resize(self, state: "Captions", kept: np.ndarray, lanes: int) -> "Captions":
        other = Captions(self.config, state.history.resized(kept, lanes), state.few, self._network("Step"))
        for mine, theirs in zip((*state.caches, state.image), (*other.caches, other.image), strict=True):
            theirs[:, : len(kept)] = mine[:, kept]
        return other


class Captions(InLanes):
    """Captions under way and their caches, which OpenVINO reads where they are. Implements `engines.base.DecodeState`.

    Attributes:
        caches: Of the text tower and of the decoder, each [2 * layers, C, H, S, E]: keys and values by turns.
        image: [2 * layers, C, H, N, E], likewise of each cross-attention.
    """

    def __init__(self, config: CocaConfig, history: History, few: int, network: ov.CompiledModel) -> None:
        super().__init__(history, few)
        lanes, beams, slots = history.lanes, history.beams, history.slots
        towers = (config.text, config.decoder)
        self.caches = [_zeros(tower, lanes, slots) for tower in towers]
        self.image = _zeros(config.decoder, lanes, config.vision.pooler_queries - 1)
        self._new = [_zeros(tower, lanes, beams) for tower in towers]
        self._ids, self._positions = np.zeros((lanes, beams), np.int64), np.zeros(lanes, np.int64)
        self._masks = [np.zeros((lanes, 1, beams, slots + 1), np.float32) for _ in towers]
        inputs = [self._ids, self._positions, *self._masks, *(c for part in self.caches for c in part), *self.image]
        self._logits = np.zeros((lanes, beams, config.vocab_size), np.float32)
        self._log_sum = np.zeros((lanes, beams), np.float32)
        outputs = [self._logits, *(new for part in self._new for new in part), self._log_sum]
        self._request = network.create_infer_request()
        for at, array in enumerate(inputs):
            self._request.set_input_tensor(at, ov.Tensor(array, shared_memory=True))
        for at, array in enumerate(outputs):
            self._request.set_output_tensor(at, ov.Tensor(array, shared_memory=True))

    def step(self, lanes: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """[C, B, V] logits of the next token and [C, B] of `Scores.log_sum`, until the next step."""
        self._ids[:] = self.history.feed(lanes, ids, parents)
        self._positions[:] = self.history.position
        slots = self.history.new_slots()
        for mine, (mask, newest) in zip(self._masks, self.history.masks_apart(lanes), strict=True):
            mine[..., :-1], mine[..., -1:] = mask, newest
        self._request.infer()
        for caches, new in zip(self.caches, self._new, strict=True):
            for lane, slot in enumerate(slots[:, 0]):
                caches[:, lane, :, slot : slot + self.beams] = new[:, lane]
        self.history.advance(lanes)
        return self._logits, self._log_sum


def _zeros(tower: TextConfig, lanes: int, slots: int) -> np.ndarray:
    return np.zeros((2 * tower.layers, lanes, tower.heads, slots, tower.width // tower.heads), np.float32)
