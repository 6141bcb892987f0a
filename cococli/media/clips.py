"""Clips: spans of a video and the frames that represent them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, repeat
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from .. import files
from ..catalog import CLIP, Preprocess
from ..errors import UsageError, VideoError
from ..reporting import SILENT, Reporter
from .frames import Reader, report_progress
from .preprocess import crop, random_crop, shrink
from .readers import open_reader

Frames = Literal["middle", "multi"]
Span = tuple[float, float]  # start and end in seconds, on the clock of the file

MAX_FRAMES = 1024  # far more than a pooler reads well: a typing error fails here instead of filling the memory
MIN_SEGMENT = 0.1  # seconds

# Containers round the times of a video differently (1/1000 s in Matroska, 1/90000 s in MPEG-TS): a time this close
# before a frame's start is that start.
_SLACK = 1e-6  # seconds
_ROUNDED = 6e-4  # seconds; times of records are rounded to milliseconds


@dataclass(frozen=True)
class Sampling:
    """Frames that represent a clip: the one in the middle, or several at the centers of equal parts.

    The repr is part of the keys by which runs resume.

    Raises:
        UsageError: `frames` is unknown, or `num_frames` is out of range.
    """

    frames: Frames = "middle"
    num_frames: int = 8  # of "multi"

    def __post_init__(self) -> None:
        if self.frames not in get_args(Frames):
            raise UsageError(f"--frames cannot be {self.frames!r}", "choose middle or multi")
        if not isinstance(self.num_frames, int) or not 1 <= self.num_frames <= MAX_FRAMES:
            raise UsageError(f"--num-frames must be 1 to {MAX_FRAMES}, not {self.num_frames!r}", "8 is the default")

    @property
    def count(self) -> int:
        """Number of frames of a clip."""
        return self.num_frames if self.frames == "multi" else 1


@dataclass(frozen=True)
class Segments:
    """Division of a video: none, at scene changes, or into pieces of equal length.

    The repr is part of the keys by which runs resume.
    """

    kind: Literal["none", "scene", "seconds"] = "none"
    seconds: float = 0.0  # of a piece


@dataclass(frozen=True)
class ReadRequest:
    """Frames, segments and preprocessing to read videos and pictures with."""

    sampling: Sampling
    segments: Segments
    image_size: int | None  # S, pixels; None keeps frames as they are
    crop_seed: int | None = None  # of a random crop, the same for all frames; None crops the center
    preprocess: Preprocess = CLIP
    timeout: float = 60.0  # seconds without progress after which reading fails
    times: tuple[float, ...] = ()  # of frames to read instead of clips: whole, S pixels high, a clip each; ascending

    def count(self, videos: int) -> float:
        """Return the number of clips of some videos; infinity where they are divided."""
        return videos if self.segments.kind == "none" else math.inf


@dataclass(frozen=True)
class Clip:
    """A span of a video, in seconds on the clock of its file, and the frames that represent it."""

    path: Path
    start: float
    end: float  # 0.0 for a still picture, like its start
    times: tuple[float, ...]  # [F] when each frame appears


def read_clips(
    source: Path | Reader, request: ReadRequest, reporter: Reporter = SILENT
) -> Iterator[tuple[Clip, np.ndarray]]:
    """Read the clips of a video, a part of one (see `files.span_path`) or a picture in one pass.

    Args:
        reporter: See `open_reader`.

    Yields:
        A clip, and its frames [F, S, S, 3] uint8, see `view`. F is 1 for a still picture.

    Raises:
        VideoError: Why the video cannot be read, or not to its end, without its path.
    """
    path = source if isinstance(source, Path) else Path()
    part = files.find_span(path)
    reader = open_reader(part.video if part else source, reporter) if isinstance(source, Path) else source
    if request.times:
        on_screen = np.searchsorted(reader.starts, np.array(request.times) + _ROUNDED, side="right") - 1
        for time, pixels in _read_frames(reader, on_screen.clip(0), request):
            yield Clip(path, time, time, (time,)), pixels[None]
        return
    spans = [_within(reader, part)] if part else segment_spans(reader, request.segments)
    indices = sample_indices(reader.starts, spans, request.sampling)
    if reader.end == 0:
        indices = indices[:, :1]
    frames = _read_frames(reader, indices, request)
    for start, end in spans:
        times, pixels = zip(*islice(frames, indices.shape[1]), strict=True)
        yield Clip(path, start, end, times), np.stack(pixels)


def read_clip(
    source: Path | Reader,
    sampling: Sampling,
    image_size: int,
    preprocess: Preprocess = CLIP,
    reporter: Reporter = SILENT,
) -> tuple[Clip, np.ndarray]:
    """Read a whole video, or a picture, as one clip.

    Args:
        image_size: S, in pixels.
        reporter: See `open_reader`.

    Returns:
        The clip, and its frames [F, S, S, 3] uint8. F is 1 for a still picture.

    Raises:
        VideoError: Why it cannot be read, without its path.
    """
    request = ReadRequest(sampling, Segments("none"), image_size, preprocess=preprocess)
    (clip,) = read_clips(source, request, reporter)
    return clip


def view(frame: np.ndarray, request: ReadRequest) -> np.ndarray:
    """Resize and crop a frame [H, W, 3] uint8 to [S, S, 3] as requested."""
    if request.image_size is None:
        return frame
    if request.times:
        return shrink(frame, request.image_size)
    if request.crop_seed is None:
        return crop(frame, request.image_size, request.preprocess)
    return random_crop(frame, request.image_size, request.crop_seed)


def _read_frames(reader: Reader, indices: np.ndarray, request: ReadRequest) -> Iterator[tuple[float, np.ndarray]]:
    """Yield time and pixels of ascending frames; repeated ones are decoded once."""
    unique, counts = np.unique(indices, return_counts=True)
    for frame, count in zip(reader.frames(unique.tolist()), counts, strict=True):
        report_progress()
        yield from repeat((frame.time, view(frame.pixels, request)), count)


def _within(reader: Reader, part: files.Span) -> Span:
    """Return a part of a video as far as the video reaches.

    Raises:
        VideoError: The video ends before it.
    """
    start, end = float(reader.starts[0]), float(reader.end)
    if part.start >= end > 0:
        raise VideoError(f"ends at {end:g} s, before the part from {part.start:g} s")
    return max(start, part.start), max(start, min(end, part.end))


def parse_segments(text: str) -> Segments:
    """Parse the value of --segments: `none`, `scene`, or a number of seconds.

    Raises:
        UsageError: It is none of these.
    """
    if text in ("none", "scene"):
        return Segments("scene" if text == "scene" else "none")
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not MIN_SEGMENT <= seconds < float("inf"):
        raise UsageError(f"--segments cannot be {text!r}", f"none, scene, or seconds, at least {MIN_SEGMENT}")
    return Segments("seconds", seconds)


def segment_spans(reader: Reader, segments: Segments) -> list[Span]:
    """Divide a video into spans, in order; only blank scenes leave gaps. A still picture has one of no length."""
    start, end = float(reader.starts[0]), float(reader.end)
    if end <= start or segments.kind == "none":
        return [(start, max(start, end))]
    if segments.kind == "scene":
        from .scenes import scene_spans

        return scene_spans(reader)
    # A last piece of less than half the length is merged into the one before.
    pieces = max(1, int((end - start) / segments.seconds + 0.5))
    return list(pairwise([*(start + i * segments.seconds for i in range(pieces)), end]))


def sample_indices(starts: np.ndarray, spans: Sequence[Span], sampling: Sampling) -> np.ndarray:
    """Return the frames on screen at the centers of equal parts of each span.

    Times decide, not frame numbers, so variable frame rates are sampled as a viewer sees them. A frame that is on
    screen at several centers is repeated.

    Args:
        starts: [N] float64, N >= 1, when each frame appears, in seconds, ascending.
        spans: K spans, ascending, none before the first frame.

    Returns:
        [K, F] int64, ascending indices into `starts`; F is 1 for `middle`, `num_frames` for `multi`.
    """
    parts = sampling.num_frames if sampling.frames == "multi" else 1
    begin, end = np.array(spans, np.float64).T[..., None]  # [K, 1] each
    centers = begin + (np.arange(parts) + 0.5) / parts * (end - begin)
    on_screen = np.searchsorted(starts, centers + _SLACK, side="right") - 1
    return on_screen.astype(np.int64)
