"""Turn a checkpoint into a MindSpore `.ckpt` with its config beside it."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ..catalog import CocaConfig
from ..errors import UsageError
from . import architecture, ckpt
from .plan import open_model
from .source import SUFFIXES
from .writing import Conversion, Dtype, Progress, Tensor, check_destination, write


def default_destination(source: Path) -> Path:
    """Where a checkpoint is converted to when nobody says: beside itself, with the suffix `.ckpt`."""
    known = source.suffix in (*SUFFIXES, ".ckpt")
    return source.with_suffix(".ckpt") if known else source.with_name(f"{source.name}.ckpt")


def convert(
    source: Path,
    destination: Path,
    config: CocaConfig | None = None,
    verify: bool = False,
    progress: Progress | None = None,
    dtype: Dtype = "float32",
    overwrite: bool = False,
) -> Conversion:
    """Write a checkpoint as a MindSpore `.ckpt`, part by part, and its config beside it.

    Args:
        source: open_clip's `.bin`, `.pt` or `.safetensors`: plain, `module.`-prefixed or wrapped by training;
            or a `.ckpt`. Of float32, float16 or bfloat16.
        destination: The `.ckpt` to write. What stands there is replaced at the very end, and stays on any failure.
        config: The architecture; by default the config file beside the source, else what the shapes tell.
        verify: Read back what was written and compare it bit by bit before it takes its place.
        progress: Called as bytes are written, and again as they are verified.
        dtype: Of the `.ckpt`; as float16, which rounds, it is half as large.
        overwrite: Replace files that coca did not write.

    Raises:
        UsageError: the destination is no place for a `.ckpt` and its config.
        ModelError: the source is not a CoCa, contradicts the config, or cannot be read; it holds a number that float16
            cannot; or the disk is full.
    """
    beside = destination.with_suffix(".json")
    _check_destination(source, destination, beside)
    with open_model(source, config) as model:
        tensors = [Tensor(name, it.shape, dtype, {name: it}) for name, it in model.parameters.items()]
        text = _config_text(beside, model.config)
        return write(model, tensors, destination, (beside, text), _write_tensors, verify, progress, overwrite)


def _check_destination(source: Path, destination: Path, beside: Path) -> None:
    if destination.suffix != ".ckpt":
        hint = "for open_clip's format: --to open_clip" if destination.suffix in SUFFIXES else ""
        raise UsageError(f"{destination}: the name of a converted checkpoint must end in .ckpt", hint)
    check_destination(source, destination, beside)
    if beside.exists() and not architecture.is_config(beside):
        raise UsageError(f"{beside} is in the way and not a model's config", "give another destination")


def _config_text(path: Path, config: CocaConfig) -> bytes:
    """The config as JSON; what stands there already when it says the same, as it may say more."""
    text = config.to_file()
    if path.exists() and (found := architecture.load_config(path)) == config:
        if found.preprocess_cfg == config.preprocess_cfg:
            return path.read_bytes()
        text = architecture.read(path) | {"preprocess_cfg": text["preprocess_cfg"]}
    return json.dumps(text, indent=2).encode() + b"\n"


def _write_tensors(file: BinaryIO, tensors: Sequence[Tensor]) -> Iterator[int]:
    for tensor in tensors:
        ckpt.write(file, tensor.name, tensor.shape, tensor.parts(), tensor.dtype)
        yield tensor.size
