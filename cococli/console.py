"""The only printer: results on stdout; notes, warnings, errors and progress on stderr and in the log file."""

import contextlib
import json
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import interrupts, streams
from .reporting import Progress, Reporter

if TYPE_CHECKING:  # rich is slow to import, which help pages and shell completion do without
    from rich.console import Console, RenderableType
    from rich.live import Live

LINE_INTERVAL = 10.0  # seconds between progress lines where nothing can be redrawn
BURST = 1.0  # seconds in which items come with the first one, as those of its batch do
MIN_BAR_WIDTH = 10  # cells
MIN_TEXT_WIDTH = 16  # cells that a text needs to stand beside its name
NARROW = 60  # cells of a terminal below which a table that does not fit is printed cell by cell
_BIDIRECTIONAL_CONTROLS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")


@dataclass
class _State:
    """Settings of the output, and what is on the screen."""

    quiet: bool = False
    json_events: bool = False
    stages: list["_Stage"] = field(default_factory=list)  # on the screen, outermost first
    live: "Live | None" = None  # redraws the stages


_state = _State()


def be_quiet(quiet: bool = True) -> None:
    """Hide progress and notes from now on. The log still receives the notes."""
    _state.quiet = quiet


def speak_json() -> None:
    """Print notes, warnings, errors and progress as JSON objects from now on, one per line."""
    _state.json_events = True


def log_to(path: Path) -> None:
    """Append notes, warnings and errors to a file, with timestamps, including those printed so far.

    Raises:
        UsageError: It cannot be opened, or is not a regular file.
    """
    with _log_failing():
        streams.log.open(path)


def stdout_is_terminal() -> bool:
    """Return whether a person reads the results."""
    return sys.stdout.isatty()


def result(line: str) -> None:
    """Print a line of results.

    Raises:
        BrokenPipeError: The reader is gone, as after `| head`.
        CocaError: It cannot be written, as when the disk is full.
    """
    with _live_paused():
        print(line, flush=True)


def json_result(value: object) -> None:
    """Print a value as one line of JSON.

    Raises:
        BrokenPipeError: The reader is gone.
        CocaError: It cannot be written.
    """
    result(json.dumps(value, default=str))


def paths0(paths: Iterable[str]) -> None:
    """Print paths as bytes of the file system, each ended by NUL.

    Raises:
        BrokenPipeError: The reader is gone.
    """
    sys.stdout.flush()
    for path in paths:
        sys.stdout.buffer.write(os.fsencode(path) + b"\0")
    sys.stdout.buffer.flush()


