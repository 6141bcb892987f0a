"""`coca embed`: vectors of videos, pictures and texts, in an index or a file."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console, interrupts
from ..journal import Failure, Task
from ..overwrite import refuse_foreign
from . import options
from .running import tell_as_wanted, warn_before_start

if TYPE_CHECKING:
    from ..retrieval.outputs import Outputs


def embed(
    context: typer.Context,
    paths: options.PathsOrNone = None,
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER/|FILE",
            show_default=False,
            help="Where vectors go, once or several times: a folder for an index that coca search reads; .npz, .jsonl "
            "or .parquet for a file; - for JSONL on stdout.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    texts: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Embed the lines of this text file, too. May be given several times.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    half: Annotated[
        bool,
        typer.Option(
            "--half",
            metavar="",
            help="Round vectors to float16 in a new index, which takes half the disk.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
    overwrite: options.Overwrite = False,
    retry_failed: options.RetryFailed = False,
    quiet: options.Quiet = False,
    as_json: options.JsonProgress = False,
    log_file: options.LogFile = None,
    include: options.Include = None,
    exclude: options.Exclude = None,
    since: options.Since = None,
    timeout: options.Timeout = 60.0,
    segments: options.SegmentsOption = "none",
    frames: options.Frames = "middle",
    num_frames: options.NumFrames = 8,
    pool: options.Pool = "joint",
    model: options.Model = None,
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
    batch_size: options.BatchSize = 8,
) -> None:
    """Turn videos, pictures and texts into vectors of CoCa's joint space.

    An interrupted run resumes where it stopped when the same command is given again. New and changed files are added.
    """
    from ..engines.choice import resolve
    from ..errors import UsageError
    from ..files import temporary_folder
    from ..jobs import (
        choose_model,
        find_inputs,
        list_files,
        load_engine,
        precision_key,
        protect_files,
        report_failures,
        warn_of_embeddings,
    )
    from ..journal import file_tasks, text_tasks
    from ..media.clips import ReadRequest, Sampling, parse_segments
    from ..options import FileOptions
    from ..retrieval.embedding import embed_tasks, read_texts
    from ..retrieval.index import About, check_index, open_index
    from ..retrieval.outputs import parse_outputs

    console.be_quiet(quiet)
    tell_as_wanted(as_json, None)
    reporter = console.ConsoleReporter()
    choice = resolve(engine, device, precision, threads)
    sampling, spans = Sampling(frames, num_frames), parse_segments(segments)
    if not paths and not texts:
        raise UsageError("nothing is named to embed", "name videos, pictures or folders, or --texts FILE")
    wanted = FileOptions(tuple(include or ()), tuple(exclude or ()), since)
    videos, problems = find_inputs(paths, wanted, reporter) if paths else ([], [])
    lines = read_texts(texts) if texts else []
    files = choose_model(model)
    outputs = parse_outputs(output or (), repr((files.identity, half)))
    about = About(files.name, files.identity, frames, num_frames, pool)
    dtype = "float16" if half else None
    if outputs.index:
        check_index(outputs.index, about, dtype, overwrite)
    if not overwrite:
        refuse_foreign(*outputs.files)
    read = [*videos, *list_files(paths or ()), *(texts or ())]
    protect_files(outputs.written, read, files, log_file, reporter)
    warn_before_start(context, problems)
    warn_of_embeddings(files.name, reporter)
    key = precision_key(precision)
    tasks = file_tasks(videos, files.identity, pool, sampling, spans, *key) + text_tasks(lines, *key)
    size, preprocess = files.config.vision.image_size, files.config.preprocess
    request = ReadRequest(sampling, spans, size, None, preprocess, timeout)

    with (
        nullcontext(outputs.index) if outputs.index else temporary_folder() as folder,
        open_index(folder, about, files.config.embed_dim, tasks, dtype, overwrite, retry_failed) as index,
    ):
        todo = [task for task in tasks if task.name not in index.reused]
        if before := len(tasks) - len(todo):
            console.note(f"{before} of {len(tasks)} were embedded before; --overwrite makes them again")
        failed = [entry for entries in index.reused.values() for entry in entries if isinstance(entry, Failure)]
        try:
            if todo:
                loaded = load_engine(files, choice, reporter)
                failed += embed_tasks(index, todo, loaded, pool, request, batch_size, reporter)
        finally:
            _write(outputs, index.folder, tasks)
    if interrupts.came():
        raise KeyboardInterrupt
    if report_failures((failure.error for failure in failed), reporter) or problems:
        raise typer.Exit(1)


def _write(outputs: "Outputs", folder: Path, tasks: Sequence[Task]) -> None:
    """Write the outputs besides the index."""
    from ..retrieval.formats import json_lines, write
    from ..retrieval.index import Index

    if not outputs.files and not outputs.stdout:
        return
    index = Index(folder)
    entries = index.entries(task.name for task in tasks)
    vectors = index.vectors[[entry.row for entry in entries]]
    for path in outputs.files:
        write(path, entries, vectors, index.about)
    if outputs.stdout:
        for line in json_lines(entries, vectors, index.about.model):
            console.result(line)
