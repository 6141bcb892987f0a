"""A video becomes the clip that the engine reads."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from media.video_fixtures import make_video, number_of, numbered
from PIL import Image

from cococli.catalog import CLIP
from cococli.errors import VideoError
from cococli.media.clips import Clip, ReadRequest, read_clip, read_clips
from cococli.media.preprocess import random_crop
from cococli.media.reading import ENOUGH_BYTES, Frame, report_progress
from cococli.media.sampling import Sampling
from cococli.media.segments import Segments
from cococli.media.videos import Video


def seen(pixels: np.ndarray) -> list[int]:
    """The numbers on preprocessed frames [F, 3, S, S]; as wide as high, so the crop keeps every bar."""
    gray = (pixels.transpose(0, 2, 3, 1) * CLIP.std + CLIP.mean) * 255
    return [number_of(frame) for frame in gray]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [numbered(number, 80, 80) for number in range(50)]
    return make_video(tmp_path_factory.mktemp("video") / "a.mp4", frames=frames)


def test_the_middle_frame_stands_for_the_whole_span(video: Path):
    clip, pixels = read_clip(video, Sampling(), 40)
    assert clip == Clip(video, 0.0, 2.0, (1.0,))
    assert (pixels.shape, pixels.dtype) == ((1, 3, 40, 40), np.float32)
    assert seen(pixels) == [25]


def test_several_frames_carry_their_real_times(video: Path):
    clip, pixels = read_clip(video, Sampling("multi", 5), 80)
    assert seen(pixels) == [5, 15, 25, 35, 45]
    assert clip.times == pytest.approx((0.2, 0.6, 1.0, 1.4, 1.8))


def test_a_variable_frame_rate_is_sampled_as_it_is_shown(tmp_path: Path):
    frames = [numbered(number, 80, 80) for number in range(4)]
    path = make_video(tmp_path / "a.mp4", frames=frames, at=[0, 1, 2, 50])
    clip, pixels = read_clip(path, Sampling("multi", 4), 80)
    assert seen(pixels) == [2, 2, 2, 2]
    assert clip.times == (0.08,) * 4


@pytest.mark.parametrize("frames", [1, 3])
def test_short_videos_still_give_as_many_frames_as_asked(tmp_path: Path, frames: int):
    path = make_video(tmp_path / "a.mp4", frames=[numbered(number, 80, 80) for number in range(frames)])
    clip, pixels = read_clip(path, Sampling("multi", 6), 80)
    assert pixels.shape == (6, 3, 80, 80)
    assert seen(pixels) == sorted(list(range(frames)) * (6 // frames))
    assert clip.end == pytest.approx(frames / 25)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling("multi", 8)])
def test_a_still_picture_is_one_frame_however_frames_are_chosen(tmp_path: Path, sampling: Sampling):
    Image.fromarray(numbered(7, 80, 80)).save(tmp_path / "a.png")
    clip, pixels = read_clip(tmp_path / "a.png", sampling, 80)
    assert clip == Clip(tmp_path / "a.png", 0.0, 0.0, (0.0,))
    assert seen(pixels) == [7]


def test_what_cannot_be_read_fails_with_a_reason(tmp_path: Path):
    with pytest.raises(VideoError, match=r"^no such file$"):
        read_clip(tmp_path / "a.mp4", Sampling(), 40)


def test_every_segment_is_a_clip_with_frames_of_its_own(video: Path):
    clips = list(read_clips(video, ReadRequest(Sampling("multi", 2), Segments("seconds", 1.0), 80)))
    assert [(clip.start, clip.end) for clip, _ in clips] == [(0.0, 1.0), (1.0, 2.0)]
    assert [[number_of(frame) for frame in pixels] for _, pixels in clips] == [[6, 18], [31, 43]]
    assert [clip.times for clip, _ in clips] == [pytest.approx((0.24, 0.72)), pytest.approx((1.24, 1.72))]
    assert {(pixels.shape, pixels.dtype.name) for _, pixels in clips} == {((2, 80, 80, 3), "uint8")}


def test_segments_shorter_than_a_frame_share_it(tmp_path: Path):
    path = make_video(tmp_path / "a.mp4", frames=[numbered(number, 80, 80) for number in range(3)], at=[0, 50, 100])
    clips = list(read_clips(path, ReadRequest(Sampling("multi", 2), Segments("seconds", 1.0), 80)))
    assert [[number_of(frame) for frame in pixels] for _, pixels in clips] == [
        [0, 0],
        [0, 0],
        [1, 1],
        [1, 1],
        [2, 2],
        [2, 2],
    ]


def test_all_clips_take_one_pass_and_each_comes_as_soon_as_it_is_decoded(video: Path, monkeypatch: pytest.MonkeyPatch):
    passes: list[list[int]] = []
    decoded: list[float] = []
    frames = Video.frames

    def traced(self: Video, indices: list[int]) -> Iterator[Frame]:
        passes.append(indices)
        for frame in frames(self, indices):
            decoded.append(frame.time)
            yield frame

    monkeypatch.setattr(Video, "frames", traced)
    clips = read_clips(video, ReadRequest(Sampling(), Segments("seconds", 0.5), 40))
    assert next(clips)[0].times == tuple(decoded) == (0.24,)
    assert len(list(clips)) == 3
    assert passes == [[6, 18, 31, 43]]


def test_packets_report_their_bytes_and_frames_enough(video: Path):
    sizes: list[int] = []
    report_progress(sizes.append)
    clips = read_clips(video, ReadRequest(Sampling("multi", 8), Segments("none"), 40))
    next(clips)
    report_progress(lambda size: None)
    assert sizes.count(ENOUGH_BYTES) == 8
    packets = [size for size in sizes if size != ENOUGH_BYTES]
    assert len(packets) >= 50
    assert 0 < sum(packets) < 2 * video.stat().st_size


def test_all_frames_of_a_clip_are_cropped_alike(video: Path):
    frames = {}
    for seed in (0, 0, 1):
        request = ReadRequest(Sampling("multi", 2), Segments("none"), 80, seed)
        ((_, pixels),) = read_clips(video, request)
        originals = ReadRequest(Sampling("multi", 2), Segments("none"), None)
        ((_, whole),) = read_clips(video, originals)
        np.testing.assert_array_equal(pixels, [random_crop(frame, 80, seed) for frame in whole])
        frames.setdefault(seed, pixels)
        np.testing.assert_array_equal(frames[seed], pixels)
    assert (frames[0] != frames[1]).any()


def test_frames_can_be_had_as_they_are(tmp_path: Path):
    Image.fromarray(numbered(7, 90, 60)).save(tmp_path / "a.png")
    ((_, pixels),) = read_clips(tmp_path / "a.png", ReadRequest(Sampling(), Segments("none"), None))
    np.testing.assert_array_equal(pixels, [numbered(7, 90, 60)])


def test_a_clip_cannot_be_changed(video: Path):
    clip, _ = read_clip(video, Sampling(), 40)
    with pytest.raises(dataclasses.FrozenInstanceError):
        clip.start = 1.0  # type: ignore[misc]
