"""High dynamic range to standard range: as it is stored it looks dull beside the pictures that a model learnt from."""

import numpy as np

PQ, HLG = 16, 18  # transfer characteristics, as FFmpeg numbers them

_WHITE = 203.0  # nits of a sheet of paper, and of subtitles (ITU-R BT.2408)
_HLG_PEAK = 1000.0  # nits of the screen that HLG is graded on
_KNEE = 0.7  # of white; light above it is pressed together, so that the sky keeps its clouds

_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)  # of BT.2020
_TO_BT709 = np.array(  # light of BT.2020's primaries -> of BT.709's (ITU-R BT.2087)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)


def to_standard(rgb: np.ndarray, transfer: int) -> np.ndarray:
    """What an ordinary screen shows of a frame in PQ or HLG.

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
        light = scene * (scene @ _LUMINANCE)[..., None] ** 0.2 * (_HLG_PEAK / _WHITE)  # the system gamma, 1.2
    light = np.maximum(light @ _TO_BT709.T, 0)
    brightest = np.maximum(light.max(axis=2, keepdims=True), _KNEE)
    light *= _rolled_off(brightest) / brightest  # all three alike, so that the hue stays
    return (_srgb(light) * 255 + 0.5).astype(np.uint8)


def _pq_light(code: np.ndarray) -> np.ndarray:
    """SMPTE ST 2084 -> light, where white is 1."""
    power = code ** (1 / 78.84375)
    return (
        10_000 / _WHITE * (np.maximum(power - 0.8359375, 0) / (18.8515625 - 18.6875 * power)) ** (1 / 0.1593017578125)
    )


def _hlg_scene(code: np.ndarray) -> np.ndarray:
    """ARIB STD-B67 -> light of the scene, 0..1."""
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - 0.55991073) / 0.17883277) + 0.28466892) / 12)


def _rolled_off(light: np.ndarray) -> np.ndarray:
    """Light above the knee, which nears 1 and never passes it: white becomes 0.85, 1000 nits 0.98."""
    room = 1 - _KNEE
    return 1 - room**2 / (light - _KNEE + room)


def _srgb(light: np.ndarray) -> np.ndarray:
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
