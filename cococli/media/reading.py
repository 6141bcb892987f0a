"""What every reader of a video or picture gives, and how it says why it cannot."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from ..errors import VideoError

MAX_FRAME_PIXELS = 100_000_000  # of a video or animation: three times 8K; decoders hold several frames at once
ENOUGH_BYTES = 16 << 10  # compressed bytes whose decoding counts as progress


class Frame(NamedTuple):
    """A decoded frame."""

    time: float  # seconds, on the clock of its file
    pixels: np.ndarray  # [H, W, 3] uint8, RGB, upright


class Reader(Protocol):
    """A video or picture whose frames are timed and not decoded yet.

    Times are those that players show: 0 is where the file begins, be it with sound or with a picture.
    """

    @property
    def starts(self) -> np.ndarray:
        """[N] float64, when each frame comes on screen: seconds, ascending."""

    @property
    def end(self) -> float:
        """When the last frame leaves the screen, in seconds; 0.0 for a still picture."""

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames at these ascending indices, one in memory at a time.

        Where a damaged file hides a frame, the one that a player would still show stands for it.

        Raises:
            VideoError: nothing there can be decoded.
        """


_listeners: list[Callable[[int], object]] = []


def report_progress(to: Callable[[int], object]) -> None:
    """Call a function with the bytes of each packet and frame from now on."""
    _listeners[:] = [to]


def progressed(size: int = ENOUGH_BYTES) -> None:
    """Report that so many compressed bytes were taken in; by default, that something was achieved.

    Frames alone are no progress: a few bytes may stand for thousands of huge ones.
    """
    for listener in _listeners:
        listener(size)


def open_file(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise VideoError(reason(error)) from None


def reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].lower()
