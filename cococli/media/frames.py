"""Frames and the interface of all readers, with the progress and the errors that readers have in common."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from ..errors import VideoError
from ..files import open_binary

# Of a video or animation: three times 8K, as decoders hold several frames at once.
MAX_FRAME_PIXELS = 100_000_000
PROGRESS_BYTES = 16 << 10  # compressed bytes whose decoding counts as progress


class Frame(NamedTuple):
    """A decoded frame."""

    time: float  # seconds, on the clock of its file
    pixels: np.ndarray  # [H, W, 3] uint8, RGB, upright


class Reader(Protocol):
    """A video or picture whose frames are timed but not decoded.

    Times are those that players show: 0 is where the file begins, with sound or with a picture.
    """

    @property
    def starts(self) -> np.ndarray:
        """[N] float64: when each frame appears, in seconds, ascending."""

    @property
    def end(self) -> float:
        """End of the last frame in seconds; 0.0 for a still picture."""

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decode the frames at these ascending indices, one in memory at a time.

        A frame that is damaged is replaced by the one that a player would still show.

        Raises:
            VideoError: Nothing can be decoded.
        """


def open_file(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        VideoError: It cannot be opened.
    """
    try:
        return open_binary(path)
    except OSError as error:
        raise VideoError(reason(error)) from None


def reason(error: Exception) -> str:
    """Describe an error in one line, in lower case."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].lower()


_progress_listeners: list[Callable[[int], object]] = []


def listen_to_progress(listener: Callable[[int], object]) -> None:
    """Call a function with the size of every packet and frame from now on."""
    _progress_listeners[:] = [listener]


def report_progress(size: int = PROGRESS_BYTES) -> None:
    """Report the number of compressed bytes decoded; by default, enough to count as progress.

    The number of frames does not measure progress: a few bytes may stand for thousands of huge ones.
    """
    for listener in _progress_listeners:
        listener(size)
