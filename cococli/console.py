"""The only printer: progress and notes on stderr, results on stdout."""

import contextlib
import io
import os
import select
import sys
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from . import interrupts
from .errors import CocaError, UsageError
from .reporting import Progress as Stage
from .reporting import Reporter
from .settings import debugging

if TYPE_CHECKING:  # rich takes 50 ms to import, and shell completion prints nothing with it
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress import Progress, ProgressColumn, TaskID

LINE_EVERY = 10.0  # seconds between progress lines where there is no terminal
LEAST_TEXT = 16  # cells of a terminal that a text needs to stand beside its name
NARROW = 60  # cells of a terminal below which a table that does not fit is printed cell by cell
_OVERRIDES = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # classes of bidirectional text


class Advance(Protocol):
    """What to call after each step of a run."""

    def __call__(self, well: bool = True) -> None: ...


_bar_on_screen: "Progress | Live | None" = None
_log: io.FileIO | None = None
_unlogged: deque[bytes] = deque(maxlen=1000)  # lines from before there was a log
_as_json = False
_quiet = False


def guard_streams() -> None:
    """Keep stdout for results and stderr for what the program says.

    C++ libraries print to both: decord its complaints, MindSpore a trace when Ctrl-C meets its compiler. That is
    shown when debugging, on stderr.
    """
    for stream in (0, 1, 2):
        _open_if_closed(stream)
    results, notes = os.dup(1), os.dup(2)
    if not debugging():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.dup2(2, 1)
    # An undecodable byte of a file name becomes \udcXX, as JSON escapes it.
    # A buffer would write a line again at exit that Ctrl-C interrupted just after it was written.
    written = _Results(results, "w")
    sys.stdout = io.TextIOWrapper(written, "utf-8", "backslashreplace", newline="\n", line_buffering=True)
    # Unbuffered, as a signal handler may write while a line is being written.
    sys.stderr = io.TextIOWrapper(_Notes(notes, "w"), "utf-8", "backslashreplace", write_through=True)


class _Results(io.FileIO):
    """stdout. Where it cannot be written, that is one clear error, and Python does not try again at exit.

    Raises:
        BrokenPipeError: Nobody reads on.
        CocaError: The disk is full.
    """

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        try:
            while rest:
                if (count := super().write(rest)) is None:  # the pipe is full, and another process set O_NONBLOCK
                    select.select([], [self], [])
                rest = rest[count or 0 :]
            return len(data)
        except OSError as problem:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            if isinstance(problem, BrokenPipeError):
                raise
            raise CocaError(f"cannot write to stdout: {problem.strerror}", "what was written so far is kept") from None


class _Notes(io.FileIO):
    """stderr. Where it cannot be written, the log says so and the work goes on."""

    _failed = False

    def write(self, data: Any) -> int:
        try:
            super().write(data)
        except OSError as problem:
            if not self._failed:
                self._failed = True
                _to_log(f"warning: cannot write to stderr: {problem.strerror}")
        return len(data)


def stdout_is_terminal() -> bool:
    """Whether a person reads the results."""
    return sys.stdout.isatty()


def result(line: str) -> None:
    """Print one line of results.

    Raises:
        BrokenPipeError: nobody reads on.
        CocaError: it cannot be written, as when the disk is full.
    """
    with _bar_hidden():
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
    with _bar_hidden():
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


def log_to(path: Path) -> None:
    """Write what a person is told, and was told before, to this file as well, each line with its time.

    Raises:
        UsageError: it cannot be written.
    """
    global _log
    try:
        if path.is_fifo() or path.is_socket() or path.is_block_device():  # opening or writing it may block forever
            raise UsageError(f"cannot write {path}: not a regular file")
        _log = path.open("ab", buffering=0)
    except OSError as problem:
        raise UsageError(f"cannot write {path}: {problem.strerror}") from None
    while _log and _unlogged:
        _write_log(_unlogged.popleft())


