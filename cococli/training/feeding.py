"""Batches for every step, read ahead, and the same whenever a run is resumed."""

import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np

from ..catalog import CLIP, Preprocess
from ..errors import VideoError
from ..media.clips import ReadRequest
from ..media.events import ClipRead, Event, VideoFailed
from ..media.pool import Job, read_each
from ..media.preprocess import normalize
from ..media.sampling import Sampling
from ..media.segments import Segments
from .memory import fit_in_memory, load, replay
from .order import Order
from .pairs import Pairs

Failed = Callable[[Path, str], object]  # told of a file that cannot be read, and why


@dataclass(frozen=True)
class StepBatch:
    """The batch of one step: B pairs, each of pixels or of what a frozen vision tower made of them."""

    step: int
    pairs: np.ndarray  # [B] int64
    ids: np.ndarray  # [B, T] int32
    pixels: np.ndarray | None = None  # [B, F, 3, S, S] float32, normalized
    images: np.ndarray | None = None  # [B, Q, D] float32


@dataclass(frozen=True)
class Feeding:
    """How files are read."""

    sampling: Sampling
    image_size: int  # S, pixels
    augment: bool = True  # crop at random, as open_clip trains; or as it evaluates
    processes: int = 2
    timeout: float = 60.0  # seconds after which a file of which nothing more is decoded is given up
    preprocess: Preprocess = CLIP  # the model's


class _Slot(NamedTuple):
    """A place in a batch."""

    step: int
    place: int
    pair: int


def stop(path: Path, why: str) -> NoReturn:
    """What is told of files that cannot be read when one is too many."""
    raise VideoError(f"{path}: {why}")


def feed(
    pairs: Pairs,
    order: Order,
    steps: range,
    feeding: Feeding,
    failed: Failed = lambda path, why: None,
    part: slice = slice(None),
) -> Generator[StepBatch, None, None]:
    """The batches of these steps, in order. Files are read by processes of their own while a step computes.

    A pair whose file cannot be read gives its place to the next one whose file can. Small pictures are read once
    and kept in memory. Closing the iterator ends the processes.

    Args:
        failed: Told once of each file that cannot be read. It may raise, as `stop` does.
        part: The places of each batch that are wanted: where several processes train, each has its own.

    Raises:
        VideoError: no file can be read.
    """
    size = len(range(order.batch_size)[part])
    slots = (
        _Slot(step, place, pair) for step in steps for place, pair in [*enumerate(order.batch(step).tolist())][part]
    )
    arrived: dict[int, list[tuple[_Slot, np.ndarray]]] = defaultdict(list)
    with closing(_read(slots, pairs, order.seed, feeding, failed, 2 * size + 2)) as read:
        for step in steps:
            while len(arrived[step]) < size:
                slot, pixels = next(read)
                arrived[slot.step].append((slot, pixels))
            yield _batch(step, pairs, sorted(arrived.pop(step), key=lambda item: item[0]), feeding.preprocess)


def _read(
    slots: Iterator[_Slot], pairs: Pairs, seed: int, feeding: Feeding, failed: Failed, ahead: int
) -> Generator[tuple[_Slot, np.ndarray], None, None]:
    """Frames [F, S, S, 3] uint8 for every slot, in order but where files are broken."""
    source = _source(pairs.files, feeding, ahead)
    broken: set[int] = set()
    again: deque[_Slot] = deque()
    under_way: deque[_Slot] = deque()

    def jobs() -> Iterator[Job]:
        while slot := again.popleft() if again else next(slots, None):
            slot = slot._replace(pair=pairs.readable(slot.pair, broken))
            under_way.append(slot)
            crop_seed = zlib.crc32(f"{seed} {slot.step} {slot.place}".encode()) if feeding.augment else None
            path = pairs.files[pairs.file[slot.pair]]
            whole = Segments("none")
            yield path, ReadRequest(feeding.sampling, whole, feeding.image_size, crop_seed, feeding.preprocess)

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
                again.append(slot)
                if (file := pairs.file[slot.pair]) not in broken:
                    broken.add(file)
                    failed(pairs.files[file], event.error)
        reading = bool(again)  # the last ones failed, after nothing more was asked for


def _batch(step: int, pairs: Pairs, arrived: Sequence[tuple[_Slot, np.ndarray]], preprocess: Preprocess) -> StepBatch:
    frames = max(len(pixels) for _, pixels in arrived)
    # Among clips a picture is a clip that stands still: attention to F equal frames is that to one of them.
    clips = [np.repeat(pixels, frames // len(pixels), axis=0) for _, pixels in arrived]
    chosen = np.array([slot.pair for slot, _ in arrived])
    return StepBatch(step, chosen, pairs.ids[chosen], normalize(np.stack(clips), preprocess))


def _source(
    files: Sequence[Path], feeding: Feeding, ahead: int
) -> Callable[[Iterable[Job]], Generator[Event, None, None]]:
    """What reads: processes or, where they are small pictures, the memory."""
    if fit_in_memory(files):
        return partial(replay, load(files, feeding.processes, feeding.timeout))
    return partial(read_each, processes=feeding.processes, timeout=feeding.timeout, ahead=ahead)
