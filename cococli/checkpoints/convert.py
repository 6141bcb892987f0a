"""Turn an open_clip checkpoint into a MindSpore `.ckpt` with its config beside it."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..catalog import CocaConfig
from ..errors import ModelError, UsageError
from . import architecture, ckpt, names
from .mapped import release
from .source import SUFFIXES, SourceTensor, open_checkpoint
from .whole import written_whole

Progress = Callable[[str, int, int], None]  # stage (`convert` or `verify`), bytes done, bytes in all

_DTYPES = ("float32", "float16", "bfloat16")  # that become float32 exactly


@dataclass(frozen=True)
class Conversion:
    """What a conversion made."""

    path: Path  # of the .ckpt; its config is <stem>.json beside it
    config: CocaConfig
    parameters: int  # numbers in all tensors
    size: int  # bytes of the .ckpt
    notes: tuple[str, ...]  # where the config is from, or what was assumed


@dataclass(frozen=True)
class _Parameter:
    """A parameter to write: all rows of an open_clip tensor, or a block of them."""

    tensor: SourceTensor
    start: int
    stop: int

    @property
    def shape(self) -> tuple[int, ...]:
        if self.tensor.shape == () or (self.tensor.name == "logit_scale" and self.tensor.shape == (1,)):
            return ()
        return (self.stop - self.start, *self.tensor.shape[1:])

    @property
    def size(self) -> int:
        """Bytes as float32."""
        return 4 * math.prod(self.shape)

    def parts(self) -> Iterator[np.ndarray]:
        return self.tensor.parts(self.start, self.stop)


def default_destination(source: Path) -> Path:
    """Where a checkpoint is converted to when nobody says: beside itself, with the suffix `.ckpt`."""
    return source.with_suffix(".ckpt") if source.suffix in SUFFIXES else source.with_name(f"{source.name}.ckpt")


def convert(
    source: Path,
    destination: Path,
    config: CocaConfig | None = None,
    verify: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Write an open_clip checkpoint as a float32 MindSpore `.ckpt`, part by part, and its config beside it.

    Args:
        source: `.bin`, `.pt` or `.safetensors`; plain, `module.`-prefixed or wrapped by training;
            float32, float16 or bfloat16.
        destination: The `.ckpt` to write. What stands there is replaced at the very end, and stays on any failure.
        config: The architecture; by default the config file beside the source, else what the shapes tell.
        verify: Read back what was written and compare it bit by bit before it takes its place.
        progress: Called as bytes are written, and again as they are verified.

    Raises:
        UsageError: the destination is no place for a `.ckpt` and its config.
        ModelError: the source is not a CoCa, contradicts the config, or cannot be read; or the disk is full.
    """
    _check_destination(source, destination)
    with open_checkpoint(source) as tensors:
        try:
            plan = _plan(tensors)
            config, notes = _choose_config(plan, source, config)
        except ModelError as error:
            raise ModelError(f"{source}: {error.message}", error.hint) from None
        plan = {name: plan[name] for name in architecture.parameters(config)}
        _write(plan, destination, config, verify, progress or _silent)
    numbers = sum(math.prod(parameter.shape) for parameter in plan.values())
    return Conversion(destination, config, numbers, destination.stat().st_size, notes)


def _silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def _check_destination(source: Path, destination: Path) -> None:
    if destination.suffix != ".ckpt":
        raise UsageError(f"{destination}: the name of a converted checkpoint must end in .ckpt")
    if not destination.parent.is_dir():
        raise UsageError(f"there is no folder {destination.parent}")
    if destination.is_dir():
        raise UsageError(f"{destination} is a folder")
    if destination.exists() and source.exists() and destination.samefile(source):
        raise UsageError(f"{source} would be overwritten by its own conversion", "give another destination")
    beside = destination.with_suffix(".json")
    if beside.exists() and not architecture.is_config(beside):
        raise UsageError(f"{beside} is in the way and not a model's config", "give another destination")


def _plan(tensors: list[SourceTensor]) -> dict[str, _Parameter]:
    """Which rows of which tensor fill each parameter. Every tensor is used, or is a mask that a config implies."""
    _refuse_other_models([tensor.name for tensor in tensors])
    unknown = [name for tensor in tensors if not names.is_known(name := tensor.name)]
    if unknown:
        raise ModelError(f"no CoCa has tensors called {architecture.listed(unknown)}")
    plan: dict[str, _Parameter] = {}
    for tensor in tensors:
        for name, parameter in _split(tensor).items():
            if name in plan:
                raise ModelError(f"{plan[name].tensor.name} and {tensor.name} both fill {name}")
            plan[name] = parameter
    return plan


