"""`coca search`: moments that match a sentence, a picture or a video; and videos that are in an index twice."""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import console, interrupts
from ..errors import CocaError, UsageError
from . import options
from .command import warn_of_flags

if TYPE_CHECKING:
    from ..engines.choice import Choice
    from ..retrieval.entries import Entry
    from ..retrieval.index import Index
    from ..retrieval.search import Found, Searcher

MOST = 1_000_000_000  # results
MANY = 1_000_000  # vectors from which approximate search is worth its graph
PROMPT = "search> "


def search(
    context: typer.Context,
    query_and_index: Annotated[
        list[str],
        typer.Argument(
            metavar="[QUERY]... INDEX",
            show_default=False,
            help="What to look for: a sentence, a picture or a video, or several, each perhaps with a weight, as "
            "'a dog^2' photo.jpg; and the folder that coca embed wrote.",
        ),
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="QUERY",
            show_default=False,
            help="Leave out what matches this better than the query. May be given several times.",
        ),
    ] = None,
    count: Annotated[int, typer.Option("-k", metavar="N", min=1, max=MOST, help="How many to find.")] = 10,
    min_score: Annotated[
        float | None,
        typer.Option(metavar="COSINE", min=-1, max=1, show_default=False, help="Leave out what matches less."),
    ] = None,
    per_video: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MOST, show_default=False, help="At most so many moments of one video."),
    ] = None,
    among: Annotated[
        Literal["videos", "texts"] | None,
        typer.Option(
            metavar="videos|texts",
            show_default=False,
            help="What to find; by default videos and pictures, where there are any.",
        ),
    ] = None,
    interactive: Annotated[
        bool,
        typer.Option(
            "--interactive",
            "-i",
            metavar="",
            help="Answer one query a line from stdin, the model loaded once: 'a dog + photo.jpg^0.5 --not snow'.",
        ),
    ] = False,
    duplicates: Annotated[
        bool, typer.Option("--duplicates", metavar="", help="Group near-identical videos, in place of a query.")
    ] = False,
    threshold: Annotated[
        float,
        typer.Option(metavar="COSINE", min=-1, max=1, help="How similar two videos are for --duplicates."),
    ] = 0.96,
    approximate: Annotated[
        bool | None,
        typer.Option(
            "--approximate/--exact",
            show_default=False,
            help="Find most of the best, or surely all. By default exact up to a million vectors. Approximate needs "
            "the package usearch.",
        ),
    ] = None,
    root: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Where the videos are now, if they were moved: the folder itself or one above it.",
        ),
    ] = None,
    as_json: options.Json = False,
    paths0: Annotated[
        bool,
        typer.Option("--paths0", "-0", metavar="", help="Print each file's path once, ended by NUL, for xargs -0."),
    ] = False,
    cut: Annotated[
        bool,
        typer.Option("--cut", metavar="", help="Print the ffmpeg commands that cut the moments out, to the frame."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--index-model",  # not --model: what config.toml says of that is not meant
            metavar="NAME|PATH",
            autocompletion=options.complete_model,
            show_default=False,
            help="Where the model of the index is, if it is not found by its name.",
        ),
    ] = None,
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
    quiet: options.Quiet = False,
) -> None:
    """Find the moments that match a query, in an index that coca embed wrote."""
    from ..engines.choice import resolve
    from ..retrieval.index import Index
    from ..retrieval.query import parse_query

    console.be_quiet(quiet)
    choice = resolve(engine, device, precision, threads)
    *wanted, folder = query_and_index
    if as_json + paths0 + cut > 1:
        raise UsageError("--json, --paths0 and --cut are three ways to print: take one")
    if duplicates or interactive:
        if wanted or exclude or (duplicates and (interactive or paths0 or cut)):
            raise UsageError(f"{'--duplicates' if duplicates else '--interactive'} takes an index and no query")
    elif not wanted:
        raise UsageError("it takes a query and an index", f"coca search 'a dog jumps' {folder}")
    query = parse_query(wanted, exclude or ())
    warn_of_flags(context)
    with console.status("reading the index"):
        index = Index(Path(folder))
    if duplicates:
        _show_duplicates(index, threshold, root, as_json)
        return
    searcher = _searcher(index, model, choice, among, approximate)
    left_out = False

    def show(found: "Sequence[Found]") -> None:
        nonlocal left_out
        found = [replace(one, entry=_located(one.entry, root)) for one in found]
        missing = _warn_of_missing([one.entry.video for one in found], root)
        if missing and (paths0 or cut):  # what is printed is run or opened
            found = [one for one in found if one.entry.video not in missing]
            left_out = True
        if paths0:
            console.paths0(dict.fromkeys(one.entry.video for one in found if one.entry.video))
        elif cut:
            _show_cuts(found)
        elif as_json:
            console.result(json.dumps([{"score": round(one.score, 4), **one.entry.fields()} for one in found]))
        elif found:
            console.table(*_table(found))
        else:
            console.note("nothing matches")

    limits: dict[str, Any] = {"count": count, "min_score": min_score, "per_video": per_video}
    if interactive:
        _converse(searcher, limits, show)
    else:
        show(searcher.search(query, **limits))
        if left_out:
            raise typer.Exit(1)


def _located(entry: "Entry", root: Path | None) -> "Entry":
    from ..retrieval.paths import find_below

    return replace(entry, video=find_below(entry.video, root)) if root and entry.video else entry


def _warn_of_missing(videos: Iterable[str], root: Path | None) -> set[str]:
    """Return which of these files are missing, after a warning."""
    named = dict.fromkeys(filter(None, videos))
    missing = [video for video in named if not os.path.lexists(video)]
    if missing:
        advice = f"they are not in {root} either" if root else "--root FOLDER says where they were moved"
        console.warning(f"{len(missing)} of {len(named)} files are missing (first: {missing[0]}); {advice}")
    return set(missing)


