"""Output of commands on terminals, in pipes and as JSON."""

import io
import json
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pyte
import pytest

from cococli import console, streams
from cococli.console import ConsoleReporter
from cococli.errors import UsageError


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start each test with the default settings and an empty log."""
    monkeypatch.setattr(console, "_state", console._State())
    monkeypatch.setattr(streams, "log", streams.Log())


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stop the clock at its only item."""
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
        for name in ("CI", "JPY_PARENT_PID", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(columns))
        return opened

    return open_screen


def test_progress_in_pipe_is_occasional_lines(clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReporter().progress("captioning", 100, done="captioned") as stage:
        for _ in range(24):
            clock[0] += 1
            stage.advance()
        stage.advance(ok=False)
    assert capsys.readouterr().err.splitlines() == [
        "captioned 10 of 100 (1.0/s, 1m 30s left)",
        "captioned 20 of 100 (1.0/s, 1m 20s left)",
        "captioned 24 of 100, 1 failed, in 24s (1.0/s)",
    ]


def test_quiet_progress_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console.be_quiet()
    with ConsoleReporter().progress("captioning", 1, done="captioned") as stage:
        stage.advance()
    with ConsoleReporter().progress("loading") as stage:
        stage.describe("compiling")
    assert capsys.readouterr() == ("", "")


def test_slow_rates_are_per_minute(clock) -> None:
    stage = console._Stage("captioning", 3)
    clock[0] += 100  # until the first one
    stage.advance()
    assert (stage.rate, stage.left) == ("-", "-")
    clock[0] += 30
    stage.advance()
    assert (stage.rate, stage.left) == ("2.0/min", "30s")


def test_pace_leaves_out_first_batch(clock) -> None:
    stage = console._Stage("captioning", 48)
    for _ in range(2):
        clock[0] += 8
        for _ in range(16):
            clock[0] += 0.01
            stage.advance()
    assert (stage.rate, stage.left) == ("2.0/s", "8.2s")


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (9.96, "10s"), (59.6, "1m 00s"), (552, "9m 12s"), (11100, "3h 05m")]
)
def test_duration_formats(seconds: float, text: str) -> None:
    assert console.duration(seconds) == text


