"""The network as OpenVINO graphs, made of its torch definition once and kept in a folder.

A graph's weights are inputs of it, by name: its file is small and serves every float precision, and the weights stay
in the checkpoint. Graphs in int8 hold their own matrices. torch is imported when graphs are made, never afterwards.
"""

import contextlib
import ctypes
import hashlib
import io
import logging
import os
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..catalog import CocaConfig
from ..checkpoints import locks
from ..checkpoints.architecture import parameters
from ..files import digest, unwinding_on_sigterm

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # reports every conversion, unasked
import openvino as ov  # noqa: E402

Weights = Mapping[str, np.ndarray]
Progress = Callable[[str], object]

_LOCK, _INT8 = "openvino.lock", "-int8"
_WEIGHT = "weight:"  # begins the name of a graph's input that is a weight
_TABLES = ("text.token_embedding", "text.positional_embedding")  # of which few rows are read: stay in the checkpoint
_SIZES: dict[int | str, int] = {
    "C": 2,
    "B": 3,
    "S": 7,
    "S+1": 8,
    "N": 2,
    "K": 9,
    "T": 5,
    "T+1": 6,
}  # to trace with, any other will do
_TITLES = {
    "Vision": "the vision tower",
    "Pooler": "the pooler",
    "Texts": "the text tower",
    "Looks": "the decoder's looks",
    "Step": "the decoder",
}


class _Input(NamedTuple):
    """An input of a graph."""

    shape: tuple[int | str, ...]  # a letter: any size
    whole: bool = False  # numbers of int64, or else float32


def graphs(config: CocaConfig, cache: Path, progress: Progress) -> Path:
    """A folder that holds a graph NETWORK.xml of every class of `model.torch_network`, made now if it is not there.

    Args:
        progress: Told what takes long.

    Raises:
        ModelError: the folder cannot be written to.
    """

    def make(folder: Path) -> None:
        for name, inputs in _inputs(config).items():
            progress(f"compiling {_TITLES[name]} for OpenVINO, once")
            ov.save_model(_traced(name, config, inputs), folder / f"{name}.xml", compress_to_fp16=False)

    network = digest(repr((config, parameters(config))), 8)
    return _made(cache / f"openvino-{_key()}-{network}", make, progress)


def bound(graph: Path, weights: Weights, without: Collection[str] = ()) -> ov.Model:
    """A graph with its weights, but for those without, not copied: they must live as long as it."""
    model = ov.Core().read_model(graph)
    for parameter in model.get_parameters():
        name = parameter.get_friendly_name().removeprefix(_WEIGHT)
        if name in weights and name not in without:
            weight = ov.op.Constant(_writable(weights[name]), shared_memory=True)
            parameter.output(0).replace(weight.output(0))
            model.remove_parameter(parameter)
    model.validate_nodes_and_infer_types()
    return model


def add_log_sum(model: ov.Model) -> None:
    """Let a graph that gives logits [C, B, V] first give last [C, B] what `scores.Scores.log_sum` is."""
    operations, logits = ov.opset13, model.output(0).get_node().input_value(0)
    axis = operations.constant([-1], np.int64)
    shifted = operations.subtract(logits, operations.reduce_max(logits, axis, keep_dims=True))
    log_sum = operations.log(operations.reduce_sum(operations.exp(shifted), axis, keep_dims=False))
    model.add_outputs([log_sum.output(0)])


def in_int8(folder: Path, weights: Weights, progress: Progress) -> Path:
    """A folder beside the graphs with the same ones, their matrices in int8 and inside, made now if it is not there.

    Nothing is fitted to anybody's pictures: OpenVINO scales activations as they come, some of a row at a time. Scales
    fixed for 32 pictures (NNCF's post-training quantisation) make the vision tower a quarter faster, but of 200 other
    pictures the worst embedding then has a cosine of 0.98 to float32's, where this has 0.9999.

    Args:
        folder: Of `graphs`; what stands beside it stays.
        weights: Named as in `checkpoints.architecture.parameters`.

    Raises:
        ModelError: the folder cannot be written to.
    """

    def make(part: Path) -> None:
        for name, title in _TITLES.items():
            progress(f"rounding {title} to int8, once")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                import nncf

                nncf.set_log_level(logging.ERROR)
                model = bound(folder / f"{name}.xml", weights, without=_TABLES)
                model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
            ov.save_model(model, part / f"{name}.xml", compress_to_fp16=False)

    return _made(folder.with_name(f"{folder.name}{_INT8}"), make, progress)


