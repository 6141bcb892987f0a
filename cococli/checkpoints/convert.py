"""Convert checkpoints to MindSpore's `.ckpt` and back to open_clip's `.safetensors`, with their config beside them.

A `.safetensors` is 8 bytes of length, little-endian, a JSON header of that length, and the tensors one after another
(https://huggingface.co/docs/safetensors). It is written here as a stream: the library needs all of it in memory.
"""

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from .. import settings
from ..catalog import CocaConfig
from ..errors import ModelError, UsageError
from ..files import check_space, os_reason
from ..overwrite import check_paths, refuse_foreign, write_output
from ..reporting import SILENT, Reporter
from . import architecture, ckpt
from .architecture import Shape
from .fetch_options import ConvertRequest
from .source import SUFFIXES, find_checkpoint, is_ckpt
from .store import RUN, find_model
from .tensors import OpenModel, Parameter, open_model, tensors_of

Dtype = Literal["float32", "float16"]

OPEN_CLIP_CONFIG = "open_clip_config.json"
_SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16"}


@dataclass(frozen=True)
class Conversion:
    """Result of a conversion."""

    path: Path  # of the weights; their config is beside them
    config: CocaConfig
    parameters: int  # values in all tensors
    size: int  # bytes of the weights
    notes: tuple[str, ...]  # where the config is from, what was assumed, and what was rounded


