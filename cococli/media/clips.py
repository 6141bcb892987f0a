"""A clip: the unit of work, a span of a video and the frames that stand for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from pathlib import Path

import numpy as np

from ..catalog import CLIP, Preprocess
from .preprocess import crop, normalize, random_crop
from .readers import open_reader
from .reading import Reader, progressed
from .sampling import Sampling, sample_indices
from .segments import Segments, spans


@dataclass(frozen=True)
class Clip:
    """A span of a video, in seconds on the clock of its file, and the frames that stand for it."""

    path: Path
    start: float
    end: float  # of a still picture 0.0, as is its start
    times: tuple[float, ...]  # [F] when each frame comes on screen


@dataclass(frozen=True)
class ReadRequest:
    """What to make of every video."""

    sampling: Sampling
    segments: Segments
    image_size: int | None  # S, pixels; None: frames as they are
    crop_seed: int | None = None  # decides on a random crop, the same for all frames, in place of the central one
    preprocess: Preprocess = CLIP  # the model's


def read_clips(source: Path | Reader, request: ReadRequest) -> Iterator[tuple[Clip, np.ndarray]]:
    """Read a video, or a picture, in one pass from its first clip to its last.

    Yields:
        A clip, and its frames [F, S, S, 3] uint8, see `view`. F is 1 for a still picture.

    Raises:
        VideoError: why it cannot be read, or not to its end, in a few words, without the path.
    """
    reader = open_reader(source) if isinstance(source, Path) else source
    path = source if isinstance(source, Path) else Path()
    parts = spans(reader, request.segments)
    wanted = sample_indices(reader.starts, parts, request.sampling)
    if reader.end == 0:
        wanted = wanted[:, :1]
    frames = _viewed(reader, wanted, request)
    for start, end in parts:
        times, pixels = zip(*islice(frames, wanted.shape[1]), strict=True)
        yield Clip(path, start, end, times), np.stack(pixels)


def read_clip(
    source: Path | Reader, sampling: Sampling, image_size: int, preprocess: Preprocess = CLIP
) -> tuple[Clip, np.ndarray]:
    """Read a whole video, or a picture, as one clip.

    Args:
        image_size: S, in pixels.

    Returns:
        The clip, and its pixels [F, 3, S, S] float32, normalized. F is 1 for a still picture.

    Raises:
        VideoError: why it cannot be read, in a few words, without the path.
    """
    request = ReadRequest(sampling, Segments("none"), image_size, preprocess=preprocess)
    ((clip, pixels),) = read_clips(source, request)
    return clip, normalize(pixels, preprocess)


def view(frame: np.ndarray, request: ReadRequest) -> np.ndarray:
    """A frame [H, W, 3] uint8 -> [S, S, 3] uint8, resized and cropped as the request says."""
    if request.image_size is None:
        return frame
    if request.crop_seed is None:
        return crop(frame, request.image_size, request.preprocess)
    return random_crop(frame, request.image_size, request.crop_seed)


def _viewed(reader: Reader, wanted: np.ndarray, request: ReadRequest) -> Iterator[tuple[float, np.ndarray]]:
    """Time and pixels of ascending frames; one that is wanted several times is decoded once."""
    indices, times_wanted = np.unique(wanted, return_counts=True)
    for frame, count in zip(reader.frames(indices.tolist()), times_wanted, strict=True):
        progressed()
        yield from repeat((frame.time, view(frame.pixels, request)), count)
