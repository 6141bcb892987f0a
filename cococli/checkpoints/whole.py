"""Files that appear complete, all together, or not at all."""

import os
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn


@contextmanager
def written_whole(*destinations: Path) -> Iterator[list[BinaryIO]]:
    """Open one new file for each destination, in the same folder; move them all there when the block succeeds.

    On any error, Ctrl-C and SIGTERM included, they are removed, and what stood at the destinations stays. Until the
    end of the block `file.name` is where a file can be read back, once flushed.

    Raises:
        OSError: a folder is missing or may not be written to, or the disk is full.
    """
    with unwinding_on_sigterm(), ExitStack() as stack:
        files: list[BinaryIO] = []
        for destination in destinations:
            part = destination.with_name(f".coca-{secrets.token_hex(8)}.part")
            stack.callback(part.unlink, missing_ok=True)
            files.append(stack.enter_context(part.open("x+b")))
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        with undisturbed():
            for file, destination in zip(files, destinations, strict=True):
                Path(file.name).replace(destination)


@contextmanager
def unwinding_on_sigterm() -> Iterator[None]:
    """Let SIGTERM, which by default ends the process on the spot, run the clean-up first."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold signals back for a few system calls, so that not one file of two is replaced."""
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
