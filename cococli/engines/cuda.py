"""CoCa on NVIDIA GPUs: the torch engine, with each decoding step a CUDA graph."""

import weakref
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from ..catalog import CocaConfig, TextConfig
from ..model import in_place_step
from ..model.in_place_step import InPlaceStep, extend_histories
from ..model.torch_network import join_projections
from .base import Scores
from .torch import SURPLUS, TorchEngine, scores_of_candidates

SPARE = 2  # graphs that are kept for later searches


class CudaEngine(TorchEngine):
    """CoCa on an NVIDIA GPU. Implements `engines.base.Engine`.

    A step is hundreds of kernels, which take longer to start one by one from Python than to run. So a state has fixed
    buffers, which the CUDA graph that was recorded for it reads and writes.
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
            try:
                graph = _Graph(self._in_place, shape, self._type, self._device)
            except torch.OutOfMemoryError:
                if not self._spare:
                    raise
                self._spare.clear()
                graph = _Graph(self._in_place, shape, self._type, self._device)
        state = CudaState(graph)
        weakref.finalize(state, self._keep, graph).atexit = False
        return state

    def _keep(self, graph: "_Graph") -> None:
        self._spare = [*self._spare, graph][-SPARE:]

    def admit(self, state: "CudaState", slot: int, tokens: np.ndarray | Tensor) -> None:
        state.position[slot] = 0
        state.admitted[slot] = tokens  # for the next step, which computes keys and values of all clips at once

    @torch.inference_mode()
    def step(self, state: "CudaState", slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        if state.admitted:
            self._write_image(state)
        scores = state.graph.run(slots, ids, parents, state.position)
        state.position[slots] += 1
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
        other = self.begin(slots, *state.graph.shape[1:])
        other.position[: len(kept)] = state.position[kept]
        at = torch.from_numpy(kept).to(self._device)
        for new, old in zip(other.graph.of_slots(), state.graph.of_slots(), strict=True):
            new[: len(kept)] = old[at]
        return other


class CudaState:
    """Sequences being decoded, in the buffers of a graph. Implements `engines.base.DecodeState`."""

    def __init__(self, graph: "_Graph") -> None:
        self.graph = graph
        self.slots, self.beams = graph.shape[:2]
        self.position = np.zeros(self.slots, np.int32)  # tokens read so far
        self.admitted: dict[int, np.ndarray | Tensor] = {}  # clips by their slots


class _Graph:
    """The buffers of a state, and a step on them, recorded as a CUDA graph.

    Attributes:
        shape: Slots C, beams B, maximum length T, and top k.
        caches: Of the text tower and of the decoder, each [layers, 2, C, T * B, D]: keys and values.
        image: [layers, 2, C, N, D], likewise of the cross-attention.
    """

    def __init__(
        self, step: InPlaceStep, shape: tuple[int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.shape = slots, beams, max_length, top_k = shape
        self._step, self._count = step, min(top_k + SURPLUS, step.config.vocab_size)
        config = step.config

        def zeros(tower: TextConfig, length: int) -> Tensor:
            return torch.zeros(tower.layers, 2, slots, length, tower.width, dtype=dtype, device=device)

        self.caches = [zeros(tower, max_length * beams) for tower in (config.text, config.decoder)]
        self.image = zeros(config.decoder, config.vision.pooler_queries - 1)
        self._histories = torch.zeros(2, slots, beams, max_length, dtype=torch.int32, device=device)
        self._last = torch.zeros(slots, beams, dtype=torch.int32, device=device)
        on_gpu = device.type == "cuda"
        self._inputs = torch.zeros(slots, 2 * beams + 2, dtype=torch.int32, device=device)
        self._host_inputs = torch.zeros(self._inputs.shape, dtype=torch.int32, pin_memory=on_gpu)
        self._host_outputs = torch.zeros(slots * beams, 2 * self._count + 1, pin_memory=on_gpu)
        self._recorded: torch.cuda.CUDAGraph | None = None
        if on_gpu:
            self._record()

    def of_slots(self) -> Iterator[Tensor]:
        """Yield all that belongs to the clips, with C as the first axis."""
        yield from (buffer.movedim(2, 0) for buffer in (*self.caches, self.image))
        yield from (self._histories.movedim(1, 0), self._last)

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
        beams = self.shape[1]
        ids, parents, (positions, active) = self._inputs[:, :beams], self._inputs[:, beams:-2], self._inputs[:, -2:].T
        positions = positions.contiguous()
        pad_id = self._step.config.pad_id
        extend_histories(self._histories, self._last, ids, parents, positions, active > 0, pad_id)
        logits = self._step(ids.flatten(), positions, self._histories.flatten(1, 2), self.caches, self.image)
        top, values, log_sum = self._step.top(logits, self._count)
        return logits, torch.cat((top.int().view(torch.float32), values, log_sum[:, None]), 1)

    def run(self, slots: np.ndarray, ids: np.ndarray, parents: np.ndarray, position: np.ndarray) -> Scores:
        """Return the scores of all rows, valid until the next run. Waits for the GPU once."""
        beams, inputs = self.shape[1], self._host_inputs.numpy()
        inputs[:, beams:-2], inputs[:, -2], inputs[:, -1] = np.arange(beams), position, 0
        inputs[slots, :beams], inputs[slots, beams:-2], inputs[slots, -1] = ids, parents, 1
        np.minimum(inputs[:, -2], self.shape[2] - 1, out=inputs[:, -2])  # of idle slots whose captions are full
        self._inputs.copy_(self._host_inputs, non_blocking=True)
        if self._recorded:
            self._recorded.replay()
        else:
            self._logits, self._outputs = self._compute()
        self._host_outputs.copy_(self._outputs, non_blocking=True)
        if self._recorded:
            torch.cuda.current_stream(self._inputs.device).synchronize()
        return self._scores(self._host_outputs.numpy().copy())

    def _scores(self, outputs: np.ndarray) -> Scores:
        ids, values = outputs[:, : self._count].view(np.int32), outputs[:, self._count : -1]
        return scores_of_candidates(self._logits, ids, values, outputs[:, -1], self.shape[3])


def _kernels(device: torch.device) -> ModuleType:
    """Return the module of kernels for a device: Triton's where it runs."""
    if device.type != "cuda" or not find_spec("triton"):
        return in_place_step
    from ..model import triton_kernels

    return triton_kernels
