"""Preprocessing of frames into the pixels that the vision tower was trained on."""

import math
from random import Random

import numpy as np

from ..catalog import Preprocess

_LONGEST = 100  # long side over short side. A thinner frame is cut to this first, or resizing it fills the memory

_AREA = (0.9, 1.0)  # of a random crop, as a part of the frame: open_clip's default
_RATIO = (3 / 4, 4 / 3)  # its width by its height: torchvision's default


def crop(frame: np.ndarray, image_size: int, preprocess: Preprocess) -> np.ndarray:
    """Resize a frame to a square: open_clip's evaluation transform but for the normalization.

    Sizes and rounding are those of torchvision's `Resize` and `CenterCrop`, and of open_clip's `ResizeKeepRatio` and
    `CenterCropOrPad`.

    Args:
        frame: [H, W, 3] uint8, RGB, upright.
        image_size: S, in pixels.

    Returns:
        [S, S, 3] uint8.
    """
    from PIL import Image

    resampling = Image.Resampling[preprocess.interpolation.upper()]
    if preprocess.resize_mode == "squash":
        return np.asarray(Image.fromarray(frame).resize((image_size, image_size), resampling))
    if preprocess.resize_mode == "longest":
        ratio = max(frame.shape[:2]) / image_size
        height, width = (max(1, round(side / ratio)) for side in frame.shape[:2])
        square = np.full((image_size, image_size, 3), preprocess.fill_color, np.uint8)
        top, left = (image_size - height) // 2, (image_size - width) // 2
        resized = Image.fromarray(frame).resize((width, height), resampling)
        square[top : top + height, left : left + width] = np.asarray(resized)
        return square
    frame = _center(frame, *(min(side, _LONGEST * min(frame.shape[:2])) for side in frame.shape[:2]))
    width, height = _resized(frame.shape[1], frame.shape[0], image_size)
    return _center(np.asarray(Image.fromarray(frame).resize((width, height), resampling)), image_size, image_size)


def random_crop(frame: np.ndarray, image_size: int, seed: int) -> np.ndarray:
    """Crop a random box and resize it to a square: open_clip's training transform but for the normalization.

    Args:
        frame: [H, W, 3] uint8, RGB, upright.
        image_size: S, in pixels.
        seed: Determines the box: frames of the same size and seed are cropped alike.

    Returns:
        [S, S, 3] uint8.
    """
    from PIL import Image

    top, left, height, width = random_box(frame.shape[0], frame.shape[1], Random(seed))
    box = Image.fromarray(frame[top : top + height, left : left + width])
    return np.asarray(box.resize((image_size, image_size), Image.Resampling.BICUBIC))


def shrink(frame: np.ndarray, height: int) -> np.ndarray:
    """Resize a whole frame [H, W, 3] uint8 to a height, and at most four times as wide."""
    from PIL import Image

    image = Image.fromarray(frame)
    image.thumbnail((4 * height, height))
    return np.asarray(image)


def random_box(height: int, width: int, random: Random) -> tuple[int, int, int, int]:
    """Draw a box as torchvision's `RandomResizedCrop` does: top, left, height and width."""
    for _ in range(10):
        area = height * width * random.uniform(*_AREA)
        ratio = math.exp(random.uniform(*map(math.log, _RATIO)))
        down, across = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < down <= height and 0 < across <= width:
            return int(random.random() * (height - down + 1)), int(random.random() * (width - across + 1)), down, across
    # No box of a permitted shape has most of so long a frame: the middle, in the shape that is nearest.
    down, across = min(height, round(width / _RATIO[0])), min(width, round(height * _RATIO[1]))
    return (height - down) // 2, (width - across) // 2, down, across


def _resized(width: int, height: int, short: int) -> tuple[int, int]:
    """Return width and height with the short side at `short`; the long side is rounded down."""
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def _center(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """Crop the center of a frame: [H, W, 3] -> [height, width, 3]. Halves round to even, as in torchvision."""
    top = round((frame.shape[0] - height) / 2)
    left = round((frame.shape[1] - width) / 2)
    return frame[top : top + height, left : left + width]
