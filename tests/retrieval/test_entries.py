"""What a line of an index says, and that it is read back."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.errors import UsageError
from cococli.journal import Failure, Task, text_of
from cococli.retrieval.entries import Entry, from_json

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
def test_an_entry_is_read_back_from_its_line(entry: Entry) -> None:
    line = entry.to_json("some key").encode()
    assert b"\n" not in line
    assert from_json(json.loads(line)) == entry


def test_a_line_says_the_row_first_and_what_is_there() -> None:
    segment = Entry(3, "a.mp4", 1.0, 2.00049, (1.5,), 2, "a cat")
    assert segment.to_json("k") == (
        '{"row": 3, "video": "a.mp4", "start": 1.0, "end": 2.0, "segments": 2, "caption": "a cat", '
        '"frames": [1.5], "status": "ok", "key": "k"}'
    )
    assert Entry(0, text="a dog").to_json() == '{"row": 0, "text": "a dog", "status": "ok"}'


def test_a_failure_is_read_back() -> None:
    failure = Failure("a.mp4", "no video stream")
    assert from_json(json.loads(failure.to_json("k"))) == failure


def test_a_text_is_never_taken_for_a_video_of_that_name() -> None:
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
def test_what_is_no_entry_is_told(fields: dict) -> None:
    with pytest.raises((KeyError, UsageError)):
        from_json(fields)


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
        from_json(fields)
