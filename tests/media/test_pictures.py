"""Pictures are read as image viewers show them, in limited memory."""

import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from media.video_fixtures import number_of, numbered
from PIL import Image

from cococli.errors import VideoError
from cococli.media import pictures
from cococli.media.readers import open_reader

TILED = Path(__file__).parents[1] / "data" / "video" / "tiled.heic"
WHITE = (255, 255, 255)


@pytest.fixture(scope="module", autouse=True)
def heif() -> None:
    pillow_heif.register_heif_opener()


def shown(path: Path) -> list[np.ndarray]:
    reader = open_reader(path)
    return [frame.pixels for frame in reader.frames(range(len(reader.starts)))]


# Transparency


def hidden_colors() -> Image.Image:
    """A black bar on the left; the rest is transparent, above blue."""
    pixels = np.zeros((48, 80, 4), np.uint8)
    pixels[:, :, 2] = 255
    pixels[:, :20] = (0, 0, 0, 255)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "a.gif", "a.avif", "a.heic", "a.mp4"])
def test_transparent_parts_are_white(tmp_path: Path, name: str):
    lossless = {"lossless": True} if name == "a.webp" else {}
    hidden_colors().save(tmp_path / name, "PNG" if name == "a.mp4" else None, **lossless)
    (pixels,) = shown(tmp_path / name)
    assert np.abs(pixels[:, :12].astype(int)).max() < 12
    assert np.abs(pixels[:, 28:].astype(int) - 255).max() < 12


@pytest.mark.parametrize("mode", ["LA", "P", "L", "RGB", "1"])
def test_transparency_of_every_mode_is_seen(tmp_path: Path, mode: str):
    if mode == "LA":
        Image.merge("LA", [Image.new("L", (80, 48), 100), Image.new("L", (80, 48))]).save(tmp_path / "a.png")
    else:
        key = (0, 0, 0) if mode == "RGB" else 0
        Image.new(mode, (80, 48), key).save(tmp_path / "a.png", transparency=key)
    (pixels,) = shown(tmp_path / "a.png")
    assert (pixels == 255).all()


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.gif"])
def test_transparent_parts_of_animations_are_white(tmp_path: Path, name: str):
    frames = [hidden_colors(), hidden_colors().transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=100, lossless=True, disposal=2)
    first, second = shown(tmp_path / name)
    assert (first[:, :20].max(), first[:, 20:].min()) == (0, 255)
    assert (second[:, -20:].max(), second[:, :-20].min()) == (0, 255)


# Numbers that are no bytes


@pytest.mark.parametrize(
    ("dtype", "scale", "shift"),
    [
        (np.float32, 1 / 255, 0),
        (np.float32, 1000, -5000),
        (np.uint16, 257, 0),
        (np.int32, 1, 0),
        (np.int32, 257, 0),
        (np.int32, 8_000_000, 0),
        (np.int32, 8_000_000, -1_000_000_000),
    ],
)
def test_wide_numbers_are_scaled_to_gray(tmp_path: Path, dtype: type, scale: float, shift: float):
    gray = numbered(5)[:, :, 0].astype(np.float64)
    gray[0, 0], gray[0, 1] = 0, 255
    Image.fromarray((gray * scale + shift).astype(dtype)).save(tmp_path / "a.tif")
    (pixels,) = shown(tmp_path / "a.tif")
    np.testing.assert_allclose(pixels[:, :, 0], gray, atol=1)


def test_unsigned_32_bit_numbers_stay_positive(tmp_path: Path):
    gray = numbered(5)[:, :, 0].astype(np.uint32)
    path = tmp_path / "a.tif"
    Image.fromarray((gray << 24).view(np.int32)).save(path)
    entry = b"\x53\x01\x03\x00\x01\x00\x00\x00"  # the tag SampleFormat, one short
    assert entry + b"\x02" in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(entry + b"\x02", entry + b"\x01"))
    (pixels,) = shown(tmp_path / "a.tif")
    assert number_of(pixels) == 5


def test_nan_is_black(tmp_path: Path):
    values = np.full((48, 80), 0.5, np.float32)
    values[:24] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    (pixels,) = shown(tmp_path / "a.tif")
    assert (pixels[:24].max(), pixels[24:].min(), pixels.max()) == (0, 127, 127)


# HEIC


