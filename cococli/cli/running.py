"""Shared parts of embed, evaluate and search. They disappear once the library runs their requests, as for caption."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .. import console, interrupts
from ..errors import CocaError
from ..journal import Failure, Task
from ..overwrite import check_log
from .command import warn_of_flags

if TYPE_CHECKING:
    from ..engines.base import Engine
    from ..media.clips import ReadRequest
    from ..reporting import Reporter
    from ..retrieval.index import IndexWriter


def tell_as_wanted(as_json: bool, log_file: Path | None) -> None:
    """Heed --json and --log-file."""
    if as_json:
        console.speak_json()
    if log_file:
        check_log(log_file)
        console.log_to(log_file)


def warn_before_start(context: typer.Context, problems: Sequence[CocaError] = ()) -> None:
    """Warn of arguments that stand for no file, and of flags without effect."""
    warn_of_flags(context)
    for problem in problems:
        console.warning(f"{problem.message}; {problem.hint}")


def embed_tasks(
    index: "IndexWriter",
    todo: Sequence[Task],
    engine: "Engine[Any]",
    pool: str,
    request: "ReadRequest",
    batch_size: int,
    reporter: "Reporter",
) -> list[Failure]:
    """Embed these videos and texts, the first Ctrl-C permitting; returns what failed."""
    from ..jobs import report_pace
    from ..journal import text_of
    from ..media.compute import Spent
    from ..retrieval.embedding import embed_texts, embed_videos

    videos = [task for task in todo if text_of(task.name) is None]
    texts = [task for task in todo if text_of(task.name) is not None]
    failed, spent, started = [], Spent(), time.perf_counter()
    paths = [Path(task.name) for task in videos]

    def stopping() -> bool:
        return reporter.stop_requested

    with reporter.progress("embedding", len(todo), done="embedded", on_stop="finishing the batch") as progress:
        for embedded in embed_videos(paths, engine, pool, request, batch_size, reporter, spent):
            with interrupts.held():  # what is written is counted
                index.append(videos[embedded.index], embedded.entries, embedded.vectors)
                failures = [entry for entry in embedded.entries if isinstance(entry, Failure)]
                for failure in failures:
                    reporter.warning(f"{failure.video}: {failure.error}")
                failed += failures
                progress.advance(ok=not failures)
        for place, entry, vector in embed_texts([text_of(task.name) or "" for task in texts], engine, stopping):
            with interrupts.held():
                index.append(texts[place], [entry], vector)
                progress.advance()
    report_pace(spent, started, reporter)
    return failed
