"""A process that reads videos for `pool`: `python -m cococli.media.worker FD`, where FD is a socket to its parent.

It prints nothing and ignores signals: its parent ends it, or the socket does when the parent is gone.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from ..errors import CocaError, is_transient
from ..processes import Channel
from ..reporting import Reporter
from ..settings import debugging
from .clips import ReadRequest, read_clips
from .frames import PROGRESS_BYTES, listen_to_progress
from .pool import ClipRead, Event, VideoFailed, VideoRead
from .remote import local_copy

MEMORY_LIMIT = 1_900_000_000  # bytes: several times what 8K takes; a malicious file must not fill the machine

_HEARTBEAT = 0.1  # seconds

_Job = tuple[int, Path, ReadRequest]


def main() -> None:
    """Read one video after another, and send the events of each."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_LIMIT, MEMORY_LIMIT))
    parent = Channel(int(sys.argv[1]))
    listen_to_progress(_heartbeat(parent))
    jobs: SimpleQueue[_Job] = SimpleQueue()
    Thread(target=_receive_jobs, args=(parent, jobs), daemon=True).start()
    parent.send(None)
    while True:
        for event in _read(*jobs.get()):
            parent.send(event)


def _receive_jobs(parent: Channel, jobs: "SimpleQueue[_Job]") -> None:
    """Receive jobs until the parent is gone; then end, even while a decoder is busy."""
    with suppress(EOFError, OSError):
        while True:
            jobs.put(parent.receive())
    os._exit(0)


def _read(index: int, path: Path, request: ReadRequest) -> Iterator[Event]:
    clips, notes = 0, _NoteList()
    try:
        with local_copy(path) as file:
            for clip, pixels in read_clips(file, request, notes):
                yield ClipRead(index, clip, pixels)
                clips += 1
            named = tuple(note.replace(str(file), str(path)) for note in notes.texts)
        yield VideoRead(index, clips, named)
    except CocaError as error:
        yield VideoFailed(index, error.message, is_transient(error))
    except MemoryError:
        yield VideoFailed(index, "needs too much memory")
    except Exception as error:
        if debugging():
            traceback.print_exc()
        yield VideoFailed(index, f"unexpected: {type(error).__name__}: {error}", is_transient(error))


class _NoteList(Reporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def _heartbeat(parent: Channel) -> Callable[[int], None]:
    """Return a progress listener that now and then shows the parent that a long video makes progress."""
    last = time.monotonic()
    total = 0

    def listener(size: int) -> None:
        nonlocal last, total
        total += size
        if total >= PROGRESS_BYTES and time.monotonic() - last >= _HEARTBEAT:
            parent.send(None)
            last, total = time.monotonic(), 0

    return listener


if __name__ == "__main__":
    main()