def speak_json() -> None:
    """From now on, tell a program what a person would be told: a JSON object a line, on stderr."""
    global _as_json
    _as_json = True


def be_quiet(quiet: bool = True) -> None:
    """From now on, show no progress and no notes. The log has them all the same."""
    global _quiet
    _quiet = quiet


def note(text: str) -> None:
    """Tell a person something in passing."""
    _say("note", text, style="dim")


def warning(text: str) -> None:
    """Tell of something that went wrong while the rest goes on."""
    _say("warning", text, style="yellow")


def error(message: str, hint: str = "") -> None:
    """Tell why the command stops, and the next step."""
    _say("error", message, style="bold red")
    if hint:
        _say("hint", hint)


def cells(text: str) -> int:
    """How wide a text stands on a terminal."""
    from rich.cells import cell_len

    return cell_len(printable(text))


def printable(text: str) -> str:
    """Spell out control characters, bidirectional overrides and undecodable bytes: a file name may steer a terminal."""
    if text.isprintable():
        return text
    return "".join(char.encode("unicode_escape").decode() if _steers(char) else char for char in text)


def _steers(char: str) -> bool:
    """Whether a character changes how others are shown, beyond what emoji and the scripts of the world need."""
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(char) in _OVERRIDES


@contextlib.contextmanager
def status(doing: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that something is under way.

    Yields:
        A function that shows something else.
    """
    if not _animated():
        yield lambda doing: None
        return
    with _screen().status(printable(doing)) as shown:
        yield lambda doing: shown.update(printable(doing))


@contextlib.contextmanager
def progress(total: int, doing: str, done: str) -> Iterator[Advance]:
    """Show how far a run is: a bar on a terminal, a plain line now and then elsewhere, and one line at its end.

    Args:
        total: Steps of the whole run.
        doing: What the run does, as in "captioning".
        done: The same when it is over, as in "captioned".

    Yields:
        A function to call after each step, telling whether it went well.
    """
    pace = Pace(total)
    left = False
    try:
        if _as_json and not _quiet:
            yield _events(pace)
        elif _animated():
            with _bar(pace, doing) as advance:
                yield advance
        else:
            yield _lines(pace, done)
    except BrokenPipeError:  # nobody reads on, as after `| head`
        left = True
        raise
    finally:  # an interrupted run says how far it came, too
        if pace.done and not left:
            note(pace.summary(done))


@contextlib.contextmanager
def transfer() -> Iterator[Callable[[str, int, int], None]]:
    """Show how many bytes are through: bars on a terminal, a plain line now and then elsewhere.

    Yields:
        A function to call with the stage, the bytes done and the bytes in all.
    """
    if not _animated():
        yield _transfer_lines()
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=_screen(), transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        stages: dict[str, TaskID] = {}

        def move(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bar.add_task(stage, total=total)
            bar.update(stages[stage], completed=done)

        yield move


def _transfer_lines() -> Callable[[str, int, int], None]:
    said = time.monotonic()

    def move(stage: str, done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= LINE_EVERY:
            said = time.monotonic()
            note(f"{stage}: {done / 1e9:.2f} of {total / 1e9:.2f} GB")

    return move


class Training(Protocol):
    """What shows how far training is."""

    def move(self, doing: str, done: int, total: int, detail: str) -> None:
        """Show how far it is, and what it found."""


@contextlib.contextmanager
def training() -> Iterator[Training]:
    """Show a run that tells something at each step: a bar and a line on a terminal, now and then a line elsewhere."""
    global _bar_on_screen
    if not _animated():
        yield _TrainingLines()
        return
    from rich.live import Live

    view = _TrainingView()
    with Live(
        get_renderable=view.shown, console=_screen(), transient=True, redirect_stdout=False, redirect_stderr=False
    ) as live:
        _bar_on_screen = live
        try:
            yield view
        finally:
            _bar_on_screen = None


def _step_columns() -> "tuple[ProgressColumn, ...]":
    """What a bar of steps shows."""
    from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn

    return (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]} left"),
    )


class _TrainingView:
    """A bar, and below it what the last step found."""

    def __init__(self) -> None:
        from rich.progress import Progress

        self._progress = Progress(*_step_columns(), console=_screen())
        # The first step compiles the network; a bar that stands still must say why.
        self._task = self._progress.add_task("compiling", total=None, rate="", left="-")
        self._detail = ""
        self._steps = _Steps()

    def shown(self) -> "Group":
        from rich.console import Group
        from rich.text import Text

        return Group(self._progress, Text(self._detail, overflow="ellipsis", no_wrap=True, style="dim"))

    def move(self, doing: str, done: int, total: int, detail: str) -> None:
        pace = self._steps.pace(doing, done, total)
        self._detail = printable(detail)
        self._progress.update(
            self._task, description=doing, completed=done, total=total, rate=pace.rate, left=pace.left
        )


class _TrainingLines:
    """The same for who reads lines, or JSON."""

    def __init__(self) -> None:
        self._steps = _Steps()
        self._said = time.monotonic()

    def move(self, doing: str, done: int, total: int, detail: str) -> None:
        pace = self._steps.pace(doing, done, total)
        if _as_json and not _quiet:
            _emit({"event": "progress", "stage": doing, "done": done, "total": total, "detail": detail})
        elif pace.done and time.monotonic() - self._said >= LINE_EVERY and done < total:
            self._said = time.monotonic()
            note(f"{doing} {done} of {total} ({pace.rate}, {pace.left} left) {detail}".rstrip())


class _Steps:
    """The pace of a run that may begin in the middle, and in stages."""

    def __init__(self) -> None:
        self._doing, self._begun = "", 0
        self._pace = Pace(0)

    def pace(self, doing: str, done: int, total: int) -> "Pace":
        if doing != self._doing:
            self._doing, self._begun = doing, done
            self._pace = Pace(total - done)
        self._pace.done = done - self._begun
        return self._pace


class Pace:
    """Steps done, their rate and the time left."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.failed = 0
        self.started = time.monotonic()

    def advance(self, well: bool = True) -> None:
        """Count a step."""
        self.done += 1
        self.failed += not well

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.started

    @property
    def rate(self) -> str:
        """Steps per second, or per minute where that reads better; a dash before the first step."""
        if not self.done:
            return "-"
        per_second = self.done / max(self.elapsed, 1e-6)
        return f"{per_second:.1f}/s" if per_second >= 1 else f"{60 * per_second:.1f}/min"

    @property
    def left(self) -> str:
        """The time left; a dash before the first step."""
        return duration((self.total - self.done) * self.elapsed / self.done) if self.done else "-"

    def line(self, done: str) -> str:
        """How far the run is."""
        return f"{done} {self.done} of {self.total} ({self.rate}, {self.left} left)"

    def summary(self, done: str) -> str:
        """How the run went."""
        failed = f", {self.failed} failed," if self.failed else ""
        well = self.done - self.failed
        return f"{done} {well} of {self.total}{failed} in {duration(self.elapsed)} ({self.rate})"


def duration(seconds: float) -> str:
    """Seconds as a person says them: `0.8s`, `42s`, `9m 12s`, `3h 05m`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"


@contextlib.contextmanager
def _bar(pace: Pace, doing: str) -> Iterator[Advance]:
    from rich.progress import Progress

    global _bar_on_screen
    bar = Progress(*_step_columns(), console=_screen(), transient=True, redirect_stdout=False, redirect_stderr=False)
    # The first step compiles the network; a bar that stands still must say why.
    task = bar.add_task("compiling", total=pace.total, rate="", left="-")

    def advance(well: bool = True) -> None:
        pace.advance(well)
        bar.update(task, description=doing, completed=pace.done, rate=pace.rate, left=pace.left)

    with bar:
        _bar_on_screen = bar
        try:
            yield advance
        finally:
            _bar_on_screen = None


def _lines(pace: Pace, done: str) -> Advance:
    last = pace.started

    def advance(well: bool = True) -> None:
        nonlocal last
        pace.advance(well)
        now = time.monotonic()
        if now - last >= LINE_EVERY and pace.done < pace.total:
            last = now
            note(pace.line(done))

    return advance


@contextlib.contextmanager
def _bar_hidden() -> Iterator[None]:
    """Take the bar off the screen while a line goes out, which may belong to the other stream."""
    bar = _bar_on_screen
    if bar is None:
        yield
        return
    bar.stop()
    try:
        yield
    finally:
        bar.start()


def _open_if_closed(stream: int) -> None:
    """Else the next file that is opened takes the stream's number, and what is printed ends up in it."""
    try:
        os.fstat(stream)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)


