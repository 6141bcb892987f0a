"""Files and folders that appear complete or not at all, their temporary files, free space, digests and sizes.

A file is written under a random hidden name, `.coca-<16 hex digits>.part`, in the folder of its destination and moved
there once it is complete. The process that writes it holds a lock on it, which distinguishes files being written from
those that a killed process left behind. The next process that writes into the folder removes the latter.
"""

import ctypes
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import signal
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from types import FrameType
from typing import BinaryIO, Literal, NamedTuple, NoReturn

from .errors import CocaError
from .portable import ENDING, SEPARATORS, close_to_move, lock, open_regular, sync, undisturbed
from .reporting import Progress
from .urls import RemotePath, is_url, remote_path

_TEMPORARY = re.compile(r"\.coca-[0-9a-f]+\.part")
_CHUNK_BYTES = 1 << 20
_SLASH, _NOT = f"[{re.escape(SEPARATORS)}]", f"^{re.escape(SEPARATORS)}"
_RANGE = re.compile(rf"{_SLASH}@([0-9]{{1,18}})\+([0-9]{{1,18}}){_SLASH}")
_SAMPLE = re.compile(
    rf"\.tar(?:\?[{_NOT}]*)?{_RANGE.pattern}((?:.*{_SLASH})?[{_NOT}.]+)[{_NOT}]*", re.DOTALL | re.IGNORECASE
)
_SPAN = re.compile(rf"(.+){_SLASH}@(\d+(?:\.\d+)?)-(\d+(?:\.\d+)?)s{_SLASH}[{_NOT}]*", re.DOTALL)


@contextmanager
def write_atomically(*destinations: Path) -> Iterator[list[BinaryIO]]:
    """Open a new file for each destination and move all of them into place when the block succeeds.

    On any error, Ctrl-C and SIGTERM included, the new files are removed and the destinations stay as they were. A
    symbolic link stays a link: its target is replaced. An existing file keeps its permissions. Inside the block
    `file.name` is the path of the temporary file, readable once flushed.

    Raises:
        OSError: A folder is missing or not writable, a destination is not a regular file, or the disk is full.
    """
    with unwinding_on_sigterm(), ExitStack() as stack:
        places = [Path(os.path.realpath(destination)) for destination in destinations]
        files: list[BinaryIO] = []
        for place in places:
            if place.exists() and not place.is_file():
                raise OSError(errno.EINVAL, "not a regular file", str(place))
            files.append(create_temporary(place.parent))
            stack.callback(Path(files[-1].name).unlink, missing_ok=True)
            stack.enter_context(files[-1])
        yield files
        for file, place in zip(files, places, strict=True):
            file.flush()
            copy_mode(place, file)
            os.fsync(file.fileno())
        close_to_move(*files)
        with undisturbed():
            for file, place in zip(files, places, strict=True):
                Path(file.name).replace(place)
        for folder in {place.parent for place in places}:
            sync_folder(folder)


def publish_folder(folder: Path, destination: Path) -> None:
    """Move a complete folder of files to its destination in one step, replacing an existing folder.

    Raises:
        OSError: The parent folder is not writable, or the disk is full.
    """
    for path in folder.iterdir():
        sync(path)
    sync_folder(folder)
    old = folder
    with undisturbed():
        if not os.path.lexists(destination):
            folder.rename(destination)
        elif not _exchange(folder, destination):
            old = hide_folder(destination)
            folder.rename(destination)
    sync_folder(destination.parent)
    delete(old)


def hide_folder(folder: Path) -> Path:
    """Rename a folder in one step, so that removing it may be interrupted. Return its hidden path."""
    hidden = folder.with_name(f".coca-{folder.name}~")
    delete(hidden)
    return folder.rename(hidden)


def delete(path: Path) -> None:
    """Remove a file, a link or a folder with its contents, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step, where the system can: on Linux, in most file systems."""
    try:
        renameat2 = ctypes.CDLL(None).renameat2
    except (AttributeError, TypeError):  # TypeError: on Windows, a library has a name
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
    return renameat2(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def link_or_copy(source: Path, destination: Path) -> None:
    """Give a file a second name, or copy it where the file system cannot do that.

    Raises:
        OSError: It cannot be read or written.
    """
    try:
        destination.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, destination)
        sync(destination)


