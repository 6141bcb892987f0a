"""Pixels equal open_clip's."""

import hashlib
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cococli.catalog import CLIP, Preprocess
from cococli.media.preprocess import crop, random_box, random_crop
from cococli.model import torch_network
from cococli.model.arrays import normalize

# What open_clip's evaluation transform makes of a picture, turned back into gray levels; lossless WebP.
GOLDENS = Path(__file__).parents[1] / "data" / "video"


def golden(name: str) -> np.ndarray:
    return np.asarray(Image.open(GOLDENS / f"preprocess_{name}.webp").convert("RGB"))


def gray_levels(pixels: np.ndarray) -> np.ndarray:
    return (pixels.transpose(1, 2, 0) * CLIP.std + CLIP.mean) * 255


def test_normalizing_is_open_clips_arithmetic_whatever_the_shape():
    levels = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    pixels = normalize(levels, CLIP)
    assert (pixels.shape, pixels.dtype, pixels.flags.c_contiguous) == ((2, 3, 4, 4), np.float32, True)
    for frame, expected in zip(pixels, levels, strict=True):
        mean, std = np.float32(CLIP.mean), np.float32(CLIP.std)
        np.testing.assert_array_equal(frame, ((expected.astype(np.float32) / 255 - mean) / std).transpose(2, 0, 1))
        np.testing.assert_allclose(gray_levels(frame), expected, atol=1e-4)


def test_torch_normalizes_to_the_same_bits():
    levels = np.arange(2 * 8 * 16 * 3, dtype=np.uint8).reshape(2, 8, 16, 3)
    pixels = torch_network.normalize(torch.from_numpy(levels), CLIP)
    np.testing.assert_array_equal(pixels.numpy(), normalize(levels, CLIP), strict=True)


@pytest.mark.parametrize("case", [0, 1, 2, 3, 4, 6])
def test_pixels_match_open_clip_within_one_level(case: int):
    pixels = crop(golden(f"in{case}"), 224, CLIP)
    assert (pixels.shape, pixels.dtype) == ((224, 224, 3), np.uint8)
    assert np.abs(gray_levels(normalize(pixels, CLIP)) - golden(f"out{case}")).max() < 1


# Of random pictures, by open_clip 3.3.0's `image_transform_v2` with torchvision 0.28.0: sha256 of the float32 pixels.
MODES = [json.loads(line) for line in (GOLDENS / "preprocess_modes.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("golden", MODES, ids=lambda golden: str(Preprocess.from_open_clip(golden["preprocess_cfg"])))
def test_every_resize_mode_equals_open_clip(golden: dict[str, Any]):
    preprocess, digests = Preprocess.from_open_clip(golden["preprocess_cfg"]), {}
    for shape in golden["sha256"]:
        height, width = map(int, shape.split("x"))
        random = np.random.default_rng(height * 1000 + width)
        frame = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels = normalize(crop(frame, 64, preprocess), preprocess)
        digests[shape] = hashlib.sha256(pixels.tobytes()).hexdigest()[:16]
    assert digests == golden["sha256"]


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 30_000), (30_000, 1), (7, 900), (224, 224)])
def test_any_shape_of_frame_becomes_a_square(shape: tuple[int, int], mode: str):
    preprocess = Preprocess(resize_mode=mode, fill_color=(128, 128, 128))
    np.testing.assert_array_equal(crop(np.full((*shape, 3), 128, np.uint8), 64, preprocess), np.full((64, 64, 3), 128))


def test_the_crop_keeps_the_middle():
    frame = np.zeros((50, 150, 3), np.uint8)
    frame[:, 50:100] = 255
    assert crop(frame, 50, CLIP).min() == 255


# Random crops


@given(height=st.integers(200, 1000), long=st.floats(0.8, 1.25), seed=st.integers(0, 2**32))
def test_random_boxes_keep_most_of_the_frame(height: int, long: float, seed: int):
    width = round(height * long)
    top, left, down, across = random_box(height, width, Random(seed))
    assert 0 <= top <= top + down <= height
    assert 0 <= left <= left + across <= width
    assert 0.89 < down * across / (height * width) <= 1
    assert 0.74 < across / down < 1.35


def test_boxes_lie_anywhere_that_they_fit():
    boxes = np.array([random_box(100, 100, Random(seed)) for seed in range(3000)])
    room = 100 - boxes[:, 2:]
    assert boxes[:, :2].min() == 0
    assert (boxes[:, :2] == room).any(axis=0).all()
    assert abs(boxes[:, :2].mean(axis=0) - room.mean(axis=0) / 2).max() < 0.15


@pytest.mark.parametrize(
    ("height", "width", "box"),  # as torchvision's `RandomResizedCrop.get_params` gives them
    [
        (100, 20, (36, 0, 27, 20)),
        (20, 100, (0, 36, 20, 27)),
        (1, 500, (0, 249, 1, 1)),
        (500, 1, (249, 0, 1, 1)),
        (7, 30, (0, 10, 7, 9)),
        (33, 10, (10, 0, 13, 10)),
    ],
)
def test_long_frames_are_cropped_in_the_middle(height: int, width: int, box: tuple[int, int, int, int]):
    assert {random_box(height, width, Random(seed)) for seed in range(20)} == {box}


@pytest.mark.parametrize("seed", range(3))
def test_random_crop_is_bicubic_resize_of_box(seed: int):
    frame = golden("in0")
    top, left, height, width = random_box(*frame.shape[:2], Random(seed))
    box = Image.fromarray(frame).crop((left, top, left + width, top + height))
    np.testing.assert_array_equal(random_crop(frame, 224, seed), box.resize((224, 224), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 30_000), (30_000, 1), (7, 900)])
def test_frames_of_any_shape_are_cropped(shape: tuple[int, int]):
    frame = np.full((*shape, 3), 128, np.uint8)
    np.testing.assert_array_equal(random_crop(frame, 64, 0), np.full((64, 64, 3), 128))
