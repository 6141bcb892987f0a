"""`coca evaluate`: how well a model, or captions, tell what people tell."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from .. import console, interrupts
from ..errors import CocaError, UsageError
from ..journal import Failure, file_tasks, fingerprint, text_name, text_tasks
from ..overwrite import write_output
from ..parsing import read_json
from ..settings import home
from . import options
from .completion import complete_from
from .running import embed_tasks, warn_before_start

if TYPE_CHECKING:
    from ..checkpoints.store import ModelFiles
    from ..datasets.dataset import Dataset
    from ..decoding.options import SearchOptions
    from ..engines.choice import Choice
    from ..evaluation.report import Report
    from ..media.clips import ReadRequest
    from ..retrieval.index import About, Index

REPORT, CAPTIONS, INDEX = "report.json", "captions.jsonl", "index"  # in the folder of an evaluation
WORST_COLUMN = 14  # cells of a terminal beside the worst examples


def evaluate(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER|LIST",
            show_default=False,
            help="Pictures or videos with captions: COCO's layout, a Karpathy split, a list such as captions.csv or "
            "list.tsv:column, or a .txt beside each file.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"],
        typer.Option(metavar="train|val|test", help="Which part of the data.", rich_help_panel=options.DATA),
    ] = "val",
    karpathy: options.Karpathy = None,
    images: options.Images = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1_000_000_000,
            show_default=False,
            help="Take only the first N pictures.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    classes: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            show_default=False,
            help="Classify the pictures of a folder of class folders, by the classes' names.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Names of the class folders: a list that comes with ImageNet, lines of a folder and its name, or a "
            "JSON object of them.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    templates: Annotated[
        str,
        typer.Option(
            metavar="openai|simple|FILE",
            autocompletion=complete_from("openai", "simple"),
            help="Sentences that a class's name is put into: CLIP's 80, its best 7, or the lines of a file.",
            rich_help_panel=options.DATA,
        ),
    ] = "openai",
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Score these captions, no model needed: coca's .jsonl, COCO results, an object of captions, or "
            "list.csv:column.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Against these: COCO annotations, a Karpathy split, an object of lists of captions, or a list.",
            rich_help_panel=options.DATA,
        ),
    ] = None,
    only: Annotated[
        Literal["captions", "retrieval"] | None,
        typer.Option(metavar="captions|retrieval", show_default=False, help="Measure captions, or vectors, alone."),
    ] = None,
    worst: Annotated[
        int, typer.Option(metavar="N", min=0, max=1_000_000, help="Show the N worst examples of each kind.")
    ] = 5,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER/",
            show_default=False,
            help="Keep the report (report.json), captions and vectors here; by default in the cache folder.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar="", help="Replace the report of another evaluation in the folder.")
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    model: options.Model = None,
    engine: options.Engine = "auto",
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    threads: options.Threads = 0,
    batch_size: options.BatchSize = 8,
    timeout: options.Timeout = 60.0,
    frames: options.Frames = "middle",
    num_frames: options.NumFrames = 8,
    pool: options.Pool = "joint",
    search: options.Search = "beam",
    beams: options.Beams = 6,
    min_length: options.MinLength = 5,
    max_length: options.MaxLength = 30,
    length_penalty: options.LengthPenalty = 1.0,
) -> None:
    """Measure captions (BLEU, METEOR, ROUGE-L, CIDEr, SPICE), retrieval (recall) and classification (accuracy).

    A run that was stopped goes on where it was when the same command is given again.
    """
    from ..captioning.captioner import check_request
    from ..datasets.classes import class_folders
    from ..decoding.options import SearchOptions
    from ..engines.choice import resolve
    from ..evaluation.captions import check_installed
    from ..evaluation.model import joined
    from ..jobs import choose_model, warn_of_embeddings
    from ..media.clips import ReadRequest, Sampling, Segments
    from ..retrieval.index import About, open_index

    console.be_quiet(quiet)
    if predictions or references:
        if not (predictions and references) or data or classes:
            raise UsageError("--predictions and --references go together, without --data and --classes")
        warn_before_start(context)
        settings: dict[str, Any] = {
            "predictions": _whole(predictions),
            "references": _whole(references),
            "split": split,
        }
        _check_output(output, settings, [predictions, references], None, overwrite)
        _show(_of_files(predictions, references, split), settings, worst, output, as_json)
        return
    if not (data or classes):
        raise UsageError("there is nothing to evaluate on", "name --data, --classes, or --predictions and --references")
    warn_before_start(context)
    if data and only != "retrieval":
        check_installed()
    choice = resolve(engine, device, precision, threads)
    asked = SearchOptions(
        method=search, beams=beams, min_length=min_length, max_length=max_length, length_penalty=length_penalty
    )
    sampling = Sampling(frames, num_frames)
    lost: set[str] = set()
    dataset = _dataset(data, split, karpathy, images, limit, lost) if data else None
    named = class_folders(classes, class_names, console.note) if classes else {}
    files = choose_model(model)
    check_request(files.config, asked, pool, "")
    about = About(files.name, files.identity, frames, num_frames, pool)
    size, preprocess = files.config.vision.image_size, files.config.preprocess
    read_request = ReadRequest(sampling, Segments(), size, None, preprocess, timeout)
    bits = () if choice.precision == "fp32" else (choice.precision,)
    settings = {
        "model": files.name,
        "identity": files.identity,
        "data": data and {"folder": _whole(data), "split": split, "limit": limit, "only": only},
        "karpathy": karpathy and _whole(karpathy),
        "images": images and _whole(images),
        "classes": classes and {"folder": _whole(classes), "templates": templates, "names": list(named)},
        "search": None if only == "retrieval" or not data else asdict(asked),
        "frames": asdict(sampling) | {"pool": pool},
        "precision": choice.precision,
    }
    folder = output or _in_cache(files.identity, asdict(asked), about, data, *bits)
    report = output or folder / fingerprint(settings)
    read = [Path(templates), *filter(None, (data, karpathy, class_names)), *(_read(dataset, named) if output else ())]
    _check_output(report, settings, read, files, overwrite)
    task = _Task(files, choice, asked, about, read_request, batch_size, folder, bits, lost, overwrite)
    if only != "captions":
        warn_of_embeddings(files.name, console.ConsoleReporter())
    if overwrite and task.index.exists():
        with open_index(task.index, about, files.config.embed_dim, [], overwrite=True):
            pass
    reports = []
    if dataset:
        reports.append(_of_dataset(task, dataset, only))
    if classes:
        reports.append(_of_classes(task, named, templates))
    _show(joined(*reports), settings, worst, report, as_json)
    if lost:
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Task:
    """What is asked of a model, and the folder that keeps what it answers."""

    files: "ModelFiles"
    choice: "Choice"
    search: "SearchOptions"
    about: "About"
    read_request: "ReadRequest"
    batch_size: int
    folder: Path
    bits: tuple[str, ...]  # what it computes in, if that is not fp32: no measure is of two kinds of answers
    lost: set[str]  # paths of files that are missing or cannot be read; grows
    overwrite: bool

    @property
    def index(self) -> Path:
        return self.folder / INDEX


def _dataset(
    data: Path, split: str, karpathy: Path | None, images: Path | None, limit: int | None, lost: set[str]
) -> "Dataset":
    """The examples whose files are there; the others are lost."""
    from ..datasets.find import find_dataset

    dataset = find_dataset(data, split, karpathy, images)  # type: ignore[arg-type] # typer checks it
    for line in (*dataset.notes, *(f"{count} {what} are left out" for what, count in dataset.left_out.items())):
        console.note(line)
    dataset = replace(dataset, examples=dataset.examples[:limit])
    missing = [example.path for example in dataset.examples if not os.path.isfile(example.path)]  # noqa: PTH113 - never raises
    if missing:
        rest = dataset.without(missing)
        captions = f"{dataset.captions - rest.captions:,} of {dataset.captions:,} captions"
        message, hint = f"no files found for {captions} (first: {missing[0]})", "pass their folder with --images"
        if not rest.examples:
            raise UsageError(message, hint)
        console.warning(f"{message}; {hint}")
        dataset = rest
        lost |= set(map(str, missing))
    return dataset


def _read(dataset: "Dataset | None", classes: Mapping[str, Sequence[Path]]) -> list[Path]:
    """Every file of the data."""
    examples = [dataset.source, *(example.path for example in dataset.examples)] if dataset else []
    return [*examples, *(path for paths in classes.values() for path in paths)]


def _check_output(
    folder: Path | None,
    settings: Mapping[str, Any],
    read: Iterable[Path],
    model: "ModelFiles | None",
    overwrite: bool,
) -> None:
    """Refuse a folder in which the files of an evaluation would replace others.

    Raises:
        UsageError: One is read, or the folder has the report of another evaluation.
    """
    from ..jobs import protect_files
    from ..retrieval.index import index_files
    from ..tables import split_column

    if not folder:
        return
    report = folder / REPORT
    files = [report, folder / CAPTIONS, *index_files(folder / INDEX)]
    protect_files([(str(path), path) for path in files], (split_column(str(path))[0] for path in read), model)
    if overwrite or not report.exists():
        return
    hint = "name another folder with -o, or pass --overwrite"
    now = json.loads(json.dumps(settings))
    try:
        before = read_json(report)["evaluation"]
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    except (UsageError, KeyError, TypeError):
        raise UsageError(f"{report} is not a report of this evaluation", hint) from None
    if changed:
        raise UsageError(f"{report} belongs to another evaluation: other {', '.join(changed)}", hint)


def _in_cache(*said: object) -> Path:
    """A folder of the cache that a run goes on from."""
    return home() / "evaluations" / fingerprint(*said)


def _whole(path: Path) -> str:
    """A path as reports name it, whatever folder the command runs in."""
    return str(path.resolve())


def _of_files(predictions: Path, references: Path, split: str) -> "Report":
    from ..evaluation.captions import score_captions
    from ..evaluation.files import matched, read_predictions, read_references
    from ..evaluation.report import Report, worst_captions

    notes: list[str] = []
    truths = read_references(references, split, notes)
    guesses = matched(read_predictions(predictions, notes), truths)
    for line in notes:
        console.note(line)
    with console.status("scoring captions"):
        scores = score_captions(guesses, truths.captions)
    return Report(captions=scores, worst=tuple(worst_captions(scores, guesses, truths.captions)))


def _of_dataset(task: _Task, dataset: "Dataset", only: str | None) -> "Report":
    from ..evaluation.model import joined, measure_captions, measure_retrieval, vectors_of

    paths = [example.path for example in dataset.examples]
    captions: dict[str, str] = {}
    if only == "retrieval":
        failed = _embed(task, paths)
    else:
        captions, failed = _caption(task, paths, embed=only is None)
    if failed:
        _note_lost(task, failed, len(paths))
        dataset = dataset.without([Path(name) for name in failed])
        if not dataset.examples:
            raise CocaError("no file could be read")
    reports = []
    if only != "captions":
        texts = [caption for example in dataset.examples for caption in example.captions]
        _embed(task, [], list(dict.fromkeys(texts)))
        index = _open(task)
        names = [str(example.path) for example in dataset.examples]
        found = vectors_of(index, names), vectors_of(index, [text_name(text) for text in texts])
        reports.append(measure_retrieval(dataset, *found))
    if only != "retrieval":
        with console.status("scoring captions"):
            reports.append(measure_captions(dataset, captions))
    return joined(*reversed(reports))


def _of_classes(task: _Task, classes: Mapping[str, Sequence[Path]], templates: str) -> "Report":
    from ..evaluation.model import measure_classes, vectors_of
    from ..evaluation.zeroshot import described, read_templates

    sentences = read_templates(templates)
    paths = [path for files in classes.values() for path in files]
    failed = _embed(task, paths, [text for texts in described(list(classes), sentences) for text in texts])
    if failed:
        _note_lost(task, failed, len(paths))
    labeled = [
        (str(path), label) for label, files in enumerate(classes.values()) for path in files if str(path) not in failed
    ]
    index = _open(task)
    return measure_classes(
        vectors_of(index, [name for name, _ in labeled]),
        [label for _, label in labeled],
        list(classes),
        lambda texts: vectors_of(index, [text_name(text) for text in texts]),
        sentences,
    )


def _note_lost(task: _Task, failed: set[str], count: int) -> None:
    task.lost.update(failed)
    console.warning(f"{len(failed)} of {count} files cannot be read, first {min(failed)}; the rest is measured")


def _caption(task: _Task, paths: Sequence[Path], embed: bool) -> tuple[dict[str, str], set[str]]:
    """Caption files, and embed them in the same pass: captions by path, and the paths of what cannot be read."""
    from ..captioning.captioner import Captioner
    from ..captioning.job import caption_tasks
    from ..captioning.run import Plan, open_run
    from ..jobs import load_engine

    reporter = console.ConsoleReporter()
    plan = Plan(
        paths,
        options=(task.files.identity, asdict(task.search), task.about, *task.bits),
        outputs=(str(task.folder / CAPTIONS),),
        overwrite=task.overwrite,
        index=(task.index, task.about, task.files.config.embed_dim) if embed else None,
    )
    task.folder.mkdir(parents=True, exist_ok=True)
    with open_run(plan) as run:
        if run.todo:
            engine = load_engine(task.files, task.choice, reporter)
            captioner = Captioner(engine, task.files.name, task.search, task.about.pool)
            caption_tasks(run, captioner, task.read_request, task.batch_size, reporter)
        _stop_if_interrupted()
        failed = {outcome.video for outcome in run.in_order() if isinstance(outcome, Failure)}
        captions = {outcome.video: outcome.caption for outcome in run.in_order() if not isinstance(outcome, Failure)}
    return captions, failed


def _embed(task: _Task, paths: Sequence[Path], texts: Sequence[str] = ()) -> set[str]:
    """Embed files and texts; returns the paths of what cannot be read."""
    from ..jobs import load_engine
    from ..retrieval.index import open_index

    reporter = console.ConsoleReporter()
    tasks = file_tasks(paths, task.files.identity, task.about, *task.bits)
    tasks += text_tasks(dict.fromkeys(texts), *task.bits)
    with open_index(task.index, task.about, task.files.config.embed_dim, tasks) as index:
        failed = {name for name, entries in index.reused.items() if isinstance(entries[0], Failure)}
        if todo := [each for each in tasks if each.name not in index.reused]:
            engine = load_engine(task.files, task.choice, reporter)
            failures = embed_tasks(index, todo, engine, task.about.pool, task.read_request, task.batch_size, reporter)
            failed |= {failure.video for failure in failures}
    _stop_if_interrupted()
    return failed


def _open(task: _Task) -> "Index":
    from ..retrieval.index import Index

    return Index(task.index)


def _stop_if_interrupted() -> None:
    if interrupts.came():
        raise KeyboardInterrupt


def _show(report: "Report", settings: Mapping[str, Any], worst: int, folder: Path | None, as_json: bool) -> None:
    """Print a report, and keep it."""
    facts = json.dumps({"evaluation": settings} | report.to_dict(), indent=1)
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        with write_output(folder / REPORT) as (file,):
            file.write(facts.encode())
    if as_json:
        console.result(facts)
    else:
        console.table(("measure", "x 100"), report.rows())
        for bad in report.worst_of_each(worst):
            console.row(f"{bad.by} {bad.score:.3g}", bad.what, WORST_COLUMN)
            for what, text in (("  said", bad.got), ("  wanted", bad.wanted)):
                if text:
                    console.row(what, text, WORST_COLUMN)
    for line in report.captions.notes if report.captions else ():
        console.note(line)
    if folder:
        console.note(f"kept in {folder}")
