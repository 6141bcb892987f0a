"""The only printer: results on stdout; notes, warnings, errors and progress on stderr and in the log file."""

import contextlib
import json
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from . import interrupts, streams
from .reporting import Progress, Reporter

if TYPE_CHECKING:  # rich takes 50 ms to import, and shell completion prints nothing with it
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal
LEAST_TEXT = 16  # cells of a terminal that a text needs to stand beside its name
NARROW = 60  # cells of a terminal below which a table that does not fit is printed cell by cell
_OVERRIDES = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # classes of bidirectional text


@dataclass
class _State:
    """Settings of the output, and what is on the screen."""

    quiet: bool = False
    json_events: bool = False
    live: "Live | None" = None
    stages: list["_Stage"] = field(default_factory=list)  # under way, outermost first


_state = _State()


def stdout_is_terminal() -> bool:
    """Whether a person reads the results."""
    return sys.stdout.isatty()


def result(line: str) -> None:
    """Print one line of results.

    Raises:
        BrokenPipeError: nobody reads on.
        CocaError: it cannot be written, as when the disk is full.
    """
    with _live_hidden():
        print(line, flush=True)


def paths0(paths: Iterable[str]) -> None:
    """Print paths as the file system has them, each ended by NUL.

    Raises:
        BrokenPipeError: nobody reads on.
    """
    sys.stdout.flush()
    for path in paths:
        sys.stdout.buffer.write(os.fsencode(path) + b"\0")
    sys.stdout.buffer.flush()


