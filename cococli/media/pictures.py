"""Still and moving pictures, read by Pillow."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import VideoError
from ..files import find_member, open_binary
from .frames import MAX_FRAME_PIXELS, Frame, reason, report_progress

# Formats that Pillow may take a file for. Others start programs (EPS starts Ghostscript) or are rarely used.
FORMATS = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 1 << 28  # of a still picture; phones take pictures of 200 megapixels

_MOVING_PICTURES = {"GIF", "PNG", "WEBP", "AVIF"}  # other formats of several pictures hold pages or thumbnails
_MAX_MOVING_PIXELS = 1 << 33  # of all frames together: over an hour of a small GIF, minutes at 1080p
_INSTANT, _SHOWN = 0.01, 0.1  # seconds: browsers show frames with a duration up to the first for the second

_HUGE = 1 << 26  # pixels; a larger picture is reduced while it is read, or its copies fill the memory
_ENOUGH = 2160  # pixels of the short side that are left of it
_STRIP = 1 << 24  # pixels that are converted at a time

_MAX_TEXT = 64 << 20  # bytes of text in a PNG; Pillow by default refuses files with more than 1 MiB

_BITS_PER_SAMPLE, _PHOTOMETRIC, _ORIENTATION, _SAMPLE_FORMAT = 258, 262, 274, 339  # tags of TIFF and Exif
_UNSIGNED = (1,)


@dataclass(frozen=True)
class Picture:
    """A picture, still or moving, read by Pillow."""

    path: Path
    starts: np.ndarray
    end: float
    first: int = 0  # of the file's pictures; one before it is for programs that do not show animations

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        if self.end == 0:
            pixels = self._still()
            yield from (Frame(0.0, pixels) for _ in indices)
            return
        with _picture_errors(), open_with_pillow(self.path) as picture:
            for index in indices:
                picture.seek(self.first + index)
                yield Frame(float(self.starts[index]), rgb_pixels(picture))

    def _still(self) -> np.ndarray:
        """Read the pixels [H, W, 3]; of a damaged file, those that can be decoded, as image viewers do."""
        try:
            with _picture_errors(), open_with_pillow(self.path, damaged=False) as picture:
                return rgb_pixels(picture)
        except VideoError as error:
            with _picture_errors(), open_with_pillow(self.path) as picture:
                pixels = rgb_pixels(picture)
            # A single color, gray or black, stands for what is missing.
            if (pixels == pixels[0, 0]).all():
                raise error from None
            return pixels


def open_picture(path: Path) -> Picture | None:
    """Read the frame times of a picture; None if the content is not one, whatever the file's name."""
    from PIL import UnidentifiedImageError

    with _picture_errors():
        try:
            with open_with_pillow(path) as picture:
                _check_size(picture.width * picture.height, MAX_PIXELS)
                count = getattr(picture, "n_frames", 1) if picture.format in _MOVING_PICTURES else 1
                if count == 1:
                    return Picture(path, np.zeros(1), 0.0)
                _check_size(picture.width * picture.height, MAX_FRAME_PIXELS)
                _check_size(picture.width * picture.height * count, _MAX_MOVING_PIXELS)
                member = find_member(path)
                size = member.size if member else path.stat().st_size
                first = int(getattr(picture, "default_image", False))
                ends = np.cumsum(_durations(picture, range(first, count), size))
        except UnidentifiedImageError:
            return None
    return Picture(path, np.concatenate([[0.0], ends[:-1]]), float(ends[-1]), first)


@contextmanager
def open_with_pillow(path: Path, damaged: bool = True) -> Iterator[Any]:
    """Open a picture with Pillow, in one of FORMATS, with the limits of this module instead of Pillow's.

    Args:
        damaged: Whether to read damaged and truncated files as far as possible, as image viewers do.

    Raises:
        UnidentifiedImageError: It is in none of these formats.
    """
    from PIL import Image, ImageFile, PngImagePlugin

    if reads_heif():
        import pillow_heif

        pillow_heif.register_heif_opener()
    Image.init()
    with ExitStack() as stack:
        for module, name, value in (
            (Image, "MAX_IMAGE_PIXELS", None),
            (ImageFile, "LOAD_TRUNCATED_IMAGES", damaged),
            (PngImagePlugin, "MAX_TEXT_CHUNK", _MAX_TEXT),
            (PngImagePlugin, "MAX_TEXT_MEMORY", _MAX_TEXT),
        ):
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, value)
        source = stack.enter_context(open_binary(path)) if find_member(path) else path
        yield stack.enter_context(Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN]))


def reads_heif() -> bool:
    """Return whether HEIC pictures can be read."""
    return find_spec("pillow_heif") is not None


def _check_size(pixels: int, most: int) -> None:
    if pixels > most:
        raise VideoError(f"more than {most:,} pixels")


