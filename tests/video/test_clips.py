"""A video becomes the clip that the engine reads."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from video.made import make_video, number_of, numbered

from cococli.errors import VideoError
from cococli.video.clips import Clip, read_clip
from cococli.video.preprocess import MEAN, STD
from cococli.video.sampling import Sampling


def seen(pixels: np.ndarray) -> list[int]:
    """The numbers on preprocessed frames [F, 3, S, S]; as wide as high, so the crop keeps every bar."""
    grey = (pixels.transpose(0, 2, 3, 1) * STD + MEAN) * 255
    return [number_of(frame) for frame in grey]


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


def test_a_clip_cannot_be_changed(video: Path):
    clip, _ = read_clip(video, Sampling(), 40)
    with pytest.raises(dataclasses.FrozenInstanceError):
        clip.start = 1.0  # type: ignore[misc]