def create_temporary(folder: Path) -> BinaryIO:
    """Create an empty file with a random name in a folder, open for reading and writing and locked by this process.

    The first one in a folder removes what killed processes left there.

    Raises:
        OSError: The folder is missing or not writable.
    """
    _remove_abandoned_once(folder)
    while True:
        path = folder / f".coca-{secrets.token_hex(8)}.part"
        file = path.open("x+b")  # exclusive: never an existing file, never through a link
        with suppress(BlockingIOError):
            if not lock(file) or _is_at(file, path):
                return file
        file.close()  # removed as abandoned by another process, before it was locked


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Create a folder for the block: a private one in the system's folder for temporary files, or one in `parent`.

    It may be moved away, as by `publish_folder`. It belongs to a locked temporary file, so that the next process
    removes it if this one is killed.
    """
    with create_temporary(parent or Path(tempfile.gettempdir())) as file:
        folder = _folder_of(Path(file.name))
        try:
            folder.mkdir(mode=0o777 if parent else 0o700)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            close_to_move(file)
            Path(file.name).unlink(missing_ok=True)


def remove_abandoned(folder: Path) -> dict[Path, int]:
    """Remove the temporary files in a folder that no living process writes to. Return their sizes in bytes."""
    removed = {}
    with suppress(OSError):
        for path in [entry for entry in folder.iterdir() if _TEMPORARY.fullmatch(entry.name)]:
            with suppress(OSError), open(path, "rb", opener=open_regular) as file:
                if lock(file):
                    shutil.rmtree(_folder_of(path), ignore_errors=True)
                    size = os.fstat(file.fileno()).st_size
                    close_to_move(file)
                    path.unlink()
                    removed[path] = size
    return removed


_remove_abandoned_once = functools.cache(remove_abandoned)


def _folder_of(file: Path) -> Path:
    return file.with_suffix(".folder")


def check_regular(path: Path) -> None:
    """Refuse FIFOs, sockets and devices, whose reading may never end.

    What the shell has opened already ends when its writer does: `<(command)` and a pipe into /dev/stdin are fine.

    Raises:
        OSError: The file is one of these or does not exist.
    """
    mode = path.stat().st_mode
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path.samefile(os.devnull):
        return
    if not (stat.S_ISFIFO(mode) and re.fullmatch(r"/dev/stdin|/dev/fd/\d+|/proc/self/fd/\d+", str(path))):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


@contextmanager
def io_errors(action: Literal["read", "write"], path: Path) -> Iterator[None]:
    """Report in one line that a file cannot be read or written.

    Raises:
        CocaError: An OSError came out of the block.
    """
    try:
        yield
    except OSError as error:
        hint = "what was written so far is kept" if action == "write" else ""
        raise CocaError(f"cannot {action} {path}: {os_reason(error)}", hint) from None


class Member(NamedTuple):
    """A range of bytes of a container."""

    container: Path
    offset: int
    size: int


def member_path(container: Path, offset: int, size: int, name: str) -> Path:
    """Return the path of a file inside an uncompressed container, as in `a.tar/@1536+20480/dog.jpg`.

    It holds all that is needed to read the file, so that neither reader processes nor later runs need an index.

    Args:
        name: May have folders in it, but is relative and never leads up.
    """
    if isinstance(container, RemotePath):
        url, text = member_name(container.url, offset, size, name), member_name(str(container), offset, size, name)
        return remote_path(url, container.version, text)
    return Path(member_name(str(container), offset, size, name))


def member_name(container: str, offset: int, size: int, name: str) -> str:
    """Return a `member_path` as text, which is faster to make."""
    return f"{container}/@{offset}+{size}/{name}"


def find_member(path: Path) -> Member | None:
    """Return what a `member_path` stands for; None for other paths."""
    if isinstance(path, RemotePath):
        if not (inner := _RANGE.search(path.url)):
            return None
        return Member(remote_path(path.url[: inner.start()], path.version), int(inner[1]), int(inner[2]))
    name = str(path)
    for match in _RANGE.finditer(name):
        if os.path.isfile(container := name[: match.start()]):  # noqa: PTH113
            return Member(Path(container), int(match[1]), int(match[2]))
    return None


def without_range(path: Path) -> Path:
    """Return where a `member_path` would be if its container were a folder; other paths unchanged."""
    return Path(_RANGE.sub("/", str(path), count=1)) if find_member(path) else path


def exists(path: str) -> bool:
    """Return whether there is a file, a broken link, or a container that may hold the file. URLs count as existing."""
    return os.path.lexists(path) or is_url(path) or find_member(Path(path)) is not None


class Span(NamedTuple):
    """A part of a video."""

    video: Path
    start: float  # seconds
    end: float


def span_path(video: Path, start: float, end: float) -> Path:
    """Return the path of a part of a video, as in `dog.mp4/@1.5-7.25s/dog.mp4`, which is read as a video of its own."""
    return video / f"@{format_span(start, end)}" / video.name


def format_span(start: float, end: float) -> str:
    """Return the times of a part of a video as in its path, to the microsecond: `1.5-7.25s`."""
    return "-".join(f"{seconds:.6f}".rstrip("0").rstrip(".") for seconds in (start, end)) + "s"


def find_span(path: Path) -> Span | None:
    """Return what a `span_path` stands for; None for other paths."""
    match = _SPAN.fullmatch(str(path))
    return Span(Path(match[1]), float(match[2]), float(match[3])) if match else None


def container_of(path: Path) -> Path:
    """Return the container of a `member_path`, or the video of a `span_path`; other paths unchanged."""
    if span := find_span(path):
        path = span.video
    member = find_member(path)
    return member.container if member else path


def sample_key(path: str) -> str | None:
    """Return WebDataset's key of a file in a tar, `train/17` for `a.tar/@1536+20480/train/17.jpg`; else None."""
    match = _SAMPLE.search(path)
    return match[3] if match else None


