"""What cameras, phones and broadcasters make is shown as a player shows it."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from media.video_fixtures import add_sound, make_video, make_yuv, number_of, numbered
from PIL import Image

from cococli.errors import VideoError
from cococli.media.clips import ReadRequest, Sampling, Segments, read_clips
from cococli.media.display import HLG, PQ
from cococli.media.readers import open_reader
from cococli.media.videos import Video

LOSSLESS = {"qp": "0"}
TAGS = {"BT.709": 1, "BT.601": 6, "BT.2020": 9}
LIMITED, FULL = 1, 2

# fmt: off
PATCHES = np.array([
    [255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 150, 120], [60, 90, 40], [128, 128, 128], [255, 255, 255], [0, 0, 0],
])
CORNERS = np.array([[(255, 0, 0), (0, 255, 0)], [(0, 0, 255), (255, 255, 255)]], np.uint8)
# fmt: on


def patches(colors: np.ndarray, width: int = 128, height: int = 32) -> np.ndarray:
    """[8, 3] -> [height, width, 3], side by side."""
    return np.broadcast_to(colors.repeat(width // 8, axis=0), (height, width, 3))


def seen(pixels: np.ndarray) -> np.ndarray:
    """The colors in the middle of each patch: [8, 3]."""
    height, width = pixels.shape[:2]
    return pixels[height // 2, width // 16 :: width // 8].astype(int)


def shown(video: Video) -> np.ndarray:
    return next(video.frames([0])).pixels


def opened(path: Path) -> Video:
    video = open_reader(path)
    assert isinstance(video, Video)
    return video


# Colors


@pytest.mark.parametrize("tagged_range", [LIMITED, FULL], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", TAGS)
def test_colors_follow_tagged_matrix_and_range(tmp_path: Path, matrix: str, tagged_range: int):
    frame = make_yuv(patches(PATCHES / 255), matrix, full=tagged_range == FULL)
    frame.colorspace, frame.color_range = TAGS[matrix], tagged_range
    video = opened(make_video(tmp_path / "a.mp4", frames=[frame] * 3, options=LOSSLESS))
    for decoder in ("decord", "PyAV"):
        assert np.abs(seen(shown(dataclasses.replace(video, decoder=decoder))) - PATCHES).max() <= 3


@pytest.mark.parametrize(
    ("width", "height", "matrix"), [(1280, 32, "BT.709"), (128, 578, "BT.709"), (128, 32, "BT.601")]
)
def test_untagged_color_matrix_follows_the_size(tmp_path: Path, width: int, height: int, matrix: str):
    frame = make_yuv(patches(PATCHES / 255, width, height), matrix)
    video = opened(make_video(tmp_path / "a.mp4", frames=[frame] * 3, options=LOSSLESS))
    assert np.abs(seen(shown(video)) - PATCHES).max() <= 3


def pq(nits: np.ndarray) -> np.ndarray:
    power = (nits / 10_000) ** (1305 / 8192)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def hlg(nits: np.ndarray) -> np.ndarray:
    """For a screen of 1000 nits."""
    light = nits / 1000
    luminance = light @ [0.2627, 0.6780, 0.0593]
    scene = light * np.maximum(luminance, 1e-9)[..., None] ** (1 / 1.2 - 1)
    return np.where(
        scene <= 1 / 12, (3 * scene) ** 0.5, 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9)) + 0.55991073
    )


def make_hdr(path: Path, nits: np.ndarray, transfer: int) -> Path:
    """Patches [8, 3] of light on BT.2020's primaries, in 10 bits."""
    codes = {PQ: pq, HLG: hlg}[transfer](nits)
    frame = make_yuv(patches(codes), "BT.2020", bits=10)
    frame.colorspace, frame.color_range, frame.color_trc, frame.color_primaries = TAGS["BT.2020"], LIMITED, transfer, 9
    how = {"options": {"x265-params": "lossless=1:log-level=none"}, "pixel_format": "yuv420p10le"}
    return make_video(path, "libx265", frames=[frame] * 3, **how)


@pytest.mark.parametrize("transfer", [PQ, HLG], ids=["PQ", "HLG"])
def test_hdr_is_mapped_to_standard_range(tmp_path: Path, transfer: int):
    """As it is stored its white is 146 (PQ) or 189 (HLG), and its red a brown."""
    light = np.where(PATCHES <= 10, PATCHES / 255 / 12.92, ((PATCHES / 255 + 0.055) / 1.055) ** 2.4)
    to_bt2020 = np.array([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])
    colors = seen(shown(opened(make_hdr(tmp_path / "a.mp4", light @ to_bt2020.T * 203, transfer))))
    assert np.abs(colors[3:6] - PATCHES[3:6]).max() <= 6  # skin, leaves, gray
    assert np.abs(colors - PATCHES).max() <= 50  # what is brightest makes room for highlights
    assert colors[6].min() >= 230


@pytest.mark.parametrize("transfer", [PQ, HLG], ids=["PQ", "HLG"])
def test_highlights_of_hdr_keep_their_order(tmp_path: Path, transfer: int):
    nits = np.array([25, 50, 100, 203, 300, 450, 700, 1000])[:, None].repeat(3, axis=1)
    gray = seen(shown(opened(make_hdr(tmp_path / "a.mp4", nits, transfer))))[:, 0]
    assert (np.diff(gray) > 0).all()


