"""The frames that a model saw of a record."""

from functools import lru_cache
from io import BytesIO
from pathlib import Path

import numpy as np

from ..media.readers import open_reader

_SLACK = 1e-3  # seconds; times of records are rounded
_WIDEST = 640  # pixels of a frame on the page


def read_frames(video: str, times: tuple[float, ...]) -> list[np.ndarray]:
    """Read the frames [H, W, 3] uint8 on screen at ascending times.

    Raises:
        VideoError: The video cannot be read.
    """
    reader = open_reader(Path(video))
    indices = np.searchsorted(reader.starts, np.array(times) + _SLACK, side="right") - 1
    unique, counts = np.unique(indices.clip(0), return_counts=True)
    frames = zip(reader.frames(unique.tolist()), counts, strict=True)
    return [frame.pixels for frame, count in frames for _ in range(count)]


@lru_cache(maxsize=512)
def encode_frames(video: str, times: tuple[float, ...]) -> list[bytes]:
    """Read frames as JPEGs of the size that the page shows.

    Raises:
        VideoError: The video cannot be read.
    """
    from PIL import Image

    encoded = []
    for pixels in read_frames(video, times):
        image, file = Image.fromarray(pixels), BytesIO()
        image.thumbnail((_WIDEST, _WIDEST))
        image.save(file, "JPEG", quality=82)
        encoded.append(file.getvalue())
    return encoded
