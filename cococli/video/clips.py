"""A clip: the unit of work, a span of a video and the frames that stand for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import numpy as np

from .preprocess import crop, normalise
from .readers import open_reader
from .reading import Reader, progressed
from .sampling import Sampling, sample_indices
from .segments import Segments, spans


@dataclass(frozen=True)
class Clip:
    """A span of a video, in seconds since its first frame, and the frames that stand for it."""

    path: Path
    start: float
    end: float  # of a still picture 0.0, as is its start
    times: tuple[float, ...]  # [F] when each frame comes on screen


@dataclass(frozen=True)
class ReadRequest:
    """What to make of every video."""

    sampling: Sampling
    segments: Segments
    image_size: int  # S, pixels


def read_clips(path: Path, request: ReadRequest) -> Iterator[tuple[Clip, np.ndarray]]:
    """Read a video, or a picture, in one pass from its first clip to its last.

    Yields:
        A clip, and its frames [F, S, S, 3] uint8, resized and cropped. F is 1 for a still picture.

    Raises:
        VideoError: why it cannot be read, or not to its end, in a few words, without the path.
    """
    reader = open_reader(path)
    parts = spans(reader, request.segments)
    wanted = sample_indices(reader.starts, parts, request.sampling)
    if reader.end == 0:
        wanted = wanted[:, :1]
    frames = _cropped(reader, wanted, request.image_size)
    for start, end in parts:
        times, pixels = zip(*islice(frames, wanted.shape[1]), strict=True)
        yield Clip(path, start, end, times), np.stack(pixels)


def read_clip(path: Path, sampling: Sampling, image_size: int) -> tuple[Clip, np.ndarray]:
    """Read a whole video, or a picture, as one clip.

    Args:
        image_size: S, in pixels.

    Returns:
        The clip, and its pixels [F, 3, S, S] float32, normalised. F is 1 for a still picture.

    Raises:
        VideoError: why it cannot be read, in a few words, without the path.
    """
    ((clip, pixels),) = read_clips(path, ReadRequest(sampling, Segments("none"), image_size))
    return clip, normalise(pixels)


def _cropped(reader: Reader, wanted: np.ndarray, image_size: int) -> Iterator[tuple[float, np.ndarray]]:
    """Time and pixels [S, S, 3] uint8 of ascending frames; one that is wanted several times is decoded once."""
    indices, times_wanted = np.unique(wanted, return_counts=True)
    for frame, count in zip(reader.frames(indices.tolist()), times_wanted, strict=True):
        progressed()
        yield from repeat((frame.time, crop(frame.pixels, image_size)), count)