def _durations(picture: Any, indices: Sequence[int], size: int) -> list[float]:
    """Return the seconds that each frame is on screen, up to where the file is damaged or truncated."""
    seconds: list[float] = []
    with suppress(OSError, EOFError, SyntaxError, ValueError):
        for index in indices:
            picture.seek(index)
            # WebP has a frame's duration only now.
            picture.load()
            duration = picture.info.get("duration", 0) / 1000
            seconds.append(duration if duration > _INSTANT else _SHOWN)
            report_progress(size // len(indices))
    if not seconds:
        raise VideoError("damaged picture: no frame can be decoded")
    return seconds


def rgb_pixels(picture: Any) -> np.ndarray:
    """Convert a picture to RGB: [H, W, 3] uint8, upright, transparent parts white; huge pictures are reduced.

    Viewers show transparent pictures on white. open_clip drops the transparency instead, which reveals hidden colors.
    """
    from PIL import Image

    if 0 in picture.size:
        raise VideoError("it has no pixels")
    huge = picture.width * picture.height > _HUGE
    # JPEG can be decoded at a half, a quarter or an eighth of the size.
    if huge and picture.format in ("JPEG", "MPO"):
        shrink = max(min(picture.size) / _ENOUGH, 1)
        picture.draft(None, (int(picture.width / shrink), int(picture.height / shrink)))
    factor = max(min(picture.size) // _ENOUGH, 1) if huge else 1
    picture.load()
    levels = _levels(picture)
    if picture.width * picture.height <= _STRIP:
        return _upright(_rgb(picture, levels), picture)
    rows = factor * max(_STRIP // (factor * picture.width), 1)
    strips = [_rgb(strip, levels).reduce(factor) for strip in _strips(picture, rows)]
    whole = Image.new("RGB", (strips[0].width, sum(strip.height for strip in strips)))
    for number, strip in enumerate(strips):
        whole.paste(strip, (0, number * (rows // factor)))
    return _upright(whole, picture)


def _upright(image: Any, picture: Any) -> np.ndarray:
    """Return the pixels of an image, rotated by the Exif orientation of its picture."""
    from PIL import ImageOps

    image.getexif()[_ORIENTATION] = picture.getexif().get(_ORIENTATION, 1)
    ImageOps.exif_transpose(image, in_place=True)
    return np.asarray(image)


def _strips(picture: Any, rows: int) -> Iterator[Any]:
    for top in range(0, picture.height, rows):
        yield picture.crop((0, top, picture.width, min(top + rows, picture.height)))


@dataclass(frozen=True)
class _Levels:
    """Linear mapping of numbers wider than a byte to gray, from `black` to `white`."""

    dtype: Any
    black: float
    white: float


def _levels(picture: Any) -> _Levels | None:
    """Return the levels of a picture of 16-bit, 32-bit or floating-point numbers, which Pillow would clip to a byte.

    16 bits are shown from 0 to their maximum, as image viewers do. Wider numbers have no range that viewers agree on:
    floats in 0..1 are shown from 0 to 1, integers in 0..255 or 0..65535 likewise, and anything else is stretched from
    its least to its greatest value.
    """
    if not picture.mode.startswith(("I", "F")):
        return None
    tags = getattr(picture, "tag_v2", {})
    dtype: Any = np.asarray(picture.crop((0, 0, 1, 1))).dtype
    if picture.mode == "I" and _BITS_PER_SAMPLE in tags and tags.get(_SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED:
        # Pillow reads unsigned numbers as signed ones.
        dtype = np.uint32
    if picture.mode.startswith("I;"):
        black, white = 0.0, 2.0 ** max(tags.get(_BITS_PER_SAMPLE, (16,))) - 1
    else:
        black, white = _range(picture, dtype)
    inverted = tags.get(_PHOTOMETRIC) == 0
    return _Levels(dtype, white, black) if inverted else _Levels(dtype, black, white)


def _range(picture: Any, dtype: Any) -> tuple[float, float]:
    extremes = []
    for strip in _strips(picture, max(_STRIP // picture.width, 1)):
        values = np.asarray(strip).view(dtype)
        values = values[np.isfinite(values)]
        if values.size:
            extremes += [float(values.min()), float(values.max())]
    least, most = min(extremes, default=0.0), max(extremes, default=0.0)
    for white in (1.0,) if picture.mode == "F" else (255.0, 65535.0):
        if least >= 0 and most <= white:
            return 0.0, white
    return least, most


def _rgb(strip: Any, levels: _Levels | None) -> Any:
    from PIL import Image

    if levels:
        values = np.asarray(strip).view(levels.dtype).astype(np.float32)
        gray = (np.nan_to_num(values) - levels.black) / ((levels.white - levels.black) or 1) * 255
        # Rounded down: the upper byte of 16 bits.
        return Image.fromarray(gray.clip(0, 255).astype(np.uint8)).convert("RGB")
    if not strip.has_transparency_data:
        return strip.convert("RGB")
    seen = strip.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")


@contextmanager
def _picture_errors() -> Iterator[None]:
    try:
        yield
    except (VideoError, MemoryError):
        raise
    except Exception as error:
        # On damaged files Pillow raises anything: OSError, SyntaxError, struct.error, ...
        raise VideoError(f"damaged picture: {reason(error)}") from None