@pytest.mark.parametrize(
    ("passed", "text"),
    [(5, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (3.5 * 86400, "3 days ago"), (-60, "just now")],
)
def test_times_are_relative_to_now(passed: float, text: str) -> None:
    assert console.ago(datetime.fromtimestamp(time.time() - passed, UTC)) == text


def test_control_characters_are_escaped() -> None:
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
def test_emoji_and_scripts_print_unchanged(name: str) -> None:
    assert console.printable(name) == name


def test_rows_wrap_text_next_to_name(screen: Open) -> None:
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
def test_narrow_terminals_show_text_below_name(cells: int, screen: Open) -> None:
    shown = screen(cells, terminal=False)
    console.row("my.mp4", "a red square on a pink background", 10)
    name, *lines = shown.getvalue().splitlines()
    assert name == "my.mp4"
    assert " ".join(map(str.strip, lines)) == "a red square on a pink background"
    assert all(line.startswith("  ") and len(line.rstrip()) <= cells for line in lines)


def test_narrow_terminals_stack_table_cells(screen: Open) -> None:
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
def test_tables_wrap_only_on_terminals(terminal: bool, lines: list[str], screen: Open) -> None:
    shown = screen(18, terminal=terminal)
    console.table(("name", "size"), [("[b]猫", "1.2 GB and more"), ("a\n", "9 kB")])
    text = re.sub(r"\x1b\[\d*m", "", shown.getvalue())
    assert [line.rstrip() for line in text.splitlines()] == lines


def test_error_and_hint_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    console.error("no video " * 20, "name one " * 20)
    assert capsys.readouterr().err.splitlines() == ["error: " + "no video " * 20, "hint: " + "name one " * 20]


def test_bytes_in_pipe_are_occasional_lines(clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ConsoleReporter().progress("download", unit="bytes") as stage:
        for done in (0, 1_230_000_000):
            clock[0] += 10
            stage.update(done, 2_550_000_000)
    assert capsys.readouterr().err == "download: 1.23 of 2.55 GB\n"


@pytest.mark.parametrize(
    ("unit", "total", "shown"),
    [
        ("bytes", 43_400_000, "20.00/43.40 MB 2.0 MB/s 10s elapsed, 12s left"),
        ("items", 43_400_000, "20000000/43400000 2000000.0/s 10s elapsed, 12s left"),
    ],
)
def test_terminal_shows_counts_in_units(unit: str, total: int, shown: str, clock, screen: Open) -> None:
    notes = screen(100, "stderr")
    with ConsoleReporter().progress("downloading", total, unit=unit) as stage:
        stage.update(0)
        clock[0] += 10
        stage.update(20_000_000)
        console.note("halfway")
    assert shown in notes.getvalue()


def test_json_events_report_every_step(clock, capsys: pytest.CaptureFixture[str]) -> None:
    console.speak_json()
    with ConsoleReporter().progress("captioning", 2, done="captioned") as stage:
        clock[0] += 1.5
        stage.advance()
        console.warning("bad.mp4: no video stream")
        stage.advance(ok=False)
    event = {"event": "progress", "stage": "captioning", "total": 2, "detail": "", "seconds": 1.5}
    assert [json.loads(line) for line in capsys.readouterr().err.splitlines()] == [
        {**event, "done": 1, "failed": 0},
        {"event": "warning", "text": "bad.mp4: no video stream"},
        {**event, "done": 2, "failed": 1},
        {"event": "note", "text": "captioned 1 of 2, 1 failed, in 1.5s (1.3/s)"},
    ]


def test_resumed_progress_counts_only_new_steps(clock, capsys: pytest.CaptureFixture[str]) -> None:
    for description, steps, total in (("encoding", range(1, 3), 3), ("training", range(41, 61), 60)):
        with ConsoleReporter().progress(description, total) as stage:
            for done in steps:
                clock[0] += 12 if done in (2, 41) else 1  # the first step compiles
                stage.update(done, total, "loss 2.000" if description == "training" else "")
    assert capsys.readouterr().err.splitlines() == [
        "encoding 2 of 3 (5.0/min, 12s left)",
        "training 42 of 60 (1.0/s, 18s left) loss 2.000",
        "training 52 of 60 (1.0/s, 8.0s left) loss 2.000",
    ]


def plain_lines(screen: io.StringIO) -> list[str]:
    """Return what was drawn, without colors and cursor movements."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", screen.getvalue()).splitlines()]


def test_terminal_shows_bar_above_detail(screen: Open) -> None:
    notes = screen(70, "stderr")
    with ConsoleReporter().progress("training", 10) as stage:
        stage.update(3, detail="loss 2.000 = [b]caption\x1b[31m 1.000")
        console.note("step 3: CIDEr 0.100")
    lines = plain_lines(notes)
    assert "step 3: CIDEr 0.100" in lines
    (bar,) = {line for line in lines if "3/10" in line and "training" in line}
    assert len(bar) <= 70
    assert lines[lines.index(bar) + 1] == r"loss 2.000 = [b]caption\x1b[31m 1.000"


def test_terminal_stacks_nested_stages(screen: Open) -> None:
    notes = screen(70, "stderr")
    with ConsoleReporter().progress("captioning", 2, done="captioned") as outer:
        outer.advance()
        with ConsoleReporter().progress("loading"):
            console.note("in between")
        outer.advance()
    lines = plain_lines(notes)
    assert any("1/2" in line and "loading" in below for line, below in pairwise(lines))
    assert lines[-1].startswith("captioned 2 of 2 in ")
    assert console._state == console._State()


FOLDER = "videos/a folder with a long name/"


@pytest.mark.parametrize(
    ("columns", "bar", "times", "item"),
    [
        (40, "captioning * 3/12 1 failed", "2.0s elapsed, 18s left", "…lder with a long name/Rome by night.mp4"),
        (80, "captioning * 3/12 1 failed 30.0/min 2.0s elapsed, 18s left", "", f"{FOLDER}Rome by night.mp4"),
        (120, "captioning * 3/12 1 failed 30.0/min 2.0s elapsed, 18s left", "", f"{FOLDER}Rome by night.mp4"),
    ],
)
@pytest.mark.parametrize("term", ["xterm", "vt220", "xterm-mono"])
def test_bar_fits_terminal(
    columns: int, bar: str, times: str, item: str, term: str, clock, screen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = screen(columns, "stderr")
    monkeypatch.setenv("TERM", term)
    with ConsoleReporter().progress("captioning", 12) as stage:
        for number in range(3):
            clock[0] += 2
            stage.current(f"{FOLDER}Rome by night.mp4")
            stage.advance(ok=number > 0)
        console.note("in between")  # draws the stage anew
        shown = plain_lines(notes)[-3 if times else -2 :]
    lines = [re.sub("[━╸╺]+ *", "* ", shown[0][2:]), *shown[1:]]  # without the spinner
    assert lines == [bar, *([times] if times else []), item]
    assert all(console.cells(line) <= columns for line in shown) and ("*" in bar) == ("━" in shown[0])
    assert ("\x1b[32m" in notes.getvalue()) == (term == "xterm")


@pytest.mark.parametrize("columns", [40, 80])
def test_messages_stay_above_progress(columns: int, screen: Open) -> None:
    notes = screen(columns, "stderr")
    with ConsoleReporter().progress("captioning", 4, done="captioned") as stage:
        for number in range(3):
            stage.current(f"{number}.mp4")
            stage.advance(ok=False)
            console.warning(f"{number}.mp4: no video stream")
        displayed = shown(notes, columns)
        assert displayed[-2:] == [displayed[-2], "2.mp4"] and "3/4 3 failed" in displayed[-2]
    displayed = shown(notes, columns)
    assert displayed[:3] == [f"warning: {number}.mp4: no video stream" for number in range(3)]
    assert displayed[3].startswith("captioned 0 of 4, 3 failed, in ")


def shown(output: io.StringIO, columns: int) -> list[str]:
    """Return the lines on a terminal after some output."""
    terminal = pyte.Screen(columns, 24)
    pyte.Stream(terminal).feed(output.getvalue().replace("\n", "\r\n"))
    return [line.rstrip() for line in terminal.display if line.strip()]


@pytest.mark.parametrize("variable", [("TERM", "dumb"), ("CI", "true"), ("JPY_PARENT_PID", "42")])
def test_lines_are_printed_where_nothing_can_be_redrawn(
    variable: tuple[str, str], clock, screen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = screen(80, "stderr")
    monkeypatch.setenv(*variable)
    with ConsoleReporter().progress("captioning", 30, done="captioned") as stage:
        for number in range(12):
            clock[0] += 1
            stage.current(f"{number + 1}.mp4")
            stage.advance(ok=number > 0)
        stage.conclude("12 clips")
    assert "\x1b[?25l" not in notes.getvalue()
    assert plain_lines(notes) == [
        "captioned 10 of 30, 1 failed (1.0/s, 20s left) 10.mp4",
        "captioned 11 of 30, 1 failed, in 12s (1.0/s); 12 clips",
    ]


def test_forced_colors_do_not_animate_pipes(clock, screen: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = screen(40, "stderr", terminal=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ConsoleReporter().progress("captioning", 2) as stage:
        stage.advance()
        console.warning("a line that is longer than forty columns is not wrapped")
    assert plain_lines(notes) == ["warning: a line that is longer than forty columns is not wrapped"]


def test_bar_says_loading_until_first_item(clock, screen: Open) -> None:
    notes = screen(60, "stderr")
    with ConsoleReporter().progress("captioning", 2) as stage:
        console.note("before")
        stage.advance()
        console.note("after")
    before, after = "\n".join(plain_lines(notes)).split("before")
    assert "loading" in before and "captioning" not in before
    assert "captioning" in after and "compiling" not in after


def test_log_receives_notes_despite_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    console.be_quiet()
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


def test_log_must_be_a_regular_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*: Is a directory"):
        console.log_to(tmp_path)
    os.mkfifo(tmp_path / "log")
    with pytest.raises(UsageError, match=r"cannot write .*: not a regular file"):
        console.log_to(tmp_path / "log")


def test_full_disk_ends_log_with_one_warning(capsys: pytest.CaptureFixture[str]) -> None:
    console.log_to(Path("/dev/full"))
    console.warning("first")
    console.warning("second")
    assert capsys.readouterr().err.splitlines() == [
        "warning: cannot write /dev/full: No space left on device; the log ends here",
        "warning: first",
        "warning: second",
    ]