def _inputs(config: CocaConfig) -> dict[str, list[_Input]]:
    vision, text, decoder = config.vision, config.text, config.decoder
    looked = vision.pooler_queries - 1
    caches = [
        _Input(("C", tower.heads, slots, tower.width // tower.heads))
        for tower, slots in ((text, "S"), (decoder, "S"), (decoder, looked))
        for _ in range(2 * tower.layers)
    ]
    mask = _Input(("C", 1, "B", "S+1"))
    return {
        "Vision": [_Input(("N", 3, vision.image_size, vision.image_size))],
        "Pooler": [_Input(("C", "K", vision.width))],
        "Texts": [_Input(("C", "T"), whole=True), _Input(("C", 1, "T+1", "T+1"))],
        "Looks": [_Input(("C", looked, decoder.width))],
        "Step": [_Input(("C", "B"), whole=True), _Input(("C",), whole=True), mask, mask, *caches],
    }


def _traced(network: str, config: CocaConfig, inputs: Sequence[_Input]) -> ov.Model:
    """A graph of a network for any weights."""
    import torch

    from ..model import torch_network

    shapes = parameters(config)

    class Unbound(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> object:
            weights = dict(zip(shapes, tensors[len(inputs) :], strict=True))
            return getattr(torch_network, network)(config, weights)(*tensors[: len(inputs)])

    examples = [
        torch.zeros([_SIZES.get(size, size) for size in shape], dtype=torch.int64 if whole else torch.float32)
        for shape, whole in inputs
    ]
    examples += [torch.zeros(()).expand(shape) for shape in shapes.values()]  # they take no memory
    known = [(ov.PartialShape([-1 if size in _SIZES else size for size in shape]), whole) for shape, whole in inputs]
    known += [(ov.PartialShape(shape), False) for shape in shapes.values()]
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # tracing is deprecated, yet the one way that OpenVINO reads every torch
        traced = torch.jit.trace(Unbound(), tuple(examples), check_trace=False)
        model = ov.convert_model(
            traced, input=[(shape, ov.Type.i64 if whole else ov.Type.f32) for shape, whole in known]
        )
    for parameter, name in zip(model.get_parameters()[len(inputs) :], shapes, strict=True):
        parameter.set_friendly_name(_WEIGHT + name)
        if not parameter.output(0).get_target_inputs():
            model.remove_parameter(parameter)
    return model


def _key() -> str:
    """Hash what decides on the graph of an architecture: the code that makes it, and the libraries."""
    hashed = hashlib.sha256()
    for source in (Path(__file__), Path(__file__).parents[1] / "model" / "torch_network.py"):
        hashed.update(source.read_bytes())
    for library in ("openvino", "torch", "nncf"):
        with contextlib.suppress(PackageNotFoundError):  # nncf is for int8 only
            hashed.update(f"{library} {version(library)}".encode())
    return hashed.hexdigest()[:16]


def _remove_outdated(cache: Path, place: Path) -> None:
    """Remove what other code or libraries made, as large as the weights in int8, and what killed processes left."""
    kept = "-".join(place.name.split("-")[:2])
    for path in cache.iterdir():
        if path.name.startswith(("openvino-", ".coca-")) and not path.name.startswith(f"{kept}-"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _made(place: Path, make: Callable[[Path], None], progress: Progress) -> Path:
    """A folder that is there whole, or is made now: by one process, while others wait for it."""
    if place.is_dir():
        return place
    with unwinding_on_sigterm(), locks.writing():
        from filelock import FileLock

        place.parent.mkdir(parents=True, exist_ok=True)
        lock, part = FileLock(place.with_name(_LOCK)), place.with_name(f".coca-{secrets.token_hex(8)}.part")
        locks.acquire(lock, lambda: progress("waiting for another process that compiles the same model"))
        try:
            if not place.is_dir():
                _remove_outdated(place.parent, place)
                part.mkdir()
                make(part)
                for file in part.iterdir():
                    with file.open("rb") as written:
                        os.fsync(written.fileno())
                part.rename(place)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            lock.release()
    return place


def _writable(array: np.ndarray) -> np.ndarray:
    """The same float32 numbers, said to be writable: OpenVINO shares no others, though it writes none."""
    return np.ctypeslib.as_array(ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_float)), array.shape)
