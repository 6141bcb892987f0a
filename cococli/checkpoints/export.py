"""Turn a converted model back into what open_clip loads: a `.safetensors` with `open_clip_config.json` beside it.

A `.safetensors` is 8 bytes of length, little-endian, a JSON header of that length, and the tensors one after another
(https://huggingface.co/docs/safetensors). It is written here as a stream: the library wants all of it in memory.
"""

import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..catalog import CocaConfig
from ..errors import UsageError
from . import architecture, names
from .plan import Model, Parameter, open_model
from .runs import RUN
from .source import is_ckpt
from .store import find_model
from .writing import Conversion, Dtype, Progress, Tensor, check_destination, config_of_same, write

CONFIG_NAME = "open_clip_config.json"
_DTYPES = {"float32": "F32", "float16": "F16"}  # ours -> safetensors' names


def export(
    source: str,
    destination: Path | None = None,
    config: CocaConfig | None = None,
    verify: bool = False,
    progress: Progress | None = None,
    dtype: Dtype | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Write a converted model as open_clip's `.safetensors`, part by part, and `open_clip_config.json` beside it.

    `open_clip.create_model("local-dir:FOLDER")` loads what it writes, and `convert` reads it.

    Args:
        source: A `.ckpt`, or what else `store.find_model` finds.
        destination: The `.safetensors` to write, replaced at the very end; by default it stands beside a `.ckpt`, or
            in the current folder, named as the model.
        config: The architecture; by default the model's own, else what the shapes tell.
        verify: Read back what was written and compare it bit by bit before it takes its place.
        progress: Called as bytes are written, and again as they are verified.
        dtype: Of the tensors; by default as they are stored, so that there and back changes no bit.
        overwrite: Replace files that coca did not write.

    Raises:
        UsageError: the source is not converted, or the destination is no place for a `.safetensors` and its config.
        ModelError: there is no such model, or it cannot be read; it holds a number that float16 cannot; or the disk is
            full.
    """
    weights, config, default = _find(source, config)
    destination = destination or default
    if destination.suffix != ".safetensors":
        raise UsageError(f"{destination}: the name of an exported model must end in .safetensors")
    beside = destination.with_name(CONFIG_NAME)
    check_destination(weights, destination, beside)
    with open_model(weights, config) as model:
        text = _config_text(beside, model.config)
        tensors = _tensors(model, dtype)
        return write(model, tensors, destination, (beside, text), _write_tensors, verify, progress, overwrite)


def _find(source: str, config: CocaConfig | None) -> tuple[Path, CocaConfig | None, Path]:
    """A model's `.ckpt`, its config as far as it is known, and where it is exported to when nobody says."""
    path = Path(source)
    if not os.path.isfile(path):  # noqa: PTH113 (a name too long for a path is no file either)
        found = find_model(source)
        return found.weights, config or found.config, Path(f"{found.name.removeprefix(RUN)}.safetensors")
    if not is_ckpt(path):
        raise UsageError(f"{path} is not a converted model", "--to open_clip turns back what coca convert has made")
    return path, config, path.with_suffix(".safetensors")


def _config_text(path: Path, config: CocaConfig) -> bytes:
    """The config as open_clip's `push_to_hf_hub` writes it, and whatever else it says there already."""
    text = config.to_file()
    if path.exists():
        found = config_of_same(path, config)
        if not found or found.preprocess_cfg not in (None, config.preprocess_cfg):
            raise UsageError(f"{path} is in the way: it describes another model", "give another folder")
        text |= architecture.read(path)
    return json.dumps(text, indent=2).encode() + b"\n"


def _tensors(model: Model, dtype: Dtype | None) -> list[Tensor]:
    """open_clip's tensors of a model, those of float32 first: each must start at a multiple of its numbers' size."""
    shapes = {name: parameter.shape for name, parameter in model.parameters.items()}
    tensors = []
    for name, shape, fillers in names.tensors_of(shapes):
        parameters = {filler: model.parameters[filler] for filler in fillers}
        tensors.append(Tensor(name, shape, dtype or _stored(parameters), parameters))
    return sorted(tensors, key=lambda tensor: tensor.dtype == "float16")


def _stored(parameters: dict[str, Parameter]) -> Dtype:
    half = all(parameter.tensor.dtype == "float16" for parameter in parameters.values())
    return "float16" if half else "float32"


def _write_tensors(file: BinaryIO, tensors: Sequence[Tensor]) -> Iterator[int]:
    file.write(_header(tensors))
    for tensor in tensors:
        for part in tensor.parts():
            file.write(np.ascontiguousarray(part, f"<f{part.itemsize}").data)
        yield tensor.size


def _header(tensors: Sequence[Tensor]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for tensor in tensors:
        stop = start + tensor.size
        header[tensor.name] = {"dtype": _DTYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": (start, stop)}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8
    return struct.pack("<Q", len(text)) + text