# Geometry


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        ((-1, 0, 0, 1), CORNERS[:, ::-1]),
        ((1, 0, 0, -1), CORNERS[::-1]),
        ((0, 1, 1, 0), CORNERS.swapaxes(0, 1)),
        ((0, -1, -1, 0), CORNERS[::-1, ::-1].swapaxes(0, 1)),
    ],
    ids=["left to right", "upside down", "transposed", "transposed and turned"],
)
def test_mirrored_videos_are_unmirrored(tmp_path: Path, matrix: tuple[int, int, int, int], expected: np.ndarray):
    stored = CORNERS.repeat(24, axis=0).repeat(40, axis=1)
    pixels = shown(opened(make_video(tmp_path / "a.mp4", frames=[stored] * 3, matrix=matrix)))
    height, width = pixels.shape[:2]
    assert (height, width) == ((48, 80) if matrix[0] else (80, 48))
    assert np.abs(pixels[height // 4 :: height // 2, width // 4 :: width // 2].astype(int) - expected).max() < 20


def test_motion_jpeg_is_rotated_by_exif(tmp_path: Path):
    """PyAV 18 knows no Exif, and so names no side data of such a frame at all."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    path = tmp_path / "a.mjpeg"
    Image.fromarray(np.ascontiguousarray(np.rot90(numbered(5)))).save(path, "JPEG", exif=exif, quality=95)
    path.write_bytes(path.read_bytes() * 3)
    assert number_of(shown(opened(path))) == 5


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(Fraction(64, 45), (80, 34)), (Fraction(1, 2), (40, 48)), (Fraction(1, 20), (4, 48)), (Fraction(1), (80, 48))],
    ids=str,
)
def test_pixels_become_square_and_no_side_grows(tmp_path: Path, aspect: Fraction, size: tuple[int, int]):
    pixels = shown(opened(make_video(tmp_path / "a.mp4", frames=3, aspect=aspect)))
    assert pixels.shape == (*size[::-1], 3)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mpg"])
def test_interlaced_videos_show_one_field(tmp_path: Path, name: str):
    """Both at once are a comb wherever something moves."""
    woven = numbered(0b0101010101, 160, 96)
    woven[1::2] = numbered(0b0011001100, 160, 96)[1::2]
    codec = "mpeg2video" if name == "a.mpg" else "libx264"
    options = {"flags": "+ildct+ilme", "x264-params": "interlaced=1:tff=1", "qscale": "2"}
    video = opened(
        make_video(
            tmp_path / name,
            codec,
            [woven] * 6,
            options=options,
            pixel_format="yuv422p" if codec == "libx264" else "yuv420p",
        )
    )
    pixels = shown(video)
    assert pixels.shape == (48, 80, 3)
    assert number_of(pixels) == 0b0101010101


def test_8k_is_shrunk_before_it_fills_the_memory(tmp_path: Path):
    gray = av.VideoFrame(7680, 4320, "yuv420p")
    for plane in gray.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    pixels = shown(opened(make_video(tmp_path / "a.mp4", frames=[gray], options={"preset": "ultrafast"})))
    assert pixels.shape == (1080, 1920, 3)
    assert np.abs(pixels.astype(int) - 130).max() < 4


@pytest.mark.parametrize("size", [(2, 2), (63, 97), (2, 258)])
def test_tiny_and_odd_sizes_become_square_clips(tmp_path: Path, size: tuple[int, int]):
    gray = np.full((*size, 3), 128, np.uint8)
    path = make_video(tmp_path / "a.mp4", frames=[gray] * 5, pixel_format="yuv444p")
    ((clip, pixels),) = read_clips(path, ReadRequest(Sampling("multi", 2), Segments("none"), 32))
    assert (clip.times, pixels.shape) == ((0.04, 0.12), (2, 32, 32, 3))
    assert np.abs(pixels.astype(int) - 128).max() < 4


# Content


@pytest.mark.parametrize(("name", "message"), [("a.mkv", "no video frames"), ("a.mp4", "no video stream")])
def test_sound_beside_a_video_without_frames_says_so(tmp_path: Path, name: str, message: str):
    with av.open(str(tmp_path / name), "w") as output:
        video = output.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 80, 48, "yuv420p"
        add_sound(output)
    with pytest.raises(VideoError, match=f"^{message}$"):
        open_reader(tmp_path / name)


def test_frames_weeks_away_are_skipped(tmp_path: Path):
    """In seconds, a video of weeks would be millions of clips."""
    video = opened(make_video(tmp_path / "a.mkv", frames=10, at=[*range(9), 25 * 86_400 * 40]))
    assert len(video.starts) == 9
    assert video.end == pytest.approx(9 / 25, abs=0.01)
    assert [number_of(frame.pixels) for frame in video.frames([0, 8])] == [0, 8]


def test_titles_may_be_invalid_utf8(tmp_path: Path):
    path = make_video(tmp_path / "a.mkv", title="cafX")
    path.write_bytes(path.read_bytes().replace(b"cafX", b"caf\xe9"))
    assert number_of(shown(opened(path))) == 0


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_of_gray_are_not_all_white(tmp_path: Path, name: str):
    Image.fromarray(numbered(5)[:, :, 0].astype(np.uint16) * 257).save(tmp_path / name)
    (frame,) = open_reader(tmp_path / name).frames([0])
    np.testing.assert_array_equal(frame.pixels, numbered(5))