def sample_fields(path: str) -> dict[str, str]:
    """Return the field of a record that holds the key of a file in a tar; none for other files."""
    key = sample_key(path)
    return {} if key is None else {"__key__": key}


def open_binary(path: Path) -> BinaryIO:
    """Open a file, or one inside a container, to read its bytes.

    Raises:
        OSError: It cannot be read, or the container is truncated.
    """
    if not (member := find_member(path)):
        return path.open("rb")
    with member.container.open("rb") as file:
        file.seek(member.offset)
        content = file.read(member.size)
    if len(content) < member.size:
        raise OSError(errno.EINVAL, f"{member.container.name} is truncated")
    return BytesIO(content)


def copy_mode(source: Path, file: BinaryIO) -> None:
    """Give an open file the permissions of the file that it is about to replace, if there is one."""
    with suppress(OSError):
        Path(file.name).chmod(stat.S_IMODE(source.stat().st_mode))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, if the system can."""
    with suppress(OSError):
        sync(folder)


def _is_at(file: BinaryIO, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, which by default end the process immediately, run the cleanup first."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in ENDING if main and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def check_space(folder: Path, needed: int) -> None:
    """Check that a disk has room for a number of bytes, apart from what killed processes left in the folder.

    Raises:
        OSError: It has too little, or the folder is missing.
    """
    free = shutil.disk_usage(folder).free
    if free < needed and remove_abandoned(folder):
        free = shutil.disk_usage(folder).free
    if free < needed:
        problem = f"it needs {format_size(needed)}, but only {format_size(free)} is free in {folder}"
        raise OSError(errno.ENOSPC, problem)


def digest(text: str, length: int = 16) -> str:
    """Return the first hex digits of the SHA-256 of a text, which may be a path of any bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:length]


def hash_file(path: Path, progress: Progress | None = None, before: int = 0) -> str:
    """Return the SHA-256 of a file.

    Args:
        progress: Updated with the bytes that are read, on top of those `before`.

    Raises:
        OSError: The file cannot be read.
    """
    sha256 = hashlib.sha256()
    with open_binary(path) as file:
        while chunk := file.read(_CHUNK_BYTES):
            sha256.update(chunk)
            before += len(chunk)
            if progress:
                progress.update(before)
    return sha256.hexdigest()


def format_size(size: int) -> str:
    """Format a number of bytes: `2.55 GB`, `3.1 MB`, `12 bytes`."""
    for unit, name, digits in ((10**9, "GB", 2), (10**6, "MB", 1), (10**3, "kB", 1)):
        if size >= unit:
            return f"{size / unit:.{digits}f} {name}"
    return f"{size} bytes"


def os_reason(error: OSError) -> str:
    """Return the system's description of an error, as in `Permission denied`."""
    return error.strerror or str(error)
