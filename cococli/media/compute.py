"""Computation over clips of many videos: it overlaps with reading, in memory that does not grow with their number."""

import time
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ..errors import CocaError, is_out_of_memory
from ..reporting import SILENT, Reporter
from .clips import Clip, ReadRequest
from .pool import ClipRead, Event, NotReady, VideoFailed, read_videos

T = TypeVar("T")

_LESS_MEMORY = "use a smaller model, another --precision, or --device cpu"
_FREED = np.empty(0, np.uint8)


class Computer(Protocol[T]):
    """Computes values of clips: it may return them in any order, and later than the next clips are submitted."""

    @property
    def queued(self) -> int:
        """Number of submitted clips whose computation has not begun."""

    @property
    def busy(self) -> bool:
        """True while values of submitted clips are outstanding."""

    def submit(self, keys: Sequence[Any], pixels: np.ndarray, seeds: list[int]) -> None:
        """Accept clips.

        Args:
            keys: B keys, by which `step` returns their values.
            pixels: [B, F, S, S, 3] uint8.
            seeds: A number for each clip that does not depend on the batches.
        """

    def step(self) -> dict[Any, T]:
        """Compute for a while; return the values that are complete."""

    def shrink(self) -> int:
        """After running out of memory, compute fewer clips at once; return how many, 0 if it cannot be fewer."""


class FunctionComputer(Generic[T]):
    """A `Computer` that calls a function of `pixels` and `seeds`, which returns B values."""

    queued = 0

    def __init__(self, function: Callable[[np.ndarray, list[int]], Sequence[T]]) -> None:
        self._function = function
        self._values: dict[Any, T] = {}

    @property
    def busy(self) -> bool:
        return bool(self._values)

    def submit(self, keys: Sequence[Any], pixels: np.ndarray, seeds: list[int]) -> None:
        self._values |= zip(keys, self._function(pixels, seeds), strict=True)

    def step(self) -> dict[Any, T]:
        values, self._values = self._values, {}
        return values

    def shrink(self) -> int:
        return 0