def _say(kind: str, text: str, style: str = "") -> None:
    """Tell a person something, and the log."""
    line = text if kind == "note" else f"{kind}: {text}"
    _to_log(line)
    if _quiet and kind == "note":
        return
    if _as_json:
        _emit({"event": kind, "text": text})
        return
    with _bar_hidden():
        _screen().print(printable(line), style=style, soft_wrap=not _screen().is_terminal)


def _to_log(line: str) -> None:
    """Write a line to the log, or keep it until there is one."""
    text = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {printable(line)}\n".encode("utf-8", "backslashreplace")
    if _log:
        _write_log(text)
    else:
        _unlogged.append(text)


def _write_log(text: bytes) -> None:
    """Write to the log. Where that fails, a warning says so and the work goes on."""
    global _log
    assert _log
    try:
        _log.write(text)
    except OSError as problem:
        log, _log = _log, None
        warning(f"cannot write {log.name}: {problem.strerror}; the log ends here")


def _emit(event: dict[str, Any]) -> None:
    import json

    print(json.dumps(event), file=sys.stderr, flush=True)


def _events(pace: Pace) -> Advance:
    def advance(well: bool = True) -> None:
        pace.advance(well)
        counts = {"done": pace.done, "failed": pace.failed, "total": pace.total}
        _emit({"event": "progress", **counts, "seconds": round(pace.elapsed, 3)})

    return advance


