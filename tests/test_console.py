"""What a person reads while a command runs."""

import io
import json
import os
import re
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from cococli import console
from cococli.errors import UsageError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until its only item is changed."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


Open = Callable[..., io.StringIO]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open a stream of so many columns, by default a terminal, in place of stdout or stderr."""

    def open_screen(columns: int, stream: str = "stdout", terminal: bool = True) -> io.StringIO:
        opened = io.StringIO()
        monkeypatch.setattr(sys, stream, opened)
        monkeypatch.setattr(opened, "isatty", lambda: terminal)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        return opened

    return open_screen


def test_on_a_pipe_progress_is_a_plain_line_now_and_then(clock, capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(100, "captioning", "captioned") as advance:
        for _ in range(24):
            clock[0] += 1
            advance()
        advance(well=False)
    assert capsys.readouterr().err.splitlines() == [
        "captioned 10 of 100 (1.0/s, 1m 30s left)",
        "captioned 20 of 100 (1.0/s, 1m 20s left)",
        "captioned 24 of 100, 1 failed, in 24s (1.0/s)",
    ]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_quiet", False)
    console.be_quiet()


@pytest.mark.usefixtures("quiet")
def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(1, "captioning", "captioned") as advance:
        advance()
    with console.status("loading"):
        pass
    assert capsys.readouterr() == ("", "")


def test_a_slow_rate_is_told_by_the_minute(clock) -> None:
    pace = console.Pace(2)
    clock[0] += 30
    assert (pace.rate, pace.left) == ("-", "-")
    pace.advance()
    assert (pace.rate, pace.left) == ("2.0/min", "30s")


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.04, "0.0s"), (9.96, "10s"), (59.6, "1m 00s"), (552, "9m 12s"), (11100, "3h 05m")]
)
def test_durations_read_as_a_person_says_them(seconds: float, told: str) -> None:
    assert console.duration(seconds) == told


def test_a_hostile_name_cannot_steer_the_terminal() -> None:
    assert console.printable("a\x1b[31m\n\udce9猫é") == "a\\x1b[31m\\n\\udce9猫é"
    assert console.printable("\u202egnp.exe\u2066\x9b\u2028") == "\\u202egnp.exe\\u2066\\x9b\\u2028"


@pytest.mark.parametrize(
    "name",
    [
        "👨\u200d👩\u200d👧.mp4",
        "🏴\U000e0067\U000e0062\U000e007f.mp4",
        "\U0001fae9 newer than this Python.png",
        "می\u200cخواهم.mp4",
        "Screenshot 3.04\u202fPM.png",
        "東京\u3000旅行.mov",
        "\u200eWhatsApp.mp4",
    ],
)
def test_emoji_and_all_scripts_print_as_they_are(name: str) -> None:
    assert console.printable(name) == name


def test_rows_wrap_beside_the_name_and_long_names_have_a_line_to_themselves(screen: Open) -> None:
    shown = screen(29, terminal=False)
    console.row("[b]猫.mp4", "a cat sits on a mat", 9)
    console.row("long-name.mp4", "a dog", 9)
    assert [line.rstrip() for line in shown.getvalue().splitlines()] == [
        "[b]猫.mp4  a cat sits on a",
        "           mat",
        "long-name.mp4",
        "           a dog",
    ]


@pytest.mark.parametrize("cells", [12, 20, 27])
def test_text_stands_below_its_name_on_narrow_terminals(cells: int, screen: Open) -> None:
    shown = screen(cells, terminal=False)
    console.row("my.mp4", "a red square on a pink background", 10)
    name, *lines = shown.getvalue().splitlines()
    assert name == "my.mp4"
    assert " ".join(map(str.strip, lines)) == "a red square on a pink background"
    assert all(line.startswith("  ") and len(line.rstrip()) <= cells for line in lines)


def test_tables_are_stacked_on_narrow_terminals(screen: Open) -> None:
    shown = screen(30)
    columns = ("score", "file", "caption")
    console.table(columns, [("0.3", "a.mp4", "a red square on a pink background"), ("0.2", "b.mp4", "")])
    text = re.sub(r"\x1b\[\d*m", "", shown.getvalue())
    assert [line.rstrip() for line in text.splitlines()] == [
        "score    0.3",
        "file     a.mp4",
        "caption  a red square on a",
        "         pink background",
        "",
        "score    0.2",
        "file     b.mp4",
    ]


@pytest.mark.parametrize(
    ("terminal", "lines"),
    [
        (False, ["name   size", "[b]猫  1.2 GB and more", "a\\n    9 kB"]),
        (True, ["name   size", "[b]猫  1.2 GB and", "       more", "a\\n    9 kB"]),
    ],
)
def test_a_table_wraps_on_a_terminal_only(terminal: bool, lines: list[str], screen: Open) -> None:
    shown = screen(18, terminal=terminal)
    console.table(("name", "size"), [("[b]猫", "1.2 GB and more"), ("a\n", "9 kB")])
    text = re.sub(r"\x1b\[\d*m", "", shown.getvalue())
    assert [line.rstrip() for line in text.splitlines()] == lines


def test_an_error_and_its_hint_are_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    console.error("no video " * 20, "name one " * 20)
    assert capsys.readouterr().err.splitlines() == ["error: " + "no video " * 20, "hint: " + "name one " * 20]


def test_bytes_under_way_are_a_line_now_and_then_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "LINE_EVERY", 0.0)
    with console.transfer() as progress:
        progress("download", 1_230_000_000, 2_550_000_000)
    assert capsys.readouterr().err == "download: 1.23 of 2.55 GB\n"


@pytest.fixture
def told_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_as_json", False)
    console.speak_json()


@pytest.mark.usefixtures("told_a_program")
def test_a_program_is_told_in_lines_of_json(clock, capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress(total=2, doing="captioning", done="captioned") as advance:
        clock[0] += 1.5
        advance()
        console.warning("bad.mp4: no video stream")
        advance(well=False)
    assert [json.loads(line) for line in capsys.readouterr().err.splitlines()] == [
        {"event": "progress", "done": 1, "failed": 0, "total": 2, "seconds": 1.5},
        {"event": "warning", "text": "bad.mp4: no video stream"},
        {"event": "progress", "done": 2, "failed": 1, "total": 2, "seconds": 1.5},
        {"event": "note", "text": "captioned 1 of 2, 1 failed, in 1.5s (1.3/s)"},
    ]


def test_training_tells_its_pace_in_a_line_now_and_then_from_where_it_goes_on(
    clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.training() as shown:
        for stage, steps, total in (("looking", range(1, 3), 3), ("training", range(41, 61), 60)):
            for done in steps:
                clock[0] += 12 if done in (2, 41) else 1  # the first step compiles
                shown.move(stage, done, total, "loss 2.000" if stage == "training" else "")
    assert capsys.readouterr().err.splitlines() == [
        "looking 2 of 3 (5.0/min, 12s left)",
        "training 42 of 60 (1.0/s, 18s left) loss 2.000",
        "training 52 of 60 (1.0/s, 8.0s left) loss 2.000",
    ]


@pytest.mark.usefixtures("told_a_program")
def test_a_program_is_told_of_every_step_of_training(capsys: pytest.CaptureFixture[str]) -> None:
    with console.training() as shown:
        shown.move("training", 1, 2, "loss 2.000")
        console.note("step 1: CIDEr 0.1")
    assert [json.loads(line) for line in capsys.readouterr().err.splitlines()] == [
        {"event": "progress", "stage": "training", "done": 1, "total": 2, "detail": "loss 2.000"},
        {"event": "note", "text": "step 1: CIDEr 0.1"},
    ]


@pytest.mark.usefixtures("quiet")
def test_quiet_training_says_nothing(clock, capsys: pytest.CaptureFixture[str]) -> None:
    with console.training() as shown:
        for done in (1, 2, 3):
            clock[0] += 60
            shown.move("training", done, 9, "loss 2.000")
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_training_is_a_bar_with_what_the_last_step_found_below(screen: Open) -> None:
    notes = screen(70, "stderr")
    with console.training() as shown:
        shown.move("training", 3, 10, "loss 2.000 = [b]caption\x1b[31m 1.000")
        console.note("step 3: CIDEr 0.100")
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", notes.getvalue()).splitlines()]
    assert "step 3: CIDEr 0.100" in lines
    (bar,) = {line for line in lines if "3/10" in line and "training" in line and "- left" in line}
    assert len(bar) <= 70
    assert lines[lines.index(bar) + 1] == r"loss 2.000 = [b]caption\x1b[31m 1.000"


@pytest.mark.usefixtures("quiet")
def test_a_log_has_all_that_is_told_even_where_a_person_wants_quiet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "_log", None)
    monkeypatch.setattr(console, "_unlogged", deque())
    console.note("before the log was opened")
    console.log_to(tmp_path / "run.log")
    console.note("in passing")
    console.error("went wrong", "do this")
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", line) for line in lines] == [
        "before the log was opened",
        "in passing",
        "error: went wrong",
        "hint: do this",
    ]
    assert capsys.readouterr().err == "error: went wrong\nhint: do this\n"


def test_a_log_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*: Is a directory"):
        console.log_to(tmp_path)
    os.mkfifo(tmp_path / "log")
    with pytest.raises(UsageError, match=r"cannot write .*: not a regular file"):
        console.log_to(tmp_path / "log")


def test_log_on_full_disk_is_told_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_log", None)
    console.log_to(Path("/dev/full"))
    console.warning("first")
    console.warning("second")
    assert capsys.readouterr().err.splitlines() == [
        "warning: cannot write /dev/full: No space left on device; the log ends here",
        "warning: first",
        "warning: second",
    ]
