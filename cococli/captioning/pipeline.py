"""From paths to records: reading and computing overlap, and no more is held than two batches."""

import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import CocaError
from ..settings import debugging
from ..video.clips import Clip, read_clip
from ..video.sampling import Sampling
from .captioner import Caption, Captioner
from .records import Failure, Outcome, Record

READERS = 2  # threads: decoding leaves Python, so two keep ahead of the engine on a small machine


class _Frames(NamedTuple):
    clip: Clip
    pixels: np.ndarray  # [F, 3, S, S] float32


@dataclass(eq=False)
class _Slot:
    """One video's place in the output."""

    place: int
    reading: "Future[_Frames | Failure]"
    outcome: Outcome | None = None


def caption_videos(
    paths: Sequence[Path], captioner: Captioner, sampling: Sampling, batch_size: int = 8
) -> Iterator[Outcome]:
    """Caption every video, one outcome each, in the order given.

    Videos are read ahead by a few threads while the engine works on a batch. A batch holds clips of
    equal frame count, so pictures and videos may be mixed; at most two batches of clips are held.
    Closing the iterator, or an exception, stops the threads.

    Args:
        paths: Videos and pictures.
        captioner: What turns pixels into captions.
        sampling: Which frames stand for a video.
        batch_size: Clips that go through the engine at once.

    Yields:
        A Record, or a Failure for a video that could not be read; the others go on.
    """
    ahead = 2 * batch_size + READERS
    upcoming = enumerate(paths)
    window: deque[_Slot] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="reader") as readers:
        try:
            while True:
                while len(window) < ahead and (following := next(upcoming, None)):
                    place, path = following
                    window.append(_Slot(place, readers.submit(_read, path, sampling, captioner.image_size)))
                if not window:
                    return
                if outcome := window[0].outcome:
                    window.popleft()
                    yield outcome
                else:
                    _fill(window, captioner, batch_size)
        finally:
            readers.shutdown(wait=False, cancel_futures=True)


def _read(path: Path, sampling: Sampling, image_size: int) -> _Frames | Failure:
    """The frames of a video, or why there are none. Whatever is wrong with one video fails that video alone."""
    try:
        return _Frames(*read_clip(path, sampling, image_size))
    except MemoryError:
        raise
    except CocaError as error:
        return Failure(str(path), error.message)
    except Exception as error:
        if debugging():
            traceback.print_exc()
        return Failure(str(path), f"unexpected: {type(error).__name__}: {error}")


def _fill(window: deque[_Slot], captioner: Captioner, batch_size: int) -> None:
    """Give the first open slot its outcome, and those further on that fit into the same batch."""
    batch: list[tuple[_Slot, _Frames]] = []
    for slot in window:
        if slot.outcome is not None:
            continue
        frames = slot.reading.result()
        if isinstance(frames, Failure):
            slot.outcome = frames
        elif not batch or len(frames.pixels) == len(batch[0][1].pixels):
            batch.append((slot, frames))
        if len(batch) == batch_size:
            break
    if not batch:
        return
    pixels = np.stack([frames.pixels for _, frames in batch])
    captions = captioner.caption_batch(pixels, [slot.place for slot, _ in batch])
    for (slot, frames), caption in zip(batch, captions, strict=True):
        slot.outcome = _record(frames.clip, caption, captioner.model)


def _record(clip: Clip, caption: Caption, model: str) -> Record:
    return Record(
        video=str(clip.path),
        start=clip.start,
        end=clip.end,
        caption=caption.text,
        logprob=caption.logprob,
        similarity=caption.similarity,
        frames=tuple(clip.times),
        model=model,
    )
