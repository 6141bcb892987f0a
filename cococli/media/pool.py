"""Reader processes. One that hangs or crashes costs only the video it was reading, and is replaced."""

import signal
import subprocess
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from queue import Empty, Queue, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

from ..errors import VideoError, is_transient
from ..processes import start_process
from ..reporting import SILENT, Reporter
from ..urls import RemotePath
from .clips import Clip, ReadRequest

QUEUED_CLIPS = 4  # read ahead of each video
_KILLED, _OUT_OF_TIME = -9, -24  # exit codes of SIGKILL and SIGXCPU, which Windows lacks
MAX_FILES = 2000  # that one process reads: then what codecs leaked is freed with it

Job = tuple[Path, ReadRequest]


class ClipRead(NamedTuple):
    """The next clip of a video."""

    video: int  # its index among all that are read
    clip: Clip
    pixels: np.ndarray  # [F, S, S, 3] uint8, resized and cropped, not normalized


class VideoRead(NamedTuple):
    """The end of a video: all its clips were read."""

    video: int
    clips: int
    notes: tuple[str, ...] = ()  # with the path


class VideoFailed(NamedTuple):
    """The end of a video that cannot be read, or not further."""

    video: int
    error: str  # without the path
    transient: bool = False  # the next run should try again


class NotReady(NamedTuple):
    """Nothing more of the video is read yet. Only for a consumer that is busy."""

    video: int


Event = ClipRead | VideoRead | VideoFailed | NotReady


@dataclass(eq=False)
class _QueuedVideo:
    index: int
    path: Path
    request: ReadRequest
    events: "Queue[Event]" = field(default_factory=lambda: Queue(QUEUED_CLIPS))

    def all_events(self, busy: Callable[[], bool]) -> Iterator[Event]:
        """Yield the events of the video up to its end."""
        event: Event = NotReady(self.index)
        while isinstance(event, ClipRead | NotReady):
            try:
                event = self.events.get(block=not busy())
            except Empty:
                event = NotReady(self.index)
            yield event

    def discard_events(self) -> None:
        """Make room in the queue, so that no thread waits to add to it."""
        with suppress(Empty):
            while True:
                self.events.get_nowait()


def read_videos(
    jobs: Iterable[Job],
    processes: int = 2,
    prefetch: int = 18,
    busy: Callable[[], bool] = lambda: False,
    reporter: Reporter = SILENT,
) -> Generator[Event, None, None]:
    """Read videos and pictures in parallel.

    Worker processes end with the iterator and with this process.

    Args:
        jobs: Paths and how to read each. Consumed as needed, so there may be any number.
        processes: Number of worker processes.
        prefetch: Number of videos read ahead of the consumer, each up to its first few clips.
        busy: Returns whether the consumer has other work, so that it should not be kept waiting.
        reporter: Receives the notes of each video once, however many times it is read.

    Yields:
        For each video in order: its clips in order, then one VideoRead or VideoFailed. In between NotReady, where the
        next event is not there yet and the consumer is busy.
    """
    upcoming = enumerate(jobs)
    window: deque[_QueuedVideo] = deque()
    noted: set[str] = set()
    unread: SimpleQueue[_QueuedVideo | None] = SimpleQueue()
    closed, close = Pipe(duplex=False)  # `closed` turns readable for all threads at once
    threads = [Thread(target=_serve, args=(unread, closed), daemon=True) for _ in range(processes)]
    for thread in threads:
        thread.start()
    try:
        while True:
            for index, (path, request) in islice(upcoming, prefetch - len(window)):
                window.append(_QueuedVideo(index, path, request))
                unread.put(window[-1])
            if not window:
                return
            for event in window[0].all_events(busy):
                if isinstance(event, VideoRead):
                    for note in event.notes:
                        if note not in noted:
                            noted.add(note)
                            reporter.note(note)
                yield event
            window.popleft()
    finally:
        close.close()
        for task in window:
            task.discard_events()
        for _ in threads:
            unread.put(None)
        for thread in threads:
            thread.join()
        closed.close()


def _serve(unread: "SimpleQueue[_QueuedVideo | None]", closed: Connection) -> None:
    """Read one video after another."""
    reader = VideoReader(closed)
    while (task := unread.get()) and not closed.poll():
        for event in reader.read(task.index, task.path, task.request):
            task.events.put(event)
    reader.close()