@pytest.mark.parametrize("name", ["a.heic", "a.HIF", "a.jpg", "a.mp4"])
def test_tiles_of_heic_are_one_picture(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(TILED.read_bytes())
    reader = open_reader(tmp_path / name)
    (frame,) = reader.frames([0])
    assert frame.pixels.shape == (1536, 2048, 3)
    assert reader.end == 0


def test_heic_primary_picture_is_rotated(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(numbered(5))))
    stored.save(tmp_path / "turned.heic", exif=exif.tobytes(), quality=95)
    (pixels,) = shown(tmp_path / "turned.heic")
    assert number_of(pixels) == 5
    others = [Image.fromarray(numbered(number)) for number in (6, 7)]
    others[0].save(tmp_path / "three.heic", save_all=True, append_images=others[1:], primary_index=1, quality=95)
    (pixels,) = shown(tmp_path / "three.heic")
    assert number_of(pixels) == 7


def test_heic_without_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cococli.media.pictures.find_spec", lambda name: None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    with pytest.raises(VideoError, match="pip install pillow-heif"):
        open_reader(TILED)


# Sizes


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises a size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    data = zlib.compress(bytes(1_000_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def gif_of(width: int, height: int, frames: int) -> bytes:
    """A GIF of a few bytes a frame, each changing one pixel of a canvas."""
    frame = b"\x21\xf9\x04\0\x05\0\0\0\x2c" + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\x02\x02\x4c\x01\x00"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + frames * frame + b";"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", png_of(30_000, 30_000)),
        ("a.gif", gif_of(20_000, 8_000, 3_000)),
        ("a.gif", gif_of(3_000, 3_000, 3_000)),
        ("a.mp4", gif_of(3_000, 3_000, 3_000)),
    ],
    ids=["picture", "frame", "animation", "named otherwise"],
)
def test_pictures_of_too_many_pixels_are_refused_undecoded(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(VideoError, match=r"^more than [\d,]+ pixels$"):
        open_reader(tmp_path / name)


def test_a_picture_of_200_megapixels_is_read(tmp_path: Path):
    large = np.zeros((12_240, 16_320), np.uint8)
    large[:, 8_160:] = 255
    Image.fromarray(large).save(tmp_path / "a.png", compress_level=1)
    (pixels,) = shown(tmp_path / "a.png")
    assert min(pixels.shape[:2]) >= 1080
    assert (pixels[:, : pixels.shape[1] // 2 - 1].max(), pixels[:, pixels.shape[1] // 2 + 1 :].min()) == (0, 255)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16", "F"])
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg"])
def test_huge_pictures_are_reduced_piece_by_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
):
    if name != "a.tif" and mode in ("F", "RGBA", "I;16", "P"):
        pytest.skip("not a mode of this format")
    wide = Image.fromarray(numbered(5, 803, 601)).convert("L" if mode in ("I;16", "F") else mode)
    picture = Image.fromarray(np.asarray(wide, np.uint16) * 257) if mode == "I;16" else wide.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.transpose(Image.Transpose.ROTATE_180).save(tmp_path / name, exif=exif)
    monkeypatch.setattr(pictures, "_HUGE", 100_000)
    monkeypatch.setattr(pictures, "_ENOUGH", 200)
    monkeypatch.setattr(pictures, "_STRIP", 50_000)
    (pixels,) = shown(tmp_path / name)
    assert pixels.shape == (201, 268, 3) if name != "a.jpg" else min(pixels.shape[:2]) >= 200
    assert number_of(pixels[:, : pixels.shape[1] // 10 * 10]) == 5


# Archives and documents


@pytest.mark.parametrize(
    ("start", "kind"), [(b"%PDF-1.4\n", "a PDF"), (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document")]
)
def test_pictures_inside_documents_are_no_video(tmp_path: Path, start: bytes, kind: str):
    Image.fromarray(numbered(5)).save(tmp_path / "page.jpg")
    (tmp_path / "scan").write_bytes(start + bytes(500) + 2 * (tmp_path / "page.jpg").read_bytes())
    with pytest.raises(VideoError, match=f"^{kind}, not a video or picture: save its pages as pictures first$"):
        open_reader(tmp_path / "scan")


@pytest.mark.parametrize("kind", ["zip", "tar", "gztar", "bztar", "xztar"])
def test_archives_are_refused_with_a_hint(tmp_path: Path, kind: str):
    (tmp_path / "in").mkdir()
    Image.fromarray(numbered(5)).save(tmp_path / "in" / "a.jpg")
    made = Path(shutil.make_archive(str(tmp_path / "made"), kind, tmp_path / "in"))
    for name in ("a.jpg", "a.mp4", "a"):
        (tmp_path / name).write_bytes(made.read_bytes())
        with pytest.raises(VideoError, match=r"^a \w+ archive, not a video or picture: unpack it first$"):
            open_reader(tmp_path / name)
