"""Files that appear complete or not at all, and the temporary files behind them.

A file is written under a random hidden name, `.coca-<16 hex digits>.part`, in the folder of its destination and moved
there once it is complete. The process that writes it holds a lock on it, so whatever a killed process leaves behind can
be told from a file that is being written and removed.
"""

import os
import re
import secrets
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn

_FATAL = (signal.SIGTERM, signal.SIGHUP)
_TEMPORARY = re.compile(r"\.coca-[0-9a-f]+\.part")


@contextmanager
def write_atomically(*destinations: Path) -> Iterator[list[BinaryIO]]:
    """Open a new file for each destination and move all of them into place when the block succeeds.

    On any error, Ctrl-C and SIGTERM included, the new files are removed and the destinations stay as they were. A
    symbolic link stays a link: its target is replaced. An existing file keeps its permissions. Inside the block
    `file.name` is the path of the temporary file, readable once flushed.

    Raises:
        OSError: A folder is missing or not writable, or the disk is full.
    """
    with unwinding_on_sigterm(), ExitStack() as stack:
        places = [Path(os.path.realpath(destination)) for destination in destinations]
        files: list[BinaryIO] = []
        for place in places:
            files.append(stack.enter_context(create_temporary(place.parent)))
            stack.callback(Path(files[-1].name).unlink, missing_ok=True)
        yield files
        for file, place in zip(files, places, strict=True):
            file.flush()
            copy_mode(place, file)
            os.fsync(file.fileno())
        with undisturbed():
            for file, place in zip(files, places, strict=True):
                Path(file.name).replace(place)
        for folder in {place.parent for place in places}:
            sync_folder(folder)


def create_temporary(folder: Path) -> BinaryIO:
    """Create an empty file with a random name in a folder, open for reading and writing and locked by this process.

    Raises:
        OSError: The folder is missing or not writable.
    """
    while True:
        path = folder / f".coca-{secrets.token_hex(8)}.part"
        file = path.open("x+b")  # exclusive: never an existing file, never through a link
        if not lock(file) or _is_at(file, path):
            return file
        file.close()  # removed as abandoned by another process, before it was locked


def remove_abandoned(folder: Path) -> int:
    """Remove the temporary files in a folder that no living process writes to. Return their size in bytes."""
    size = 0
    with suppress(OSError):
        for path in [entry for entry in folder.iterdir() if _TEMPORARY.fullmatch(entry.name)]:
            with suppress(OSError), open(path, "rb", opener=_open_regular) as file:
                if lock(file):
                    size += os.fstat(file.fileno()).st_size
                    path.unlink()
    return size


def lock(file: BinaryIO) -> bool:
    """Take the exclusive lock of an open file, which its process loses when it ends. Return whether that succeeded.

    Always False where the system or the file system has no such locks.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


def copy_mode(source: Path, file: BinaryIO) -> None:
    """Give an open file the permissions of the file that it is about to replace, if there is one."""
    with suppress(OSError):
        os.fchmod(file.fileno(), stat.S_IMODE(source.stat().st_mode))


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure, where the system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _is_at(file: BinaryIO, path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False


def _open_regular(path: str, flags: int) -> int:
    """Open a file, but no link, and without waiting for the other end of a FIFO."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM and SIGHUP, which by default end the process on the spot, run the clean-up first."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    main = threading.current_thread() is threading.main_thread()
    ours = [number for number in _FATAL if main and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold signals back for a few system calls, so that of several files either all or none are replaced."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *_FATAL})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
