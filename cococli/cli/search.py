"""`coca search`: moments that match a query, and near-identical videos."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated

from .. import console, interrupts
from ..errors import CocaError, UsageError
from ..options import JsonOutput, Option
from ..reporting import Reporter
from ..requests import SearchRequest
from .command import command
from .review import serve

if TYPE_CHECKING:
    from ..retrieval.index import Entry
    from ..retrieval.search import Found

PROMPT = "search> "

Show = Callable[["Sequence[Found]", Reporter], int]  # prints results and returns the exit code


@command(
    'coca search "a dog jumps" index/',
    'coca search photo.jpg "at night^0.5" index/ --not "a car" -k 3',
    'coca search "a dog jumps" index/ --cut | bash',
)
def search(
    request: SearchRequest,
    reporter: console.ConsoleReporter,
    interactive: Annotated[
        bool,
        Option(
            "Answer one query per line of stdin, with the model loaded once: 'a dog + photo.jpg^0.5 --not snow'.",
            flags=("--interactive", "-i"),
        ),
    ] = False,
    duplicates: Annotated[bool, Option("Group near-identical videos, instead of a query.")] = False,
    as_json: JsonOutput = False,
    paths0: Annotated[
        bool, Option("Print each file's path once, terminated by NUL, for xargs -0.", flags=("--paths0", "-0"))
    ] = False,
    cut: Annotated[bool, Option("Print ffmpeg commands that cut out the moments, exact to the frame.")] = False,
    show_page: Annotated[
        bool, Option("Open the results in a browser, to play them and to search on.", flags=("--show",))
    ] = False,
) -> int:
    """Find the moments that match a query, in an index that coca embed wrote."""
    if as_json + paths0 + cut + show_page > 1:
        raise UsageError("--json, --paths0, --cut and --show exclude each other", "choose one")
    if (duplicates or interactive) and (request.query or request.exclude):
        raise UsageError(f"{'--duplicates' if duplicates else '--interactive'} takes an index and no query")
    if duplicates and (interactive or paths0 or cut or show_page):
        raise UsageError("--duplicates cannot be combined with --interactive, --paths0, --cut or --show")
    if interactive and show_page:
        raise UsageError("--interactive cannot be combined with --show", "the page of --show searches, too")
    if duplicates:
        return _show_duplicates(request, as_json, reporter)
    if show_page:
        from ..review.start import open_hits

        serve(open_hits(request, reporter), reporter)
        return 0
    show = _show_json if as_json else _show_paths if paths0 else _show_cuts if cut else _show_table
    if interactive:
        return _converse(request, show, reporter)
    from ..retrieval.search import search

    return show(search(request, reporter), reporter)


def _show_json(found: "Sequence[Found]", reporter: Reporter) -> int:
    console.json_result([one.fields() for one in found])
    return 0


def _show_paths(found: "Sequence[Found]", reporter: Reporter) -> int:
    paths = [one.entry.video for one in found if one.entry.video and not one.missing]
    console.paths0(dict.fromkeys(paths))
    return _incomplete(found)


def _show_cuts(found: "Sequence[Found]", reporter: Reporter) -> int:
    from ..retrieval.cut import cut_command

    taken: set[str] = set()
    for entry in (one.entry for one in found if not one.missing):
        if not entry.end:
            reporter.note(f"{entry.video or entry.text}: nothing to cut")
            continue
        try:
            console.result(cut_command(entry, taken))
        except CocaError as error:
            reporter.warning(f"{entry.video}: {error.message}")
    return _incomplete(found)


def _incomplete(found: "Sequence[Found]") -> int:
    """Return the exit code where missing files are left out, as other programs would open them."""
    return int(any(one.missing for one in found))


def _show_table(found: "Sequence[Found]", reporter: Reporter) -> int:
    if not found:
        reporter.note("nothing matches")
        return 0
    rows = [(f"{one.score:.3f}", one.entry.video, _span(one.entry), one.entry.text) for one in found]
    columns = ("score", "file", "time", "caption" if any(one.entry.video for one in found) else "text")
    filled = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    console.table([columns[i] for i in filled], [[row[i] for i in filled] for row in rows])
    return 0


def _span(entry: "Entry") -> str:
    """Format the moment as players show times; a picture has none."""
    return f"{_clock(entry.start)}-{_clock(entry.end)}" if entry.end else ""


def _clock(seconds: float) -> str:
    """Format seconds as `1:02:03.5`."""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{minutes}:{tenths / 10:04.1f}"
    return f"{hours}:{minutes:02}:{tenths / 10:04.1f}" if hours else clock


def _show_duplicates(request: SearchRequest, as_json: bool, reporter: Reporter) -> int:
    from ..retrieval.duplicates import find_duplicates

    videos, groups = find_duplicates(request, reporter)
    if as_json:
        facts = [{"score": round(group.score, 4), "videos": [videos[i] for i in group.members]} for group in groups]
        console.json_result(facts)
    elif groups:
        numbered = enumerate(groups, start=1)
        rows = [(str(number), f"{group.score:.3f}", videos[i]) for number, group in numbered for i in group.members]
        console.table(("group", "score", "file"), rows)
    copies = sum(len(group.members) - 1 for group in groups)
    reporter.note(f"{copies} of {len(videos)} are copies of another" if groups else "no two are the same")
    return 0


def _converse(request: SearchRequest, show: Show, reporter: Reporter) -> int:
    """Answer a query per line until the input ends."""
    from ..retrieval.search import open_searcher, parse_line

    searcher = open_searcher(request, reporter)
    limits = (request.count, request.min_score, request.per_video)
    # This compiles what a text needs.
    searcher.embed("warm up")
    for line in _lines():
        if line.strip():
            try:
                show(searcher.search(parse_line(line), *limits), reporter)
            except CocaError as error:
                reporter.warning(error.message)
                if not console.stdout_is_terminal():
                    # Programs expect an answer to every query.
                    show([], reporter)
    return 0


def _lines() -> Iterator[str]:
    """Yield lines from a person, who can edit and recall them, or from a program."""
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr] # file names may not be text
    is_person = sys.stdin.isatty() and console.stdout_is_terminal()
    if is_person:
        import readline  # noqa: F401 (input() uses it)

        console.note("one query a line; Ctrl-D ends")
    while True:
        # MindSpore replaces the handler of Ctrl-C when it computes.
        interrupts.catch()
        try:
            line = _ask() if is_person else next(sys.stdin)
        except (EOFError, StopIteration):
            return
        yield line


def _ask() -> str:
    """Read a typed line. It can be edited only where stdout is the terminal itself, see `streams.guard`."""
    os.dup2(sys.stdout.fileno(), 1)
    try:
        with redirect_stdout(open(1, "w", closefd=False)):
            return input(PROMPT)
    finally:
        os.dup2(2, 1)
