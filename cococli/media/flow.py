"""From videos to what is computed of them: reading and computing overlap, in little memory however many they are."""

import time
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from .clips import Clip, ReadRequest
from .events import ClipRead, Event, NotYet, VideoFailed
from .pool import read_videos
from .preprocess import normalize

T = TypeVar("T")

Compute = Callable[[np.ndarray, list[int]], Sequence[T]]
"""[B, F, 3, S, S] float32, normalized frames, and a number of each clip that stays the same whatever the batches are
-> B values."""


class Computer(Protocol[T]):
    """Computes values of clips, which may come one by one and not in the order of the clips."""

    @property
    def waiting(self) -> int:
        """Clips that were taken, but nothing is done with as yet."""

    @property
    def busy(self) -> bool:
        """Whether values are still to come."""

    def take(self, keys: Sequence[Any], pixels: np.ndarray, numbers: list[int]) -> None:
        """Take clips, as `Compute` does, each with a key to know its value by."""

    def work(self) -> dict[Any, T]:
        """Do some of what is to be done; gives what values are ready."""


class AtOnce(Generic[T]):
    """A function as a `Computer`."""

    waiting = 0

    def __init__(self, compute: Compute[T]) -> None:
        self._compute = compute
        self._ready: dict[Any, T] = {}

    @property
    def busy(self) -> bool:
        return bool(self._ready)

    def take(self, keys: Sequence[Any], pixels: np.ndarray, numbers: list[int]) -> None:
        self._ready |= zip(keys, self._compute(pixels, numbers), strict=True)

    def work(self) -> dict[Any, T]:
        ready, self._ready = self._ready, {}
        return ready


@dataclass(frozen=True)
class Computed(Generic[T]):
    """All that became of a video."""

    place: int  # among those given
    clips: list[Clip]
    values: list[T]  # of each clip
    failure: str = ""  # why it cannot be read; then there are neither clips nor values
    transient: bool = False  # the next run should try again


@dataclass
class Spent:
    """Where the time of a run went, in seconds."""

    waiting: float = 0.0  # for frames
    computing: float = 0.0
    clips: int = 0


@dataclass(frozen=True)
class Reading:
    """How videos are read.

    Attributes:
        request: Which frames of which segments.
        batch_size: Clips that are computed at once.
        timeout: Seconds that one clip may take to be read.
    """

    request: ReadRequest
    batch_size: int = 8
    timeout: float = 60.0


@dataclass(eq=False)
class _Item(Generic[T]):
    """A clip on its way."""

    place: int
    index: int  # among the clips of its video
    clip: Clip
    pixels: np.ndarray | None  # [F, S, S, 3] uint8; None: being computed
    value: T | None = None
    computed: bool = False


@dataclass(eq=False)
class _Video(Generic[T]):
    """A video on its way."""

    items: list[_Item[T]] = field(default_factory=list)
    read: bool = False  # all of it
    failure: str = ""
    transient: bool = False

    @property
    def finished(self) -> bool:
        return bool(self.failure) or (self.read and all(item.computed for item in self.items))