@dataclass(frozen=True)
class _OutputTensor:
    """A tensor to write; each parameter fills a block of its rows, in this order."""

    name: str
    shape: Shape
    dtype: Dtype
    parameters: dict[str, Parameter]

    @property
    def size(self) -> int:
        """Bytes of its content."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def parts(self) -> Iterable[np.ndarray]:
        """Yield its content, a few rows at a time; a part is valid until the next one is requested."""
        return (part for parameter in self.parameters.values() for part in parameter.parts(self.dtype))


def convert(request: ConvertRequest, reporter: Reporter = SILENT) -> Conversion:
    """Convert a checkpoint in either direction.

    Raises:
        UsageError: The source or the destination does not fit the direction.
        ModelError: The source is not a CoCa or cannot be read, or the destination cannot be written.
    """
    config = architecture.load_config(request.config) if request.config else None
    dtype: Dtype | None = "float16" if request.half else None
    if request.to == "open_clip":
        conversion = to_open_clip(
            str(request.source), request.destination, config, request.verify, dtype, request.overwrite, reporter
        )
    else:
        source = find_checkpoint(request.source, "coca convert")
        destination = request.destination or default_destination(source)
        conversion = to_mindspore(
            source, destination, config, request.verify, dtype or "float32", request.overwrite, reporter
        )
    for note in conversion.notes:
        reporter.note(note)
    return conversion


def default_destination(source: Path) -> Path:
    """Return the path beside a checkpoint where it is converted to by default, with the suffix `.ckpt`."""
    known = source.suffix in (*SUFFIXES, ".ckpt")
    return source.with_suffix(".ckpt") if known else source.with_name(f"{source.name}.ckpt")


def to_mindspore(
    source: Path,
    destination: Path,
    config: CocaConfig | None = None,
    verify: bool = False,
    dtype: Dtype = "float32",
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Conversion:
    """Write a checkpoint as a MindSpore `.ckpt`, part by part, and its config beside it.

    Args:
        source: open_clip's `.bin`, `.pt` or `.safetensors`: plain, `module.`-prefixed or wrapped by training;
            or a `.ckpt`. Of float32, float16 or bfloat16.
        destination: The `.ckpt` to write. An existing one is replaced at the very end, and stays on any failure.
        config: The architecture; by default the config file beside the source, else recognized from shapes.
        verify: Read back the new file and compare it bit by bit before it takes its place.
        dtype: Type of the tensors; float16 rounds, and takes half the space.
        overwrite: Replace files that coca did not write.

    Raises:
        UsageError: The destination cannot be a `.ckpt` with its config.
        ModelError: The source is not a CoCa, contradicts the config, or cannot be read; it holds a value that float16
            cannot; or the disk is full.
    """
    beside = destination.with_suffix(".json")
    if destination.suffix != ".ckpt":
        hint = "for open_clip's format: --to open_clip" if destination.suffix in SUFFIXES else ""
        raise UsageError(f"{destination}: the name of a converted checkpoint must end in .ckpt", hint)
    _check_destination(source, destination, beside)
    if beside.exists() and not architecture.is_config(beside):
        raise UsageError(f"{beside} exists and is not a model config", "give another destination")
    with open_model(source, config) as model:
        tensors = [_OutputTensor(name, it.shape, dtype, {name: it}) for name, it in model.parameters.items()]
        text = _config_beside_ckpt(beside, model.config)
        return _write(model, tensors, destination, (beside, text), _write_ckpt, verify, overwrite, reporter)


def _config_beside_ckpt(path: Path, config: CocaConfig) -> bytes:
    """Return the config as JSON; an equivalent file stays as it is, because it may contain more."""
    entries = config.to_file()
    if path.exists() and (found := architecture.load_config(path)) == config:
        if found.preprocess_cfg == config.preprocess_cfg:
            return path.read_bytes()
        entries = architecture.read_config(path) | {"preprocess_cfg": entries["preprocess_cfg"]}
    return json.dumps(entries, indent=2).encode() + b"\n"


def _write_ckpt(file: BinaryIO, tensors: Sequence[_OutputTensor]) -> Iterator[int]:
    for tensor in tensors:
        ckpt.write(file, tensor.name, tensor.shape, tensor.parts(), tensor.dtype)
        yield tensor.size


def to_open_clip(
    source: str,
    destination: Path | None = None,
    config: CocaConfig | None = None,
    verify: bool = False,
    dtype: Dtype | None = None,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Conversion:
    """Write a converted model as open_clip's `.safetensors`, part by part, and `open_clip_config.json` beside it.

    `open_clip.create_model("local-dir:FOLDER")` loads the result, and `to_mindspore` reads it.

    Args:
        source: A `.ckpt`, or a name that `store.find_model` finds.
        destination: The `.safetensors` to write, replaced at the very end; by default beside a `.ckpt`, or in the
            current folder and named like the model.
        config: The architecture; by default the model's own, else recognized from shapes.
        verify: Read back the new file and compare it bit by bit before it takes its place.
        dtype: Type of the tensors; by default as stored, so that a round trip changes no bit.
        overwrite: Replace files that coca did not write.

    Raises:
        UsageError: The source is not converted, or the destination cannot be a `.safetensors` with its config.
        ModelError: There is no such model, or it cannot be read; it holds a value that float16 cannot; or the disk is
            full.
    """
    weights, config, default = _find_converted(source, config)
    destination = destination or default
    if destination.suffix != ".safetensors":
        raise UsageError(f"{destination}: the name of an exported model must end in .safetensors")
    beside = destination.with_name(OPEN_CLIP_CONFIG)
    _check_destination(weights, destination, beside)
    with open_model(weights, config) as model:
        text = _config_beside_safetensors(beside, model.config)
        tensors = _open_clip_tensors(model, dtype)
        return _write(model, tensors, destination, (beside, text), _write_safetensors, verify, overwrite, reporter)


def _find_converted(source: str, config: CocaConfig | None) -> tuple[Path, CocaConfig | None, Path]:
    """Return a model's `.ckpt`, its config as far as it is known, and the default destination."""
    path = Path(source)
    if not os.path.isfile(path):  # noqa: PTH113 (a name too long for a path is not a file either)
        found = find_model(source)
        return found.weights, config or found.config, Path(f"{found.name.removeprefix(RUN)}.safetensors")
    if not is_ckpt(path):
        raise UsageError(f"{path} is not a converted model", "--to open_clip reverts what coca convert wrote")
    return path, config, path.with_suffix(".safetensors")


def _config_beside_safetensors(path: Path, config: CocaConfig) -> bytes:
    """Return the config as open_clip's `push_to_hf_hub` writes it, with all other entries of an existing file."""
    entries = config.to_file()
    if path.exists():
        found = _same_config(path, config)
        if not found or found.preprocess_cfg not in (None, config.preprocess_cfg):
            raise UsageError(f"{path} exists and describes another model", "give another folder")
        entries |= architecture.read_config(path)
    return json.dumps(entries, indent=2).encode() + b"\n"


def _open_clip_tensors(model: OpenModel, dtype: Dtype | None) -> list[_OutputTensor]:
    """Return the tensors of a model, float32 first: each must start at a multiple of the size of its values."""
    shapes = {name: parameter.shape for name, parameter in model.parameters.items()}
    tensors = []
    for name, shape, fillers in tensors_of(shapes):
        parameters = {filler: model.parameters[filler] for filler in fillers}
        stored: Dtype = "float16" if _all_half(parameters.values()) else "float32"
        tensors.append(_OutputTensor(name, shape, dtype or stored, parameters))
    return sorted(tensors, key=lambda tensor: tensor.dtype == "float16")


