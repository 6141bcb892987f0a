"""The network as OpenVINO graphs, traced from its torch modules once and stored in a folder.

Weights are named inputs of a graph: its file is small and serves every float precision, and the weights stay in the
checkpoint. Graphs in int8 contain their own matrices. torch is imported only while graphs are built.
"""

import contextlib
import ctypes
import hashlib
import io
import logging
import secrets
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..catalog import CocaConfig
from ..checkpoints.architecture import parameters
from ..checkpoints.cache import acquire, list_folder, writing
from ..files import digest, publish_folder, unwinding_on_sigterm
from ..reporting import Progress

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report every conversion
import openvino as ov  # noqa: E402

Weights = Mapping[str, np.ndarray]

_LOCK, _INT8 = "openvino.lock", "-int8"
_WEIGHT = "weight:"  # prefix of inputs that are weights
_TABLES = ("text.token_embedding", "text.positional_embedding")  # few of their rows are read: not quantized
# Example sizes to trace with; every letter stays dynamic.
_SIZES: dict[int | str, int] = {"C": 2, "B": 3, "S": 7, "S+1": 8, "N": 2, "K": 9, "T": 5, "T+1": 6}
_TITLES = {
    "VisionTower": "the vision tower",
    "Pooler": "the pooler",
    "TextTower": "the text tower",
    "CrossKeysValues": "the cross-attention keys and values",
    "DecodeStep": "the decoder",
}


class _Input(NamedTuple):
    """An input of a graph."""

    shape: tuple[int | str, ...]  # letters are dynamic
    integer: bool = False  # int64, else float32


def build(config: CocaConfig, cache: Path, progress: Progress) -> Path:
    """Return a folder with a graph CLASS.xml for every module of `model.torch_network`; build it if it is missing.

    Raises:
        ModelError: The folder cannot be written to.
    """

    def make(folder: Path) -> None:
        for name, inputs in _inputs(config).items():
            progress.describe(f"compiling {_TITLES[name]} for OpenVINO (only once)")
            ov.save_model(_trace(name, config, inputs), folder / f"{name}.xml", compress_to_fp16=False)

    network = digest(repr((config, parameters(config))), 8)
    return _make_once(cache / f"openvino-{_key()}-{network}", make, progress)


def bind(graph: Path, weights: Weights, without: Collection[str] = ()) -> ov.Model:
    """Load a graph and bind its weights, except those in `without`. They are not copied and must outlive it."""
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
    """Add `base.Scores.log_sum` [C, B] as the last output of a graph whose first output is logits [C, B, V]."""
    operations, logits = ov.opset13, model.output(0).get_node().input_value(0)
    axis = operations.constant([-1], np.int64)
    shifted = operations.subtract(logits, operations.reduce_max(logits, axis, keep_dims=True))
    log_sum = operations.log(operations.reduce_sum(operations.exp(shifted), axis, keep_dims=False))
    model.add_outputs([log_sum.output(0)])


def with_bf16_caches(model: ov.Model) -> ov.Model:
    """Return a graph whose inputs and outputs of keys and values, [C, H, ., E] with a fixed E, are bfloat16."""
    edited = ov.preprocess.PrePostProcessor(model)
    for ports, edit in ((model.inputs, edited.input), (model.outputs, edited.output)):
        for index, port in enumerate(ports):
            if len(port.partial_shape) == 4 and port.partial_shape[3].is_static:
                edit(index).tensor().set_element_type(ov.Type.bf16)
    return edited.build()


def quantize(folder: Path, weights: Weights, progress: Progress) -> Path:
    """Return a folder next to the graphs with their int8 versions, matrices included; build it if it is missing.

    Nothing is calibrated on pictures: OpenVINO scales activations when it computes them. Scales calibrated on 32
    pictures (NNCF's post-training quantization) make the vision tower a quarter faster, but then the worst of 200 other
    pictures has an embedding with a cosine of 0.98 to float32's, where this has 0.9999.

    Args:
        folder: Of `build`.
        weights: Named as in `checkpoints.architecture.parameters`.

    Raises:
        ModelError: The folder cannot be written to.
    """

    def make(part: Path) -> None:
        for name, title in _TITLES.items():
            progress.describe(f"quantizing {title} to int8 (only once)")
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                import nncf

                logging.getLogger("nncf").setLevel(logging.ERROR)
                model = bind(folder / f"{name}.xml", weights, without=_TABLES)
                model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
            ov.save_model(model, part / f"{name}.xml", compress_to_fp16=False)

    return _make_once(folder.with_name(f"{folder.name}{_INT8}"), make, progress)


