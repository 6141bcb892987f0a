"""Pixels equal open_clip's."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cococli.video.preprocess import MEAN, STD, crop, normalise

# What open_clip's evaluation transform makes of a picture, turned back into grey levels; lossless WebP.
GOLDENS = Path(__file__).parents[1] / "data" / "video"


def golden(name: str) -> np.ndarray:
    return np.asarray(Image.open(GOLDENS / f"preprocess_{name}.webp").convert("RGB"))


def grey_levels(pixels: np.ndarray) -> np.ndarray:
    return (pixels.transpose(1, 2, 0) * STD + MEAN) * 255


def test_normalising_is_open_clips_arithmetic_whatever_the_shape():
    levels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    pixels = normalise(levels)
    assert (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == ((2, 3, 4, 4), np.float32, True)
    for frame, expected in zip(pixels, levels, strict=True):
        np.testing.assert_array_equal(frame, ((expected.astype(np.float32) / 255 - MEAN) / STD).transpose(2, 0, 1))
        np.testing.assert_allclose(grey_levels(frame), expected, atol=1e-4)


@pytest.mark.parametrize("case", [0, 1, 2, 3, 4, 6])
def test_pixels_are_within_one_grey_level_of_open_clip(case: int):
    pixels = crop(golden(f"in{case}"), 224)
    assert (pixels.shape, pixels.dtype) == ((224, 224, 3), np.uint8)
    assert np.abs(grey_levels(normalise(pixels)) - golden(f"out{case}")).max() < 1


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 30_000), (30_000, 1), (7, 900), (224, 224)])
def test_any_shape_of_frame_becomes_a_square(shape: tuple[int, int]):
    np.testing.assert_array_equal(crop(np.full((*shape, 3), 128, np.uint8), 64), np.full((64, 64, 3), 128))


def test_the_crop_keeps_the_middle():
    frame = np.zeros((50, 150, 3), np.uint8)
    frame[:, 50:100] = 255
    assert crop(frame, 50).min() == 255
