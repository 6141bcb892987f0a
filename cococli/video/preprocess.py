"""From a frame to the pixels that the vision tower was trained on."""

import numpy as np

# OpenAI's, of CLIP's training images; RGB, for pixels in 0..1.
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)

_LONGEST = 100  # long side over short side. A thinner frame is cut to this first, or resizing it fills the memory


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
