"""A process that reads videos for another one: `python -m cococli.media.worker FD`, where FD is a socket to `pool`.

It prints nothing and takes no signal: its parent ends it, or the socket does when the parent is gone.
"""

import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from ..errors import CocaError, is_transient
from ..settings import debugging
from .clips import ReadRequest, read_clips
from .events import ClipRead, Event, VideoFailed, VideoRead
from .reading import ENOUGH_BYTES, report_progress

MEMORY = 1_900_000_000  # bytes: several times what 8K takes; a file that lies must not fill the machine

_BEAT = 0.1  # seconds between signs of life

_Job = tuple[int, Path, ReadRequest]


def main() -> None:
    """Read one video after another, and tell of each."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(ValueError, OSError):  # a lower limit holds already
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    parent = Connection(int(sys.argv[1]))
    report_progress(_heartbeat(parent))
    jobs: SimpleQueue[_Job] = SimpleQueue()
    Thread(target=_listen, args=(parent, jobs), daemon=True).start()
    parent.send(None)  # ready
    while True:
        for event in _read(*jobs.get()):
            parent.send(event)


def _listen(parent: Connection, jobs: "SimpleQueue[_Job]") -> None:
    """Take jobs until the parent is gone, however busy a decoder is then."""
    with suppress(EOFError, OSError):
        while True:
            jobs.put(parent.recv())
    os._exit(0)


def _read(place: int, path: Path, request: ReadRequest) -> Iterator[Event]:
    clips = 0
    try:
        for clip, pixels in read_clips(path, request):
            yield ClipRead(place, clip, pixels)
            clips += 1
        yield VideoRead(place, clips)
    except CocaError as error:
        yield VideoFailed(place, error.message, is_transient(error))
    except MemoryError:
        yield VideoFailed(place, "needs too much memory")
    except Exception as error:
        if debugging():
            traceback.print_exc()
        yield VideoFailed(place, f"unexpected: {type(error).__name__}: {error}", is_transient(error))


def _heartbeat(parent: Connection) -> Callable[[int], None]:
    """Return a function that tells the parent, now and then, that a long video makes progress."""
    last = time.monotonic()
    taken = 0

    def beat(size: int) -> None:
        nonlocal last, taken
        taken += size
        if taken >= ENOUGH_BYTES and time.monotonic() - last >= _BEAT:
            parent.send(None)
            last, taken = time.monotonic(), 0

    return beat


if __name__ == "__main__":
    main()
