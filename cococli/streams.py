"""The standard streams and the log file, robust to full disks, closed descriptors and readers that are gone."""

import contextlib
import io
import os
import select
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from .errors import CocaError, UsageError
from .settings import debugging


def guard() -> None:
    """Keep stdout for results and stderr for messages of this program.

    C++ libraries print to both: decord complaints, MindSpore a trace when Ctrl-C meets its compiler. When debugging,
    that is shown on stderr.
    """
    for descriptor in (0, 1, 2):
        _open_if_closed(descriptor)
    stdout, stderr = os.dup(1), os.dup(2)
    if not debugging():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(2, 1)
    # An undecodable byte of a file name becomes \udcXX, as JSON escapes it.
    # A buffer would write a line again at exit that Ctrl-C interrupted just after it was written.
    sys.stdout = io.TextIOWrapper(_Results(stdout, "w"), "utf-8", "backslashreplace", newline="\n", line_buffering=True)
    # Unbuffered, as a signal handler may write while a line is being written.
    sys.stderr = io.TextIOWrapper(_Messages(stderr, "w"), "utf-8", "backslashreplace", write_through=True)


def _open_if_closed(descriptor: int) -> None:
    """Open a closed standard stream: else the next file that is opened takes its number, and what is printed."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)


class _Results(io.FileIO):
    """stdout. A failure to write is one clear error, and Python does not try again at exit.

    Raises:
        BrokenPipeError: The reader is gone.
        CocaError: The disk is full.
    """

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        try:
            while rest:
                if (count := super().write(rest)) is None:  # the pipe is full, and another process set O_NONBLOCK
                    select.select([], [self], [])
                rest = rest[count or 0 :]
            return len(data)
        except OSError as problem:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(problem, BrokenPipeError):
                raise
            raise CocaError(f"cannot write to stdout: {problem.strerror}", "what was written so far is kept") from None


class _Messages(io.FileIO):
    """stderr. The log says when it cannot be written, and the work continues."""

    _failed = False

    def write(self, data: Any) -> int:
        try:
            super().write(data)
        except OSError as problem:
            if not self._failed:
                self._failed = True
                with contextlib.suppress(OSError):
                    log.write(f"warning: cannot write to stderr: {problem.strerror}")
        return len(data)


class Log:
    """Lines with timestamps; the last 1000 wait in memory until a file is opened."""

    def __init__(self) -> None:
        self._file: io.FileIO | None = None
        self._waiting: deque[bytes] = deque(maxlen=1000)

    def open(self, path: Path) -> None:
        """Append the lines so far and all later ones to a file.

        Raises:
            UsageError: It cannot be opened, or is not a regular file.
            OSError: It cannot be written.
        """
        try:
            if path.is_fifo() or path.is_socket() or path.is_block_device():  # opening or writing it may block forever
                raise UsageError(f"cannot write {path}: not a regular file")
            self._file = path.open("ab", buffering=0)
        except OSError as problem:
            raise UsageError(f"cannot write {path}: {problem.strerror}") from None
        while self._waiting:
            self._append(self._waiting.popleft())

    def write(self, line: str) -> None:
        """Append a line.

        Raises:
            OSError: The file cannot be written; it is not tried again.
        """
        text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n".encode("utf-8", "backslashreplace")
        if self._file:
            self._append(text)
        else:
            self._waiting.append(text)

    def _append(self, text: bytes) -> None:
        assert self._file
        try:
            self._file.write(text)
        except OSError as problem:
            name, self._file = self._file.name, None
            raise OSError(problem.errno, problem.strerror, name) from None


log = Log()