def _write_safetensors(file: BinaryIO, tensors: Sequence[_OutputTensor]) -> Iterator[int]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        stop, dtype = start + tensor.size, _SAFETENSORS_DTYPES[tensor.dtype]
        header[tensor.name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": (start, stop)}
        start = stop
    text = json.dumps(header).encode()
    # Tensors start at a multiple of 8.
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for tensor in tensors:
        for part in tensor.parts():
            file.write(np.ascontiguousarray(part, f"<f{part.itemsize}").data)
        yield tensor.size


def _check_destination(source: Path, destination: Path, beside: Path) -> None:
    """Refuse a destination that cannot be written, and one that is the source or the config."""
    if not destination.parent.is_dir():
        raise UsageError(f"there is no folder {destination.parent}")
    if destination.is_dir():
        raise UsageError(f"{destination} is a folder")
    if destination.exists() and source.exists() and destination.samefile(source):
        hint = "give another destination, or --to open_clip for its format"
        raise UsageError(f"{source} would be overwritten by its own conversion", hint)
    check_paths([(str(destination), destination), (str(beside), beside)], [source, settings.config_file()])


def _write(
    model: OpenModel,
    tensors: Sequence[_OutputTensor],
    destination: Path,
    config: tuple[Path, bytes],
    write_tensors: Callable[[BinaryIO, Sequence[_OutputTensor]], Iterable[int]],
    verify: bool,
    overwrite: bool,
    reporter: Reporter,
) -> Conversion:
    """Write the tensors of a model and its config, part by part; existing files stay on any failure.

    Args:
        config: Path of the config, in the destination's folder, and its content.
        write_tensors: Writes the tensors to an open file and yields the bytes of each.
        overwrite: Replace files that coca did not write. A config that already describes the model may be replaced.

    Raises:
        UsageError: There is such a file.
        ModelError: The disk is full, the folder is not writable, a value is too large for its type, or the
            verification fails.
    """
    beside, text = config
    if not overwrite:
        refuse_foreign(destination, *(() if _same_config(beside, model.config) else (beside,)))
    total = sum(tensor.size for tensor in tensors)
    try:
        check_space(destination.parent, total)
        with write_output(beside, destination) as (config_file, file):
            config_file.write(text)
            _run(write_tensors(file, tensors), "converting", total, reporter)
            if verify:
                file.flush()
                with open_model(Path(file.name), model.config) as written:
                    _run(_compare(tensors, written), "verifying", total, reporter)
    except OSError as error:
        raise ModelError(f"cannot write {destination}: {os_reason(error)}") from None
    values = sum(math.prod(tensor.shape) for tensor in tensors)
    notes = (*model.notes, *_rounding(tensors))
    return Conversion(destination, model.config, values, destination.stat().st_size, notes)


def _same_config(path: Path, config: CocaConfig) -> CocaConfig | None:
    """Return the content of a config file if it describes the same architecture; preprocessing may differ."""
    if path.exists() and architecture.is_config(path):
        with suppress(ModelError):
            if (found := architecture.load_config(path)) == config:
                return found
    return None


def _run(sizes: Iterable[int], description: str, total: int, reporter: Reporter) -> None:
    """Run steps that yield their bytes."""
    done = 0
    with reporter.progress(description, total, unit="bytes") as progress:
        for size in sizes:
            done += size
            progress.update(done)


def _compare(tensors: Sequence[_OutputTensor], written: OpenModel) -> Iterable[int]:
    for tensor in tensors:
        for name, parameter in tensor.parameters.items():
            if not _equal(written.parameters[name], parameter, tensor.dtype):
                raise ModelError(f"verification failed: {name} differs from the source", "check the disk")
        yield tensor.size


def _equal(written: Parameter, source: Parameter, dtype: Dtype) -> bool:
    """Compare bit by bit, so that NaN equals itself and 0 does not equal -0."""
    if (written.shape, written.tensor.dtype) != (source.shape, dtype):
        return False
    pairs = zip(written.parts(dtype), source.parts(dtype), strict=True)
    return all(np.array_equal(_bits(there), _bits(here)) for there, here in pairs)


def _bits(part: np.ndarray) -> np.ndarray:
    return part.reshape(-1).view(f"u{part.itemsize}")


def _rounding(tensors: Sequence[_OutputTensor]) -> tuple[str, ...]:
    """Return a note if values of more digits became float16."""
    halves = [tensor for tensor in tensors if tensor.dtype == "float16"]
    if all(_all_half(tensor.parameters.values()) for tensor in halves):
        return ()
    return ("weights rounded to half precision: each by at most 0.05%, or by 3e-8 if that is more",)


def _all_half(parameters: Iterable[Parameter]) -> bool:
    return all(parameter.tensor.dtype == "float16" for parameter in parameters)