def _animated() -> bool:
    """Whether a person sees what moves."""
    return not _quiet and not _as_json and _screen().is_terminal


def _screen() -> "Console":
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, markup=False, emoji=False)


class ConsoleReporter(Reporter):
    """Shows what is reported on stderr. The first Ctrl-C requests a stop of stages that can end early.

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
    ) -> Iterator[Stage]:
        with contextlib.ExitStack() as stack:
            if on_stop:
                stack.enter_context(interrupts.patiently(lambda: note(f"{on_stop}; Ctrl-C again stops now")))
            if unit == "bytes":
                yield _Bytes(description, total or 0, stack.enter_context(transfer()))
            elif done:
                yield _Counted(stack.enter_context(progress(total or 0, description, done)))
            elif total is None:
                yield _Described(stack.enter_context(status(description)))
            else:
                yield _Detailed(description, total, stack.enter_context(training()))

    @property
    def stop_requested(self) -> bool:
        return interrupts.came()


class _Bytes(Stage):
    def __init__(self, description: str, total: int, move: Callable[[str, int, int], None]) -> None:
        self._description, self._total, self._move = description, total, move

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        self._total = self._total if total is None else total
        self._move(self._description, done, self._total)

    def describe(self, text: str) -> None:
        self._description = text


class _Counted(Stage):
    def __init__(self, advance: Advance) -> None:
        self._advance = advance

    def advance(self, ok: bool = True) -> None:
        self._advance(ok)


class _Described(Stage):
    def __init__(self, show: Callable[[str], None]) -> None:
        self._show = show

    def describe(self, text: str) -> None:
        self._show(text)


class _Detailed(Stage):
    def __init__(self, description: str, total: int, shown: "Training") -> None:
        self._description, self._total, self._shown = description, total, shown

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        self._total = self._total if total is None else total
        self._shown.move(self._description, done, self._total, detail)

    def describe(self, text: str) -> None:
        self._description = text
