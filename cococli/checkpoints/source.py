"""Open checkpoints as lazily read tensors: safetensors, pickles of tensors without code, and MindSpore's `.ckpt`.

Safetensors and pickles may be sharded, as transformers writes them: several files, and an index that maps tensors to
files.
"""

import ctypes
import errno
import json
import math
import mmap
import os
import pickle
import re
import shlex
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..errors import ModelError, UsageError
from ..files import os_reason
from ..parsing import read_json, validate
from ..portable import read_at
from . import ckpt

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")  # of files that are likely open_clip's
# Names of open_clip's weights on the hub, the best first: safetensors hold no code and are read lazily.
HUB_NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
INDEX = ".index.json"  # suffix of the index of a sharded checkpoint
INDEX_NAMES = ("open_clip_model.safetensors.index.json", "model.safetensors.index.json")  # on the hub
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.\w+)")
_NO_WEIGHTS = re.compile(r"(optimizer|scheduler|scaler|rng_state|training_args|trainer_state)")  # prefixes of names
# Keys under which training programs save a state dict; trained weights come before averaged ones.
_WRAPPERS = ("state_dict", "model", "model_state_dict", "module", "state_dict_ema", "model_ema", "ema")
# Parts of names that torch.compile, FSDP and activation checkpointing add wherever a module is wrapped.
_WRAPPED = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MAX_DEPTH = 3  # of nested wrappers
_LANDMARK = "text_decoder.text_projection"  # a tensor that every CoCa has and nothing else does
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names -> torch's
_STORED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # -> numpy's; other types are refused
_PART_BYTES = 16 << 20  # of float32 in memory at a time
_SLACK_BYTES = 1 << 20  # that the tensors of a file may claim beyond its size
_SPARE_BYTES = 1 << 30  # of memory that loading a pickle may take beyond its size

# A `.ckpt` starts with a parameter (field 1, its length), which starts with its name (field 1). Empty lines before a
# web page can look like that, so web pages are recognized first, by their first tag.
_WEB_PAGE = re.compile(rb"\s*<[!?a-zA-Z]")
_CKPT = re.compile(rb"\n[\x80-\xff]*[\x00-\x7f]\n")