def compute_videos(
    paths: Sequence[Path],
    computer: Computer[T],
    reading: Reading,
    stopping: Callable[[], bool] = lambda: False,
    spent: Spent | None = None,
) -> Generator[Computed[T], None, None]:
    """Compute something of every clip of every video, in the order given.

    Videos are read ahead by processes of their own while clips are computed, which may be of several videos. Closing
    the iterator, or an exception, stops them.

    Args:
        paths: Videos and pictures.
        stopping: Asked after each batch: whether to end the run early. Videos that are finished by then still come,
            and so do those whose last clips were being computed.
        spent: Told where the time goes.

    Yields:
        What became of each video. One that cannot be read fails alone; the others go on.
    """
    spent = spent or Spent()
    ahead = 2 * reading.batch_size + 2  # at least one batch more than is computed
    events = read_videos(paths, reading.request, timeout=reading.timeout, ahead=ahead, busy=lambda: computer.busy)
    videos: dict[int, _Video[T]] = {}
    waiting: list[_Item[T]] = []
    with closing(events):
        for event in _timed(events, spent):
            if isinstance(event, NotYet):
                _work(computer, spent)
            else:
                _take(event, videos, waiting)
            while not stopping() and (batch := _next_batch(waiting, reading.batch_size)):
                _begin(batch, paths, computer, reading.request, spent)
            yield from _finished(videos)
            if stopping():
                while computer.busy:
                    _work(computer, spent)
                if last := next(events, None):  # may say that the video just computed has no more clips
                    _take(last, videos, waiting)
                break
    while not stopping() and waiting:
        _begin(_next_batch(waiting, 1, reading.batch_size), paths, computer, reading.request, spent)
    while computer.busy:
        _work(computer, spent)
    yield from _finished(videos, in_order=False)


def _timed(events: Iterator[Event], spent: Spent) -> Iterator[Event]:
    start = time.perf_counter()
    for event in events:
        spent.waiting += time.perf_counter() - start
        yield event
        start = time.perf_counter()


def _take(event: Event, videos: dict[int, _Video[T]], waiting: list[_Item[T]]) -> None:
    """Note what was read."""
    video = videos.setdefault(event.place, _Video())
    if isinstance(event, ClipRead):
        item: _Item[T] = _Item(event.place, len(video.items), event.clip, event.pixels)
        video.items.append(item)
        waiting.append(item)
    elif isinstance(event, VideoFailed):
        video.failure, video.transient = event.error, event.transient
        waiting[:] = [item for item in waiting if item.place != event.place]
    else:
        video.read = True


def _next_batch(waiting: list[_Item[T]], enough: int, most: int | None = None) -> list[_Item[T]]:
    """Take clips of one frame count out: `enough` of them, or what there is once too many wait for their like."""
    for first in waiting:
        alike = [item for item in waiting if _frames(item) == _frames(first)]
        if len(alike) >= enough or len(waiting) >= 2 * enough:
            batch = alike[: most or enough]
            waiting[:] = [item for item in waiting if item not in batch]
            return batch
    return []


def _frames(item: _Item[T]) -> int:
    return 0 if item.pixels is None else len(item.pixels)


def _begin(
    batch: list[_Item[T]], paths: Sequence[Path], computer: Computer[T], request: ReadRequest, spent: Spent
) -> None:
    """Hand over a batch, and work until nothing of it waits."""
    with _computing(spent):
        frames = np.stack([item.pixels for item in batch if item.pixels is not None])
        pixels = normalize(frames, request.preprocess)
        computer.take(batch, pixels, [_number(paths[item.place], item.index) for item in batch])
        for item in batch:
            item.pixels = None
    _work(computer, spent)
    while computer.waiting:
        _work(computer, spent)


def _work(computer: Computer[T], spent: Spent) -> None:
    with _computing(spent):
        ready = computer.work()
    for item, value in ready.items():
        item.value, item.computed = value, True
    spent.clips += len(ready)


@contextmanager
def _computing(spent: Spent) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent.computing += time.perf_counter() - start


def _number(path: Path, index: int) -> int:
    """A number of a clip that stays the same whatever else is computed: with a seed it decides what is drawn."""
    return zlib.crc32(f"{index} {path}".encode("utf-8", "surrogateescape"))


def _finished(videos: dict[int, _Video[T]], in_order: bool = True) -> Iterator[Computed[T]]:
    """Take out the videos that are finished; in order: only those before the first one that is not."""
    for place in sorted(videos):
        if videos[place].finished:
            yield _computed(place, videos.pop(place))
        elif in_order:
            return


def _computed(place: int, video: _Video[T]) -> Computed[T]:
    if video.failure:
        return Computed(place, [], [], video.failure, video.transient)
    return Computed(place, [item.clip for item in video.items], [item.value for item in video.items])  # type: ignore[misc]
