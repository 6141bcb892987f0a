"""`coca caption`: a caption for every video, or for every segment of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from .. import console
from ..options import INPUT, Option
from ..requests import CaptionRequest
from .command import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..captioning.job import CaptionJob
    from ..captioning.records import Outcome, Record

NAME_COLUMN = 30  # cells of a terminal for names, next to captions
TIMED = 2  # videos that --dry-run times


@command(
    "coca caption videos/ -o captions.jsonl -o captions.csv",
    "coca caption film.mkv --segments scene -o film.srt",
    "coca caption 'trips/**/*.mov' --frames multi --num-frames 16",
)
def caption(
    request: CaptionRequest,
    reporter: console.ConsoleReporter,
    verbose: Annotated[bool, Option("Print each caption as it is written.", flags=("--verbose", "-v"))] = False,
    dry_run: Annotated[
        bool, Option("Show what would be captioned and how long it would take, without writing anything.")
    ] = False,
    watch: Annotated[
        bool,
        Option("Stay, and caption new files in the folders once they are complete. Ctrl-C ends.", panel=INPUT),
    ] = False,
) -> int:
    """Caption videos and pictures.

    Interrupted runs resume when the same command is given again.
    """
    if watch and not dry_run:
        from ..captioning.watch import watch_folders

        reporter.on_record = _Shower([], request, verbose)
        return watch_folders(request, reporter).exit_code
    return caption_request(request, reporter, verbose, dry_run)


def caption_request(
    request: CaptionRequest, reporter: console.ConsoleReporter, verbose: bool = False, dry_run: bool = False
) -> int:
    """Caption what a request names, print the captions, and return the exit code."""
    from ..captioning.job import prepare

    job = prepare(request, reporter)
    if dry_run:
        _preview(job, reporter)
        return 0
    reporter.on_record = _Shower(job.plan.videos, request, verbose)
    return job.run(reporter).exit_code


class _Shower:
    """Prints names and captions on a terminal, JSONL elsewhere, and failures as warnings."""

    def __init__(self, videos: "Sequence[Path]", request: CaptionRequest, verbose: bool) -> None:
        to_stdout = "-" in request.output
        self._table = console.stdout_is_terminal() and not to_stdout
        self._silent = bool(request.output or request.beside or request.cut_to) and not to_stdout
        self._width = min(max((console.cells(str(path)) for path in videos), default=NAME_COLUMN), NAME_COLUMN)
        self._verbose = verbose

    def __call__(self, outcome: "Outcome") -> None:
        from ..journal import Failure

        if isinstance(outcome, Failure):
            console.warning(f"{outcome.video}: {outcome.error}")
        if self._silent:
            if self._verbose and not isinstance(outcome, Failure):
                console.note(f"{_name(outcome)}: {outcome.caption}")
        elif not self._table:
            console.result(outcome.to_json())
        elif not isinstance(outcome, Failure):
            console.row(_name(outcome), outcome.caption, self._width)


def _name(record: "Record") -> str:
    """Return the video, with the segment's times if it has several."""
    return f"{record.video} {record.start:.1f}-{record.end:.1f}" if record.segments > 1 else record.video


def _preview(job: "CaptionJob", reporter: console.ConsoleReporter) -> None:
    """Print what a run would do, and about how long it would take."""
    todo, done = [], 0
    for name, is_done in job.preview():
        console.result(f"{'already captioned' if is_done else 'to caption':17}  {console.printable(name)}")
        done += is_done
        if not is_done:
            todo.append(name)
    reporter.note(f"{len(todo)} to caption, {done} already captioned; nothing was written")
    if todo and not job.cluster:
        seconds = job.estimate(todo[:TIMED], reporter) * len(todo)
        reporter.note(f"about {console.duration(seconds)}, estimated from {len(todo[:TIMED])} of them")
