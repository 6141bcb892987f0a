"""What the commands that work through many videos share: how they are told of, stopped and summed up."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .. import console, interrupts
from ..captioning.records import Record
from ..catalog import MODELS
from ..errors import CocaError
from ..journal import Failure, Work
from ..overwrite import check_log, check_paths
from ..settings import config_file
from .command import warn_of_flags

if TYPE_CHECKING:
    from ..captioning.captioner import Captioner
    from ..captioning.pipeline import Settings
    from ..captioning.records import Outcome
    from ..captioning.run import Run
    from ..checkpoints.store import ModelFiles
    from ..decoding.options import SearchOptions
    from ..engines.base import Engine
    from ..engines.choice import Choice
    from ..media.flow import Reading, Spent
    from ..retrieval.index import IndexWriter


def tell_as_wanted(as_json: bool, log_file: Path | None) -> None:
    """Heed --json and --log-file."""
    if as_json:
        console.speak_json()
    if log_file:
        check_log(log_file)
        console.log_to(log_file)


def find_files(
    paths: Sequence[str], include: Sequence[str] | None, exclude: Sequence[str] | None, since: str | None
) -> tuple[list[Path], list[CocaError]]:
    """Find the files that the arguments stand for.

    Returns:
        The files, and why arguments stand for none: patterns without a match and URLs.

    Raises:
        UsageError: There is no file.
    """
    from ..media.discover import discover
    from ..media.wanted import since as parse_since

    problems: list[CocaError] = []
    earliest = parse_since(since) if since else None
    files = discover(
        paths,
        include=include or (),
        exclude=exclude or (),
        since=earliest,
        warn=problems.append,
        note=console.note,
    )
    return files, problems


def warn_before_start(context: typer.Context, problems: Sequence[CocaError] = ()) -> None:
    """Warn of arguments that stand for no file, and of flags without effect."""
    warn_of_flags(context)
    for problem in problems:
        console.warning(f"{problem.message}; {problem.hint}")


def check_files(
    written: Iterable[tuple[str, Path]],
    read: Iterable[Path],
    model: "ModelFiles | None" = None,
    log_file: Path | None = None,
) -> None:
    """Refuse to write to what a command reads, then open its log.

    Args:
        written: Every file that may be written apart from the log, with how the user named it.
        read: Every file that is read apart from the model and config.toml.

    Raises:
        UsageError: A file would be overwritten.
    """
    from ..checkpoints.architecture import find_config

    written = [*written, *([(f"--log-file {log_file}", log_file)] if log_file else ())]
    weights = [model.weights, find_config(model.weights) or model.weights] if model else []
    check_paths(written, [config_file(), *weights, *read])
    tell_as_wanted(False, log_file)


def list_files(arguments: Iterable[str]) -> list[Path]:
    """Return the files that `@list.txt`, `@list.csv:column` and `-` are read from."""
    from ..media.lists import locate_list

    named = [locate_list(argument[1:])[0] for argument in arguments if argument.startswith("@")]
    return [*named, *(Path("/dev/stdin") for argument in arguments if argument == "-")]


def warn_of_vectors(model: str) -> None:
    """Warn where the vectors of a model are known to be useless."""
    if (known := MODELS.get(model)) and known.warning:
        console.warning(f"{model}: {known.warning}")


def as_asked(precision: str) -> tuple[str, ...]:
    """What decides on the records of a run, as far as `--precision` does.

    Under auto a run goes on with what is there, although another machine, or what was installed since, might compute
    the rest in other bits: auto never takes int8, and the others differ by little.
    """
    return () if precision == "auto" else (precision,)


def load_engine(files: "ModelFiles", choice: "Choice") -> "Engine[Any]":
    """Load the weights of a model."""
    from ..engines.choice import open_engine

    for note in filter(None, (choice.note, files.note)):
        console.note(note)
    guard = interrupts.held() if choice.engine == "mindspore" else nullcontext()  # which an interrupt would crash
    with console.status(f"loading {files.name}") as say, guard:
        return open_engine(files, choice, say)


def load_captioner(
    files: "ModelFiles",
    choice: "Choice",
    search: "SearchOptions",
    pool: str,
    prompt: str = "",
    rerank: bool = False,
) -> "Captioner":
    """Load a model that captions."""
    from ..captioning.captioner import Captioner

    return Captioner(load_engine(files, choice), files.name, search, pool, prompt, rerank)


@contextmanager
def under_way(total: int, doing: str, done: str) -> Iterator[tuple[Callable[[], bool], console.Advance]]:
    """A run of many steps: shows how far it is, and lets the first Ctrl-C finish a batch.

    Yields:
        Whether to stop, to be asked, and what to call after each step.
    """
    with (
        interrupts.patiently(lambda: console.note("finishing the batch; Ctrl-C again stops now")) as stopping,
        console.progress(total, doing, done) as advance,
    ):
        yield stopping, advance


def tell_failures(errors: Iterable[str]) -> bool:
    """Sum up why videos failed; tells whether any did."""
    failures = Counter(errors)
    if failures:
        told = "; ".join(f"{count} {reason}" for reason, count in failures.most_common())
        console.note(f"failed: {told}")
    return bool(failures)


def tell_pace(spent: "Spent", started: float) -> None:
    """Sum up where the time went since `started`, in seconds of `time.perf_counter`."""
    if spent.clips > 1 and (seconds := time.perf_counter() - started):
        shares = (
            f"{spent.computing / seconds:.0%} of the time computing, {spent.waiting / seconds:.0%} waiting for frames"
        )
        console.note(f"{spent.clips} clips, {spent.clips / seconds:.2f} a second; {shares}")


def caption_works(
    run: "Run",
    todo: "list[Work]",
    captioner: "Captioner",
    settings: "Settings",
    spent: "Spent",
    show: Callable[["Outcome"], None],
) -> bool:
    """Caption these videos, the first Ctrl-C permitting; tells whether all that was made could be written."""
    from ..captioning.pipeline import caption_videos

    well = True
    with under_way(len(todo), "captioning", "captioned") as (stopping, advance):
        for result in caption_videos([Path(work.name) for work in todo], captioner, settings, stopping, spent):
            with interrupts.held():  # what is written is counted
                for failure in run.take(todo[result.place], result.outcomes, result.embeddings):
                    console.warning(f"{failure.video}: {failure.error}")
                    well = False
                for outcome in result.outcomes:
                    show(outcome)
                advance(well=isinstance(result.outcomes[0], Record))
    return well


def embed_works(
    index: "IndexWriter", todo: Sequence[Work], engine: "Engine[Any]", pool: str, reading: "Reading"
) -> list[Failure]:
    """Embed these videos and texts, the first Ctrl-C permitting; returns what failed."""
    from ..journal import text_of
    from ..media.flow import Spent
    from ..retrieval.embedding import embed_texts, embed_videos

    videos = [work for work in todo if text_of(work.name) is None]
    texts = [work for work in todo if text_of(work.name) is not None]
    failed, spent, started = [], Spent(), time.perf_counter()
    with under_way(len(todo), "embedding", "embedded") as (stopping, advance):
        for embedded in embed_videos([Path(work.name) for work in videos], engine, pool, reading, stopping, spent):
            with interrupts.held():  # what is written is counted
                index.append(videos[embedded.place], embedded.entries, embedded.vectors)
                failures = [entry for entry in embedded.entries if isinstance(entry, Failure)]
                for failure in failures:
                    console.warning(f"{failure.video}: {failure.error}")
                failed += failures
                advance(well=not failures)
        for place, entry, vector in embed_texts([text_of(work.name) or "" for work in texts], engine, stopping):
            with interrupts.held():
                index.append(texts[place], [entry], vector)
                advance()
    tell_pace(spent, started)
    return failed
