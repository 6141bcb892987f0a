"""Batches of every step, prefetched, and identical when a run resumes."""

import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..catalog import CLIP, Preprocess
from ..errors import VideoError
from ..media.clips import ReadRequest, Sampling, Segments, view
from ..media.discover import is_image
from ..media.pictures import open_with_pillow
from ..media.pool import ClipRead, Event, Job, VideoFailed, VideoRead, read_videos
from ..reporting import SILENT, Reporter
from .pairs import Order, Pairs

MEMORY_LIMIT = 1 << 30  # bytes of all decoded pictures
LARGEST = 256 * 256 * 3  # bytes of one; processes crop larger ones while a step computes

Decoded = Mapping[Path, ClipRead | VideoFailed]


@dataclass(frozen=True)
class StepBatch:
    """The batch of one step: B pairs with pixels, or with image features from a frozen vision tower."""

    step: int
    pairs: np.ndarray  # [B] int64
    ids: np.ndarray  # [B, T] int32
    pixels: np.ndarray | None = None  # [B, F, S, S, 3] uint8
    images: np.ndarray | None = None  # [B, Q, D] float32


@dataclass(frozen=True)
class Feeding:
    """Options for reading training files."""

    sampling: Sampling
    image_size: int  # S, pixels
    augment: bool = True  # random crops, as in open_clip's training; else its evaluation crop
    processes: int = 2
    timeout: float = 60.0  # seconds without progress after which a file counts as unreadable
    preprocess: Preprocess = CLIP  # the model's
    strict: bool = False  # whether an unreadable file ends the run


class _Slot(NamedTuple):
    """A slot of a batch."""

    step: int
    position: int
    pair: int


def report_unreadable(path: Path, why: str, strict: bool, reporter: Reporter) -> None:
    """Warn of a file that cannot be read; raise a VideoError if the run is strict."""
    if strict:
        raise VideoError(f"{path}: {why}")
    reporter.warning(f"{path}: {why}")


def feed(
    pairs: Pairs,
    order: Order,
    steps: range,
    feeding: Feeding,
    reporter: Reporter = SILENT,
    part: slice = slice(None),
) -> Generator[StepBatch, None, None]:
    """Yield the batches of these steps, in order. Files are decoded by other processes while a step computes.

    A pair whose file cannot be read is replaced by the next readable one. Small pictures are decoded once and kept in
    memory. Closing the iterator ends the processes.

    Args:
        reporter: Receives a warning for each file that cannot be read, and notes on decoders that failed.
        part: Indices of each batch to yield: one share for each of the processes that train together.

    Raises:
        VideoError: No file can be read, or one cannot and `feeding` is strict.
    """
    size = len(range(order.batch_size)[part])
    slots = (
        _Slot(step, position, pair)
        for step in steps
        for position, pair in [*enumerate(order.batch(step).tolist())][part]
    )
    arrived: dict[int, list[tuple[_Slot, np.ndarray]]] = defaultdict(list)
    with closing(_read(slots, pairs, order.seed, feeding, reporter, 2 * size + 2)) as read:
        for step in steps:
            while len(arrived[step]) < size:
                slot, pixels = next(read)
                arrived[slot.step].append((slot, pixels))
            yield _batch(step, pairs, sorted(arrived.pop(step), key=lambda item: item[0]))


def _read(
    slots: Iterator[_Slot], pairs: Pairs, seed: int, feeding: Feeding, reporter: Reporter, prefetch: int
) -> Generator[tuple[_Slot, np.ndarray], None, None]:
    """Yield frames [F, S, S, 3] uint8 for every slot: in order, but replacements of broken files come later."""
    source = _source(pairs.files, feeding, prefetch, reporter)
    broken: set[int] = set()
    retries: deque[_Slot] = deque()
    under_way: deque[_Slot] = deque()

    request = ReadRequest(
        feeding.sampling,
        Segments("none"),
        feeding.image_size,
        preprocess=feeding.preprocess,
        timeout=feeding.timeout,
    )

    def jobs() -> Iterator[Job]:
        while slot := retries.popleft() if retries else next(slots, None):
            slot = slot._replace(pair=pairs.readable(slot.pair, broken))
            under_way.append(slot)
            crop_seed = zlib.crc32(f"{seed} {slot.step} {slot.position}".encode()) if feeding.augment else None
            path = pairs.files[pairs.file[slot.pair]]
            yield path, replace(request, crop_seed=crop_seed)

    reading = True
    while reading:
        with closing(source(jobs())) as events:
            for event in events:
                if isinstance(event, ClipRead):
                    pixels = event.pixels
                    continue
                slot = under_way.popleft()
                if not isinstance(event, VideoFailed):
                    yield slot, pixels
                    continue
                retries.append(slot)
                if (file := pairs.file[slot.pair]) not in broken:
                    broken.add(file)
                    report_unreadable(pairs.files[file], event.error, feeding.strict, reporter)
        reading = bool(retries)  # the last files failed after all jobs were taken


def _batch(step: int, pairs: Pairs, arrived: Sequence[tuple[_Slot, np.ndarray]]) -> StepBatch:
    frames = max(len(pixels) for _, pixels in arrived)
    # In a batch of clips, a picture is repeated: attending to F equal frames equals attending to one of them.
    clips = [np.repeat(pixels, frames // len(pixels), axis=0) for _, pixels in arrived]
    chosen = np.array([slot.pair for slot, _ in arrived])
    return StepBatch(step, chosen, pairs.ids[chosen], np.stack(clips))


def _source(
    files: Sequence[Path], feeding: Feeding, prefetch: int, reporter: Reporter
) -> Callable[[Iterable[Job]], Generator[Event, None, None]]:
    """Return a function that decodes files: from memory if they are small pictures, else in other processes."""
    if fit_in_memory(files):
        return partial(replay, load(files, feeding.processes, feeding.timeout))
    return partial(read_videos, processes=feeding.processes, prefetch=prefetch, reporter=reporter)


def fit_in_memory(files: Iterable[Path]) -> bool:
    """Return whether all are small still pictures that fit in memory. Reads as few headers as possible."""
    room = MEMORY_LIMIT
    for path in files:
        size = _decoded_size(path) if is_image(path) else LARGEST + 1
        room -= size
        if size > LARGEST or room < 0:
            return False
    return True


def load(files: Iterable[Path], processes: int, timeout: float) -> Decoded:
    """Decode every picture to [1, H, W, 3] uint8, or record why it cannot be read."""
    paths = tuple(files)
    request = ReadRequest(Sampling(), Segments("none"), None, timeout=timeout)
    events = read_videos(zip(paths, repeat(request)), processes, prefetch=100)
    return {paths[event.video]: event for event in events if isinstance(event, ClipRead | VideoFailed)}


def replay(decoded: Decoded, jobs: Iterable[Job]) -> Generator[Event, None, None]:
    """Yield the events of `read_videos` for pictures in memory."""
    for index, (path, request) in enumerate(jobs):
        event = decoded[path]._replace(video=index)
        if isinstance(event, ClipRead):
            yield event._replace(pixels=np.stack([view(frame, request) for frame in event.pixels]))
            yield VideoRead(index, 1)
        else:
            yield event


def _decoded_size(path: Path) -> int:
    """Return the bytes of a decoded picture; more than `LARGEST` if it is animated, 0 if it cannot be read."""
    try:
        with open_with_pillow(path) as picture:
            moves = getattr(picture, "is_animated", False)
            return LARGEST + 1 if moves else picture.width * picture.height * 3
    except Exception:  # Pillow raises anything; reading the file reports why
        return 0
