"""Videos and pictures in memory: arrays, tensors, PIL images and the content of files."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError, VideoError
from ..files import temporary_folder
from .frames import Frame, Reader, reason

ACCEPTED = (
    "a path, the bytes of a file or a file object, a PIL image, or a numpy array or torch tensor of one picture "
    "[H, W, 3] or of a video's frames [F, H, W, 3]"
)


@dataclass(frozen=True)
class ArrayReader:
    """ArrayReader [F, H, W, 3] uint8, one a second; a single one is a still picture. Implements `frames.Reader`."""

    pixels: np.ndarray

    @property
    def starts(self) -> np.ndarray:
        return np.arange(len(self.pixels), dtype=np.float64)

    @property
    def end(self) -> float:
        return float(len(self.pixels)) if len(self.pixels) > 1 else 0.0

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        return (Frame(float(index), self.pixels[index]) for index in indices)


@contextmanager
def open_input(source: Any) -> Iterator[Path | Reader]:
    """Make a source of one of the `ACCEPTED` kinds readable for the block.

    Raises:
        UsageError: It is something else.
        VideoError: A file or PIL image cannot be read.
    """
    if hasattr(source, "read"):
        try:
            if source.seekable():
                # A buffer that was just written stands at its end.
                source.seek(0)
            source = source.read()
        except (OSError, ValueError) as error:
            raise VideoError(reason(error)) from None
    if isinstance(source, bytes | bytearray | memoryview):
        with temporary_folder() as folder:
            # The suffix is that of a picture, but the content decides whether it is a video.
            path = folder / "content.png"
            path.write_bytes(source)
            yield path
    else:
        yield ArrayReader(_frames(source))


def _frames(source: Any) -> np.ndarray:
    """Convert an image, array or tensor to [F, H, W, 3] uint8."""
    if hasattr(source, "getexif") and hasattr(source, "convert"):
        from .pictures import rgb_pixels

        try:
            return rgb_pixels(source)[None]
        except Exception as error:
            raise VideoError(f"damaged picture: {reason(error)}") from None
    return _as_bytes(_channels_last(_array(source)))


def _array(source: Any) -> np.ndarray:
    if hasattr(source, "detach"):
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source
    elif hasattr(source, "asnumpy"):
        source = source.asnumpy()
    if not hasattr(source, "__array__"):
        raise UsageError(f"{type(source).__name__} is not a video or picture: pass {ACCEPTED}")
    return np.asarray(source)


def _channels_last(array: np.ndarray) -> np.ndarray:
    """Move channels last: [H, W, 3], [3, H, W], [F, H, W, 3] or [F, 3, H, W] -> [F, H, W, 3]."""
    shape = list(array.shape)
    if len(shape) not in (3, 4) or 0 in shape or 3 not in (shape[-3], shape[-1]):
        raise UsageError(f"an array of shape {shape} is not RGB frames: pass [H, W, 3] or [F, H, W, 3]")
    if shape[-3] == shape[-1]:
        raise UsageError(f"shape {shape} may be [3, H, W] or [H, W, 3]: pass frames that are not 3 pixels high or wide")
    if shape[-1] != 3:
        array = np.moveaxis(array, -3, -1)
    return array if len(shape) == 4 else array[None]


def _as_bytes(array: np.ndarray) -> np.ndarray:
    """Convert integers of 0..255, or floats of 0..1, to uint8."""
    if array.dtype == np.uint8:
        return array
    most = {"i": 255, "u": 255, "f": 1}.get(array.dtype.kind)
    if most is None or not (array.min() >= 0 and array.max() <= most):
        raise UsageError(f"{array.dtype} values are not RGB frames: pass integers of 0 to 255, or floats of 0 to 1")
    return array.astype(np.uint8) if most == 255 else (array * 255).round().astype(np.uint8)
