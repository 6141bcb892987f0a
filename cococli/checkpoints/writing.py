"""Write a checkpoint and its config: on a disk that has room, both or neither, and read back when asked to."""

import math
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from .. import settings
from ..catalog import CocaConfig
from ..errors import ModelError, UsageError
from ..overwrite import check_paths, refuse_foreign, write_output
from . import architecture
from .architecture import Shape
from .plan import Model, Parameter, open_model

Dtype = Literal["float32", "float16"]
Progress = Callable[[str, int, int], None]  # stage (`convert` or `verify`), bytes done, bytes in all


@dataclass(frozen=True)
class Tensor:
    """A tensor to write."""

    name: str
    shape: Shape
    dtype: Dtype
    parameters: dict[str, Parameter]  # each fills a block of its rows, in this order

    @property
    def size(self) -> int:
        """Bytes of its content."""
        return np.dtype(self.dtype).itemsize * math.prod(self.shape)

    def parts(self) -> Iterable[np.ndarray]:
        """Its content, a few rows at a time; each part only until the next is asked for."""
        return (part for parameter in self.parameters.values() for part in parameter.parts(self.dtype))


@dataclass(frozen=True)
class Conversion:
    """What a conversion made."""

    path: Path  # of the weights; their config stands beside them
    config: CocaConfig
    parameters: int  # numbers in all tensors
    size: int  # bytes of the weights
    notes: tuple[str, ...]  # where the config is from, what was assumed, and what was rounded


def check_destination(source: Path, destination: Path, beside: Path) -> None:
    """Raise a UsageError when nothing can be written to the destination, or it or the config is what is read."""
    if not destination.parent.is_dir():
        raise UsageError(f"there is no folder {destination.parent}")
    if destination.is_dir():
        raise UsageError(f"{destination} is a folder")
    if destination.exists() and source.exists() and destination.samefile(source):
        hint = "give another destination, or --to open_clip for its format"
        raise UsageError(f"{source} would be overwritten by its own conversion", hint)
    check_paths([(str(destination), destination), (str(beside), beside)], [source, settings.config_file()])


def write(
    model: Model,
    tensors: Sequence[Tensor],
    destination: Path,
    config: tuple[Path, bytes],
    write_tensors: Callable[[BinaryIO, Sequence[Tensor]], Iterable[int]],
    verify: bool,
    progress: Progress | None,
    overwrite: bool = False,
) -> Conversion:
    """Write the tensors of a model and its config, part by part; what stood there stays on any failure.

    Args:
        config: The file of the config, in the destination's folder, and its content.
        write_tensors: Writes the tensors to an open file and yields the bytes of each.
        verify: Open what was written and compare it bit by bit before it takes its place.
        progress: Called as bytes are written, and again as they are verified.
        overwrite: Replace files that coca did not write. A config that already describes the model may always be.

    Raises:
        UsageError: there is such a file.
        ModelError: the disk is full, the folder closed, a number too large for its type, or the verification fails.
    """
    beside, text = config
    if not overwrite:
        refuse_foreign(destination, *(() if config_of_same(beside, model.config) else (beside,)))
    total = sum(tensor.size for tensor in tensors)
    if (free := shutil.disk_usage(destination.parent).free) < total:
        raise ModelError(f"{destination} takes {total / 1e9:.2f} GB, but {free / 1e9:.2f} GB are free")
    try:
        with write_output(beside, destination) as (config_file, file):
            config_file.write(text)
            _watch(write_tensors(file, tensors), "convert", total, progress)
            if verify:
                file.flush()
                with open_model(Path(file.name), model.config) as written:
                    _watch(_compare(tensors, written), "verify", total, progress)
    except OSError as error:
        raise ModelError(f"cannot write {destination}: {error.strerror}") from None
    numbers = sum(math.prod(tensor.shape) for tensor in tensors)
    return Conversion(destination, model.config, numbers, destination.stat().st_size, model.notes + _rounding(tensors))


def config_of_same(path: Path, config: CocaConfig) -> CocaConfig | None:
    """Return what a config file holds if it describes the same architecture, however pictures are prepared for it."""
    with suppress(ModelError):
        if (found := architecture.load_config(path)) == config:
            return found
    return None


def _watch(sizes: Iterable[int], stage: str, total: int, progress: Progress | None) -> None:
    """Run through what yields the bytes of its steps, and tell how far it is."""
    done = 0
    for size in sizes:
        done += size
        if progress:
            progress(stage, done, total)


def _compare(tensors: Sequence[Tensor], written: Model) -> Iterable[int]:
    for tensor in tensors:
        for name, parameter in tensor.parameters.items():
            if not _equal(written.parameters[name], parameter, tensor.dtype):
                raise ModelError(f"verification failed: {name} was not written as it was read", "check the disk")
        yield tensor.size


def _equal(written: Parameter, source: Parameter, dtype: Dtype) -> bool:
    """Whether a file holds a parameter bit by bit, so that NaN equals itself and 0 does not equal -0."""
    if (written.shape, written.tensor.dtype) != (source.shape, dtype):
        return False
    pairs = zip(written.parts(dtype), source.parts(dtype), strict=True)
    return all(np.array_equal(_bits(there), _bits(here)) for there, here in pairs)


def _bits(part: np.ndarray) -> np.ndarray:
    return part.reshape(-1).view(f"u{part.itemsize}")


def _rounding(tensors: Sequence[Tensor]) -> tuple[str, ...]:
    """A note when numbers of more digits became float16."""
    halves = [tensor for tensor in tensors if tensor.dtype == "float16"]
    if all(source.tensor.dtype == "float16" for tensor in halves for source in tensor.parameters.values()):
        return ()
    return ("weights rounded to half precision: each by at most 0.05 %, or by 3e-8 where that is more",)
