"""Videos are read in processes of their own: one that hangs or crashes is given up, and its process replaced."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from queue import Empty, Queue, SimpleQueue
from threading import Thread

from ..errors import VideoError, is_transient
from ..settings import debugging
from .clips import ReadRequest
from .events import ClipRead, Event, NotYet, VideoFailed, VideoRead

QUEUED = 4  # clips of one video that wait to be asked for; then its reader waits, too
FILES = 2000  # that one process reads: what codecs leak goes with it

Job = tuple[Path, ReadRequest]


@dataclass(eq=False)
class _Video:
    place: int
    path: Path
    request: ReadRequest
    events: "Queue[Event]" = field(default_factory=lambda: Queue(QUEUED))

    def told(self, busy: Callable[[], bool]) -> Iterator[Event]:
        """What happens to the video, to its end."""
        while isinstance(event := self._next(busy), ClipRead | NotYet):
            yield event
        yield event

    def _next(self, busy: Callable[[], bool]) -> Event:
        try:
            return self.events.get(block=not busy())
        except Empty:
            return NotYet(self.place)

    def forget(self) -> None:
        """Make room, so that nobody waits to tell more."""
        with suppress(Empty):
            while True:
                self.events.get_nowait()


def read_videos(
    paths: Iterable[Path],
    request: ReadRequest,
    processes: int = 2,
    timeout: float = 60.0,
    ahead: int = 18,
    busy: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Read videos and pictures, several at once, all in one way. See `read_each`."""
    return read_each(((path, request) for path in paths), processes, timeout, ahead, busy)


def read_each(
    jobs: Iterable[Job],
    processes: int = 2,
    timeout: float = 60.0,
    ahead: int = 18,
    busy: Callable[[], bool] = lambda: False,
) -> Generator[Event, None, None]:
    """Read videos and pictures, several at once, each in its own way.

    Closing the iterator, or losing it, ends the processes; so does the end of this one, however it ends.

    Args:
        jobs: Paths, and what to make of each. Taken as they are needed, so there may be any number.
        processes: How many read.
        timeout: Seconds after which a video is given up that gives no clip or frame and takes in less than 16 KiB.
        ahead: Videos that are read before they are asked for, each to its first few clips.
        busy: Whether the caller has other things to do rather than to wait.

    Yields:
        For each video in order: its clips in order, then one VideoRead or VideoFailed. In between NotYet, where the
        next one is not there and the caller is busy.
    """
    upcoming = enumerate(jobs)
    window: deque[_Video] = deque()
    unread: SimpleQueue[_Video | None] = SimpleQueue()
    closed, close = Pipe(duplex=False)  # `closed` turns readable for all threads at once
    threads = [Thread(target=_serve, args=(unread, timeout, closed), daemon=True) for _ in range(processes)]
    for thread in threads:
        thread.start()
    try:
        while True:
            for place, (path, request) in islice(upcoming, ahead - len(window)):
                window.append(_Video(place, path, request))
                unread.put(window[-1])
            if not window:
                return
            yield from window[0].told(busy)
            window.popleft()
    finally:
        close.close()
        for video in window:
            video.forget()
        for _ in threads:
            unread.put(None)
        for thread in threads:
            thread.join()
        closed.close()


def _serve(unread: "SimpleQueue[_Video | None]", timeout: float, closed: Connection) -> None:
    """Have a process read one video after another, and replace it when it fails or has read enough."""
    process: _Process | None = None
    while (video := unread.get()) and not closed.poll():
        try:
            if process is None or process.has_ended():
                process = _Process()
            for event in process.read(video, timeout, closed):
                video.events.put(event)
            worn = process.videos >= FILES
        except Exception as error:
            worn = True
            why = error.message if isinstance(error, VideoError) else f"unexpected: {type(error).__name__}: {error}"
            video.events.put(VideoFailed(video.place, why, is_transient(error)))
        if process and worn:
            process.end()
            process = None
    if process:
        process.end()


class _Process:
    """A process that reads videos, and the socket to it."""

    def __init__(self) -> None:
        self.videos = 0
        self.socket, theirs = Pipe()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cococli.media.worker", str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": _import_path(), "OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if debugging() else subprocess.DEVNULL,
                process_group=0,  # Ctrl-C is not for it
            )
        self._receive()  # it is up: to start is no part of reading a video

    def read(self, video: _Video, timeout: float, closed: Connection) -> Iterator[Event]:
        """What it tells of a video, up to the end of that, or until nobody listens.

        Raises:
            VideoError: it hangs or has crashed.
        """
        self.videos += 1
        self.socket.send((video.place, video.path, video.request))
        while closed not in (ready := wait([self.socket, closed], timeout)):
            if not ready:
                raise VideoError(f"gave up after {timeout:g} s")
            event = self._receive()
            if event:  # or else it only says that it lives
                yield event
            if isinstance(event, VideoRead | VideoFailed):
                return

    def _receive(self) -> Event | None:
        try:
            return self.socket.recv()
        except (EOFError, OSError):
            code = self.end()
            crashed = code is not None and code < 0 and code != -signal.SIGKILL  # the file's fault, every time
            raise VideoError(_last_words(code), transient=not crashed) from None

    def has_ended(self) -> bool:
        """Whether it is gone, as when the system ran out of memory."""
        return self.process.poll() is not None

    def end(self) -> int | None:
        """Kill it where it lives.

        Returns:
            Its exit code; that of a signal is negative. None: it hangs in the kernel, as on a disk that is gone.
        """
        self.process.kill()
        self.socket.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        return self.process.returncode


def _import_path() -> str:
    """Where this process finds its modules: another may be started in a folder that has an `av.py` in it."""
    return os.pathsep.join(map(os.path.abspath, sys.path))


def _last_words(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "the decoder was killed, probably for lack of memory"
    if code is not None and code < 0:
        return f"the decoder crashed ({signal.Signals(-code).name})"
    return f"its reader ended with exit code {code}; COCA_DEBUG=1 shows why"