class VideoReader:
    """A process that reads videos, which is replaced when it fails or has read enough files."""

    def __init__(self, closed: Connection | None = None) -> None:
        """
        Args:
            closed: Turns readable when reading should end early.
        """
        self._closed = closed
        self._reader: _Worker | None = None
        self._downloader: _Worker | None = None  # a separate process, as readers have no network access

    def read(self, index: int, path: Path, request: ReadRequest) -> Iterator[Event]:
        """Yield the events of a video, up to its end or until `closed` is readable."""
        try:
            if isinstance(path, RemotePath):
                yield from self._read_remote(index, path, request)
            else:
                yield from self._read_local(index, path, path, request)
        except Exception as error:
            self.close()
            why = error.message if isinstance(error, VideoError) else f"unexpected: {type(error).__name__}: {error}"
            yield VideoFailed(index, why, is_transient(error))
        except GeneratorExit:  # what is left of the video must not be taken for the next one
            self.close()
            raise

    def _read_remote(self, index: int, path: Path, request: ReadRequest) -> Iterator[Event]:
        self._downloader = _running(self._downloader)
        for message in self._downloader.answers((path, request), self._closed):
            if message[0] == "copy":
                try:
                    yield from self._read_local(index, path, Path(message[1]), request)
                finally:
                    self._downloader.remove_copy()
            else:
                yield _event(message, index, path, request)
            return

    def _read_local(self, index: int, path: Path, file: Path, request: ReadRequest) -> Iterator[Event]:
        """Yield the events of a video of which a file is a copy, or which it is."""
        self._reader = _running(self._reader)
        for message in self._reader.answers((file, request), self._closed):
            event = _event(message, index, path, request)
            if isinstance(event, VideoRead):
                event = event._replace(notes=tuple(note.replace(str(file), str(path)) for note in event.notes))
            yield event
            if not isinstance(event, ClipRead):
                break
        if self._reader.files >= MAX_FILES:
            self._reader.end()

    def close(self) -> None:
        """End the processes."""
        for worker in (self._reader, self._downloader):
            if worker:
                worker.end()
        self._reader = self._downloader = None


def _event(message: tuple[Any, ...], index: int, path: Path, request: ReadRequest) -> Event:
    """Check a message of a reader, and return what it means."""
    kind, *values = message
    if kind == "failed":
        error, transient = values
        return VideoFailed(index, str(error), bool(transient))
    if kind == "read":
        clips, notes = values
        return VideoRead(index, int(clips), tuple(map(str, notes)))
    start, end, times, shape, buffer = values
    pixels = np.frombuffer(buffer, np.uint8).reshape(shape)
    side = None if request.times else request.image_size
    if pixels.ndim != 4 or len(pixels) != len(times) or (side and pixels.shape[1:] != (side, side, 3)):
        raise VideoError("its reader sent frames of a wrong shape")
    return ClipRead(index, Clip(path, float(start), float(end), tuple(map(float, times))), pixels)


class _Worker:
    """A process that runs `worker.py`, and the socket to it."""

    def __init__(self) -> None:
        self.files = 0
        self.process, self.socket = start_process("cococli.media.worker", trusted=False, OMP_NUM_THREADS="1")
        self._receive()  # it is ready: its start does not count as time to read a video

    def answers(self, job: tuple[Path, ReadRequest], closed: Connection | None) -> Iterator[tuple[Any, ...]]:
        """Yield messages, without end, until `closed` is readable.

        Raises:
            VideoError: The process hangs or has crashed.
        """
        self.files += 1
        self.socket.send(job)
        timeout = job[1].timeout
        waited: list[Any] = [self.socket, *([closed] if closed else [])]
        while closed not in (ready := wait(waited, timeout)):
            if not ready:
                raise VideoError(f"gave up after {timeout:g} s")
            message = self._receive()
            if message:
                yield message

    def remove_copy(self) -> None:
        """Have the file removed that was downloaded last. If the process is gone, another one removes it later."""
        with suppress(OSError, VideoError):
            self.socket.send(None)
            self._receive()

    def _receive(self) -> tuple[Any, ...] | None:
        try:
            message: tuple[Any, ...] | None = self.socket.receive()
            return message
        except (EOFError, OSError):
            code = self.end()
            crashed = code is not None and code < 0 and code != _KILLED  # the same file would crash it again
            raise VideoError(_describe_exit(code), transient=not crashed) from None

    def has_ended(self) -> bool:
        """Return whether the process is gone, as when the system ran out of memory."""
        return self.process.poll() is not None

    def end(self) -> int | None:
        """Kill the process if it runs.

        Returns:
            Its exit code, negative for a signal; None if it hangs in the kernel, as on a disk that was removed.
        """
        self.process.kill()
        self.socket.close()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        return self.process.returncode


def _running(worker: _Worker | None) -> _Worker:
    return _Worker() if worker is None or worker.has_ended() else worker


def _describe_exit(code: int | None) -> str:
    if code == _KILLED:
        return "the decoder was killed, probably for lack of memory"
    if code == _OUT_OF_TIME:
        return "gave up: the decoder computed for too long without progress"
    if code is not None and code < 0:
        return f"the decoder crashed ({signal.Signals(-code).name})"
    return f"its reader ended with exit code {code}; COCA_DEBUG=1 shows why"
