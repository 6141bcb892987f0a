"""Open checkpoints as lazily read tensors: safetensors, pickles of tensors without code, and MindSpore's `.ckpt`."""

import math
import mmap
import pickle
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ModelError
from . import ckpt
from .mapped import release

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")  # of files that are likely open_clip's
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names -> torch's
_PART_BYTES = 16 << 20  # of float32 in memory at a time

# A `.ckpt` starts with a parameter (field 1, its length), which starts with its name (field 1). Empty lines before a
# web page can look like that, so web pages are told first, by their first tag.
_WEB_PAGE = re.compile(rb"\s*<[!?a-zA-Z]")
_CKPT = re.compile(rb"\n[\x80-\xff]*[\x00-\x7f]\n")


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of an open checkpoint."""

    name: str  # as in the file, without `module.`
    shape: tuple[int, ...]
    dtype: str  # as torch names it: float32, ...
    slice: Callable[[int, int], np.ndarray]  # rows from, to; a scalar is one row; bfloat16 comes as its bits in uint16
    mapped: bool  # whether slices lie in the file

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    def parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Rows from `start` to `stop`, a few at a time; each part only until the next is asked for.

        They come as they are stored, but bfloat16, which numpy does not know, as float32, which holds it exactly.
        """
        step = max(1, _PART_BYTES // (4 * max(1, math.prod(self.shape[1:]))))
        for first in range(start, stop, step):
            rows = self.slice(first, min(first + step, stop))
            yield _widened(rows) if self.dtype == "bfloat16" else rows
            if self.mapped and rows.flags.c_contiguous:
                release(rows.ctypes.data, rows.nbytes)


def _widened(bfloat16: np.ndarray) -> np.ndarray:
    """The bits of bfloat16, which are the upper half of float32's, as float32."""
    return np.left_shift(bfloat16, 16, dtype=np.uint32).view(np.float32)


@contextmanager
def open_checkpoint(path: Path) -> Iterator[list[SourceTensor]]:
    """The tensors of a `.bin`, `.pt`, `.safetensors` or `.ckpt`, told apart by content. They are read when asked for.

    Raises:
        ModelError: not a checkpoint, truncated, or a pickle that holds code (which is not run).
    """
    head = _head(path)
    if _CKPT.match(head):
        yield [_parameter(name, array) for name, array in ckpt.read(path).items()]
    elif _is_safetensors(head, path):
        with _safetensors(path) as tensors:
            yield _unprefixed(tensors, path)
    else:
        yield _unprefixed(_pickled(path), path)


def is_ckpt(path: Path) -> bool:
    """Whether a checkpoint is MindSpore's: what `coca convert` makes, or MindSpore itself.

    Raises:
        ModelError: there is no such file, or it is no checkpoint.
    """
    return bool(_CKPT.match(_head(path)))


def _head(path: Path) -> bytes:
    """The first bytes of a file that may be a checkpoint."""
    try:
        if path.is_dir():
            raise _folder_error(path)
        if not path.is_file():
            raise ModelError(f"no such file: {path}")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    _refuse_other_files(head, path)
    return head


def _folder_error(folder: Path) -> ModelError:
    inside = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    hint = f"coca convert {shlex.quote(str(inside[0]))}" if inside else ""
    return ModelError(f"{folder} is a folder, not a checkpoint", hint)


def _refuse_other_files(head: bytes, path: Path) -> None:
    if not head:
        raise ModelError(f"{path} is empty", "download it again")
    if head.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is a git-lfs pointer, not the checkpoint itself", "git lfs pull")
    if _WEB_PAGE.match(head):
        raise ModelError(f"{path} is a web page, not a checkpoint", "download the file itself")


def _parameter(name: str, array: np.ndarray) -> SourceTensor:
    def rows(start: int, stop: int) -> np.ndarray:
        return array[start:stop] if array.shape else array

    return SourceTensor(name, array.shape, array.dtype.name, rows, mapped=isinstance(array.base, mmap.mmap))


def _is_safetensors(head: bytes, path: Path) -> bool:
    """Whether a file starts as safetensors do: 8 bytes of length, then JSON. Pickles and zip archives do not."""
    return head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")))


@contextmanager
def _safetensors(path: Path) -> Iterator[list[SourceTensor]]:
    import safetensors

    try:
        file = safetensors.safe_open(path, framework="pt")
    except (safetensors.SafetensorError, OSError) as error:
        raise ModelError(f"{path} is truncated or no safetensors file: {_one_line(error)}") from None
    with file:
        yield [_safetensor(file, name) for name in file.keys()]  # noqa: SIM118 (not a dict)


def _safetensor(file: Any, name: str) -> SourceTensor:
    part = file.get_slice(name)
    shape, dtype = tuple(part.get_shape()), part.get_dtype()

    def rows(start: int, stop: int) -> np.ndarray:
        return _stored(part[start:stop] if shape else file.get_tensor(name))

    return SourceTensor(name, shape, _DTYPES.get(dtype, dtype), rows, mapped=True)


def _pickled(path: Path) -> list[SourceTensor]:
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"  # torch's format since 1.6; what is older cannot be mapped
    state = _load(path, zipped)
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # a training checkpoint: epoch, optimizer and more stand beside it
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds no state dict, but a {type(state).__name__}")
    return [_torch_tensor(str(name), tensor, zipped, path) for name, tensor in state.items()]


def _load(path: Path, mapped: bool) -> Any:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"):  # of formats that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _unpickling_error(path, str(error)) from None
    except Exception as error:  # torch raises whatever a damaged file leads it to
        if "TorchScript" in str(error):
            raise ModelError(f"{path} is a TorchScript program, not a checkpoint of tensors") from None
        reason = (
            "" if isinstance(error, KeyError) else f": {_one_line(error)}"
        )  # an unknown opcode says only its number
        raise ModelError(f"{path} is truncated or no checkpoint{reason}") from None


def _unpickling_error(path: Path, reason: str) -> ModelError:
    code = re.search(r"GLOBAL (\S+)", reason)
    if code is None:
        return ModelError(f"{path} is truncated or no checkpoint of tensors")
    return ModelError(
        f"{path} holds code ({code[1]}) beside its tensors; it was not run",
        "use the model's safetensors file, or ask its author for the state dict alone",
    )


def _torch_tensor(name: str, tensor: Any, mapped: bool, path: Path) -> SourceTensor:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise ModelError(f"{path} is no state dict: {name} is a {type(tensor).__name__}, not a tensor")
    dtype = str(tensor.dtype if tensor.layout is torch.strided else tensor.layout).removeprefix("torch.")

    def rows(start: int, stop: int) -> np.ndarray:
        return _stored(tensor[start:stop] if tensor.dim() else tensor)

    return SourceTensor(name, tuple(tensor.shape), dtype, rows, mapped)


def _stored(tensor: Any) -> np.ndarray:
    """A torch tensor's own memory; that of bfloat16 as uint16."""
    import torch

    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _unprefixed(tensors: list[SourceTensor], path: Path) -> list[SourceTensor]:
    """Names without the `module.` that distributed training puts before every one of them."""
    if not tensors:
        raise ModelError(f"{path} holds no tensors")
    if all(tensor.name.startswith("module.") for tensor in tensors):
        return [replace(tensor, name=tensor.name.removeprefix("module.")) for tensor in tensors]
    return tensors


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
