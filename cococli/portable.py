"""System calls that Windows lacks or does differently, each with what stands in for it there."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

if sys.platform == "win32":
    import msvcrt

    HANG_UP = -1
    ENDING = (signal.SIGTERM,)
else:
    import fcntl

    HANG_UP = signal.SIGHUP  # the end of the terminal
    ENDING = (signal.SIGTERM, signal.SIGHUP)  # what else than Ctrl-C ends a process by default

SEPARATORS = "/" if os.sep == "/" else rf"/{os.sep}"  # of folders in a path
_LOCKED_BYTE = (1 << 31) - 2  # Windows locks bytes, and others cannot read them: one far beyond the content
_positions = threading.Lock()


def lock(file: IO[Any], wait: bool = False) -> bool:
    """Take the exclusive lock of an open file, which ends with the process.

    Returns:
        Whether that succeeded: not every file system has locks.

    Raises:
        BlockingIOError: Another process holds it.
    """
    if sys.platform == "win32":
        with _at(file.fileno(), _LOCKED_BYTE):
            while True:
                try:
                    # It waits for 10 seconds.
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
                    return True
                except OSError:
                    if not wait:
                        raise BlockingIOError from None
    else:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            return False
        return True


def close_to_move(*files: IO[Any]) -> None:
    """Close files that are about to be moved, replaced or removed, if the system only does that to closed ones."""
    if sys.platform == "win32":
        for file in files:
            file.close()


def open_regular(path: str, flags: int) -> int:
    """Open a file, but no link, and without waiting for the other end of a FIFO. An opener for `open`."""
    if sys.platform == "win32":
        if Path(path).is_symlink():
            raise OSError(errno.ELOOP, "is a link", path)
        return os.open(path, flags)
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Read up to so many bytes at an offset of an open file, wherever others read and write in it."""
    if sys.platform == "win32":
        with _at(descriptor, offset):
            return os.read(descriptor, size)
    return os.pread(descriptor, size, offset)


def write_at(descriptor: int, data: bytes, offset: int) -> int:
    """Write at an offset of an open file; return the number of bytes that were written."""
    if sys.platform == "win32":
        with _at(descriptor, offset):
            return os.write(descriptor, data)
    return os.pwrite(descriptor, data, offset)


@contextmanager
def _at(descriptor: int, offset: int) -> Iterator[None]:
    """Put the position of an open file at an offset for the block."""
    with _positions:
        before = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, offset, os.SEEK_SET)
        try:
            yield
        finally:
            os.lseek(descriptor, before, os.SEEK_SET)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk.

    Raises:
        OSError: The disk is full or fails, or the system or file system cannot flush.
    """
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold signals back during a few system calls, so that either all or none of several files are replaced."""
    if sys.platform != "win32":
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *ENDING})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return
    received: list[int] = []
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *ENDING) if main}
    for number in handlers:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for each in received:
            signal.raise_signal(each)