class FittingComputer(Generic[T]):
    """A `Computer` that passes on smaller batches, and has fewer clips computed at once, when memory runs out."""

    def __init__(self, computer: Computer[T], note: Callable[[str], object]) -> None:
        """
        Args:
            note: Receives one message when memory runs out for the first time.
        """
        self._computer, self._note = computer, note
        self._most: int | None = None  # clips of a batch
        self._noted = False
        self._values: dict[Any, T] = {}

    @property
    def queued(self) -> int:
        return self._computer.queued

    @property
    def busy(self) -> bool:
        return self._computer.busy or bool(self._values)

    def submit(self, keys: Sequence[Any], pixels: np.ndarray, seeds: list[int]) -> None:
        """Submit a batch, in halves if there is not enough memory.

        Raises:
            CocaError: There is not enough memory for a single clip.
        """
        size = min(len(keys), self._most or len(keys))
        for start in range(0, len(keys), size):
            part = slice(start, start + size)
            self._submit(keys[part], pixels[part], seeds[part])

    def _submit(self, keys: Sequence[Any], pixels: np.ndarray, seeds: list[int]) -> None:
        try:
            self._computer.submit(keys, pixels, seeds)
            return
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if len(keys) > 1:
            self._most = -(-len(keys) // 2)
            self._back_off(self._most)
        else:
            if not self._computer.busy:
                raise CocaError("not enough memory for a single clip", _LESS_MEMORY)
            while self._computer.busy:  # finishing what is under way frees memory
                self._values |= self.step()
        self.submit(keys, pixels, seeds)

    def step(self) -> dict[Any, T]:
        values, self._values = self._values, {}
        try:
            return values | self._computer.step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        if not (fewer := self.shrink()):
            raise CocaError("not enough memory for a single clip", _LESS_MEMORY)
        self._back_off(fewer)
        return values

    def shrink(self) -> int:
        return self._computer.shrink()

    def _back_off(self, clips: int) -> None:
        if not self._noted:
            self._note(f"not enough memory: continuing with at most {clips} clips at once")
        self._noted = True


@dataclass(frozen=True)
class Computed(Generic[T]):
    """The results of a video."""

    index: int  # in the given paths
    clips: list[Clip]
    values: list[T]  # of each clip
    failure: str = ""  # why it cannot be read; then there are neither clips nor values
    transient: bool = False  # the next run should try again


@dataclass
class Spent:
    """Time that a run spent, in seconds."""

    waiting: float = 0.0  # for frames
    computing: float = 0.0
    clips: int = 0
    started: float = field(default_factory=time.perf_counter)

    def describe(self, videos: int) -> str:
        """Describe what took the time since the start, for a summary; empty for a single clip.

        Args:
            videos: Their number, which is only worth mentioning beside that of clips if these are more.
        """
        seconds = time.perf_counter() - self.started
        if self.clips < 2 or not seconds:
            return ""
        clips = f"{self.clips} clips, " if self.clips > videos else ""
        return f"{clips}{self.computing / seconds:.0%} computing, {self.waiting / seconds:.0%} waiting for frames"


@dataclass(eq=False)
class _Item(Generic[T]):
    """A clip under way."""

    video: int
    index: int  # among the clips of its video
    clip: Clip
    pixels: np.ndarray  # [F, S, S, 3] uint8; empty once submitted
    value: T | None = None
    computed: bool = False


@dataclass(eq=False)
class _VideoState(Generic[T]):
    """A video under way."""

    items: list[_Item[T]] = field(default_factory=list)
    read: bool = False  # to its end
    failure: str = ""
    transient: bool = False

    @property
    def finished(self) -> bool:
        return bool(self.failure) or (self.read and all(item.computed for item in self.items))


def compute_videos(
    paths: Sequence[Path],
    computer: Computer[T],
    request: ReadRequest,
    batch_size: int = 8,
    reporter: Reporter = SILENT,
    spent: Spent | None = None,
    readers: int = 2,
) -> Generator[Computed[T], None, None]:
    """Compute a value for every clip of every video, and yield the videos in the given order.

    Worker processes read ahead while batches, which may mix clips of several videos, are computed. They end with the
    iterator.

    Args:
        paths: Videos and pictures.
        batch_size: Clips per batch. A batch that does not fit into memory is computed in halves.
        reporter: Receives notes on decoders that failed. Its stop request ends the run after the current batch. Videos
            whose last clips are computed by then are still yielded.
        spent: Accumulates the time spent.
        readers: Number of processes that read.

    Yields:
        The results of each video. One that cannot be read does not affect the others.

    Raises:
        CocaError: There is not enough memory for a single clip.
    """
    fitting = FittingComputer(computer, reporter.note)
    return _Computation(paths, fitting, request, batch_size, reporter, spent or Spent(), readers).results()


@dataclass(eq=False)
class _Computation(Generic[T]):
    """The state of `compute_videos`."""

    paths: Sequence[Path]
    computer: Computer[T]
    request: ReadRequest
    batch_size: int
    reporter: Reporter
    spent: Spent
    readers: int
    videos: dict[int, _VideoState[T]] = field(default_factory=dict)
    waiting: list[_Item[T]] = field(default_factory=list)  # read, but not submitted

    def results(self) -> Generator[Computed[T], None, None]:
        prefetch = 2 * self.batch_size + 2 * self.readers  # at least one batch more than is being computed
        jobs = zip(self.paths, repeat(self.request))
        events = read_videos(jobs, self.readers, prefetch, lambda: self.computer.busy, self.reporter)
        with closing(events):
            for event in self._timed(events):
                if isinstance(event, NotReady):
                    self._step()
                else:
                    self._add(event)
                while not self.reporter.stop_requested and (batch := self._next_batch(self.batch_size)):
                    self._submit(batch)
                yield from self._finished()
                if self.reporter.stop_requested:
                    self._finish()
                    if last := next(events, None):  # perhaps the end of the video just computed
                        self._add(last)
                    break
        while not self.reporter.stop_requested and self.waiting:
            self._submit(self._next_batch(1))
        self._finish()
        yield from self._finished(in_order=False)

    def _timed(self, events: Iterator[Event]) -> Iterator[Event]:
        start = time.perf_counter()
        for event in events:
            self.spent.waiting += time.perf_counter() - start
            yield event
            start = time.perf_counter()

    def _add(self, event: Event) -> None:
        """Record what was read."""
        video = self.videos.setdefault(event.video, _VideoState())
        if isinstance(event, ClipRead):
            item: _Item[T] = _Item(event.video, len(video.items), event.clip, event.pixels)
            video.items.append(item)
            self.waiting.append(item)
        elif isinstance(event, VideoFailed):
            video.failure, video.transient = event.error, event.transient
            self.waiting = [item for item in self.waiting if item.video != event.video]
        else:
            video.read = True

    def _next_batch(self, enough: int) -> list[_Item[T]]:
        """Take a batch of clips with equally many frames: `enough` of them, or fewer if too many others wait."""
        for frames in dict.fromkeys(len(item.pixels) for item in self.waiting):  # those of the oldest clip first
            alike = [item for item in self.waiting if len(item.pixels) == frames]
            if len(alike) >= enough or len(self.waiting) >= 2 * enough:
                batch = alike[: self.batch_size]
                self.waiting = [item for item in self.waiting if item not in batch]
                return batch
        return []

    def _submit(self, batch: list[_Item[T]]) -> None:
        """Submit a batch, and compute until none of it is queued."""
        with self._computing():
            pixels = np.stack([item.pixels for item in batch])
            self.computer.submit(batch, pixels, [clip_seed(self.paths[item.video], item.index) for item in batch])
            for item in batch:
                item.pixels = _FREED
        self._step()
        while self.computer.queued:
            self._step()

    def _step(self) -> None:
        with self._computing():
            values = self.computer.step()
        for item, value in values.items():
            item.value, item.computed = value, True
        self.spent.clips += len(values)

    def _finish(self) -> None:
        while self.computer.busy:
            self._step()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spent.computing += time.perf_counter() - start

    def _finished(self, in_order: bool = True) -> Iterator[Computed[T]]:
        """Remove and yield finished videos; in order: only those before the first one that is not."""
        for index in sorted(self.videos):
            if self.videos[index].finished:
                yield _computed(index, self.videos.pop(index))
            elif in_order:
                return


def clip_seed(path: Path, index: int) -> int:
    """Return a number that depends only on the clip, so that sampling gives it the same caption in every run."""
    return zlib.crc32(f"{index} {path}".encode("utf-8", "surrogateescape"))


def _computed(index: int, video: _VideoState[T]) -> Computed[T]:
    if video.failure:
        return Computed(index, [], [], video.failure, video.transient)
    return Computed(index, [item.clip for item in video.items], [item.value for item in video.items])  # type: ignore[misc]