def row(name: str, text: str, width: int) -> None:
    """Print a name and a text side by side, or the text below if the terminal is narrow.

    Args:
        name: Printed whole: one longer than the column has a line to itself.
        text: What belongs to the name, wrapped between words.
        width: Cells of the first column.

    Raises:
        BrokenPipeError: The reader is gone.
        CocaError: It cannot be written.
    """
    from rich.padding import Padding
    from rich.table import Table

    screen = _screen(sys.stdout)
    name, text = printable(name), printable(text)
    beside = screen.width - width - 2 >= MIN_TEXT_WIDTH
    alone = not beside or cells(name) > width
    table = Table.grid(padding=(0, 2))
    table.add_column(width=width, style="cyan", no_wrap=True)
    table.add_column()
    table.add_row("" if alone else name, text)
    with _live_paused():
        if alone:
            screen.print(name, style="cyan", soft_wrap=True)
        screen.print(table if beside else Padding(text, (0, 0, 0, 2), expand=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: as wide as the terminal at most; in a pipe, each row is one line.

    Raises:
        BrokenPipeError: The reader is gone.
        CocaError: It cannot be written.
    """
    from rich.table import Table

    screen = _screen(sys.stdout, width=None if stdout_is_terminal() else 10_000)  # more than any row takes
    shown = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(cells, column)) + 2 for column in zip(columns, *shown, strict=True)]
    if len(columns) > 2 and screen.width < min(sum(widths) - 2, NARROW):
        _print_cell_by_cell(columns, shown)
        return
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in columns:
        grid.add_column(name, overflow="fold")
    for texts in shown:
        grid.add_row(*texts)
    with screen.capture() as lines:
        screen.print(grid)
    for line in lines.get().splitlines():
        result(line.rstrip())


def _print_cell_by_cell(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print the cells of each row below each other, with a blank line between rows."""
    width = max(map(cells, columns))
    for number, texts in enumerate(rows):
        if number:
            result("")
        for name, text in zip(columns, texts, strict=True):
            if text:
                row(name or "-", text, width)


def note(text: str) -> None:
    """Print something in passing."""
    _print_message("note", text, style="dim")


def warning(text: str) -> None:
    """Print a problem that does not stop the command."""
    _print_message("warning", text, style="yellow")


def error(message: str, hint: str = "") -> None:
    """Print why the command stops, and the next step."""
    _print_message("error", message, style="bold red")
    if hint:
        _print_message("hint", hint)


def _print_message(kind: str, text: str, style: str = "") -> None:
    line = printable(text if kind == "note" else f"{kind}: {text}")
    with _log_failing():
        streams.log.write(line)
    if _state.quiet and kind == "note":
        return
    if _state.json_events:
        _print_event(event=kind, text=text)
        return
    with _live_paused():
        screen = _screen(sys.stderr)
        screen.print(line, style=style, soft_wrap=not sys.stderr.isatty())


def _print_event(**event: Any) -> None:
    print(json.dumps(event), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _log_failing() -> Iterator[None]:
    """Warn if the log cannot be written. It ends there."""
    try:
        yield
    except OSError as problem:
        warning(f"cannot write {problem.filename}: {problem.strerror}; the log ends here")


@contextlib.contextmanager
def _live_paused() -> Iterator[None]:
    """Take progress off the screen while a line is printed, on either stream."""
    if not _state.live:
        yield
        return
    _state.live.stop()
    try:
        yield
    finally:
        _state.live = _draw(_state.live.console)


def _screen(stream: Any, width: int | None = None) -> "Console":
    from rich.console import Console

    # Those without colors.
    monochrome = bool(re.fullmatch(r"vt\d+.*|.*-m(ono)?", os.environ.get("TERM", "")))
    no_color = True if monochrome else None
    return Console(file=stream, width=width, no_color=no_color, highlight=False, markup=False, emoji=False)


def _redraws(screen: "Console") -> bool:
    """Return whether lines can be drawn again: not on dumb terminals, in notebooks, and in logs of CI.

    The latter two may have a terminal, but keep all that is written.
    """
    keeps_all = os.environ.get("CI") or "JPY_PARENT_PID" in os.environ
    return sys.stderr.isatty() and not screen.is_dumb_terminal and not keeps_all


def cells(text: str) -> int:
    """Return the width of a text on a terminal."""
    from rich.cells import cell_len

    return cell_len(printable(text))


def printable(text: str) -> str:
    """Escape control characters, bidirectional overrides and undecodable bytes: a file name could steer a terminal."""
    if text.isprintable():
        return text
    return "".join(char.encode("unicode_escape").decode() if _is_control(char) else char for char in text)


def _is_control(char: str) -> bool:
    """Return whether a character changes how others are shown, beyond what emoji and scripts need."""
    is_control = unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
    return is_control or unicodedata.bidirectional(char) in _BIDIRECTIONAL_CONTROLS


def duration(seconds: float) -> str:
    """Format seconds for a person: `0.8s`, `42s`, `9m 12s`, `3h 05m`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


def ago(when: datetime | None) -> str:
    """Format a time relative to now: `3 days ago`."""
    if when is None:
        return "never"
    passed = (datetime.now(UTC) - when).total_seconds()
    for seconds, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if (count := int(passed // seconds)) > 0:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


class ConsoleReporter(Reporter):
    """Prints what is reported. The first Ctrl-C requests a stop of stages that can end early.

    Attributes:
        on_checked: Called once the request is known to be valid.
        on_record: Prints a record, if the command shows records.
    """

    on_checked: Callable[[], object] | None = None
    on_record: Callable[[Any], object] | None = None

    def note(self, text: str) -> None:
        note(text)

    def warning(self, text: str) -> None:
        warning(text)

    def checked(self) -> None:
        if self.on_checked:
            self.on_checked()

    def log_to(self, path: Path) -> None:
        log_to(path)

    def record(self, record: Any) -> None:
        if self.on_record:
            self.on_record(record)

    @contextlib.contextmanager
    def progress(
        self,
        description: str,
        total: int | None = None,
        *,
        unit: Literal["items", "bytes"] = "items",
        done: str = "",
        on_stop: str = "",
    ) -> Iterator[Progress]:
        stage = _Stage(description, total, unit, done)
        with contextlib.ExitStack() as stack:
            if on_stop:
                stack.enter_context(interrupts.graceful(lambda: note(f"{on_stop}; Ctrl-C again stops now")))
            try:
                with _on_screen(stage):
                    yield stage
            except BrokenPipeError:  # the reader is gone, as after `| head`
                stage.past = ""
                raise
            finally:  # an interrupted run says how far it came, too
                if stage.past and stage.done:
                    note(stage.summary())

    @property
    def stop_requested(self) -> bool:
        return interrupts.came()


class _Stage(Progress):
    """A stage of work: drawn on a terminal; elsewhere an occasional line, or a JSON event per step.

    Pace and times are counted from the first item that succeeds: loading and compiling come before it, and files that
    cannot be read fail before.
    """

    def __init__(self, description: str, total: int | None, unit: str = "items", past: str = "") -> None:
        self.description, self.total, self.unit, self.past = description, total, unit, past
        self.done = self.failed = 0
        self.detail = self.item = self.conclusion = ""
        self._began = self._printed = time.monotonic()
        self._first: float | None = None  # time of the first item that succeeded, or failed before any did
        self._pace_from = (0, 0.0)  # items and time from which the pace is counted

    def advance(self, ok: bool = True) -> None:
        self.done += 1
        self.failed += not ok
        self._count(first=ok and self.done - self.failed == 1)
        self._print()

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        self.done, self.detail = done, detail
        self.total = self.total if total is None else total
        self._count()
        self._print()

    def describe(self, text: str) -> None:
        self.description = text

    def current(self, item: str) -> None:
        self.item = item

    def conclude(self, text: str) -> None:
        self.conclusion = text

    def _count(self, first: bool = False) -> None:
        now = time.monotonic()
        if self._first is None or first:
            self._first = now
        if now - self._first < BURST:
            self._pace_from = (self.done, now)

    def _print(self) -> None:
        """Print the progress if it is not on the screen and known to matter by now."""
        if self.total is None or self in _state.stages:
            return
        if _state.json_events:
            if not _state.quiet:
                counts = {"done": self.done, "total": self.total, "failed": self.failed}
                detail, seconds = self.detail or self.item, round(time.monotonic() - self._began, 3)
                _print_event(event="progress", stage=self.description, **counts, detail=detail, seconds=seconds)
        elif self._pace and self.done < self.total and time.monotonic() - self._printed >= LINE_INTERVAL:
            self._printed = time.monotonic()
            if self.unit == "bytes":
                note(f"{self.description}: {self.counts(' of ')}")
            else:
                failed = f", {self.failed} failed" if self.failed else ""
                counted = f"{self.past or self.description} {self.counts(' of ')}{failed}"
                note(f"{counted} ({self.rate}, {self.left} left) {self.detail or self.item}".rstrip())

    def summary(self) -> str:
        """Describe how the stage went."""
        seconds = time.monotonic() - self._began
        failed = f", {self.failed} failed," if self.failed else ""
        rate = _per_time(self.done / max(seconds, 1e-6))
        line = f"{self.past} {self.done - self.failed} of {self.total}{failed} in {duration(seconds)} ({rate})"
        return f"{line}; {self.conclusion}" if self.conclusion else line

    def counts(self, separator: str) -> str:
        """Format how much is done and the total."""
        if self.unit == "bytes":
            total = self.total or 0
            size, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
            return f"{self.done / size:.2f}{separator}{total / size:.2f} {name}"
        return f"{self.done}{separator}{self.total}"

    @property
    def rate(self) -> str:
        """Items or megabytes per second, items per minute if they are slow; a dash before it is known."""
        if not self._pace:
            return "-"
        return f"{self._pace / 1e6:.1f} MB/s" if self.unit == "bytes" else _per_time(self._pace)

    @property
    def left(self) -> str:
        """The time left; a dash before it is known."""
        return duration(((self.total or 0) - self.done) / self._pace) if self._pace else "-"

    @property
    def _pace(self) -> float:
        """Items per second; 0 before it is known."""
        done, since = self._pace_from
        return (self.done - done) / max(time.monotonic() - since, 1e-6)

    def draw(self, spinner: "RenderableType", width: int) -> "Iterator[RenderableType]":
        """Yield the lines of the stage on a terminal of so many cells: what fits, and what is under way below."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        # Before the first item, nothing of this stage shows.
        waiting = self.total is not None and self._first is None and self.unit == "items"
        text = "loading" if waiting else printable(self.description)
        facts, has_bar, times = self._facts(width - 2 - cells(text))
        line = Table.grid(padding=(0, 1), expand=has_bar)
        line.add_column()
        line.add_column(no_wrap=True, overflow="ellipsis")
        row: list[RenderableType] = [spinner, text]
        if has_bar:
            line.add_column(ratio=1)
            row.append(ProgressBar(max(self.total or 0, 1), self.done))
        for fact in facts:
            line.add_column(no_wrap=True)
            row.append(fact)
        line.add_row(*row)
        yield line
        for shown in filter(None, (times, _end_of(self.item, width), printable(self.detail))):
            yield Text(shown, overflow="ellipsis", no_wrap=True, style="dim")

    def _facts(self, room: int) -> tuple[list[str], bool, str]:
        """Return what is shown beside the description in so many cells, whether a bar fits, too, and what is below."""
        if self.total is None:
            return [], False, ""
        counts = [self.counts("/"), *([f"{self.failed} failed"] if self.failed else [])]
        times = []
        if self._pace and self._first is not None:
            times = [f"{duration(time.monotonic() - self._first)} elapsed,", f"{self.left} left"]
        choices = ([*counts, self.rate, *times], [*counts, *times], counts) if times else (counts,)
        taken = [sum(cells(fact) + 1 for fact in facts) for facts in choices]
        best = next((i for i, width in enumerate(taken) if width <= room), len(choices) - 1)
        below = " ".join(times) if choices[best] is counts else ""
        return choices[best], taken[best] + MIN_BAR_WIDTH + 1 <= room, below


def _per_time(per_second: float) -> str:
    """Format a rate: per minute, if that is less than one per second."""
    return f"{per_second:.1f}/s" if per_second >= 1 else f"{60 * per_second:.1f}/min"


def _end_of(name: str, width: int) -> str:
    """Return a name in at most so many cells, without its beginning if it is longer."""
    name = printable(name)
    if cells(name) <= width:
        return name
    while name and cells(name) >= width:
        name = name[1:]
    return f"…{name}"


@contextlib.contextmanager
def _on_screen(stage: _Stage) -> Iterator[None]:
    """Draw a stage below those around it, if a person sees what moves."""
    screen = _screen(sys.stderr)
    if _state.quiet or _state.json_events or not _redraws(screen):
        yield
        return
    _state.stages.append(stage)
    if not _state.live:
        _state.live = _draw(screen)
    try:
        yield
    finally:
        if _state.stages == [stage]:
            _state.live.stop()
            _state.live = None
        _state.stages.remove(stage)


def _draw(screen: "Console") -> "Live":
    """Start to draw the stages below what was printed.

    An instance of Live that is stopped and started again would erase as many lines as it had drawn before.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.spinner import Spinner

    spinner = Spinner("dots", style="green")
    live = Live(
        get_renderable=lambda: Group(*(line for shown in _state.stages for line in shown.draw(spinner, screen.width))),
        console=screen,
        transient=True,
        refresh_per_second=10,
        redirect_stdout=False,
        redirect_stderr=False,
    )
    live.start(refresh=True)
    return live
