"""Files of captions."""

import json
import os
import re
from pathlib import Path

import pytest

from cococli.captioning.records import Failure, Record
from cococli.captioning.writers import check_output, open_writer, srt_time, to_srt
from cococli.errors import CocaError, UsageError


def record(caption: str = "a cat", start: float = 0.0, end: float = 2.5) -> Record:
    return Record("a.mp4", start, end, caption, -0.5, 0.25, (1.25,), "shapes")


def test_every_line_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_writer(path) as write:
        write(record())
        assert json.loads(path.read_text())["caption"] == "a cat"
        write(Failure("b.mp4", "no video stream"))
        assert [json.loads(line)["status"] for line in path.read_text().splitlines()] == ["ok", "error"]


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old\n" * 99)
    with open_writer(path) as write:
        write(record())
    assert len(path.read_text().splitlines()) == 1


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's own")  # noqa: PTH110
def test_a_full_disk_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.symlink_to("/dev/full")
    with (
        pytest.raises(CocaError, match=r"cannot write .*out\.jsonl: No space left on device"),
        open_writer(path) as write,
    ):
        write(record())


def test_subtitles_hold_one_cue_over_the_clip(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    with open_writer(path) as write:
        write(record())
    assert path.read_text() == "1\n00:00:00,000 --> 00:00:02,500\na cat\n"


def test_a_video_that_failed_leaves_old_subtitles_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    path.write_text("old")
    with open_writer(path) as write:
        write(Failure("a.mp4", "no video stream"))
    assert path.read_text() == "old"


def test_several_cues_are_numbered_and_apart() -> None:
    cues = to_srt([record("one", 0, 1), record("two", 1, 2)])
    assert cues == "1\n00:00:00,000 --> 00:00:01,000\none\n\n2\n00:00:01,000 --> 00:00:02,000\ntwo\n"


@pytest.mark.parametrize("hostile", ["a\n\nb", "a\r\n\r\nb", "1\n00:00:00,000 --> 00:00:01,000\nfake", "", "  \n "])
def test_no_caption_can_break_out_of_its_cue(hostile: str) -> None:
    lines = to_srt([record(hostile)]).split("\n")
    assert len(lines) == 4  # number, times, text, and nothing after the last line break
    assert lines[2].strip()
    assert not re.search("-->", lines[2])


def test_a_file_of_one_frame_has_a_cue_that_is_seen() -> None:
    assert "00:00:00,000 --> 00:00:01,000" in to_srt([record(end=0.0)])


def test_times_are_rounded_to_milliseconds_and_carry_over() -> None:
    assert srt_time(59.9996) == "00:01:00,000"
    assert srt_time(3723.004) == "01:02:03,004"
    assert srt_time(360000) == "100:00:00,000"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("out.mp4", "cannot tell the format"),
        ("out", "cannot tell the format"),
        ("missing/out.jsonl", "there is no folder"),
        ("folder.jsonl", "is a folder"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_early(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(UsageError, match=message):
        check_output(tmp_path / name, [Path("a.mp4")])


def test_checking_an_output_leaves_it_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("old")
    check_output(path, [Path("a.mp4")])
    assert path.read_text() == "old"


def test_subtitles_are_of_one_video(tmp_path: Path) -> None:
    check_output(tmp_path / "a.srt", [Path("a.mp4")])
    with pytest.raises(UsageError, match="subtitles of one video, but 2 were given"):
        check_output(tmp_path / "a.srt", [Path("a.mp4"), Path("b.mp4")])
    with pytest.raises(UsageError, match="a picture has no subtitles"):
        check_output(tmp_path / "a.srt", [Path("a.png")])
