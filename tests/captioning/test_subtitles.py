"""Subtitles: times, lines, and files that every reader understands alike."""

import html
import io
import math
import re
from collections.abc import Sequence

import av
import pysubs2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from cococli.captioning.records import Record
from cococli.captioning.subtitles import Cue, CueStyle, SubtitleFormat, cues, pages, to_subtitles
from cococli.errors import UsageError

STYLE = CueStyle()
unhurried = settings(deadline=None)  # a busy machine is no error
KINDS: tuple[SubtitleFormat, ...] = ("srt", "vtt")

HOSTILE = (
    "-->", "a-->b", "00:00:01,000 --> 00:00:02,000", "00:00:01.000 00:00:02.000", "12:30.45 12:31.46",
    "<i>", "</i>", "< person >", "<b", "<c.red>", "<00:00:01.000>", "&", "&amp;", "&lt;i&gt;", "&#10;&#10;",
    "{", "}", r"{\an8}", r"{\p1}", r"\N", r"\h", "\\",
    "WEBVTT", "NOTE", "STYLE", "REGION", "[Script Info]", "7", "42", "-",
    "\n", "\r\n\r\n", "\r", "\v", "\f", "\x85", "\u2028", "\u2029", "\0", "\x1b[31m", "\ufeff", "\u202e", "\u200f",
    "\ud800", "\udce9", "\u200d", "a\u0301",
    "", " ", "猫が好き", "👩‍🚀", "pneumonoultramicroscopicsilicovolcanoconiosis" * 2,
)  # fmt: skip


def record(caption: str, start: float = 0.0, end: float = 2.5) -> Record:
    return Record("a.mp4", start, end, caption, -0.5, 0.25, (1.25,), "shapes")


def times(*records: Record, style: CueStyle = STYLE) -> list[tuple[int, int]]:
    return [(cue.start, cue.end) for cue in cues(records, style)]


# What is on the screen


def test_a_caption_is_a_cue_over_its_segment() -> None:
    assert to_subtitles([record("a cat"), record("a dog", 2.5, 6)], "srt", STYLE) == (
        "1\n00:00:00,000 --> 00:00:02,500\na cat\n\n2\n00:00:02,500 --> 00:00:06,000\na dog\n\n"
    )
    assert to_subtitles([record("a cat")], "vtt", STYLE) == "WEBVTT\n\n1\n00:00:00.000 --> 00:00:02.500\na cat\n\n"


def test_cues_of_long_segments_end_after_max_seconds() -> None:
    segments = [record("a cat", 0, 60), record("a dog", 60, 63)]
    assert times(*segments) == [(0, 7000), (60000, 63000)]
    assert times(*segments, style=CueStyle(max_seconds=math.inf)) == [(0, 60000), (60000, 63000)]


def test_cues_stay_readable_without_overlapping_the_next() -> None:
    caption = "x" * 34  # two seconds
    assert times(record(caption, 0, 1), record(caption, 5, 6)) == [(0, 2000), (5000, 7000)]
    assert times(record(caption, 0, 1), record(caption, 1.5, 9)) == [(0, 1500), (1500, 8500)]


def test_last_cue_ends_at_most_a_second_later() -> None:
    assert times(record("x" * 34, 0, 0.5)) == [(0, 1500)]
    assert times(record("a cat", 0, 0)) == [(0, 1000)]  # a file of one frame


def test_overlapping_and_unordered_segments_take_turns() -> None:
    assert times(record("b", 2, 4), record("a", 0, 10)) == [(0, 2000), (2000, 4000)]
    assert times(record("a", 1, 1), record("b", 1, 1)) == [(1000, 1001), (1001, 2000)]
    assert times(record("early", -3, -1), record("late", 99 * 3600, 100 * 3600)) == [(0, 1)]


def test_times_are_rounded_to_milliseconds() -> None:
    assert "00:01:00,000 --> 01:02:03,004" in to_subtitles(
        [record("a", 59.9996, 3723.004)], "srt", CueStyle(max_seconds=math.inf)
    )


