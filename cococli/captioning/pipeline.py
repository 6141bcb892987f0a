"""From paths to records: reading and computing overlap, and memory does not grow with the number of videos."""

import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..video.clips import Clip, ReadRequest
from ..video.events import ClipRead, Event, VideoFailed
from ..video.pool import read_videos
from ..video.preprocess import normalise
from .captioner import Caption, Captioner
from .merging import merge
from .records import Failure, Outcome, Record


@dataclass(frozen=True)
class Result:
    """All that became of a video."""

    place: int  # among those given
    outcomes: list[Outcome]  # its records in order, or one failure


@dataclass
class Spent:
    """Where the time of a run went, in seconds."""

    waiting: float = 0.0  # for frames
    computing: float = 0.0
    clips: int = 0


@dataclass(frozen=True)
class Settings:
    """How a run works, beside what its captioner does.

    Attributes:
        request: Which frames of which segments are read.
        batch_size: Clips that go through the engine at once.
        timeout: Seconds that one clip may take to be read.
        merge: Cosine of the embeddings from which neighbouring segments are one; None: each stays.
        min_score: Captions of less similarity are marked as weak.
    """

    request: ReadRequest
    batch_size: int = 8
    timeout: float = 60.0
    merge: float | None = None
    min_score: float | None = None


@dataclass(eq=False)
class _Item:
    """A clip on its way."""

    place: int
    index: int  # among the clips of its video
    clip: Clip
    pixels: np.ndarray | None  # [F, S, S, 3] uint8; None: captioned
    caption: Caption | None = None


@dataclass(eq=False)
class _Video:
    """A video on its way."""

    items: list[_Item] = field(default_factory=list)
    read: bool = False  # all of it
    failure: str = ""

    @property
    def finished(self) -> bool:
        return bool(self.failure) or (self.read and all(item.caption for item in self.items))


def caption_videos(
    paths: Sequence[Path],
    captioner: Captioner,
    settings: Settings,
    stopping: Callable[[], bool] = lambda: False,
    spent: Spent | None = None,
) -> Iterator[Result]:
    """Caption every video, in the order given.

    Videos are read ahead by processes of their own while the engine works on a batch of clips, which may be of
    several videos. Closing the iterator, or an exception, stops them.

    Args:
        paths: Videos and pictures.
        captioner: What turns pixels into captions.
        stopping: Asked after each batch: whether to end the run early. Videos that are finished by then still come.
        spent: Told where the time goes.

    Yields:
        What became of each video. One that cannot be read fails alone; the others go on.
    """
    spent = spent or Spent()
    ahead = 2 * settings.batch_size + 2
    events = read_videos(paths, settings.request, timeout=settings.timeout, ahead=ahead)
    videos: dict[int, _Video] = {}
    waiting: list[_Item] = []
    with closing(events):
        for event in _timed(events, spent):
            _take(event, videos, waiting)
            while not stopping() and (batch := _next_batch(waiting, settings.batch_size)):
                _caption(batch, paths, captioner, spent)
            yield from _finished(videos, paths, captioner.model, settings)
            if stopping():
                if last := next(events, None):  # may say that the video just captioned has no more clips
                    _take(last, videos, waiting)
                break
    while not stopping() and waiting:
        _caption(_next_batch(waiting, 1, settings.batch_size), paths, captioner, spent)
    yield from _finished(videos, paths, captioner.model, settings, in_order=False)


def _timed(events: Iterator[Event], spent: Spent) -> Iterator[Event]:
    while True:
        start = time.perf_counter()
        event = next(events, None)
        spent.waiting += time.perf_counter() - start
        if event is None:
            return
        yield event


def _take(event: Event, videos: dict[int, _Video], waiting: list[_Item]) -> None:
    """Note what was read."""
    video = videos.setdefault(event.place, _Video())
    if isinstance(event, ClipRead):
        item = _Item(event.place, len(video.items), event.clip, event.pixels)
        video.items.append(item)
        waiting.append(item)
    elif isinstance(event, VideoFailed):
        video.failure = event.error
        waiting[:] = [item for item in waiting if item.place != event.place]
    else:
        video.read = True


def _next_batch(waiting: list[_Item], enough: int, most: int | None = None) -> list[_Item]:
    """Take clips of one frame count out: `enough` of them, or what there is once too many wait for their like."""
    for first in waiting:
        alike = [item for item in waiting if _frames(item) == _frames(first)]
        if len(alike) >= enough or len(waiting) >= 2 * enough:
            batch = alike[: most or enough]
            waiting[:] = [item for item in waiting if item not in batch]
            return batch
    return []


def _frames(item: _Item) -> int:
    return 0 if item.pixels is None else len(item.pixels)


def _caption(batch: list[_Item], paths: Sequence[Path], captioner: Captioner, spent: Spent) -> None:
    start = time.perf_counter()
    pixels = normalise(np.stack([item.pixels for item in batch if item.pixels is not None]))
    captions = captioner.caption_batch(pixels, [_seed(paths[item.place], item.index) for item in batch])
    for item, caption in zip(batch, captions, strict=True):
        item.caption, item.pixels = caption, None
    spent.computing += time.perf_counter() - start
    spent.clips += len(batch)


def _seed(path: Path, index: int) -> int:
    """A number of a clip that stays the same whatever else is captioned: with --seed it decides what is drawn."""
    return zlib.crc32(f"{index} {path}".encode("utf-8", "surrogateescape"))


def _finished(
    videos: dict[int, _Video], paths: Sequence[Path], model: str, settings: Settings, in_order: bool = True
) -> Iterator[Result]:
    """Take out the videos that are finished; in order: only those before the first one that is not."""
    for place in sorted(videos):
        if videos[place].finished:
            yield Result(place, _outcomes(videos.pop(place), str(paths[place]), model, settings))
        elif in_order:
            return


def _outcomes(video: _Video, path: str, model: str, settings: Settings) -> list[Outcome]:
    if video.failure:
        return [Failure(path, video.failure)]
    captions = [item.caption for item in video.items if item.caption]
    clips = [item.clip for item in video.items]
    records = [_record(path, *each, model, settings) for each in zip(clips, captions, strict=True)]
    if settings.merge is not None:
        records = merge(records, np.stack([caption.embedding for caption in captions]), settings.merge)
    return [replace(record, segments=len(records)) for record in records]


def _record(path: str, clip: Clip, caption: Caption, model: str, settings: Settings) -> Record:
    return Record(
        video=path,
        start=clip.start,
        end=clip.end,
        caption=caption.text,
        logprob=caption.logprob,
        similarity=caption.similarity,
        frames=tuple(clip.times),
        model=model,
        weak=settings.min_score is not None and caption.similarity < settings.min_score,
        candidates=caption.candidates if len(caption.candidates) > 1 else (),
    )
