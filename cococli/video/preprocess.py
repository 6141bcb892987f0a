"""From a frame to the pixels that the vision tower was trained on."""

import math
from random import Random

import numpy as np

# OpenAI's, of CLIP's training images; RGB, for pixels in 0..1.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

_LONGEST = 100  # long side over short side. A thinner frame is cut to this first, or resizing it fills the memory

_AREA = (0.9, 1.0)  # of a random crop, as a part of the frame: open_clip's default
_RATIO = (3 / 4, 4 / 3)  # its width by its height: torchvision's default


def crop(frame: np.ndarray, image_size: int) -> np.ndarray:
    """open_clip's evaluation transform but for `normalise`: bicubic to the short side, and the centre of that.

    Sizes and rounding are those of torchvision's `Resize` and `CenterCrop`.

    Args:
        frame: [H, W, 3] uint8, RGB, upright.
        image_size: S, in pixels.

    Returns:
        [S, S, 3] uint8.
    """
    from PIL import Image

    frame = _centre(frame, *(min(side, _LONGEST * min(frame.shape[:2])) for side in frame.shape[:2]))
    width, height = _resized(frame.shape[1], frame.shape[0], image_size)
    resized = Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC)
    return _centre(np.asarray(resized), image_size, image_size)


def random_crop(frame: np.ndarray, image_size: int, seed: int) -> np.ndarray:
    """open_clip's training transform but for `normalise`: a random box, bicubic to a square.

    Args:
        frame: [H, W, 3] uint8, RGB, upright.
        image_size: S, in pixels.
        seed: Decides on the box: frames of one size and one seed are cropped alike.

    Returns:
        [S, S, 3] uint8.
    """
    from PIL import Image

    top, left, height, width = random_box(frame.shape[0], frame.shape[1], Random(seed))
    box = Image.fromarray(frame[top : top + height, left : left + width])
    return np.asarray(box.resize((image_size, image_size), Image.Resampling.BICUBIC))


def random_box(height: int, width: int, random: Random) -> tuple[int, int, int, int]:
    """Top, left, height and width of a box in a frame, distributed as torchvision's `RandomResizedCrop` draws it."""
    for _ in range(10):
        area = height * width * random.uniform(*_AREA)
        ratio = math.exp(random.uniform(*map(math.log, _RATIO)))
        down, across = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < down <= height and 0 < across <= width:
            return int(random.random() * (height - down + 1)), int(random.random() * (width - across + 1)), down, across
    # No box of a permitted shape has most of so long a frame: the middle, in the shape that is nearest.
    down, across = min(height, round(width / _RATIO[0])), min(width, round(height * _RATIO[1]))
    return (height - down) // 2, (width - across) // 2, down, across


def normalise(pixels: np.ndarray) -> np.ndarray:
    """[..., S, S, 3] uint8 -> [..., 3, S, S] float32, by MEAN and STD."""
    return np.ascontiguousarray(np.moveaxis((pixels.astype(np.float32) / 255 - MEAN) / STD, -1, -3))


def _resized(width: int, height: int, short: int) -> tuple[int, int]:
    """Width and height with the short side at `short`; the long side is rounded down."""
    if width <= height:
        return short, int(short * height / width)
    return int(short * width / height), short


def _centre(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    """The middle of a frame [H, W, 3] -> [height, width, 3]; halves round to even, as in torchvision."""
    top = round((frame.shape[0] - height) / 2)
    left = round((frame.shape[1] - width) / 2)
    return frame[top : top + height, left : left + width]