@dataclass(frozen=True)
class SourceTensor:
    """A tensor of an open checkpoint."""

    name: str  # open_clip's, without prefixes of training programs
    shape: tuple[int, ...]
    dtype: str  # torch's name: float32, ...
    slice: Callable[[int, int], np.ndarray]  # rows from, to; a scalar is one row; bfloat16 comes as its bits in uint16
    mapped: bool  # slices are views of the mapped file

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    def parts(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """Yield rows from `start` to `stop`, a few at a time; a part is valid until the next one is requested.

        bfloat16, which numpy lacks, comes as float32, which holds it exactly; other types come as stored.

        Raises:
            ModelError: The file was truncated since it was opened.
        """
        step = max(1, _PART_BYTES // (4 * max(1, math.prod(self.shape[1:]))))
        for first in range(start, stop, step):
            rows = self.slice(first, min(first + step, stop))
            mapped = self.mapped and rows.flags.c_contiguous
            read = _read_mapped(rows) if mapped else rows
            yield _widened(read) if self.dtype == "bfloat16" else read
            if mapped:
                _release(rows.ctypes.data, rows.nbytes)


def _widened(bfloat16: np.ndarray) -> np.ndarray:
    """Convert the bits of bfloat16, which are the upper half of float32's, to float32."""
    return np.left_shift(bfloat16, 16, dtype=np.uint32).view(np.float32)


def _read_mapped(rows: np.ndarray) -> np.ndarray:
    """Copy rows of a mapped file. On Linux, an error follows if it was truncated, where access would end the process.

    Raises:
        ModelError: The file was truncated.
    """
    if not hasattr(os, "memfd_create") or not rows.nbytes:
        return rows
    left = rows.reshape(-1).view(np.uint8).data
    with FileIO(os.memfd_create("coca"), "r+") as memory:
        try:
            while left:
                left = left[memory.write(left) :]
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            raise _truncated() from None
        return np.frombuffer(mmap.mmap(memory.fileno(), rows.nbytes), rows.dtype).reshape(rows.shape)


def _truncated() -> ModelError:
    return ModelError("the checkpoint was truncated while it was read", "repeat the command")


def _release(address: int, size: int) -> None:
    """Give back the whole pages within `size` bytes of a mapped file, which count as the process's own memory.

    They are read again when next accessed; other memory would lose its content. A no-op outside Linux.
    """
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if sys.platform == "linux" and first < last:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


@contextmanager
def open_checkpoint(path: Path) -> Iterator[list[SourceTensor]]:
    """Open the tensors of a `.bin`, `.pt`, `.safetensors` or `.ckpt`, recognized by content. They are read on request.

    Args:
        path: A checkpoint, or the index of a sharded one.

    Raises:
        ModelError: It is not a checkpoint, is truncated, or is a pickle that holds code (which is not run).
    """
    if is_ckpt(path):
        yield [_parameter(name, array) for name, array in ckpt.read(path).items()]
        return
    with ExitStack() as stack:
        shards = read_index(path) if path.name.endswith(INDEX) else {path: set[str]()}
        tensors = []
        for shard, names in shards.items():
            found = stack.enter_context(_open(shard))
            if missing := names - {tensor.name for tensor in found}:
                raise ModelError(f"{shard} lacks {min(missing)}, which {path.name} lists", "download it again")
            tensors += found
        if not tensors:
            raise ModelError(f"{path} holds no tensors")
        yield _unwrapped(tensors)


@contextmanager
def _open(path: Path) -> Iterator[list[SourceTensor]]:
    """Open the tensors of one file under the names that it uses."""
    if _is_safetensors(_head(path), path):
        with _safetensors(path) as tensors:
            yield tensors
    else:
        yield _pickled(path)


def read_index(path: Path) -> dict[Path, set[str]]:
    """Return the files of a sharded checkpoint, and the tensors that its index lists for each.

    Raises:
        ModelError: The index cannot be read, or names files in other folders.
    """
    try:
        index = read_json(path)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        names = validate(weight_map, dict[str, str], f"weight_map in {path}")
    except UsageError as error:
        raise ModelError(error.message, error.hint) from None
    shards: dict[Path, set[str]] = {}
    for name, file in names.items():
        if Path(file).name != file:
            raise ModelError(f"{path}: {name} cannot be in {file!r}, which is not a file beside it")
        shards.setdefault(path.with_name(file), set()).add(name)
    if not any(name.endswith(_LANDMARK) for name in names):
        raise ModelError(f"{path} is not the index of a CoCa: it lists no {_LANDMARK}")
    return shards


def find_checkpoint(path: Path, command: str) -> Path:
    """Return the checkpoint in a folder, or the index that a shard belongs to. Other paths are returned unchanged.

    Args:
        command: Command that takes a checkpoint, for hints, as `coca convert`.

    Raises:
        ModelError: The folder holds none or several, or cannot be read.
    """
    if not path.is_dir():
        shard = _SHARD.fullmatch(path.name)
        index = path.with_name(f"{shard['stem']}{shard['suffix']}{INDEX}") if shard else path
        return index if index.is_file() else path
    try:
        files = {file.name: file for file in path.iterdir() if not file.name.startswith(".") and file.is_file()}
    except OSError as error:
        raise ModelError(f"cannot read {path}: {os_reason(error)}") from None
    if usual := next(filter(files.get, (*HUB_NAMES, *INDEX_NAMES)), None):
        return files[usual]
    found = [files[name] for name in likely_names(files)]
    if not found:
        raise ModelError(f"{path} is a folder without a checkpoint", "name the checkpoint itself")
    if len(found) > 1:
        newest = max(found, key=lambda file: file.stat().st_mtime_ns)
        hint = f"name one of them; the newest: {command} {shlex.quote(str(newest))}"
        raise ModelError(f"{path} is a folder with {len(found)} checkpoints", hint)
    return found[0]


def likely_names(paths: Iterable[str]) -> list[str]:
    """Return the paths of files that may be checkpoints: open_clip's, or else MindSpore's."""
    paths = list(paths)
    likely = [path for path in paths if _is_likely(path.rpartition("/")[2])]
    return likely or [path for path in paths if path.endswith(".ckpt")]


def _is_likely(name: str) -> bool:
    """Return whether a name may be that of a checkpoint rather than a shard or another file of a training program."""
    if _SHARD.fullmatch(name) or _NO_WEIGHTS.match(name):
        return False
    return name.endswith((*SUFFIXES, *(f"{suffix}{INDEX}" for suffix in SUFFIXES)))


def is_ckpt(path: Path) -> bool:
    """Return whether a checkpoint is MindSpore's: made by `coca convert` or by MindSpore itself.

    Raises:
        ModelError: There is no such file, or it is not a checkpoint.
    """
    return bool(_CKPT.match(_head(path)))


def _head(path: Path) -> bytes:
    """Return the first bytes of a file that may be a checkpoint."""
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a folder, not a checkpoint")
        if not path.is_file():
            raise ModelError(f"no such file: {path}")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {os_reason(error)}") from None
    _refuse_other_files(head, path)
    return head


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
    """Return whether a file starts like safetensors, unlike pickles and zip archives: 8 bytes of length, then JSON."""
    return head[8:9] == b"{" or (path.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")))


@contextmanager
def _safetensors(path: Path) -> Iterator[list[SourceTensor]]:
    """Open the tensors of a safetensors file, which the library checks but does not read.

    It maps the file, so that the process would end if the file is truncated.
    """
    import safetensors

    with ExitStack() as stack:
        try:
            with safetensors.safe_open(path, framework="np") as checked:
                names = [*checked.keys()]
            file = stack.enter_context(path.open("rb"))
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
            tensors = [_safetensor(file, 8 + size, name, **header[name]) for name in names]
        except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{path} is truncated or not a safetensors file: {_one_line(error)}") from None
        yield tensors


def _safetensor(
    file: BinaryIO, start: int, name: str, dtype: str, shape: list[int], data_offsets: list[int]
) -> SourceTensor:
    stored = np.dtype(_STORED.get(dtype, "<u1"))
    row_bytes = stored.itemsize * math.prod(shape[1:])

    def rows(first: int, stop: int) -> np.ndarray:
        count = stop - first if shape else 1
        content = read_at(file.fileno(), count * row_bytes, start + data_offsets[0] + first * row_bytes)
        if len(content) < count * row_bytes:
            raise _truncated()
        return np.frombuffer(content, stored).reshape([count, *shape[1:]] if shape else [])

    return SourceTensor(name, tuple(shape), _DTYPES.get(dtype, dtype), rows, mapped=False)


def _pickled(path: Path) -> list[SourceTensor]:
    with path.open("rb") as file:
        # torch writes zip archives since 1.6. Older files cannot be mapped.
        zipped = file.read(2) == b"PK"
    if zipped:
        _check_zip(path)
    state = _state_dict(_load(path, zipped))
    if not isinstance(state, dict):
        raise ModelError(f"{path} holds no state dict but a {type(state).__name__}")
    tensors = [_torch_tensor(str(name), tensor, zipped, path) for name, tensor in state.items()]
    claimed, size = sum(tensor.nbytes for tensor in state.values()), path.stat().st_size
    # Some tensors may share their numbers.
    if claimed > 4 * size + _SLACK_BYTES:
        raise ModelError(f"{path} has {size:,} bytes, but its tensors claim {claimed:,}")
    return tensors


def _check_zip(path: Path) -> None:
    """Refuse a compressed archive: torch does not compress, so it may be crafted to fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError):
        return
    if unpacked > (size := path.stat().st_size):
        raise ModelError(f"{path} has {size:,} bytes, but {unpacked:,} unpacked: torch did not write it")


@contextmanager
def _limited_memory(size: int) -> Iterator[None]:
    """Limit the address space that this process may take in addition, where the system can."""
    if sys.platform != "linux":
        yield
        return
    import resource

    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * mmap.PAGESIZE
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limits = [limit for limit in (used + size, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _load(path: Path, mapped: bool) -> Any:
    import torch

    try:
        # A pickle can ask for any amount of memory, however small it is.
        with warnings.catch_warnings(action="ignore"), _limited_memory(2 * path.stat().st_size + _SPARE_BYTES):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise _unpickling_error(path, str(error)) from None
    except Exception as error:
        # torch raises whatever a damaged file leads it to.
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise ModelError(
                f"{path} takes more memory than a checkpoint of its size should need, or than is available"
            ) from None
        if "TorchScript" in str(error):
            raise ModelError(f"{path} is a TorchScript program, not a checkpoint of tensors") from None
        # The text of a KeyError is only the number of an opcode.
        reason = "" if isinstance(error, KeyError) else f": {_one_line(error)}"
        raise ModelError(f"{path} is truncated or not a checkpoint{reason}") from None


def _unpickling_error(path: Path, reason: str) -> ModelError:
    code = re.search(r"GLOBAL (\S+)", reason)
    if code is None:
        return ModelError(f"{path} is truncated or not a checkpoint of tensors")
    return ModelError(
        f"{path} holds code ({code[1]}) besides tensors; it was not run",
        "use the model's safetensors file, or ask its author for the state dict only",
    )


def _torch_tensor(name: str, tensor: Any, mapped: bool, path: Path) -> SourceTensor:
    import torch

    if not isinstance(tensor, torch.Tensor):
        raise ModelError(f"{path} is not a state dict: {name} is a {type(tensor).__name__}, not a tensor")
    dtype = str(tensor.dtype if tensor.layout is torch.strided else tensor.layout).removeprefix("torch.")

    def rows(start: int, stop: int) -> np.ndarray:
        return _stored(tensor[start:stop] if tensor.dim() else tensor)

    return SourceTensor(name, tuple(tensor.shape), dtype, rows, mapped)


def _stored(tensor: Any) -> np.ndarray:
    """Return a torch tensor's own memory; that of bfloat16 as uint16."""
    import torch

    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _state_dict(state: Any) -> Any:
    """Return the state dict in a file of a training program, next to epoch, optimizer and more."""
    for _ in range(_MAX_DEPTH):
        if not isinstance(state, dict) or _has_landmark(state):
            break
        inside = [state[key] for key in _WRAPPERS if isinstance(state.get(key), dict)]
        if inside:
            state = next(filter(_has_landmark, inside), inside[0])
    return state


def _has_landmark(state: dict[Any, Any]) -> bool:
    return any(isinstance(name, str) and name.endswith(_LANDMARK) for name in state)


def _unwrapped(tensors: Sequence[SourceTensor]) -> list[SourceTensor]:
    """Strip the marks of training programs from names: a common prefix (`module.`, `model.`), wrapped modules."""
    names = [_WRAPPED.sub("", tensor.name) for tensor in tensors]
    # The second one is for CLIPs, which are refused later.
    marks = (_LANDMARK, "visual.proj")
    prefix = next((name.removesuffix(mark) for mark in marks for name in names if name.endswith(mark)), "")
    unwrapped = [replace(tensor, name=name) for tensor, name in zip(tensors, names, strict=True)]
    # This is a counter beside averaged weights.
    unwrapped = [tensor for tensor in unwrapped if tensor.name != "n_averaged"]
    if not all(tensor.name.startswith(prefix) for tensor in unwrapped):
        return unwrapped
    return [replace(tensor, name=tensor.name.removeprefix(prefix)) for tensor in unwrapped]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
