"""Times, not frame numbers, choose the frames."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.errors import UsageError
from cococli.media.sampling import Sampling, sample_indices

MIDDLE = Sampling("middle")
GAPS = st.lists(st.floats(0.001, 5), min_size=1, max_size=40)


def steady(frames: int, rate: int = 25) -> tuple[np.ndarray, float]:
    return np.arange(frames) / rate, frames / rate


def whole(starts: np.ndarray, end: float, sampling: Sampling) -> np.ndarray:
    """Sampled as one span."""
    (indices,) = sample_indices(starts, [(0.0, end)], sampling)
    return indices


def test_the_middle_frame_is_the_one_on_screen_at_half_time():
    assert whole(*steady(75), MIDDLE).tolist() == [37]
    assert whole(*steady(4), MIDDLE).tolist() == [2]  # it comes on screen just then


def test_several_frames_stand_at_the_centers_of_equal_parts():
    assert whole(*steady(80), Sampling("multi", 4)).tolist() == [10, 30, 50, 70]


def test_spans_are_sampled_each_by_itself():
    starts, _ = steady(80)
    spans = [(0.0, 1.0), (1.0, 2.0), (2.01, 2.03)]
    assert sample_indices(starts, spans, MIDDLE).tolist() == [[12], [37], [50]]
    assert sample_indices(starts, spans, Sampling("multi", 2)).tolist() == [[6, 18], [31, 43], [50, 50]]


def test_a_frame_that_stays_on_screen_for_long_is_the_middle_and_stands_several_times():
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
def test_every_chosen_frame_is_on_screen_at_its_center(gaps: list[float], count: int):
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


def test_an_unknown_way_is_refused_with_the_known_ones():
    with pytest.raises(UsageError) as caught:
        Sampling("all")  # type: ignore[arg-type]
    assert "'all'" in caught.value.message
    assert "middle or multi" in caught.value.hint
