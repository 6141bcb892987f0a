"""A process that reads videos for `pool`: `start_process` runs this module.

The first job decides what it does: it reads files, without any rights that this does not need (see `sandbox`), or it
downloads remote ones. It prints nothing and ignores signals: its parent ends it, or the socket does when the parent is
gone. Its messages are plain values, which its parent can accept even from a decoder that a file has taken over.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pickle import PickleBuffer
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np

from ..errors import CocaError, is_transient
from ..portable import ENDING
from ..processes import Channel, parent_channel
from ..reporting import Reporter
from ..settings import debugging
from ..urls import RemotePath
from .clips import ReadRequest, read_clips
from .frames import PROGRESS_BYTES, listen_to_progress
from .remote import local_copy
from .sandbox import enter, limit_cpu_time

_HEARTBEAT = 0.1  # seconds

Job = tuple[Path, ReadRequest] | None  # None: the copy of the file downloaded last is not needed any more
Message = tuple[Any, ...] | None  # None only shows that there is progress


def main() -> None:
    """Do one job after another, and send what comes of each."""
    for number in (signal.SIGINT, *ENDING):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_channel()
    parent.send(None)
    try:
        job = parent.receive()
    except (EOFError, OSError):
        return
    downloads = isinstance(job[0], RemotePath)
    if not downloads:
        _compile_decoders()
        enter(limit_files=not debugging())  # the standard error may be a file
    jobs: SimpleQueue[Job] = SimpleQueue()
    # Only threads that start after `enter` are in the sandbox.
    Thread(target=_receive_jobs, args=(parent, jobs), daemon=True).start()
    while True:
        path, request = job
        listen_to_progress(_heartbeat(parent, request.timeout))
        for message in _answer(_download(path, jobs) if downloads else _read(path, request)):
            parent.send(message)
        job = jobs.get()


def _compile_decoders() -> None:
    """Import what was never imported before: Python compiles it, and cannot keep the result in the sandbox."""
    if sys.dont_write_bytecode:
        return
    for name in ("PIL.WmfImagePlugin", "pillow_heif", "av", "decord", "cococli.media.scenes"):
        with suppress(ImportError):
            spec = find_spec(name)
            if spec and spec.cached and not Path(spec.cached).exists():
                import_module(name)
                import_module("PIL.Image").init()  # imports all plugins


def _receive_jobs(parent: Channel, jobs: "SimpleQueue[Job]") -> None:
    """Receive jobs until the parent is gone; then end, even while a decoder is busy."""
    with suppress(EOFError, OSError):
        while True:
            jobs.put(parent.receive())
    os._exit(0)


def _answer(messages: Iterator[Message]) -> Iterator[Message]:
    """Yield messages, and at the end why there are no more of them."""
    try:
        yield from messages
    except CocaError as error:
        yield "failed", error.message, is_transient(error)
    except MemoryError:
        yield "failed", "needs too much memory", False
    except Exception as error:
        if debugging():
            traceback.print_exc()
        yield "failed", f"unexpected: {type(error).__name__}: {error}", is_transient(error)


def _read(path: Path, request: ReadRequest) -> Iterator[Message]:
    clips, notes = 0, _NoteList()
    for clip, pixels in read_clips(path, request, notes):
        times = tuple(map(float, clip.times))
        buffer = PickleBuffer(np.ascontiguousarray(pixels).data)
        yield "clip", float(clip.start), float(clip.end), times, pixels.shape, buffer
        clips += 1
    yield "read", clips, tuple(notes.texts)


def _download(path: Path, jobs: "SimpleQueue[Job]") -> Iterator[Message]:
    with local_copy(path) as file:
        yield "copy", str(file)
        jobs.get()
    yield ("removed",)


class _NoteList(Reporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def _heartbeat(parent: Channel, timeout: float) -> Callable[[int], None]:
    """Return a progress listener that now and then shows the parent that a long video makes progress.

    Args:
        timeout: Seconds of CPU time that may pass without progress. It ends a decoder whose parent is stopped.
    """
    last = time.monotonic()
    total = 0
    limit_cpu_time(timeout)

    def listener(size: int) -> None:
        nonlocal last, total
        total += size
        if total >= PROGRESS_BYTES and time.monotonic() - last >= _HEARTBEAT:
            parent.send(None)
            limit_cpu_time(timeout)
            last, total = time.monotonic(), 0

    return listener


if __name__ == "__main__":
    main()
