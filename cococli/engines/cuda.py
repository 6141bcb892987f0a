"""CoCa on GPUs of NVIDIA: the torch engine, with each decoding step a CUDA graph."""

import weakref
from collections.abc import Mapping
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..catalog import CocaConfig, TextConfig
from ..model import in_place_step
from ..model.in_place_step import InPlaceStep
from ..model.torch_network import join_projections
from .base import Scores, top_k_scores
from .kv_cache import KVCache
from .torch import SURPLUS, TorchEngine, as_array

SPARE = 2  # graphs that are kept for later searches


class CudaEngine(TorchEngine):
    """CoCa on a GPU of NVIDIA. Implements `engines.base.Engine`.

    A step is about 300 kernels. Started one by one from Python they take 11 ms, however few sequences there are; as a
    CUDA graph, 2 ms. So a state has fixed buffers, which the graph that was recorded for it reads and writes.
    """

    def __init__(
        self, config: CocaConfig, weights: Mapping[str, np.ndarray], device: str = "cuda", precision: str = "fp32"
    ) -> None:
        super().__init__(config, weights, device, precision)
        self._in_place = InPlaceStep(config, join_projections(self._weights), _kernels(self._device))
        self._spare: list[_Graph] = []

    @torch.inference_mode()
    def begin(self, slots: int, beams: int, max_length: int, top_k: int = 1) -> "CudaState":
        shape = slots, beams, max_length, top_k
        graph = next((graph for graph in self._spare if graph.shape == shape), None)
        if graph:
            self._spare.remove(graph)
        else:
            graph = _Graph(self._in_place, shape, self._type, self._device)
        state = CudaState(graph, self.config.pad_id)
        weakref.finalize(state, self._keep, graph).atexit = False
        return state

    def _keep(self, graph: "_Graph") -> None:
        self._spare = [*self._spare, graph][-SPARE:]

    def admit(self, state: "CudaState", slot: int, tokens: np.ndarray | Tensor) -> None:
        state.reset(slot)
        state.admitted[slot] = tokens  # for the next step, which computes keys and values of all clips at once

    @torch.inference_mode()
    def step(self, state: "CudaState", slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        if state.admitted:
            self._write_image(state)
        scores = state.graph.run(*state.inputs(slots, ids, parents))
        state.advance(slots)
        if len(slots) < state.slots:
            scores = scores.rows((slots[:, None] * state.beams + np.arange(state.beams)).ravel())
        return scores

    def _write_image(self, state: "CudaState") -> None:
        """Write the keys and values of admitted clips."""
        slots = torch.tensor([*state.admitted], device=self._device)
        tokens = torch.stack([self._tensor(tokens) for tokens in state.admitted.values()])
        found = torch.stack([part.transpose(1, 2).flatten(2) for part in self._cross(tokens)])  # [2 * layers, C, N, D]
        state.graph.image[:, :, slots] = found.unflatten(0, (-1, 2))
        state.admitted.clear()

    @torch.inference_mode()
    def resize(self, state: "CudaState", kept: np.ndarray, slots: int) -> "CudaState":
        if state.admitted:
            self._write_image(state)
        other = self.begin(slots, state.beams, state.max_length, state.top_k)
        other.copy_history(state, kept)
        at = torch.from_numpy(kept).to(self._device)
        ours, theirs = ((*graph.caches, graph.image) for graph in (other.graph, state.graph))
        for new, old in zip(ours, theirs, strict=True):
            new[:, :, : len(kept)] = old[:, :, at]
        return other


class CudaState(KVCache):
    """Histories of the sequences whose keys and values are in the buffers of a graph."""

    def __init__(self, graph: "_Graph", pad_id: int) -> None:
        slots, beams, self.max_length, top_k = graph.shape
        super().__init__(slots, beams, self.max_length, pad_id, top_k)
        self.graph = graph
        self.admitted: dict[int, np.ndarray | Tensor] = {}  # clips by their slots

    def inputs(
        self, slots: np.ndarray, ids: np.ndarray, parents: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give each sequence one more token; return ids, positions and histories, see `InPlaceStep`."""
        all_ids = self.append(slots, ids, parents)
        position = np.minimum(self.position, self.max_length - 1)
        seen = np.arange(self.max_length) <= position[:, None, None]
        idle = np.ones(self.slots, bool)
        idle[slots] = False
        seen &= ~idle[:, None, None]
        decoder = np.where(seen, self._history, -1)
        decoder[idle, :, 0] = 0  # attending to nothing is not a number
        after_pad = np.pad(self._ids[..., :-1] == self._pad_id, ((0, 0), (0, 0), (1, 0)))
        text = np.where(after_pad & ~idle[:, None, None], -1, decoder)
        return all_ids, position, np.stack([text, decoder])


class _Graph:
    """The buffers of a state, and a step on them, recorded as a CUDA graph."""

    def __init__(
        self, step: InPlaceStep, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = slots, beams, max_length, top_k = shape
        self._step, self._count = step, min(top_k + SURPLUS, step.config.vocab_size)
        config, rows = step.config, slots * beams

        def zeros(tower: TextConfig, length: int) -> Tensor:
            return torch.zeros(tower.layers, 2, slots, length, tower.width, dtype=dtype, device=device)

        self.caches = [zeros(tower, max_length * beams) for tower in (config.text, config.decoder)]
        self.image = zeros(config.decoder, config.vision.pooler_queries - 1)
        self._sizes = rows, slots, 2 * rows * max_length  # ids, positions, histories
        on_gpu = device.type == "cuda"
        self._inputs = torch.zeros(sum(self._sizes), dtype=torch.int32, device=device)
        self._host_inputs = torch.zeros(len(self._inputs), dtype=torch.int32, pin_memory=on_gpu)
        self._host_outputs = torch.zeros(rows, 2 * self._count + 1, pin_memory=on_gpu)
        self._recorded: torch.cuda.CUDAGraph | None = None
        if on_gpu:
            self._record()

    def _record(self) -> None:
        with torch.cuda.device(self._inputs.device):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):  # compiles kernels, and chooses those of cuBLAS
                    self._compute()
            torch.cuda.current_stream().wait_stream(stream)
            self._recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._recorded, capture_error_mode="thread_local"):
                self._logits, self._outputs = self._compute()

    def _compute(self) -> tuple[Tensor, Tensor]:
        """Return logits [R, V]; and ids and values of the top K and `Scores.log_sum` as one array [R, 2 * K + 1]."""
        ids, positions, histories = self._inputs.split(self._sizes)
        histories = histories.view(2, len(ids), -1)
        logits = self._step(ids, positions, histories, self.caches, self.image)
        top, values, log_sum = self._step.top(logits, self._count)
        return logits, torch.cat((top.int().view(torch.float32), values, log_sum[:, None]), 1)

    def run(self, *inputs: np.ndarray) -> Scores:
        """Return the scores of all rows, valid until the next run. Waits for the GPU once."""
        self._host_inputs.numpy()[:] = np.concatenate([part.ravel() for part in inputs])
        self._inputs.copy_(self._host_inputs, non_blocking=True)
        if self._recorded:
            self._recorded.replay()
        else:
            self._logits, self._outputs = self._compute()
        self._host_outputs.copy_(self._outputs, non_blocking=True)
        if self._recorded:
            torch.cuda.current_stream(self._inputs.device).synchronize()
        outputs = self._host_outputs.numpy().copy()
        ids, values = outputs[:, : self._count].view(np.int32), outputs[:, self._count : -1]
        return self._scores(ids, values, outputs[:, -1])

    def _scores(self, ids: np.ndarray, values: np.ndarray, log_sum: np.ndarray) -> Scores:
        logits, k = self._logits, self.shape[3]
        if self._count < logits.shape[1] and (values[:, -1] == values[:, k - 1]).any():
            return top_k_scores(as_array(logits), k)  # so many are equal that those of the lowest ids may be missing
        return Scores(ids[:, :k], values[:, :k], log_sum, lambda rows, tokens: as_array(logits[rows, tokens]))


def _kernels(device: torch.device) -> ModuleType:
    """Return the module of kernels for a device: Triton's where it runs."""
    if device.type != "cuda" or not find_spec("triton"):
        return in_place_step
    from ..model import triton_kernels

    return triton_kernels
