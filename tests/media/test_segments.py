"""Videos cut into spans."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.errors import UsageError
from cococli.media.segments import Segments, parse, spans


def reader(end: float) -> SimpleNamespace:
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
    assert parse(text) == segments


@pytest.mark.parametrize("text", ["", "often", "0", "-3", "0.01", "nan", "inf", "5 m", "1e999"])
def test_what_is_no_cut_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--segments cannot be ") as caught:
        parse(text)
    assert caught.value.hint == "none, scene, or seconds, at least 0.1"


def test_a_whole_video_is_one_span_and_a_picture_one_without_length() -> None:
    assert spans(reader(7.2), Segments()) == [(0.0, 7.2)]
    for kind in ("none", "scene", "seconds"):
        assert spans(reader(0.0), Segments(kind, 2.0)) == [(0.0, 0.0)]


def test_a_last_piece_of_less_than_half_belongs_to_the_one_before() -> None:
    two = Segments("seconds", 2.0)
    assert spans(reader(6.0), two) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0)]
    assert spans(reader(6.9), two) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.9)]
    assert spans(reader(7.1), two) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (6.0, 7.1)]
    assert spans(reader(0.5), two) == [(0.0, 0.5)]


@given(end=st.floats(0.01, 1e3), seconds=st.floats(0.1, 1e4))
def test_pieces_cover_the_video_without_gaps(end: float, seconds: float) -> None:
    pieces = spans(
        reader(1.0) if end < 1 else SimpleNamespace(starts=np.zeros(1), end=end), Segments("seconds", seconds)
    )
    assert pieces[0][0] == 0.0
    assert [one[1] for one in pieces[:-1]] == [other[0] for other in pieces[1:]]
    assert all(start < stop for start, stop in pieces)