def _refuse_other_models(tensors: list[str]) -> None:
    if any(name.startswith("text_decoder.") for name in tensors):
        return
    if any(name.startswith(("visual.", "vision_model.")) for name in tensors):
        raise ModelError("this is a CLIP, not a CoCa: it has no text_decoder")
    raise ModelError(f"this is no CoCa: its tensors are {architecture.listed(tensors)}")


def _split(tensor: SourceTensor) -> dict[str, _Parameter]:
    """The parameters that a tensor fills with equal blocks of its rows."""
    targets = names.parameters_of(tensor.name)
    if targets and tensor.dtype not in _DTYPES:
        raise ModelError(f"{tensor.name} is of type {tensor.dtype}, not {', '.join(_DTYPES)}")
    rows, rest = divmod(tensor.rows, len(targets) or 1)
    if rest:
        raise ModelError(f"the {tensor.rows} rows of {tensor.name} do not split into {len(targets)} blocks")
    return {name: _Parameter(tensor, i * rows, (i + 1) * rows) for i, name in enumerate(targets)}


def _choose_config(
    plan: dict[str, _Parameter], source: Path, config: CocaConfig | None
) -> tuple[CocaConfig, tuple[str, ...]]:
    """The config given, else the one beside the source, else what the shapes tell; and a note where from."""
    shapes = {name: parameter.shape for name, parameter in plan.items()}
    notes: tuple[str, ...] = ()
    if config is None and (beside := architecture.find_config(source)):
        config = architecture.load_config(beside)
        notes = (f"config read from {beside}",)
    if config is None:
        config = architecture.recognise(shapes)
        notes = ("heads assumed to be 64 wide, the pooler's to be 8 and GELU to be exact: no config found",)
    architecture.check(config, shapes)
    return config, notes


def _write(
    plan: dict[str, _Parameter], destination: Path, config: CocaConfig, verify: bool, progress: Progress
) -> None:
    total = sum(parameter.size for parameter in plan.values())
    if (free := shutil.disk_usage(destination.parent).free) < total:
        raise ModelError(f"{destination} takes {total / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free")
    beside = destination.with_suffix(".json")
    try:
        with written_whole(beside, destination) as (config_file, weights):
            config_file.write(_config_text(beside, config))
            _write_weights(plan, weights, lambda done: progress("convert", done, total))
            if verify:
                weights.flush()
                _verify(plan, Path(weights.name), lambda done: progress("verify", done, total))
    except OSError as error:
        raise ModelError(f"cannot write {destination}: {error.strerror}") from None


def _config_text(path: Path, config: CocaConfig) -> bytes:
    """The config as JSON; what stands there already when it says the same, as it may say more."""
    if path.exists() and architecture.load_config(path) == config:
        return path.read_bytes()
    return json.dumps(config.to_open_clip(), indent=2).encode() + b"\n"


def _write_weights(plan: dict[str, _Parameter], file: BinaryIO, progress: Callable[[int], None]) -> None:
    done = 0
    for name, parameter in plan.items():
        ckpt.write(file, name, parameter.shape, parameter.parts())
        done += parameter.size
        progress(done)


def _verify(plan: dict[str, _Parameter], path: Path, progress: Callable[[int], None]) -> None:
    """Compare a written file with its source, bit by bit."""
    written = ckpt.read(path)
    done = 0
    for name, parameter in plan.items():
        if not _equal(written[name], parameter):
            raise ModelError(f"verification failed: {name} was not written as it was read", "check the disk")
        done += parameter.size
        progress(done)


def _equal(written: np.ndarray, parameter: _Parameter) -> bool:
    if written.shape != parameter.shape or written.dtype != np.float32:
        return False
    bits, at = written.reshape(-1).view(np.uint32), 0
    for part in parameter.parts():
        if not np.array_equal(bits[at : at + part.size], part.reshape(-1).view(np.uint32)):
            return False
        at += part.size
    release(written.ctypes.data, written.nbytes)
    return at == written.size
