"""`coca caption`: a caption for every video."""

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from .. import console
from . import interrupts, options
from .defaults import default_model

if TYPE_CHECKING:
    from ..captioning.captioner import Captioner
    from ..captioning.records import Outcome
    from ..captioning.writers import Write
    from ..decoding.options import SearchOptions

NAME_COLUMN = 30  # most cells of a terminal that names take beside the captions


def caption(
    paths: options.Paths,
    output: options.Output = None,
    quiet: options.Quiet = False,
    model: options.Model = None,
    batch_size: options.BatchSize = 8,
    frames: options.Frames = "middle",
    num_frames: options.NumFrames = 8,
    pool: options.Pool = "joint",
    search: options.Search = "beam",
    beams: options.Beams = 6,
    min_length: options.MinLength = 5,
    max_length: options.MaxLength = 30,
    length_penalty: options.LengthPenalty = 1.0,
    repetition_penalty: options.RepetitionPenalty = 1.0,
    no_repeat_ngram: options.NoRepeatNgram = 0,
    top_k: options.TopK = 50,
    top_p: options.TopP = 0.9,
    temperature: options.Temperature = 1.0,
    seed: options.Seed = 0,
    prompt: options.Prompt = "",
) -> None:
    """Caption videos and pictures."""
    from ..captioning.pipeline import caption_videos
    from ..captioning.writers import check_output
    from ..decoding.options import SearchOptions
    from ..video.discover import discover
    from ..video.sampling import Sampling

    sampling = Sampling(frames, num_frames)
    choice = SearchOptions(
        method=search,
        beams=beams,
        min_length=min_length,
        max_length=max_length,
        length_penalty=length_penalty,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        top_k=top_k,
        top_p=top_p,
        temperature=temperature,
        seed=seed,
    )
    videos = discover(paths)
    if output:
        check_output(output, videos)
    captioner = _load(model, choice, pool, prompt, quiet)
    if _show(caption_videos(videos, captioner, sampling, batch_size), videos, output, quiet):
        raise typer.Exit(1)


def _load(name: str | None, search: "SearchOptions", pool: str, prompt: str, quiet: bool) -> "Captioner":
    """The captioner of a named model, or of the one to take where none is named."""
    from ..captioning.captioner import load_captioner
    from ..checkpoints.store import find_model

    files = find_model(name or default_model())
    with console.status(f"loading {files.name}", quiet), interrupts.held():
        return load_captioner(files, search, pool, prompt)


def _show(outcomes: "Iterable[Outcome]", videos: Sequence[Path], output: Path | None, quiet: bool) -> int:
    """Write or print what comes, and count the videos that failed."""
    from ..captioning.records import Failure
    from ..captioning.writers import open_writer

    failed = 0
    with (
        open_writer(output) if output else nullcontext(_printer(videos)) as write,
        console.progress(len(videos), "captioning", "captioned", quiet) as advance,
    ):
        for outcome in outcomes:
            with interrupts.held():  # what is written is counted
                write(outcome)
                if isinstance(outcome, Failure):
                    failed += 1
                    console.warning(f"{outcome.video}: {outcome.error}")
                advance(well=not isinstance(outcome, Failure))
    return failed


def _printer(videos: Sequence[Path]) -> "Write":
    """What shows an outcome on stdout: names and captions to a person, JSONL to a program."""
    from ..captioning.records import Record

    if not console.stdout_is_terminal():
        return lambda outcome: console.result(outcome.to_json())
    width = min(max(console.cells(str(path)) for path in videos), NAME_COLUMN)

    def show(outcome: "Outcome") -> None:
        if isinstance(outcome, Record):
            console.row(outcome.video, outcome.caption, width)

    return show
