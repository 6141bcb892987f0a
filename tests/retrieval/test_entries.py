"""Lines of an index."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.errors import UsageError
from cococli.journal import Failure, Task, text_of
from cococli.retrieval.index import Entry, parse_entry

seconds = st.integers(0, 10**9).map(lambda milliseconds: milliseconds / 1000)
paths = st.text(min_size=1) | st.binary(min_size=1).map(lambda name: name.decode("utf-8", "surrogateescape"))
videos = st.builds(
    Entry,
    row=st.integers(0),
    video=paths,
    start=seconds,
    end=seconds,
    frames=st.lists(seconds, max_size=3).map(tuple),
    segments=st.integers(1, 9),
    text=st.text(),
)
texts = st.builds(Entry, row=st.integers(0), text=st.text())


@given(videos | texts)
def test_entries_survive_a_round_trip(entry: Entry) -> None:
    line = entry.to_json("some key").encode()
    assert b"\n" not in line
    assert parse_entry(json.loads(line)) == entry


def test_lines_start_with_the_row() -> None:
    segment = Entry(3, "a.mp4", 1.0, 2.00049, (1.5,), 2, "a cat")
    assert segment.to_json("k") == (
        '{"row": 3, "video": "a.mp4", "start": 1.0, "end": 2.0, "segments": 2, "caption": "a cat", '
        '"frames": [1.5], "status": "ok", "key": "k"}'
    )
    assert Entry(0, text="a dog").to_json() == '{"row": 0, "text": "a dog", "status": "ok"}'


def test_failures_survive_a_round_trip() -> None:
    failure = Failure("a.mp4", "no video stream")
    assert parse_entry(json.loads(failure.to_json("k"))) == failure


def test_texts_and_videos_have_different_names() -> None:
    text, video = Entry(0, text="cat.jpg"), Entry(1, "cat.jpg")
    assert text.name != video.name
    assert (text_of(text.name), text_of(video.name)) == ("cat.jpg", None)
    assert Task(video.name, "k").name == "cat.jpg"


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": "ok", "video": "a.mp4"},
        {"status": "ok", "row": "one", "text": "a dog"},
        {"status": "ok", "row": None, "text": "a dog"},
        {"status": "ok", "row": 1, "video": "a.mp4", "start": 0, "end": 1, "frames": 3},
        {"status": "error", "text": "a dog"},
    ],
)
def test_invalid_entries_are_refused(fields: dict) -> None:
    with pytest.raises((KeyError, UsageError)):
        parse_entry(fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("row", [1]),
        ("row", math.inf),
        ("start", None),
        ("start", math.inf),
        ("end", math.nan),
        ("frames", [1, "x"]),
        ("segments", {}),
        ("caption", 7),
    ],
)
def test_fields_of_wrong_types_are_named(name: str, value: object) -> None:
    fields = {"row": 1, "video": "a.mp4", "start": 0, "end": 1, "frames": [0.5], "status": "ok", name: value}
    with pytest.raises(UsageError, match="'(text|frames|frames.1|" + name + ")': input should be"):
        parse_entry(fields)