def _inputs(config: CocaConfig) -> dict[str, list[_Input]]:
    vision, text, decoder = config.vision, config.text, config.decoder
    image_tokens = vision.pooler_queries - 1
    caches = [
        _Input(("C", tower.heads, length, tower.width // tower.heads))
        for tower, length in ((text, "S"), (decoder, "S"), (decoder, image_tokens))
        for _ in range(2 * tower.layers)
    ]
    mask = _Input(("C", 1, "B", "S+1"))
    return {
        "VisionTower": [_Input(("N", 3, vision.image_size, vision.image_size))],
        "Pooler": [_Input(("C", "K", vision.width))],
        "TextTower": [_Input(("C", "T"), integer=True), _Input(("C", 1, "T+1", "T+1"))],
        "CrossKeysValues": [_Input(("C", image_tokens, decoder.width))],
        "DecodeStep": [_Input(("C", "B"), integer=True), _Input(("C",), integer=True), mask, mask, *caches],
    }


def _trace(network: str, config: CocaConfig, inputs: Sequence[_Input]) -> ov.Model:
    """Return the graph of a module, with its weights as inputs."""
    import torch

    from ..model import torch_network

    shapes = parameters(config)

    class Unbound(torch.nn.Module):
        def forward(self, *tensors: torch.Tensor) -> object:
            weights = dict(zip(shapes, tensors[len(inputs) :], strict=True))
            return getattr(torch_network, network)(config, weights)(*tensors[: len(inputs)])

    examples = [
        torch.zeros([_SIZES.get(size, size) for size in shape], dtype=torch.int64 if integer else torch.float32)
        for shape, integer in inputs
    ]
    examples += [torch.zeros(()).expand(shape) for shape in shapes.values()]  # they take no memory
    types = {True: ov.Type.i64, False: ov.Type.f32}
    specs = [
        (ov.PartialShape([-1 if size in _SIZES else size for size in shape]), types[integer])
        for shape, integer in inputs
    ]
    specs += [(ov.PartialShape(shape), ov.Type.f32) for shape in shapes.values()]
    with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _same_root_logger():
        warnings.simplefilter("ignore")  # tracing is deprecated, but the only input that OpenVINO reads of every torch
        traced = torch.jit.trace(Unbound(), tuple(examples), check_trace=False)
        model = ov.convert_model(traced, input=specs)
    for parameter, name in zip(model.get_parameters()[len(inputs) :], shapes, strict=True):
        parameter.set_friendly_name(_WEIGHT + name)
        if not parameter.output(0).get_target_inputs():
            model.remove_parameter(parameter)
    return model


@contextlib.contextmanager
def _same_root_logger() -> Iterator[None]:
    """Undo what a conversion does to the root logger: it hides all messages but errors, of every package."""
    root = logging.getLogger()
    level, filters, levels = root.level, root.filters[:], {handler: handler.level for handler in root.handlers}
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters[:] = filters
        root.handlers[:] = levels
        for handler, before in levels.items():
            handler.setLevel(before)


def _key() -> str:
    """Hash the code and the versions of the libraries that build graphs."""
    hashed = hashlib.sha256()
    for source in (Path(__file__), Path(__file__).parents[1] / "model" / "torch_network.py"):
        hashed.update(source.read_bytes())
    for library in ("openvino", "torch", "nncf"):
        with contextlib.suppress(PackageNotFoundError):
            hashed.update(f"{library} {version(library)}".encode())
    return hashed.hexdigest()[:16]


def _remove_outdated(cache: Path, folder: Path) -> None:
    """Remove graphs of other code or libraries, which may be as large as the weights, and parts of killed processes."""
    kept = "-".join(folder.name.split("-")[:2])
    for path in list_folder(cache):
        if path.name.startswith(("openvino-", ".coca-")) and not path.name.startswith(f"{kept}-"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _make_once(folder: Path, make: Callable[[Path], None], progress: Progress) -> Path:
    """Return a folder that exists completely or not at all; one process makes it while others wait."""
    if folder.is_dir():
        return folder
    with unwinding_on_sigterm(), writing():
        from filelock import FileLock

        folder.parent.mkdir(parents=True, exist_ok=True)
        lock, part = FileLock(folder.with_name(_LOCK)), folder.with_name(f".coca-{secrets.token_hex(8)}.part")
        acquire(lock, lambda: progress.describe("waiting for another process that compiles the same model"))
        try:
            if not folder.is_dir():
                _remove_outdated(folder.parent, folder)
                part.mkdir()
                make(part)
                publish_folder(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
            lock.release()
    return folder


def _writable(array: np.ndarray) -> np.ndarray:
    """Return the same memory of float32 marked as writable: OpenVINO shares no other, though it never writes."""
    return np.ctypeslib.as_array(ctypes.cast(array.ctypes.data, ctypes.POINTER(ctypes.c_float)), array.shape)
