"""Conversion of decoded frames to the picture that a player shows."""

import math
from fractions import Fraction
from typing import Any

import numpy as np

from ..errors import VideoError
from .frames import reason

_LARGEST = 1080  # pixels of the short side: no model looks closer, and a frame of 8K is 100 MB of RGB
_UNKNOWN, _BT709 = 2, 1  # color matrices, as FFmpeg numbers them
PQ, HLG = 16, 18  # transfer characteristics, as FFmpeg numbers them

_WHITE = 203.0  # nits of a sheet of paper, and of subtitles (ITU-R BT.2408)
_HLG_PEAK = 1000.0  # nits of the screen that HLG is graded on
_KNEE = 0.7  # of white; light above it is pressed together, so that the sky keeps its clouds

_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
_TO_BT709 = np.array(  # light of BT.2020's primaries -> of BT.709's (ITU-R BT.2087)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def is_ordinary(frame: Any, aspect: Fraction | None) -> bool:
    """Return whether converting a frame to RGB by its tags and rotating it by quarter turns displays it correctly."""
    return not (
        _lacks_matrix(frame)
        or frame.interlaced_frame
        or frame.color_trc in (PQ, HLG)
        or _size(frame, aspect) != (frame.width, frame.height)
        or np.linalg.det(_display_matrix(frame)) < 0
    )


def displayed(frame: Any, aspect: Fraction | None) -> np.ndarray:
    """Convert a frame to the picture that a player shows.

    Pixels become square, the first of two interlaced fields is kept, HDR is mapped to standard range, and rotation and
    mirroring are undone. The color matrix and range are those of the file.

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
    """Return whether a frame has no color matrix and is too large for FFmpeg's default, BT.601."""
    return frame.colorspace == _UNKNOWN and (frame.width >= 1280 or frame.height > 576)


def _size(frame: Any, aspect: Fraction | None) -> tuple[int, int]:
    """Return width and height with square pixels, at most `_LARGEST`. No side grows, as an aspect may be wrong."""
    width, height, wide = frame.width, frame.height, float(aspect or 1)
    # The height stays, as fields would mix otherwise; without every second row it is half.
    if frame.interlaced_frame:
        return max(round(width * min(wide / 2, 1)), 1), height
    width, height = width * min(wide, 1), height / max(wide, 1)
    shrink = min(_LARGEST / min(width, height), 1)
    return max(round(width * shrink), 1), max(round(height * shrink), 1)


def _display_matrix(frame: Any) -> np.ndarray:
    """Return [2, 2]: the directions on screen of the unit vectors across and down a stored frame."""
    from av.sidedata.sidedata import Type

    try:
        data = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:
        # There is other side data that PyAV does not know, such as Exif. The rotation is still available.
        turn = math.radians(frame.rotation)
        return np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    if data is None:
        return np.eye(2)
    return np.frombuffer(bytes(data), np.int32).reshape(3, 3)[:2, :2] / 65536


def _upright(rgb: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    (across_x, across_y), (down_x, down_y) = matrix
    if abs(across_y) > abs(across_x):
        rgb, across_x, down_y = rgb.swapaxes(0, 1), down_x, across_y
    return np.ascontiguousarray(rgb[:: -1 if down_y < 0 else 1, :: -1 if across_x < 0 else 1])


# HDR to standard dynamic range: shown as stored, it would be dull compared to the pictures that models were trained on.


def to_standard(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """Map a frame in PQ or HLG to standard dynamic range.

    Args:
        rgb: [H, W, 3] uint8, BT.2020.
        transfer: PQ or HLG.

    Returns:
        [H, W, 3] uint8, sRGB.
    """
    codes = np.arange(256, dtype=np.float32) / 255
    if transfer == PQ:
        light = _pq_light(codes)[rgb]
    else:
        scene = _hlg_scene(codes)[rgb]
        # 1.2 is the system gamma.
        light = scene * (scene @ _LUMINANCE)[..., None] ** 0.2 * (_HLG_PEAK / _WHITE)
    light = np.maximum(light @ _TO_BT709.T, 0)
    brightest = np.maximum(light.max(axis=2, keepdims=True), _KNEE)
    # All three channels are scaled alike, so that the hue stays.
    light *= _rolled_off(brightest) / brightest
    return (_srgb(light) * 255 + 0.5).astype(np.uint8)


def _pq_light(code: np.ndarray) -> np.ndarray:
    """Convert SMPTE ST 2084 codes to light, where white is 1."""
    power = code ** (1 / 78.84375)
    return (
        10_000 / _WHITE * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    )


def _hlg_scene(code: np.ndarray) -> np.ndarray:
    """Convert ARIB STD-B67 codes to light of the scene, 0..1."""
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)


def _rolled_off(light: np.ndarray) -> np.ndarray:
    """Compress light above the knee to below 1: white becomes 0.85, 1000 nits 0.98."""
    room = 1 - _KNEE
    return 1 - room**2 / (light - _KNEE + room)


def _srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
