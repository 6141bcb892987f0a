"""Readers return the requested frames of any container and codec."""

import dataclasses
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media.video_fixtures import (
    CLOSED,
    OPEN,
    Notes,
    damage,
    make_sound,
    make_video,
    number_of,
    numbered,
    trim,
    with_sound,
)
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cococli.errors import VideoError
from cococli.media.readers import open_reader
from cococli.media.videos import Video, timestamp_offset

# Name of the file, how it is made, and whether decord is to read it.
KINDS: dict[str, tuple[dict[str, Any], bool]] = {
    "h264.mp4": ({"options": {"x264-params": CLOSED}}, True),
    "h264.mkv": ({"options": {"x264-params": CLOSED}}, True),
    "h265.mp4": ({"codec": "libx265", "options": {"x265-params": CLOSED + ":log-level=none"}}, True),
    "vp9.webm": ({"codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}}, True),
    "short groups.mp4": ({"group": 3, "b_frames": 2}, True),
    "fragmented.mp4": ({"container": {"movflags": "frag_keyframe+empty_moov"}}, True),
    "ten bits.mp4": ({"pixel_format": "yuv420p10le"}, True),
    "starts late.mkv": ({"at": range(125, 185)}, True),
    "open groups.mp4": ({"options": {"x264-params": OPEN}}, False),
    "open groups.mkv": ({"options": {"x264-params": OPEN}}, False),
    "h265 as x265 makes it.mp4": ({"codec": "libx265", "options": {"x265-params": OPEN + ":log-level=none"}}, False),
    "h264.ts": ({}, False),
    "mpeg2.ts": ({"codec": "mpeg2video", "b_frames": 2}, False),
    "mpeg2.mpg": ({"codec": "mpeg2video", "b_frames": 2}, False),
    "mpeg4.avi": ({"codec": "mpeg4", "b_frames": 2}, False),
    "mpeg4.mp4": ({"codec": "mpeg4", "b_frames": 2}, False),
    "vp8.webm": ({"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}}, False),
    "wmv2.wmv": ({"codec": "wmv2"}, False),
    "h264.flv": ({}, False),
    "lossless.mkv": ({"codec": "ffv1", "pixel_format": "yuv444p"}, False),
    "av1.mp4": ({"codec": "libsvtav1", "options": {"preset": "10", "svtav1-params": "film-grain=0"}}, False),
    "raw.h264": ({"kind": "h264"}, False),
}


def numbers(video: Any, indices: list[int]) -> list[int]:
    return [number_of(frame.pixels) for frame in video.frames(indices)]


def opened(path: Path) -> Video:
    video = open_reader(path)
    assert isinstance(video, Video)
    return video


def test_encoding_test_videos_keeps_the_scheduling_policy(tmp_path: Path):
    make_video(tmp_path / "av1.mp4", **KINDS["av1.mp4"][0])
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


@pytest.mark.parametrize("name", KINDS)
def test_every_frame_is_found_from_anywhere(tmp_path: Path, name: str):
    how, suits_decord = KINDS[name]
    video = opened(make_video(tmp_path / name, **how))
    assert video.decoder == ("decord" if suits_decord else "PyAV")
    np.testing.assert_allclose(video.starts, np.arange(60) / 25, atol=0.001)
    assert video.end == pytest.approx(60 / 25, abs=0.001)

    chance = np.random.default_rng(0)
    for indices in ([0], [59], [0, 59], list(range(60)), *(sorted(chance.choice(60, 5, False)) for _ in range(6))):
        frames = list(video.frames([int(index) for index in indices]))
        assert [number_of(frame.pixels) for frame in frames] == indices
        assert [frame.time for frame in frames] == video.starts[indices].tolist()


def test_decord_and_pyav_give_the_same_pixels(tmp_path: Path):
    video = opened(make_video(tmp_path / "a.mp4"))
    by_pyav = dataclasses.replace(video, decoder="PyAV")
    for ours, theirs in zip(video.frames([3, 40]), by_pyav.frames([3, 40]), strict=True):
        assert ours.time == theirs.time
        assert ours.pixels.dtype == np.uint8
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)


def test_decord_only_opens_headers_of_its_containers(tmp_path: Path):
    """It cannot be given a list of formats."""
    path = make_video(tmp_path / "a.mp4", frames=5)
    path.write_bytes(b"\0\0\0\x08junk" + path.read_bytes())
    assert opened(path).decoder == "PyAV"


def test_a_variable_frame_rate_keeps_its_real_times(tmp_path: Path):
    at = [number * number for number in range(20)]
    video = opened(make_video(tmp_path / "a.mp4", frames=20, at=at))
    np.testing.assert_allclose(video.starts, np.array(at) / 25)
    assert numbers(video, [2, 11, 19]) == [2, 11, 19]


def test_frames_hidden_by_edit_lists_are_skipped(tmp_path: Path):
    """decord counts them, and so hands out frames 17 too early without a word."""
    video = opened(trim(make_video(tmp_path / "whole.mp4"), tmp_path / "cut.mp4", first=17))
    assert video.decoder == "PyAV"
    assert len(video.starts) == 43
    assert video.starts[0] == 0.0
    assert numbers(video, [0, 1, 20, 42]) == [17, 18, 37, 59]


@pytest.mark.parametrize("decoder", ["decord", "PyAV"])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_rotated_video_comes_upright(tmp_path: Path, turn: int, decoder: str):
    red, green, blue, white = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
    corners = np.array([[red, green], [blue, white]], np.uint8)
    stored = corners.repeat(24, axis=0).repeat(40, axis=1)
    video = opened(make_video(tmp_path / "a.mp4", frames=[stored] * 3, rotation=turn))
    pixels = next(dataclasses.replace(video, decoder=decoder).frames([1])).pixels
    height, width = pixels.shape[:2]
    seen = pixels[height // 4 :: height // 2, width // 4 :: width // 2].astype(int)
    expected = np.rot90(corners, turn // 90)  # the matrix turns counter-clockwise
    assert pixels.shape == np.rot90(stored, turn // 90).shape
    assert np.abs(seen - expected).max() < 20


@pytest.mark.parametrize(("width", "height"), [(2, 2), (63, 97), (258, 2)])
def test_odd_and_tiny_sizes_are_read(tmp_path: Path, width: int, height: int):
    gray = np.full((height, width, 3), 128, np.uint8)
    video = opened(make_video(tmp_path / "a.mp4", frames=[gray] * 5, pixel_format="yuv444p"))
    pixels = next(video.frames([3])).pixels
    assert pixels.shape == (height, width, 3)
    assert np.abs(pixels.astype(int) - 128).max() < 4


def test_alpha_is_dropped(tmp_path: Path):
    frames = [numbered(number) for number in range(8)]
    video = opened(make_video(tmp_path / "a.mov", "png", frames, pixel_format="rgba"))
    assert numbers(video, [0, 5]) == [0, 5]


# The clock


def by_each_reader(video: Video) -> dict[str, Video]:
    """The same video, for either reader."""
    return {"decord": dataclasses.replace(video, decoder="decord"), "pyav": dataclasses.replace(video, decoder="PyAV")}


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.mov", "a.ts", "a.flv"])
def test_time_begins_with_the_first_sound(tmp_path: Path, name: str):
    silent = make_video(tmp_path / "silent.mp4", at=range(50, 110))
    video = opened(with_sound(silent, tmp_path / name))
    np.testing.assert_allclose(video.starts, 2 + np.arange(60) / 25, atol=0.15)  # sound of 8 kHz starts in steps
    assert np.diff(video.starts) == pytest.approx(1 / 25, abs=0.0011)
    assert video.end - video.starts[-1] == pytest.approx(1 / 25, abs=0.002)
    for by_either in by_each_reader(video).values() if video.decoder == "decord" else [video]:
        frames = list(by_either.frames([0, 30]))
        assert [number_of(frame.pixels) for frame in frames] == [0, 30]
        assert [frame.time for frame in frames] == video.starts[[0, 30]].tolist()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.flv", "a.h264"])
def test_late_files_start_at_0(tmp_path: Path, name: str):
    path = make_video(tmp_path / name, at=None if name == "a.h264" else range(125, 185))
    assert opened(path).starts[0] == 0
    assert timestamp_offset(path)[1] == pytest.approx(0 if name == "a.h264" else 5)


def test_sound_before_0_does_not_delay_the_picture(tmp_path: Path):
    """Opus begins with a few milliseconds that only fill the decoder."""
    video = opened(with_sound(make_video(tmp_path / "silent.mp4"), tmp_path / "a.webm.mkv", "libopus"))
    assert video.starts[0] == 0


def test_a_file_without_a_picture_has_no_clock(tmp_path: Path):
    with pytest.raises(VideoError) as caught:
        timestamp_offset(make_sound(tmp_path / "a.mp4"))
    assert caught.value.message == "no video stream"


# Damage


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_half_downloaded_videos_are_read(tmp_path: Path, name: str):
    how = {"container": {"movflags": "faststart"}} if name == "a.mp4" else {}
    path = make_video(tmp_path / name, frames=200, **how)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    video = opened(path)
    count = len(video.starts)
    assert 15 < count < 185
    frames = list(video.frames(list(range(0, count, 7))))
    assert [number_of(frame.pixels) for frame in frames] == [round(frame.time * 25) for frame in frames]
    whole = count // 7 - 1  # the frames next to the break may need one behind it
    assert [frame.time for frame in frames][:whole] == video.starts[::7].tolist()[:whole]


def test_damaged_frames_show_the_one_before(tmp_path: Path):
    path = damage(make_video(tmp_path / "a.mp4", frames=200))
    frames = list(opened(path).frames(list(range(0, 200, 5))))
    assert len(frames) == 40
    late = [frame for frame, index in zip(frames, range(0, 200, 5), strict=True) if frame.time < index / 25]
    assert 0 < len(late) < 15
    for frame in frames[:15] + late[-1:]:
        assert number_of(frame.pixels) == round(frame.time * 25)


@pytest.mark.parametrize("container", ["a.mp4", "a.mkv"])
def test_failing_decord_is_noted_once(tmp_path: Path, container: str):
    path = damage(make_video(tmp_path / container, frames=200))
    notes = Notes()
    video = open_reader(path, notes)
    assert isinstance(video, Video)
    assert video.decoder == "decord"
    every = range(len(video.starts))
    frames = list(video.frames(every))
    assert notes.texts == [f"{path}: decord failed; decoding with PyAV instead"]
    by_pyav = dataclasses.replace(video, decoder="PyAV").frames(every)
    for ours, theirs in zip(frames, by_pyav, strict=True):
        assert ours.time == theirs.time
        np.testing.assert_array_equal(ours.pixels, theirs.pixels)
    assert len(notes.texts) == 1


def test_readable_files_cause_no_notes(tmp_path: Path):
    notes = Notes()
    for name in ("a.mp4", "a.ts"):
        list(open_reader(make_video(tmp_path / name), notes).frames(range(60)))
    Image.fromarray(numbered(5)).save(tmp_path / "a.png")
    list(open_reader(tmp_path / "a.png", notes).frames([0]))
    assert not notes.texts


def test_undecodable_videos_fail(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", frames=30, container={"movflags": "faststart"})
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    content[start:] = bytes(len(content) - start)
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"^no frame can be decoded$"):
        list(opened(path).frames([15]))


def test_false_frame_counts_are_ignored(tmp_path: Path):
    """decord would take memory for them all, and end the process."""
    path = make_video(tmp_path / "a.mp4")
    content = bytearray(path.read_bytes())
    count = content.index(b"stts") + 12
    content[count : count + 4] = (2_600_000_000).to_bytes(4, "big")
    path.write_bytes(content)
    assert numbers(open_reader(path), [0, 30, 59]) == [0, 30, 59]


def test_unknown_codecs_are_the_reason(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzzz"))
    with pytest.raises(VideoError, match=r"^unknown video codec$"):
        open_reader(path)


def test_unfinished_downloads_are_recognized(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"^unfinished download"):
        open_reader(path)


@pytest.mark.parametrize("length", [1, 7, 8, 40, 400])
def test_beginnings_of_videos_fail_in_one_line(tmp_path: Path, length: int):
    for name in ("a.mp4", "a.mkv", "a.gif"):
        source = make_video(tmp_path / name, **({"codec": "gif", "pixel_format": "rgb8"} if name == "a.gif" else {}))
        path = tmp_path / f"cut {name}"
        path.write_bytes(source.read_bytes()[:length])
        try:
            list(open_reader(path).frames([0]))
        except VideoError as error:
            assert len(error.message.splitlines()) == 1
            assert str(tmp_path) not in error.message


def test_errors_do_not_contain_the_path(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("Dear diary, today I renamed a text.\n" * 50)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    make_sound(tmp_path / "sound.m4a")
    for name, message in {
        "missing.mp4": "no such file",
        "no/folder.mp4": "no such file",
        "empty.mp4": "empty file",
        "text.mp4": "not a video: ",
        "noise.mp4": "not a video: ",
        "folder.mp4": "a folder, not a video",
        "loop.mp4": "too many levels of symbolic links",
        "pipe.mp4": "not a regular file",
        "sound.m4a": "no video stream",
        "x" * 300 + ".mp4": "file name too long",
    }.items():
        with pytest.raises(VideoError) as caught:
            open_reader(tmp_path / name)
        assert caught.value.message.startswith(message)
        assert str(tmp_path) not in caught.value.message
        assert "\n" not in caught.value.message


def test_unreadable_files_fail(tmp_path: Path, as_nobody: None):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"something")
    path.chmod(0)
    with pytest.raises(VideoError, match=r"^permission denied$"):
        open_reader(path)


def test_playlists_open_nothing_else(tmp_path: Path):
    make_video(tmp_path / "other.ts")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        port = server.getsockname()[1]
        for entry in (str(tmp_path / "other.ts"), "other.ts", f"http://127.0.0.1:{port}/a.ts"):
            path = tmp_path / "list.m3u8"
            path.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.4,\n{entry}\n#EXT-X-ENDLIST\n")
            with pytest.raises(VideoError, match=r"^not a video"):
                open_reader(path)
        with pytest.raises(BlockingIOError):  # nobody has connected
            server.accept()


@pytest.mark.parametrize(
    "name",
    [b"12:30.mp4", b"new\nline.mp4", b"caf\xe9.mp4", "日本 🎬.mp4".encode(), b"%03d.mp4", b"-i.mp4", b"a?b#c.mp4"],
)
def test_any_file_name_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes):
    made = make_video(tmp_path / "made.mp4", frames=5)
    monkeypatch.chdir(tmp_path)
    path = Path(os.fsdecode(name))
    made.rename(path)
    assert numbers(open_reader(path), [3]) == [3]


# Pictures


def test_still_pictures_are_one_frame(tmp_path: Path):
    Image.fromarray(numbered(5)).save(tmp_path / "a.png")
    picture = open_reader(tmp_path / "a.png")
    assert (picture.starts.tolist(), picture.end) == ([0.0], 0.0)
    assert numbers(picture, [0]) == [5]


def test_photos_are_rotated_by_exif(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter clockwise
    stored = np.rot90(numbered(5))
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert numbers(open_reader(tmp_path / "a.jpg"), [0]) == [5]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "LA", "1", "CMYK"])
def test_any_mode_of_picture_becomes_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(numbered(5)).convert(mode).save(path)
    (frame,) = open_reader(path).frames([0])
    assert frame.pixels.shape == numbered(5).shape
    assert number_of(frame.pixels) == 5


@pytest.mark.parametrize("name", ["a.webp", "a.png", "a.gif"])
def test_a_moving_picture_is_a_video(tmp_path: Path, name: str):
    first, *others = [Image.fromarray(numbered(number)) for number in range(4)]
    first.save(tmp_path / name, save_all=True, append_images=others, duration=[100, 400, 200, 300], lossless=True)
    picture = open_reader(tmp_path / name)
    np.testing.assert_allclose(picture.starts, [0.0, 0.1, 0.5, 0.7])
    assert picture.end == pytest.approx(1.0)
    assert numbers(picture, [1, 3]) == [1, 3]


def test_instants_last_as_long_as_in_browsers(tmp_path: Path):
    first, *others = [Image.fromarray(numbered(number)) for number in range(4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=[0, 10, 20, 300])
    np.testing.assert_allclose(open_reader(tmp_path / "a.gif").starts, [0.0, 0.1, 0.2, 0.22])


def test_raw_streams_keep_their_frame_rate(tmp_path: Path):
    path = make_video(tmp_path / "a.h264", rate=10)
    assert opened(path).end == 6


def test_still_beside_an_animation_is_not_a_frame(tmp_path: Path):
    still, *frames = [Image.fromarray(numbered(number)) for number in range(4)]
    still.save(tmp_path / "a.png", save_all=True, append_images=frames, duration=100, default_image=True)
    picture = open_reader(tmp_path / "a.png")
    np.testing.assert_allclose(picture.starts, [0.0, 0.1, 0.2])
    assert numbers(picture, [0, 2]) == [1, 3]


def test_pages_are_not_frames(tmp_path: Path):
    pages = [Image.fromarray(numbered(number)) for number in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    picture = open_reader(tmp_path / "a.tif")
    assert (len(picture.starts), picture.end) == (1, 0.0)


def test_content_wins_over_a_wrong_suffix(tmp_path: Path):
    make_video(tmp_path / "a.mp4", frames=5).rename(tmp_path / "a.jpg")
    assert numbers(open_reader(tmp_path / "a.jpg"), [4]) == [4]
    Image.fromarray(numbered(9)).save(tmp_path / "b.png")
    (tmp_path / "b.png").rename(tmp_path / "b.mp4")
    assert numbers(open_reader(tmp_path / "b.mp4"), [0]) == [9]


@pytest.mark.parametrize(
    ("name", "format"), [("a.jpg", "JPEG"), ("progressive.jpg", "JPEG"), ("c.jpg", "PNG"), ("d.mp4", "BMP")]
)
def test_truncated_pictures_are_read_partly(tmp_path: Path, name: str, format: str):
    noise = np.random.default_rng(0).integers(0, 20, (256, 320, 3), np.uint8)
    Image.fromarray(numbered(5, 320, 256) + noise).save(tmp_path / name, format, progressive="progressive" in name)
    content = (tmp_path / name).read_bytes()
    for length in (len(content) - 2, 2 * len(content) // 3):
        (tmp_path / name).write_bytes(content[:length])
        (frame,) = open_reader(tmp_path / name).frames([0])
        assert frame.pixels.shape == (256, 320, 3)
        assert number_of(frame.pixels) == 5


def test_undecodable_pictures_fail_in_one_line(tmp_path: Path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(VideoError, match=r"^damaged picture: ") as caught:
        list(open_reader(path).frames([0]))
    assert "\n" not in caught.value.message


def test_long_texts_in_png_are_ignored(tmp_path: Path):
    texts = PngInfo()
    texts.add_text("plain", "x" * (2 << 20))
    texts.add_text("packed", "y" * (2 << 20), zip=True)
    texts.add_itxt("international", "z" * (2 << 20), zip=True)
    Image.fromarray(numbered(5)).save(tmp_path / "a.png", pnginfo=texts)
    assert numbers(open_reader(tmp_path / "a.png"), [0]) == [5]


def test_too_large_pictures_are_refused(tmp_path: Path):
    path = tmp_path / "a.png"
    Image.new("1", (20_000, 20_000)).save(path)
    with pytest.raises(VideoError, match="pixels"):
        list(open_reader(path).frames([0]))