def _searcher(index: "Index", model: str | None, choice: "Choice", among: Any, approximate: bool | None) -> "Searcher":
    from ..checkpoints.store import find_model
    from ..jobs import load_engine, warn_of_embeddings
    from ..retrieval.index import About, check_model
    from ..retrieval.search import Searcher

    files = find_model(model or index.about.model)
    check_model(index.folder, index.about, About(files.name, files.identity))
    if index.vectors.shape[1] != files.config.embed_dim:
        what = f"holds vectors of {index.vectors.shape[1]} numbers, not {files.config.embed_dim}"
        raise UsageError(f"{index.folder} {what}", "coca embed --overwrite makes the index anew")
    reporter = console.ConsoleReporter()
    warn_of_embeddings(files.name, reporter)
    if approximate is None and len(index.rows) > MANY:
        approximate = _usearch_is_here()
        if not approximate:
            console.note(f"{len(index.rows)} vectors: pip install 'cococli[usearch]' makes search of so many faster")
    engine = load_engine(files, choice, reporter)
    with console.status("opening the graph") as say:
        return Searcher(
            index, engine, among, bool(approximate), lambda done, of: say(f"building the graph, once: {done} of {of}")
        )


def _usearch_is_here() -> bool:
    from importlib.util import find_spec

    return find_spec("usearch") is not None


def _table(found: "Sequence[Found]") -> tuple[Sequence[str], list[Sequence[str]]]:
    """Columns and rows; columns that would be empty are left out."""
    rows = [(f"{one.score:.3f}", one.entry.video, _span(one.entry), one.entry.text) for one in found]
    columns = ("score", "file", "time", "caption" if any(one.entry.video for one in found) else "text")
    filled = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return [columns[i] for i in filled], [[row[i] for i in filled] for row in rows]


def _span(entry: "Entry") -> str:
    """The moment, as a player shows times; a picture has none."""
    return f"{_clock(entry.start)}-{_clock(entry.end)}" if entry.end else ""


def _clock(seconds: float) -> str:
    """`1:02:03.5`"""
    tenths = round(seconds * 10)
    minutes, tenths = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{minutes}:{tenths / 10:04.1f}"
    return f"{hours}:{minutes:02}:{tenths / 10:04.1f}" if hours else clock


def _show_cuts(found: "Sequence[Found]") -> None:
    from ..retrieval.cutting import cut_command

    taken: set[str] = set()
    for one in found:
        if not one.entry.end:
            console.note(f"{one.entry.video or one.entry.text}: nothing to cut")
            continue
        try:
            console.result(cut_command(one.entry, taken))
        except CocaError as error:
            console.warning(f"{one.entry.video}: {error.message}")


def _converse(searcher: "Searcher", limits: dict[str, Any], show: Any) -> None:
    """Answer one query a line, until there is no more."""
    from ..retrieval.query import parse_line, parse_query

    searcher.search(parse_query(["warm up"]), **limits)  # compiles what a text needs
    for line in _lines():
        if line.strip():
            try:
                if searcher.index.has_changed():
                    searcher = searcher.again()
                show(searcher.search(parse_line(line), **limits))
            except CocaError as error:
                console.warning(error.message)
                if not console.stdout_is_terminal():
                    show([])  # an answer to every query


def _lines() -> Iterable[str]:
    """Lines from a person, who can edit and recall them, or from a program."""
    sys.stdin.reconfigure(errors="surrogateescape")  # type: ignore[union-attr] # file names may be no text
    is_person = sys.stdin.isatty() and console.stdout_is_terminal()
    if is_person:
        import readline  # noqa: F401 (input() uses it)

        console.note("one query a line; Ctrl-D ends")
    while True:
        interrupts.catch()  # MindSpore took Ctrl-C over when it computed, and would swallow it
        try:
            line = _ask() if is_person else next(sys.stdin)
        except (EOFError, StopIteration):
            return
        yield line


def _ask() -> str:
    """A line that is typed. It can be edited only where stdout is the terminal itself, see `guard_streams`."""
    os.dup2(sys.stdout.fileno(), 1)
    try:
        with redirect_stdout(open(1, "w", closefd=False)):
            return input(PROMPT)
    finally:
        os.dup2(2, 1)


def _show_duplicates(index: "Index", threshold: float, root: Path | None, as_json: bool) -> None:
    from ..retrieval.duplicates import duplicates

    rows: dict[str, list[int]] = {}
    entries: list[Entry] = []  # one of each video
    for entry in map(index.entry, index.rows[~index.is_text].tolist()):
        if entry.video not in rows:
            entries.append(entry)
        rows.setdefault(entry.video, []).append(entry.row)
    with console.status(f"comparing {len(entries)} videos"):
        groups = duplicates(index.vectors, list(rows.values()), threshold)
    names = [_located(entry, root).video for entry in entries]
    _warn_of_missing([names[i] for group in groups for i in group.members], root)
    if as_json:
        told = [{"score": round(group.score, 4), "videos": [names[i] for i in group.members]} for group in groups]
        console.result(json.dumps(told))
    elif groups:
        console.table(
            ("group", "score", "file"),
            [
                (str(number), f"{group.score:.3f}", names[member])
                for number, group in enumerate(groups, start=1)
                for member in group.members
            ],
        )
    copies = sum(len(group.members) - 1 for group in groups)
    console.note(f"{copies} of {len(names)} are copies of another" if groups else "no two are the same")