def test_long_texts_are_split_into_cues_by_length() -> None:
    caption = "a man in a blue shirt is standing in a kitchen and talking to a woman who is cutting vegetables"
    assert list(cues([record(caption, 0, 10)], STYLE)) == [
        Cue(0, 5326, ["a man in a blue shirt is", "standing in a kitchen and"]),
        Cue(5326, 9999, ["talking to a woman who is", "cutting vegetables"]),
    ]
    assert [cue.end - cue.start for cue in cues([record(caption, 0, 99)], STYLE)] == [7000, 7000]


@pytest.mark.parametrize(
    ("caption", "lines"),
    [
        ("a cat", ["a cat"]),
        ("a dog is jumping over a fence in a sunny field", ["a dog is jumping over a", "fence in a sunny field"]),
        ("a " + "b" * 42, ["a", "b" * 42]),
        ("c" * 50, ["c" * 42, "c" * 8]),
        ("猫" * 21, ["猫" * 21]),
        ("猫" * 22, ["猫" * 21, "猫"]),
        (
            "一匹の猫が 草の上で 眠っている とても静かな 午後の庭",
            ["一匹の猫が 草の上で 眠っている", "とても静かな 午後の庭"],
        ),
        (" \n ", ["…"]),
        ("\ud800\u202e", ["…"]),
    ],
)
def test_lines_are_balanced_and_words_whole(caption: str, lines: list[str]) -> None:
    assert pages(caption, STYLE) == [lines]


@pytest.mark.parametrize("numbers", [{"line_length": 1}, {"lines": 0}, {"max_seconds": 0.5}, {"min_seconds": math.nan}])
def test_invalid_styles_are_refused(numbers: dict[str, float]) -> None:
    name = next(iter(numbers))
    with pytest.raises(UsageError, match=f"{name} of subtitles must be at least"):
        CueStyle(**numbers)


# What no caption can break


def by_pysubs2(text: str, kind: SubtitleFormat) -> list[Cue]:
    return [Cue(event.start, event.end, event.text.split(r"\N")) for event in pysubs2.SSAFile.from_string(text, kind)]


def by_ffmpeg(text: str, kind: SubtitleFormat) -> list[Cue]:
    """Cues as FFmpeg's player would draw them."""
    with av.open(io.BytesIO(text.encode()), format={"srt": "srt", "vtt": "webvtt"}[kind]) as file:
        packets = [packet for packet in file.demux(file.streams.subtitles[0]) if packet.pts is not None]
        return [Cue(packet.pts, packet.pts + packet.duration, drawn(packet)) for packet in packets]


def drawn(packet: av.Packet) -> list[str]:
    """The lines of the one dialogue in a packet: ASS, its last field."""
    (dialogue,) = packet.decode()
    return dialogue.ass.decode().split(",", 8)[-1].split(r"\N")


STAMP = r"(\d\d+):([0-5]\d):([0-5]\d)\.(\d{3})"


def by_the_webvtt_standard(text: str) -> list[Cue]:
    """The file format of https://www.w3.org/TR/webvtt1/#syntax, as strictly as a validator."""
    header, *blocks = text.removesuffix("\n\n").split("\n\n")
    assert header == "WEBVTT"
    found = []
    for block in blocks:
        identifier, timings, *lines = block.split("\n")
        assert "-->" not in identifier
        stamps = re.fullmatch(rf"{STAMP} --> {STAMP}", timings)
        assert stamps
        numbers = [int(number) for number in stamps.groups()]
        start, end = (((h * 60 + m) * 60 + s) * 1000 + ms for h, m, s, ms in (numbers[:4], numbers[4:]))
        assert start < end
        for line in lines:
            assert line and not re.search(r"[\r\0<>]|&(?!(amp|lt|gt);)", line)
        found.append(Cue(start, end, lines))
    return found


def as_read(found: Sequence[Cue], kind: SubtitleFormat) -> list[Cue]:
    """Cues with their text as it stands on the screen."""
    unescape = html.unescape if kind == "vtt" else str
    return [Cue(cue.start, cue.end, [unescape(line).strip("\u00a0") for line in cue.lines]) for cue in found]


