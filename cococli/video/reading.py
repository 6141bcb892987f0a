"""What every reader of a video or picture gives, and how it says why it cannot."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from ..errors import VideoError


class Frame(NamedTuple):
    """A decoded frame."""

    time: float  # seconds since the first frame of its video
    pixels: np.ndarray  # [H, W, 3] uint8, RGB, upright


class Reader(Protocol):
    """A video or picture whose frames are timed and not decoded yet."""

    @property
    def starts(self) -> np.ndarray:
        """[N] float64, when each frame comes on screen: seconds since the first, ascending."""

    @property
    def end(self) -> float:
        """When the last frame leaves the screen, in seconds; 0.0 for a still picture."""

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """The frames at these ascending indices, one in memory at a time.

        Where a damaged file hides a frame, the one that a player would still show stands for it.

        Raises:
            VideoError: nothing there can be decoded.
        """


_listeners: list[Callable[[], object]] = []


def report_progress(to: Callable[[], object]) -> None:
    """Call a function for every packet and frame from now on: so a long video can be told from one that hangs."""
    _listeners[:] = [to]


def progressed() -> None:
    """Say that a video got on by a packet or a frame."""
    for listener in _listeners:
        listener()


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
