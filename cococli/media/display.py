"""From a decoded frame to the picture that a player shows."""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from ..errors import VideoError
from .hdr import HLG, PQ, to_standard
from .reading import reason

_LARGEST = 1080  # pixels of the short side: no model looks closer, and a frame of 8K is 100 MB of RGB
_UNKNOWN, _BT709 = 2, 1  # color matrices, as FFmpeg numbers them


def is_ordinary(frame: Any, aspect: Fraction | None) -> bool:
    """Whether a frame is shown by converting it to RGB as it says and turning it by quarters."""
    return not (
        _lacks_matrix(frame)
        or frame.interlaced_frame
        or frame.color_trc in (PQ, HLG)
        or _size(frame, aspect) != (frame.width, frame.height)
        or np.linalg.det(_display_matrix(frame)) < 0  # a mirror image
    )


def displayed(frame: Any, aspect: Fraction | None) -> np.ndarray:
    """The picture that a player shows.

    Its pixels are made square, of two interlaced fields the first is kept, HDR is brought to standard range, and
    what lies on its side or is mirrored is put right. The matrix and range that the file names are heeded.

    Args:
        frame: PyAV's, decoded.
        aspect: Width of a stored pixel by its height; None where the file does not say.

    Returns:
        [H, W, 3] uint8, RGB.
    """
    import av

    if _lacks_matrix(frame):
        frame.colorspace = _BT709
    width, height = _size(frame, aspect)
    try:
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height, threads=1)
    except (av.FFmpegError, ValueError) as error:
        raise VideoError(f"a frame cannot be converted: {reason(error)}") from None
    if frame.interlaced_frame:
        rgb = rgb[::2]
    if frame.color_trc in (PQ, HLG):
        rgb = to_standard(rgb, frame.color_trc)
    return _upright(rgb, _display_matrix(frame))


def _lacks_matrix(frame: Any) -> bool:
    """Whether a frame names no matrix and is too large for the one that FFmpeg then takes, BT.601."""
    return frame.colorspace == _UNKNOWN and (frame.width >= 1280 or frame.height > 576)


def _size(frame: Any, aspect: Fraction | None) -> tuple[int, int]:
    """Width and height with square pixels and no more of them than are of use. No side grows: an aspect may lie."""
    width, height, wide = frame.width, frame.height, float(aspect or 1)
    if frame.interlaced_frame:  # the height stays, else fields would mix; without every second row it is half
        return max(round(width * min(wide / 2, 1)), 1), height
    width, height = width * min(wide, 1), height / max(wide, 1)
    shrink = min(_LARGEST / min(width, height), 1)
    return max(round(width * shrink), 1), max(round(height * shrink), 1)


def _display_matrix(frame: Any) -> np.ndarray:
    """[2, 2], where the unit vectors across and down a stored frame point to on the screen."""
    from av.sidedata.sidedata import Type

    try:
        data = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # beside it lies what PyAV does not know, as Exif: the turn is told all the same
        turn = math.radians(frame.rotation)
        return np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    if data is None:
        return np.eye(2)
    return np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2] / 65536


def _upright(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    (across_x, across_y), (down_x, down_y) = matrix
    if abs(across_y) > abs(across_x):  # it lies on its side
        rgb, across_x, down_y = rgb.swapaxes(0, 1), down_x, across_y
    return np.ascontiguousarray(rgb[:: -1 if down_y < 0 else 1, :: -1 if across_x < 0 else 1])