def as_meant(expected: Sequence[Cue], kind: SubtitleFormat) -> list[Cue]:
    """Cues with the look-alikes for what readers would take for times or tags."""
    tags = str.maketrans({"<": "‹", ">": "›"} if kind == "srt" else {})
    spell = lambda line: re.sub(r":(?=\d{1,2}[.,]\d)", "∶", line).translate(tags)  # noqa: E731
    return [Cue(cue.start, cue.end, [spell(line) for line in cue.lines]) for cue in expected]


seconds = st.floats(-10, 500_000) | st.integers(0, 20) | st.floats(0, 20)
captions = st.text() | st.lists(st.sampled_from(HOSTILE) | st.text(max_size=12)).map(" ".join)
many_records = st.lists(st.builds(record, captions, seconds, seconds), min_size=1, max_size=8)


def check_that_every_reader_sees_the_same(records: list[Record], kind: SubtitleFormat) -> None:
    expected = list(cues(records, STYLE))
    text = to_subtitles(records, kind, STYLE)
    text.encode()
    assert as_read(by_pysubs2(text, kind), kind) == as_meant(expected, kind)
    if expected:
        assert as_read(by_ffmpeg(text, kind), "srt") == as_meant(expected, kind)  # its WebVTT is unescaped
    if kind == "vtt":
        assert as_read(by_the_webvtt_standard(text), kind) == as_meant(expected, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_known_trick_breaks_a_file(kind: SubtitleFormat, hostile: str) -> None:
    captions = (hostile, "a cat", f"{hostile} {hostile}", "x" * 42 + hostile, "x" * 42 + f" {hostile}")
    check_that_every_reader_sees_the_same([record(text, at, at + 1) for at, text in enumerate(captions)], kind)


@pytest.mark.parametrize("kind", KINDS)
@unhurried
@given(records=many_records)
def test_all_readers_agree_on_any_caption(kind: SubtitleFormat, records: list[Record]) -> None:
    check_that_every_reader_sees_the_same(records, kind)


@unhurried
@given(
    records=many_records, style=st.builds(CueStyle, st.integers(2, 60), st.integers(1, 4), max_seconds=st.floats(1, 9))
)
def test_cues_are_ordered_and_do_not_overlap(records: list[Record], style: CueStyle) -> None:
    free = 0
    for cue in cues(records, style):
        assert free <= cue.start < cue.end <= cue.start + 1000 * style.max_seconds
        assert 1 <= len(cue.lines) <= style.lines
        assert max(map(cell_len, cue.lines)) <= style.line_length
        free = cue.end


words = st.lists(st.text("abcdefghij 猫犬", max_size=60), min_size=1).map(" ".join)


@unhurried
@given(captions=st.lists(words, min_size=1, max_size=5), kind=st.sampled_from(KINDS))
def test_no_word_is_lost(captions: list[str], kind: SubtitleFormat) -> None:
    records = [record(caption, place, place + 1) for place, caption in enumerate(captions)]
    text = "".join("".join(cue.lines) for cue in by_pysubs2(to_subtitles(records, kind, STYLE), kind))
    assert text.replace(" ", "").replace("…", "") == "".join(captions).replace(" ", "")


@unhurried
@given(words=st.lists(st.text("abcdefghij", min_size=1, max_size=14), min_size=2, max_size=14))
def test_two_lines_have_similar_lengths(words: list[str]) -> None:
    def difference(lines: Sequence[str]) -> int:
        return abs(len(lines[0]) - len(lines[1]))

    found = pages(" ".join(words), STYLE)
    if len(found) == 1 and len(found[0]) == 2:
        splits = [(" ".join(words[:place]), " ".join(words[place:])) for place in range(1, len(words))]
        assert difference(found[0]) == min(difference(lines) for lines in splits if max(map(len, lines)) <= 42)


def test_no_record_is_no_cue() -> None:
    assert to_subtitles([], "srt", STYLE) == ""
    assert to_subtitles([], "vtt", STYLE) == "WEBVTT\n\n"
