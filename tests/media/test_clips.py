"""Clips: sampling of frames, segments, and reading."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media.video_fixtures import make_video, number_of, numbered
from PIL import Image

from cococli.errors import UsageError, VideoError
from cococli.files import span_path
from cococli.media.clips import (
    Clip,
    ReadRequest,
    Sampling,
    Segments,
    parse_segments,
    read_clip,
    read_clips,
    sample_indices,
    segment_spans,
)
from cococli.media.frames import PROGRESS_BYTES, Frame, listen_to_progress
from cococli.media.preprocess import random_crop
from cococli.media.videos import Video


def seen(pixels: np.ndarray) -> list[int]:
    """The numbers on preprocessed frames [F, S, S, 3]; as wide as high, so the crop keeps every bar."""
    return [number_of(frame) for frame in pixels]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    frames = [numbered(number, 80, 80) for number in range(50)]
    return make_video(tmp_path_factory.mktemp("video") / "a.mp4", frames=frames)


def test_the_middle_frame_stands_for_the_whole_span(video: Path):
    clip, pixels = read_clip(video, Sampling(), 40)
    assert clip == Clip(video, 0.0, 2.0, (1.0,))
    assert (pixels.shape, pixels.dtype) == ((1, 40, 40, 3), np.uint8)
    assert seen(pixels) == [25]


def test_several_frames_carry_their_real_times(video: Path):
    clip, pixels = read_clip(video, Sampling("multi", 5), 80)
    assert seen(pixels) == [5, 15, 25, 35, 45]
    assert clip.times == pytest.approx((0.2, 0.6, 1.0, 1.4, 1.8))


def test_part_of_a_video_is_read_alone(video: Path):
    part = span_path(video, 0.5, 1.5)
    clip, pixels = read_clip(part, Sampling("multi", 2), 80)
    assert (clip.path, clip.start, clip.end, seen(pixels)) == (part, 0.5, 1.5, [18, 31])
    clip, _ = read_clip(span_path(video, 1, 60), Sampling(), 80)
    assert (clip.start, clip.end) == (1, 2)
    with pytest.raises(VideoError, match="ends at 2 s, before the part from 3 s"):
        read_clip(span_path(video, 3, 60), Sampling(), 80)


def test_variable_frame_rate_is_sampled_by_time(tmp_path: Path):
    frames = [numbered(number, 80, 80) for number in range(4)]
    path = make_video(tmp_path / "a.mp4", frames=frames, at=[0, 1, 2, 50])
    clip, pixels = read_clip(path, Sampling("multi", 4), 80)
    assert seen(pixels) == [2, 2, 2, 2]
    assert clip.times == (0.08,) * 4


@pytest.mark.parametrize("frames", [1, 3])
def test_short_videos_yield_the_requested_frames(tmp_path: Path, frames: int):
    path = make_video(tmp_path / "a.mp4", frames=[numbered(number, 80, 80) for number in range(frames)])
    clip, pixels = read_clip(path, Sampling("multi", 6), 80)
    assert pixels.shape == (6, 80, 80, 3)
    assert seen(pixels) == sorted(list(range(frames)) * (6 // frames))
    assert clip.end == pytest.approx(frames / 25)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling("multi", 8)])
def test_still_pictures_are_always_one_frame(tmp_path: Path, sampling: Sampling):
    Image.fromarray(numbered(7, 80, 80)).save(tmp_path / "a.png")
    clip, pixels = read_clip(tmp_path / "a.png", sampling, 80)
    assert clip == Clip(tmp_path / "a.png", 0.0, 0.0, (0.0,))
    assert seen(pixels) == [7]


def test_what_cannot_be_read_fails_with_a_reason(tmp_path: Path):
    with pytest.raises(VideoError, match=r"^no such file$"):
        read_clip(tmp_path / "a.mp4", Sampling(), 40)


def test_every_segment_is_a_clip(video: Path):
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


def test_clips_are_decoded_in_one_pass(video: Path, monkeypatch: pytest.MonkeyPatch):
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
    listen_to_progress(sizes.append)
    clips = read_clips(video, ReadRequest(Sampling("multi", 8), Segments("none"), 40))
    next(clips)
    listen_to_progress(lambda size: None)
    assert sizes.count(PROGRESS_BYTES) == 8
    packets = [size for size in sizes if size != PROGRESS_BYTES]
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


# Sampling

MIDDLE = Sampling("middle")
GAPS = st.lists(st.floats(0.001, 5), min_size=1, max_size=40)


def steady(frames: int, rate: int = 25) -> tuple[np.ndarray, float]:
    return np.arange(frames) / rate, frames / rate


def whole(starts: np.ndarray, end: float, sampling: Sampling) -> np.ndarray:
    """Sampled as one span."""
    (indices,) = sample_indices(starts, [(0.0, end)], sampling)
    return indices


def test_middle_frame_is_on_screen_at_half_time():
    assert whole(*steady(75), MIDDLE).tolist() == [37]
    assert whole(*steady(4), MIDDLE).tolist() == [2]  # it comes on screen just then


def test_frames_are_at_centers_of_equal_parts():
    assert whole(*steady(80), Sampling("multi", 4)).tolist() == [10, 30, 50, 70]


def test_spans_are_sampled_each_by_itself():
    starts, _ = steady(80)
    spans = [(0.0, 1.0), (1.0, 2.0), (2.01, 2.03)]
    assert sample_indices(starts, spans, MIDDLE).tolist() == [[12], [37], [50]]
    assert sample_indices(starts, spans, Sampling("multi", 2)).tolist() == [[6, 18], [31, 43], [50, 50]]


def test_long_frames_are_repeated():
    starts = np.array([0.0, 0.1, 0.2, 9.0])
    assert whole(starts, 10.0, MIDDLE).tolist() == [2]
    assert whole(starts, 10.0, Sampling("multi", 5)).tolist() == [2, 2, 2, 2, 3]


def test_fewer_frames_than_asked_are_repeated_in_order():
    assert whole(*steady(3), Sampling("multi", 6)).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("end", [0.0, 0.04, 100.0])
def test_one_frame_fills_every_place(end: float):
    assert whole(np.zeros(1), end, Sampling("multi", 8)).tolist() == [0] * 8
    assert whole(np.zeros(1), end, MIDDLE).tolist() == [0]


def test_rounded_times_give_the_frames_of_exact_times():
    """Matroska keeps milliseconds: 30 frames a second start at 0.033, 0.067, 0.1."""
    exact = np.arange(60) / 30
    assert (
        whole(np.round(exact, 3), 2.0, Sampling("multi", 5)).tolist()
        == whole(exact, 2.0, Sampling("multi", 5)).tolist()
    )


@given(GAPS, st.integers(1, 30))
def test_sampled_frames_are_on_screen_at_centers(gaps: list[float], count: int):
    edges = np.cumsum([0.0, *gaps])
    starts, end = edges[:-1], float(edges[-1])
    indices = whole(starts, end, Sampling("multi", count))
    assert indices.dtype == np.int64
    assert len(indices) == count
    for place, index in enumerate(indices):
        center = (place + 0.5) * end / count
        assert edges[index] <= center + 1e-5
        assert center <= edges[index + 1] + 1e-5


@pytest.mark.parametrize("number", [0, -1, 1025, 2.5])
def test_an_impossible_number_of_frames_is_refused(number: int):
    with pytest.raises(UsageError, match="--num-frames"):
        Sampling("multi", number)


def test_unknown_frame_selection_lists_valid_ones():
    with pytest.raises(UsageError) as caught:
        Sampling("all")  # type: ignore[arg-type]
    assert "'all'" in caught.value.message
    assert "middle or multi" in caught.value.hint


# Segments


def timed(end: float) -> SimpleNamespace:
    return SimpleNamespace(starts=np.arange(0.0, max(end, 0.04), 0.04), end=end)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("none", Segments()),
        ("scene", Segments("scene")),
        ("5", Segments("seconds", 5.0)),
        ("2.5s", Segments("seconds", 2.5)),
    ],
)
def test_what_a_user_writes_is_understood(text: str, segments: Segments) -> None:
    assert parse_segments(text) == segments


@pytest.mark.parametrize("text", ["", "often", "0", "-3", "0.01", "nan", "inf", "5 m", "1e999"])
def test_what_is_no_cut_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--segments cannot be ") as caught:
        parse_segments(text)
    assert caught.value.hint == "none, scene, or seconds, at least 0.1"


def test_whole_video_and_picture_are_one_span() -> None:
    assert segment_spans(timed(7.2), Segments()) == [(0.0, 7.2)]
    for kind in ("none", "scene", "seconds"):
        assert segment_spans(timed(0.0), Segments(kind, 2.0)) == [(0.0, 0.0)]


def test_short_last_piece_is_merged() -> None:
    two = Segments("seconds", 2.0)
    assert segment_spans(timed(6.0), two) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    assert segment_spans(timed(6.9), two) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.9)]
    assert segment_spans(timed(7.1), two) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (6.0, 7.1)]
    assert segment_spans(timed(0.5), two) == [(0.0, 0.5)]


@given(end=st.floats(0.01, 1e3), seconds=st.floats(0.1, 1e4))
def test_pieces_cover_the_video_without_gaps(end: float, seconds: float) -> None:
    pieces = segment_spans(
        timed(1.0) if end < 1 else SimpleNamespace(starts=np.zeros(1), end=end), Segments("seconds", seconds)
    )
    assert pieces[0][0] == 0.0
    assert [one[1] for one in pieces[:-1]] == [other[0] for other in pieces[1:]]
    assert all(start < stop for start, stop in pieces)
