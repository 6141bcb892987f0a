"""Still and moving pictures, read by PIL."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import VideoError
from .reading import Frame, reason

_MOVING_PICTURES = {"GIF", "PNG", "WEBP", "AVIF"}  # other formats of several pictures hold pages or thumbnails
_INSTANT = 0.1  # seconds; what browsers make of a picture that is to be shown for no time at all


@dataclass(frozen=True)
class Picture:
    """A picture, still or moving, read by PIL."""

    path: Path
    starts: np.ndarray
    end: float

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        from PIL import Image

        with _picture_errors(), Image.open(self.path) as picture:
            for index in indices:
                picture.seek(index)
                yield Frame(float(self.starts[index]), _rgb(picture))


def open_picture(path: Path) -> Picture | None:
    """The picture, or None where the content is not one, whatever its name says."""
    from PIL import Image, UnidentifiedImageError

    with _picture_errors():
        try:
            opened: Any = Image.open(path)
        except UnidentifiedImageError:
            return None
        with opened as picture:
            if picture.format not in _MOVING_PICTURES or getattr(picture, "n_frames", 1) == 1:
                return Picture(path, np.zeros(1), 0.0)
            ends = np.cumsum([_shown_for(picture, index) for index in range(picture.n_frames)])
    return Picture(path, np.concatenate([[0.0], ends[:-1]]), float(ends[-1]))


def _shown_for(picture: Any, index: int) -> float:
    picture.seek(index)
    picture.load()  # WebP tells a frame's duration only now
    return picture.info.get("duration", 0) / 1000 or _INSTANT


def _rgb(picture: Any) -> np.ndarray:
    """[H, W, 3] uint8, upright."""
    from PIL import ImageOps

    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16 bits of grey: PIL makes whatever is above 255 white
        grey = (np.asarray(upright) // 256).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))


@contextmanager
def _picture_errors() -> Iterator[None]:
    from PIL import Image

    try:
        yield
    except Image.DecompressionBombError:
        raise VideoError(f"more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except Exception as error:  # on damaged files PIL raises anything: OSError, SyntaxError, struct.error, ...
        raise VideoError(f"damaged picture: {reason(error)}") from None
