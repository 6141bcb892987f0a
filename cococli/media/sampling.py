"""Which frames of a span of video stand for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..errors import UsageError

Frames = Literal["middle", "multi"]

MAX_FRAMES = 1024  # far beyond what a pooler reads well; a slip of the keyboard stops here, not in swap

# Two containers of one video round its times differently (1/1000 s in Matroska, 1/90000 s in MPEG-TS).
# A moment this close before a frame's start is that start.
_SLACK = 1e-6  # seconds


@dataclass(frozen=True)
class Sampling:
    """How frames are chosen: the one in the middle, or several at the centers of equal parts.

    Raises:
        UsageError: `frames` is no known way, or `num_frames` is out of range.
    """

    frames: Frames = "middle"
    num_frames: int = 8  # frames of `multi`; `middle` always takes one

    def __post_init__(self) -> None:
        if self.frames not in get_args(Frames):
            raise UsageError(f"--frames cannot be {self.frames!r}", "choose middle or multi")
        if not isinstance(self.num_frames, int) or not 1 <= self.num_frames <= MAX_FRAMES:
            raise UsageError(f"--num-frames must be 1 to {MAX_FRAMES}, not {self.num_frames}", "8 is the default")


def sample_indices(starts: np.ndarray, spans: Sequence[tuple[float, float]], sampling: Sampling) -> np.ndarray:
    """The frames on screen at the centers of equal parts of spans of time.

    Times decide, not frame numbers, so a variable frame rate is sampled as a viewer sees it. With fewer
    frames than asked, a frame that is on screen at several centers stands several times.

    Args:
        starts: [N] float64, N >= 1, when each frame comes on screen, in seconds, ascending.
        spans: K spans from when to when, in seconds, ascending, none before the first frame.

    Returns:
        [K, F] int64, ascending indices into `starts`; F is 1 for `middle`, `num_frames` for `multi`.
    """
    parts = sampling.num_frames if sampling.frames == "multi" else 1
    begin, end = np.array(spans, np.float64).T[..., None]  # [K, 1] each
    centers = begin + (np.arange(parts) + 0.5) / parts * (end - begin)
    on_screen = np.searchsorted(starts, centers + _SLACK, side="right") - 1
    return on_screen.astype(np.int64)