def row(name: str, text: str, width: int) -> None:
    """Print a name and a text side by side for a person, or the text below where the terminal is narrow.

    Args:
        name: Printed whole: one longer than the column has a line to itself.
        text: What belongs to the name, wrapped between words.
        width: Cells of the first column.

    Raises:
        BrokenPipeError: nobody reads on.
        CocaError: it cannot be written.
    """
    from rich.padding import Padding
    from rich.table import Table

    screen = _result_screen()
    name, text = printable(name), printable(text)
    beside = screen.width - width - 2 >= LEAST_TEXT
    alone = not beside or cells(name) > width
    table = Table.grid(padding=(0, 2))
    table.add_column(width=width, style="cyan", no_wrap=True)
    table.add_column()
    table.add_row("" if alone else name, text)
    with _live_hidden():
        if alone:
            screen.print(name, style="cyan", soft_wrap=True)
        screen.print(table if beside else Padding(text, (0, 0, 0, 2), expand=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of texts: as wide as the terminal at most, and each row a line in a pipe.

    Raises:
        BrokenPipeError: nobody reads on.
        CocaError: it cannot be written.
    """
    from rich.table import Table

    width = None if stdout_is_terminal() else 10_000  # more than any row takes
    screen = _result_screen(width)
    printed = [tuple(map(printable, row)) for row in rows]
    widths = [max(map(cells, column)) + 2 for column in zip(columns, *printed, strict=True)]
    if len(columns) > 2 and screen.width < min(sum(widths) - 2, NARROW):
        _stacked(columns, printed)
        return
    grid = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in columns:
        grid.add_column(name, overflow="fold")
    for texts in printed:
        grid.add_row(*texts)
    with screen.capture() as lines:
        screen.print(grid)
    for line in lines.get().splitlines():
        result(line.rstrip())


def _stacked(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print the cells of each row below each other, with a blank line between rows."""
    width = max(map(cells, columns))
    for number, texts in enumerate(rows):
        if number:
            result("")
        for name, text in zip(columns, texts, strict=True):
            if text:
                row(name or "-", text, width)


def _result_screen(width: int | None = None) -> "Console":
    from rich.console import Console

    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)


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


def note(text: str) -> None:
    """Print something in passing."""
    _say("note", text, style="dim")


def warning(text: str) -> None:
    """Print a problem that does not stop the command."""
    _say("warning", text, style="yellow")


def error(message: str, hint: str = "") -> None:
    """Print why the command stops, and the next step."""
    _say("error", message, style="bold red")
    if hint:
        _say("hint", hint)


def _say(kind: str, text: str, style: str = "") -> None:
    line = text if kind == "note" else f"{kind}: {text}"
    with _log_failing():
        streams.log.write(printable(line))
    if _state.quiet and kind == "note":
        return
    if _state.json_events:
        _emit(event=kind, text=text)
        return
    with _live_hidden():
        screen = _screen()
        screen.print(printable(line), style=style, soft_wrap=not screen.is_terminal)


def _emit(**event: Any) -> None:
    print(json.dumps(event), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _log_failing() -> Iterator[None]:
    """Warn if the log cannot be written. It ends there."""
    try:
        yield
    except OSError as problem:
        warning(f"cannot write {problem.filename}: {problem.strerror}; the log ends here")


def cells(text: str) -> int:
    """Return the width of a text on a terminal."""
    from rich.cells import cell_len

    return cell_len(printable(text))


def printable(text: str) -> str:
    """Spell out control characters, bidirectional overrides and undecodable bytes: a file name may steer a terminal."""
    if text.isprintable():
        return text
    return "".join(char.encode("unicode_escape").decode() if _steers(char) else char for char in text)


def _steers(char: str) -> bool:
    """Return whether a character changes how others are shown, beyond what emoji and scripts need."""
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(char) in _OVERRIDES


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


class ConsoleReporter(Reporter):
    """Shows on stderr what is reported. The first Ctrl-C requests a stop of stages that can end early.

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
                stack.enter_context(interrupts.patiently(lambda: note(f"{on_stop}; Ctrl-C again stops now")))
            try:
                with stage.on_screen() if _animated() else contextlib.nullcontext():
                    yield stage
            except BrokenPipeError:  # nobody reads on, as after `| head`
                stage.past = ""
                raise
            finally:  # an interrupted run says how far it came, too
                if stage.past and stage.done:
                    note(stage.summary())

    @property
    def stop_requested(self) -> bool:
        return interrupts.came()


class _Stage(Progress):
    """A stage of work: a bar or a spinner on a terminal, elsewhere a line now and then, or a JSON event per step."""

    def __init__(self, description: str, total: int | None, unit: str = "items", past: str = "") -> None:
        self.description, self.total, self.unit, self.past = description, total, unit, past
        self.done = self.failed = 0
        self.detail = ""
        self._earlier: int | None = None  # done before this process: of no use for the rate
        self._started = self._printed = time.monotonic()
        self._show: Callable[[], object] = self._emit if _state.json_events else self._print
        self._bar: Bar | None = None

    def advance(self, ok: bool = True) -> None:
        self._earlier = self._earlier or 0
        self.done += 1
        self.failed += not ok
        self._show()

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        if self._earlier is None:
            self._earlier, self._started = done, time.monotonic()
        self.done, self.detail = done, detail
        self.total = self.total if total is None else total
        self._show()

    def describe(self, text: str) -> None:
        self.description = text
        if self._bar:
            self._show()

    def _emit(self) -> None:
        if not _state.quiet and self.total is not None:
            seconds = round(self._elapsed, 3)
            counts = {"done": self.done, "total": self.total, "failed": self.failed}
            _emit(event="progress", stage=self.description, **counts, detail=self.detail, seconds=seconds)

    def _print(self) -> None:
        if self.total and self.done < self.total and self._count and time.monotonic() - self._printed >= LINE_EVERY:
            self._printed = time.monotonic()
            note(self._line())

    def _line(self) -> str:
        if self.unit == "bytes":
            return f"{self.description}: {self.done / 1e9:.2f} of {(self.total or 0) / 1e9:.2f} GB"
        line = f"{self.past or self.description} {self.done} of {self.total} ({self.rate}, {self.left} left)"
        return f"{line} {self.detail}".rstrip()

    def summary(self) -> str:
        """Describe how the stage went."""
        failed = f", {self.failed} failed," if self.failed else ""
        ok = self.done - self.failed
        return f"{self.past} {ok} of {self.total}{failed} in {duration(self._elapsed)} ({self.rate})"

    @property
    def rate(self) -> str:
        """Items per second, or per minute where that reads better; a dash before the first one."""
        if not self._count:
            return "-"
        per_second = self._count / max(self._elapsed, 1e-6)
        return f"{per_second:.1f}/s" if per_second >= 1 else f"{60 * per_second:.1f}/min"

    @property
    def left(self) -> str:
        """The time left; a dash before the first item."""
        left = (self.total or 0) - self.done
        return duration(left * self._elapsed / self._count) if self._count else "-"

    @property
    def _count(self) -> int:
        return self.done - (self._earlier or 0)

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    @contextlib.contextmanager
    def on_screen(self) -> Iterator[None]:
        """Draw a bar, below those of the stages around this one, and the detail below it."""
        from rich.console import Group
        from rich.live import Live
        from rich.progress import Progress as Bar

        bar = Bar(*_columns(self.unit, self.total), console=_screen())
        # A bar that stands still must say why: the first step may compile the network.
        waiting = "starting" if self.total is not None and self.unit == "items" else printable(self.description)
        task = bar.add_task(waiting, total=self.total, rate="", left="-")

        def show() -> None:
            text, total = printable(self.description), self.total
            bar.update(task, description=text, completed=self.done, total=total, rate=self.rate, left=self.left)

        self._show, self._bar = show, bar
        _state.stages.append(self)
        if not _state.live:
            _state.live = Live(
                get_renderable=lambda: Group(*(part for stage in _state.stages for part in stage._drawn())),
                console=_screen(),
                transient=True,
                refresh_per_second=10,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            _state.live.start(refresh=True)
        try:
            yield
        finally:
            if _state.stages == [self]:
                _state.live.stop()
                _state.live = None
            _state.stages.remove(self)

    def _drawn(self) -> "Iterator[RenderableType]":
        from rich.text import Text

        if self._bar:
            yield self._bar
        if self.detail:
            yield Text(printable(self.detail), overflow="ellipsis", no_wrap=True, style="dim")


def _columns(unit: str, total: int | None) -> "tuple[ProgressColumn, ...]":
    """Return the parts of a bar; those of a spinner where the number of items is unknown."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    name = (SpinnerColumn(), TextColumn("{task.description}"))
    if unit == "bytes":
        speed = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(compact=True))
        return (*name, BarColumn(bar_width=None), *speed)
    if total is None:
        return name
    pace = (TextColumn("{task.fields[rate]}"), TextColumn("{task.fields[left]} left"))
    return (*name, BarColumn(bar_width=None), MofNCompleteColumn(), *pace)


@contextlib.contextmanager
def _live_hidden() -> Iterator[None]:
    """Take bars off the screen while a line goes out, which may belong to the other stream."""
    live = _state.live
    if not live:
        yield
        return
    live.stop()
    try:
        yield
    finally:
        live.start(refresh=True)


def _animated() -> bool:
    """Return whether a person sees what moves."""
    return not _state.quiet and not _state.json_events and _screen().is_terminal


def _screen() -> "Console":
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
