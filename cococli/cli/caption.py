"""`coca caption`: a caption for every video, or for every segment of it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .. import console, interrupts
from ..captioning.records import Record
from ..journal import Failure
from . import options
from .defaults import default_model
from .running import (
    as_asked,
    caption_works,
    check_files,
    find_files,
    list_files,
    load_captioner,
    tell_as_wanted,
    tell_failures,
    tell_pace,
    warn_before_start,
    warn_of_vectors,
)

if TYPE_CHECKING:
    from ..captioning.captioner import Captioner
    from ..captioning.pipeline import Settings
    from ..captioning.records import Outcome
    from ..captioning.run import Plan, Run

NAME_COLUMN = 30  # most cells of a terminal that names take beside the captions
TIMED = 2  # videos that --dry-run times


def caption(
    context: typer.Context,
    paths: options.Paths,
    output: options.Output = None,
    subtitles: options.Subtitles = "srt",
    beside: options.Beside = False,
    max_cue: options.MaxCue = 7.0,
    embed: options.EmbedInto = None,
    template: options.Template = None,
    overwrite: options.Overwrite = False,
    retry_failed: options.RetryFailed = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.JsonProgress = False,
    log_file: options.LogFile = None,
    dry_run: options.DryRun = False,
    include: options.Include = None,
    exclude: options.Exclude = None,
    since: options.Since = None,
    timeout: options.Timeout = 60.0,
    segments: options.SegmentsOption = "none",
    merge: options.Merge = None,
    frames: options.Frames = "middle",
    num_frames: options.NumFrames = 8,
    pool: options.Pool = "joint",
    model: options.Model = None,
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
    batch_size: options.BatchSize = 8,
    search: options.Search = "beam",
    beams: options.Beams = 6,
    min_length: options.MinLength = 5,
    max_length: options.MaxLength = 30,
    length_penalty: options.LengthPenalty = 1.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    no_repeat_ngram: options.NoRepeatNgram = 0,
    ban: options.Ban = None,
    top_k: options.TopK = 50,
    top_p: options.TopP = 0.9,
    temperature: options.Temperature = 1.0,
    seed: options.Seed = 0,
    prompt: options.Prompt = "",
    candidates: options.Candidates = 1,
    rerank: options.Rerank = False,
    min_score: options.MinScore = None,
) -> None:
    """Caption videos and pictures.

    An interrupted run resumes where it stopped when the same command is given again.
    """
    from ..captioning.captioner import check_request
    from ..captioning.formats import check_template, default_template
    from ..captioning.outputs import check_outputs, only_subtitles
    from ..captioning.pipeline import Settings
    from ..captioning.run import Plan, open_run
    from ..captioning.subtitles import CueStyle
    from ..checkpoints.store import find_model
    from ..decoding.options import SearchOptions
    from ..engines.choice import resolve
    from ..media.clips import ReadRequest
    from ..media.discover import is_image
    from ..media.flow import Reading
    from ..media.sampling import Sampling
    from ..media.segments import parse as parse_segments
    from ..retrieval.index import About, check_index

    console.be_quiet(quiet)
    tell_as_wanted(as_json, None)
    asked = SearchOptions(
        method=search,
        beams=beams,
        min_length=min_length,
        max_length=max_length,
        length_penalty=length_penalty,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        ban=tuple(ban or ()),
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        seed=seed,
        candidates=candidates,
    )
    choice = resolve(engine, device, precision, threads)
    sampling, spans = Sampling(frames, num_frames), parse_segments(segments)
    style = CueStyle(max_seconds=max_cue)
    if template is not None:
        check_template(template)
    videos, problems = find_files(paths, include, exclude, since)
    check_outputs(output or (), videos, beside)
    if not embed and only_subtitles(output or (), beside) and (pictures := sum(map(is_image, videos))):
        console.warning(f"{pictures} of {len(videos)} files left out: pictures have no subtitles")
        videos = [path for path in videos if not is_image(path)]
    files = find_model(model or default_model())
    check_request(files.config, asked, pool, prompt, rerank)
    if rerank or embed or min_score is not None:
        warn_of_vectors(files.name)
    request = ReadRequest(sampling, spans, files.config.vision.image_size, preprocess=files.config.preprocess)
    settings = Settings(Reading(request, batch_size, timeout), merge, min_score)
    said = (files.name, files.identity, pool, prompt, rerank, merge, min_score, *as_asked(precision))
    plan = Plan(
        videos,
        options=repr((said, asdict(asked), sampling, spans)),
        outputs=tuple(output or ()),
        beside=beside,
        subtitles=f".{subtitles}",
        folders=[Path(path) for path in paths if Path(path).is_dir()],
        template=default_template(videos) if template is None else template,
        style=style,
        overwrite=overwrite,
        retry_failed=retry_failed,
        index=(embed, About(files.name, files.identity, frames, num_frames, pool), files.config.embed_dim)
        if embed
        else None,
    )
    if plan.index:
        check_index(*plan.index[:2], None, overwrite)
    check_files(plan.written, [*videos, *list_files(paths)], files, log_file)
    warn_before_start(context, problems)
    show = _shower(videos, plan.outputs, beside, verbose)

    def load() -> "Captioner":
        return load_captioner(files, choice, asked, pool, prompt, rerank)

    if dry_run:
        _preview(plan, settings, load)
        return
    with open_run(plan) as run:
        failed = _run(run, settings, load, show)
    if interrupts.came():
        raise KeyboardInterrupt
    if failed or problems:
        raise typer.Exit(1)


def _run(run: "Run", settings: "Settings", load: Callable[[], "Captioner"], show: Callable[["Outcome"], None]) -> bool:
    """Caption what is to be done; tells whether anything failed, now or before."""
    from ..media.flow import Spent

    todo, spent, started = run.todo, Spent(), time.perf_counter()
    if before := len(run.works) - len(todo):
        console.note(f"{before} of {len(run.works)} were captioned before; --overwrite makes them again")
        if "-" in run.plan.outputs:
            for outcome in run.in_order():
                show(outcome)
    well = not todo or caption_works(run, todo, load(), settings, spent, show)
    failed = tell_failures(outcome.error for outcome in run.in_order() if isinstance(outcome, Failure))
    tell_pace(spent, started)
    return failed or not well


def _shower(videos: Sequence[Path], outputs: Sequence[str], beside: bool, verbose: bool) -> Callable[["Outcome"], None]:
    """What shows an outcome: to a person names and captions, to a program JSONL, and failures as warnings."""
    person = console.stdout_is_terminal() and "-" not in outputs
    width = min(max(console.cells(str(path)) for path in videos), NAME_COLUMN)
    silent = bool(outputs or beside) and "-" not in outputs

    def show(outcome: "Outcome") -> None:
        if isinstance(outcome, Failure):
            console.warning(f"{outcome.video}: {outcome.error}")
        if silent:
            if verbose and isinstance(outcome, Record):
                console.note(f"{_name(outcome)}: {outcome.caption}")
        elif not person:
            console.result(outcome.to_json())
        elif isinstance(outcome, Record):
            console.row(_name(outcome), outcome.caption, width)

    return show


def _name(record: Record) -> str:
    """The video, and which of its segments."""
    return f"{record.video} {record.start:.1f}-{record.end:.1f}" if record.segments > 1 else record.video


def _preview(plan: "Plan", settings: "Settings", load: Callable[[], "Captioner"]) -> None:
    """Show what a run would do, and about how long it would take."""
    from ..captioning.run import preview

    run = preview(plan)
    for work in run.works:
        console.result(
            f"{'captioned before' if run.is_done(work) else 'to caption':16}  {console.printable(work.name)}"
        )
    console.note(f"{len(run.todo)} to caption, {len(run.works) - len(run.todo)} captioned before; nothing was written")
    if run.todo:
        seconds = _seconds_each([Path(work.name) for work in run.todo[:TIMED]], load(), settings)
        console.note(f"about {console.duration(seconds * len(run.todo))}, from {TIMED} that were timed")


def _seconds_each(videos: Sequence[Path], captioner: "Captioner", settings: "Settings") -> float:
    """What captioning one takes, once everything is compiled."""
    from ..captioning.pipeline import caption_videos

    for _ in range(2):
        started = time.perf_counter()
        list(caption_videos(videos, captioner, settings))
    return (time.perf_counter() - started) / len(videos)
