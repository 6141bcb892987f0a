"""A clip: the unit of work, a span of a video and the frames that stand for it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .preprocess import preprocess
from .readers import open_reader
from .sampling import Sampling, sample_indices


@dataclass(frozen=True)
class Clip:
    """A span of a video, in seconds since its first frame, and the frames that stand for it."""

    path: Path
    start: float
    end: float  # of a still picture 0.0, as is its start
    times: tuple[float, ...]  # [F] when each frame comes on screen


def read_clip(path: Path, sampling: Sampling, image_size: int) -> tuple[Clip, np.ndarray]:
    """Read a whole video, or a picture, as one clip.

    Args:
        image_size: S, in pixels.

    Returns:
        The clip, and its pixels [F, 3, S, S] float32, normalised. F is 1 for a still picture.

    Raises:
        VideoError: why it cannot be read, in a few words, without the path.
    """
    reader = open_reader(path)
    starts, end = reader.starts, reader.end
    wanted = sample_indices(starts, end, sampling) if end > 0 else np.zeros(1, np.int64)
    indices, repeats = np.unique(wanted, return_counts=True)  # a frame that stands several times is decoded once
    frames = [(frame.time, preprocess(frame.pixels, image_size)) for frame in reader.frames(indices.tolist())]
    times = np.repeat([time for time, _ in frames], repeats)
    pixels = np.repeat(np.stack([pixels for _, pixels in frames]), repeats, axis=0)
    return Clip(path, float(starts[0]), end, tuple(times.tolist())), pixels
