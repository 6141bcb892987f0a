"""Evaluation from one request: a model's captions, retrieval and classification, or the captions of a file."""

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..captioning.captioner import Captioner, check_request
from ..captioning.job import caption_videos, write_results
from ..captioning.resume import Plan, open_run
from ..checkpoints.store import ModelFiles
from ..datasets.benchmark_folder import BenchmarkData, Event
from ..datasets.benchmarks import BENCHMARKS, read_benchmark
from ..datasets.benchmarks import CAPTIONS as CAPTIONS_MEASURED
from ..datasets.classes import class_folders
from ..datasets.dataset import Dataset, drop_missing
from ..datasets.find import find_dataset
from ..engines.base import Engine
from ..engines.choice import Choice, resolve_options
from ..engines.sizes import Sizes, choose_sizes
from ..errors import CocaError, UsageError
from ..files import container_of, format_span
from ..jobs import choose_model, load_engine, protect_files, warn_of_embeddings
from ..journal import Failure, file_tasks, fingerprint, text_name, text_tasks
from ..media.clips import ReadRequest, Sampling, Segments
from ..overwrite import write_output
from ..parsing import read_json
from ..reporting import SILENT, Reporter
from ..requests import EvaluateRequest, ScoreRequest
from ..retrieval.embed import embed_tasks, embedding_computer
from ..retrieval.index import About, Index, index_files, open_index
from ..settings import home
from ..tables import split_column
from ..urls import RemotePath, path_of
from .caption_files import References, matched, read_events, read_predictions, read_references
from .captions import check_installed, cider_of_groups, score_captions
from .dense import Events, score_dense
from .model import joined, measure_captions, measure_classes, measure_dense, measure_retrieval, vectors_of
from .report import Report, worst_captions
from .zeroshot import described, read_templates

REPORT, CAPTIONS, INDEX = "report.json", "captions.jsonl", "index"  # in the folder of an evaluation


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation."""

    report: Report
    settings: Mapping[str, Any]  # options that identify it
    folder: Path | None  # where the report is kept
    incomplete: bool = False  # some files are missing or cannot be read

    @property
    def exit_code(self) -> int:
        """0 if everything was measured, else 1."""
        return int(self.incomplete)

    def to_json(self) -> str:
        """Return the contents of report.json."""
        return json.dumps({"evaluation": self.settings} | self.report.to_dict(), indent=1)


def evaluate(request: EvaluateRequest, reporter: Reporter = SILENT) -> Evaluation:
    """Measure the captions, retrieval and classification of a model, or the captions of a file, and keep the report.

    Interrupted evaluations resume.

    Raises:
        UsageError: The options do not fit each other or the data, pycocoevalcap is missing, or the output folder has
            the report of another evaluation.
        ModelError: The model does not exist or is damaged.
        CocaError: No file can be read, or the disk is full.
        KeyboardInterrupt: The reporter requested a stop.
    """
    if request.predictions or request.references:
        evaluation = _evaluate_predictions(request, reporter)
    elif request.allow_missing:
        raise UsageError("--allow-missing is for --predictions")
    elif request.data or request.classes or request.benchmark:
        evaluation = _evaluate_model(request, reporter)
    else:
        raise UsageError("there is nothing to evaluate on", "name --data, --classes, or --predictions and --references")
    if evaluation.folder:
        evaluation.folder.mkdir(parents=True, exist_ok=True)
        with write_output(evaluation.folder / REPORT) as (file,):
            file.write(evaluation.to_json().encode())
    return evaluation


def _evaluate_predictions(request: EvaluateRequest, reporter: Reporter) -> Evaluation:
    benchmark = request.benchmark if request.data else None
    other = request.classes or (request.data if request.references else None)
    if not request.predictions or bool(request.references) == bool(benchmark) or other:
        hint = "or --predictions with --benchmark and --data"
        raise UsageError("--predictions and --references go together, without --data and --classes", hint)
    source = request.references or request.data
    assert source
    settings = {"predictions": _absolute(request.predictions), "references": _absolute(source)}
    settings |= {"split": _split(request)}
    settings |= {"benchmark": benchmark} if benchmark else {}
    if request.output:
        _check_output(request.output, settings, [request.predictions, source], None, request.overwrite)
    reporter.checked()
    notes: list[str] = []
    found = BenchmarkData()
    if request.references:
        references = read_references(request.references, request.split or "val", notes)
    else:
        found = _find_benchmark(request, reporter)
        if not found.captions:
            raise UsageError(f"--benchmark {benchmark} has no captions to compare --predictions with")
        references = References(
            {example.id: list(example.captions) for example in found.captions.examples},
            {example.id: str(example.path) for example in found.captions.examples},
        )
    if found.events and (events := read_events(request.predictions, notes)) is not None:
        for line in notes:
            reporter.note(line)
        report = _score_events(events, found.events, references, request.allow_missing, reporter)
        return Evaluation(report, settings, request.output)
    predictions = matched(read_predictions(request.predictions, notes), references)
    captions = references.captions
    missing = captions.keys() - predictions.keys()
    if missing and request.allow_missing and len(missing) < len(captions):
        notes.append(f"{len(missing)} of {len(captions)} pictures have no prediction and are left out")
        captions = {picture: own for picture, own in captions.items() if picture in predictions}
    for line in notes:
        reporter.note(line)
    with reporter.progress("scoring captions"):
        scores = score_captions(predictions, captions)
    worst = tuple(worst_captions(scores, predictions, captions))
    report = Report(captions=scores, worst=worst, groups=cider_of_groups(predictions, captions, found.groups))
    return Evaluation(report, settings, request.output)


def _evaluate_model(request: EvaluateRequest, reporter: Reporter) -> Evaluation:
    captioned = CAPTIONS_MEASURED in BENCHMARKS[request.benchmark].measures if request.benchmark else request.data
    if captioned and request.only != "retrieval":
        check_installed()
    options = request.model
    resolve_options(options)  # which refuses invalid ones
    sampling = Sampling(request.frames, request.num_frames)
    parts = _find_parts(request, reporter)
    model = choose_model(options.model)
    choice = resolve_options(options, model.config)
    check_request(model.config, request.search, request.pool, "")
    about = About(model.name, model.identity, request.frames, request.num_frames, request.pool)
    size, preprocess = model.config.vision.image_size, model.config.preprocess
    read_request = ReadRequest(sampling, Segments(), size, None, preprocess, request.timeout)
    settings = _settings(request, model, choice, parts)
    key = () if choice.precision == "fp32" else (choice.precision,)
    identity = (model.identity, asdict(request.search), about, request.data, *key)
    folder = request.output or home() / "evaluations" / fingerprint(*identity)
    report_folder = request.output or folder / fingerprint(settings)
    inputs = [Path(parts.templates), *filter(None, (request.data, request.karpathy, request.class_names))]
    if request.output:
        for dataset in filter(None, (parts.captions, parts.retrieval)):
            inputs += [dataset.source, *{container_of(example.path) for example in dataset.examples}]
        inputs += {container_of(path) for paths in parts.classes.values() for path in paths}
    _check_output(report_folder, settings, inputs, model, request.overwrite)
    reporter.checked()
    if request.only != "captions":
        warn_of_embeddings(model.name, reporter)
    predictor = _Predictor(request, model, choice, about, read_request, folder, key, reporter)
    predictor.prepare()
    measured = []
    if parts.captions and parts.captions == parts.retrieval:
        measured.append(_measure_dataset(predictor, parts.captions, None, parts))
    else:
        for part, only in ((parts.captions, "captions"), (parts.retrieval, "retrieval")):
            if part:
                measured.append(_measure_dataset(predictor, part, only, parts))
    if parts.classes:
        measured.append(_measure_classes(predictor, parts.classes, parts.templates))
    reports, failed = zip(*measured, strict=True)
    return Evaluation(joined(*reports), settings, report_folder, parts.incomplete or any(failed))


def _score_events(
    events: Mapping[str, Sequence[Event]],
    references: Sequence[Events],
    annotated: References,
    allow_missing: bool,
    reporter: Reporter,
) -> Report:
    """Score captions of events; and one by one, if they are those of all annotated events."""
    videos = {video for people in references for video in people}
    names = {video.removeprefix("v_"): video for video in videos} | {video: video for video in videos}
    named: dict[str, list[Event]] = {}
    for video, own in events.items():
        named.setdefault(names.get(video, video), []).extend(own)
    if allow_missing and (missing := len(videos - named.keys())):
        reporter.note(f"{missing} of {len(videos)} videos have no predictions and are left out")
        references = [{video: own for video, own in people.items() if video in named} for people in references]
    captions = {f"{video} {format_span(*it.timestamp)}": it.sentence for video, own in named.items() for it in own}
    with reporter.progress("scoring captions"):
        report = Report(dense=score_dense(named, references))
        if captions.keys() != annotated.captions.keys():
            return report
        scores = score_captions(captions, annotated.captions)
    return replace(report, captions=scores, worst=tuple(worst_captions(scores, captions, annotated.captions)))


@dataclass(frozen=True)
class _Parts:
    """Examples to measure captions, retrieval and classification on."""

    captions: Dataset | None
    retrieval: Dataset | None
    classes: Mapping[str, Sequence[Path]]
    groups: Mapping[str, str]
    events: Sequence[Events]
    templates: str
    incomplete: bool  # some files are missing


def _find_parts(request: EvaluateRequest, reporter: Reporter) -> _Parts:
    """Return the examples and classes whose files exist."""
    if not request.benchmark:
        dataset, incomplete = find_examples(request, reporter)
        return _Parts(
            captions=None if request.only == "retrieval" else dataset,
            retrieval=None if request.only == "captions" else dataset,
            classes=class_folders(request.classes, request.class_names, reporter) if request.classes else {},
            groups={},
            events=(),
            templates=request.templates,
            incomplete=incomplete,
        )
    found = _find_benchmark(request, reporter)
    wanted = [None if request.only == "retrieval" else found.captions]
    wanted += [None if request.only == "captions" else found.retrieval]
    if not any(wanted) and not found.classes:
        raise UsageError(f"--benchmark {request.benchmark} does not measure {request.only}", "leave out --only")
    present = {id(dataset): _present(dataset, request.limit, reporter) for dataset in wanted if dataset}
    captions, retrieval = (present[id(dataset)] if dataset else (None, False) for dataset in wanted)
    benchmark = BENCHMARKS[request.benchmark].templates
    templates = benchmark if request.templates == EvaluateRequest.templates else request.templates
    incomplete = captions[1] or retrieval[1]
    return _Parts(captions[0], retrieval[0], found.classes, found.groups, found.events, templates, incomplete)


def _find_benchmark(request: EvaluateRequest, reporter: Reporter) -> BenchmarkData:
    if not request.data or not request.benchmark:
        raise UsageError("--benchmark needs --data, the folder with its files")
    if request.karpathy or request.classes:
        raise UsageError("--benchmark reads its own files: leave out --karpathy and --classes")
    found = read_benchmark(
        request.benchmark, request.data, request.split, request.images, request.class_names, reporter
    )
    for note in found.notes:
        reporter.note(note)
    return found


def find_examples(request: EvaluateRequest | ScoreRequest, reporter: Reporter) -> tuple[Dataset | None, bool]:
    """Return the examples whose files exist, and whether others are missing."""
    if not request.data:
        return None, False
    dataset = find_dataset(request.data, request.split or "val", request.karpathy, request.images, reporter)
    return _present(dataset, request.limit, reporter)


def _present(dataset: Dataset, limit: int | None, reporter: Reporter) -> tuple[Dataset, bool]:
    """Return the first examples, as far as their files exist, and whether others are missing."""
    for line in (*dataset.notes, *(f"{count} {what} are left out" for what, count in dataset.left_out.items())):
        reporter.note(line)
    dataset, problem = drop_missing(replace(dataset, examples=dataset.examples[:limit]))
    if problem:
        reporter.warning(f"{problem.message}; {problem.hint}")
    return dataset, bool(problem)


def _split(request: EvaluateRequest) -> str:
    return request.split or (BENCHMARKS[request.benchmark].split if request.benchmark else "val")


def _settings(request: EvaluateRequest, model: ModelFiles, choice: Choice, parts: _Parts) -> dict[str, Any]:
    """Return the options that identify an evaluation, for its report. Earlier reports have them in this order."""
    data, search = None, None
    if request.data:
        data = {
            "folder": _absolute(request.data),
            "split": _split(request),
            "limit": request.limit,
            "only": request.only,
        }
        search = None if request.only == "retrieval" else asdict(request.search)
    folder = request.classes or request.data
    settings = {
        "model": model.name,
        "identity": model.identity,
        "data": data,
        "karpathy": request.karpathy and _absolute(request.karpathy),
        "images": request.images and _absolute(request.images),
        "classes": {"folder": _absolute(folder), "templates": parts.templates, "names": list(parts.classes)}
        if parts.classes and folder
        else None,
        "search": search,
        "frames": {"frames": request.frames, "num_frames": request.num_frames, "pool": request.pool},
        "precision": choice.precision,
    }
    return settings | ({"benchmark": request.benchmark} if request.benchmark else {})


def _absolute(path: Path) -> str:
    # pathlib's raises where links lead in a circle
    return str(path) if isinstance(path, RemotePath) else os.path.realpath(path)


def _check_output(
    folder: Path, settings: Mapping[str, Any], inputs: Iterable[Path], model: ModelFiles | None, overwrite: bool
) -> None:
    """Refuse a folder in which the files of an evaluation would replace others.

    Raises:
        UsageError: An input would be overwritten, or the folder has the report of another evaluation.
    """
    report = folder / REPORT
    outputs = [report, folder / CAPTIONS, *index_files(folder / INDEX)]
    protect_files([(str(path), path) for path in outputs], (split_column(str(path))[0] for path in inputs), model)
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


@dataclass(frozen=True)
class _Predictor:
    """The model under evaluation, and the folder that keeps its captions and vectors."""

    request: EvaluateRequest
    model: ModelFiles
    choice: Choice
    about: About
    read_request: ReadRequest
    folder: Path
    key: tuple[str, ...]  # precision, unless it is fp32: one evaluation never mixes two
    reporter: Reporter

    @property
    def index(self) -> Path:
        return self.folder / INDEX

    @cached_property
    def engine(self) -> Engine[Any]:
        return load_engine(self.model, self.choice, self.reporter)

    def _sizes(self, videos: int, *decoding: int) -> Sizes:
        engine, frames = self.engine, self.read_request.sampling.count
        return choose_sizes(engine.config, self.choice, self.request.model, videos, frames, *decoding)

    def prepare(self) -> None:
        """Clear the vectors of an earlier evaluation if it is to be overwritten."""
        if self.request.overwrite and self.index.exists():
            with open_index(self.index, self.about, self.model.config.embed_dim, [], overwrite=True):
                pass

    def caption(self, paths: Sequence[Path], embed: bool) -> tuple[dict[str, str], set[str]]:
        """Caption files, and embed them in the same pass if requested.

        Returns:
            Captions by path, and the paths of files that cannot be read.
        """
        search = self.request.search
        plan = Plan(
            paths,
            options=(self.model.identity, asdict(search), self.about, *self.key),
            outputs=(str(self.folder / CAPTIONS),),
            overwrite=self.request.overwrite,
            index=(self.index, self.about, self.model.config.embed_dim) if embed else None,
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        with open_run(plan) as run:
            if todo := [task.path for task in run.todo]:
                captioner = Captioner(self.engine, self.model.name, search, self.about.pool)
                sizes = self._sizes(len(todo), search.rows, search.max_length)
                results = caption_videos(todo, captioner, self.read_request, sizes, self.reporter)
                write_results(run, results, self.reporter)
            self._raise_if_stopped()
            outcomes = list(run.in_order())
        captions = {outcome.video: outcome.caption for outcome in outcomes if not isinstance(outcome, Failure)}
        return captions, {outcome.video for outcome in outcomes if isinstance(outcome, Failure)}

    def embed(self, paths: Sequence[Path], texts: Iterable[str]) -> set[str]:
        """Embed files and texts; return the paths of files that cannot be read."""
        files = file_tasks(paths, self.model.identity, self.about, *self.key)
        tasks = [*files, *text_tasks(dict.fromkeys(texts), *self.key)]
        with open_index(self.index, self.about, self.model.config.embed_dim, tasks) as index:
            failed = {failure.video for failure in index.reused.failures()}
            if todo := [task for task in tasks if task.name not in index.reused]:
                computer = embedding_computer(self.about.pool, self.engine)
                sizes = self._sizes(len(paths))
                failures = embed_tasks(index, todo, computer, self.engine, self.read_request, sizes, self.reporter)
                failed |= {failure.video for failure in failures}
        self._raise_if_stopped()
        return failed

    def _raise_if_stopped(self) -> None:
        if self.reporter.stop_requested:
            raise KeyboardInterrupt


def _measure_dataset(predictor: _Predictor, dataset: Dataset, only: str | None, parts: _Parts) -> tuple[Report, bool]:
    """Return the scores of captions and retrieval, and whether some files cannot be read."""
    paths = [example.path for example in dataset.examples]
    if only == "retrieval":
        captions: dict[str, str] = {}
        failed = predictor.embed(paths, [])
    else:
        captions, failed = predictor.caption(paths, embed=only is None)
    if failed:
        _warn_unreadable(failed, len(paths), predictor.reporter)
        dataset = dataset.without([path_of(name) for name in failed])
        if not dataset.examples:
            raise CocaError("no file could be read")
    reports = []
    if only != "captions":
        texts = [caption for example in dataset.examples for caption in example.captions]
        predictor.embed([], texts)
        index = Index(predictor.index)
        images = vectors_of(index, [str(example.path) for example in dataset.examples])
        reports.append(measure_retrieval(dataset, images, vectors_of(index, map(text_name, texts))))
    if only != "retrieval":
        with predictor.reporter.progress("scoring captions"):
            reports.append(measure_captions(dataset, captions, groups=parts.groups))
            if parts.events:
                reports.append(measure_dense(dataset, captions, parts.events))
    return joined(*reversed(reports)), bool(failed)


def _measure_classes(
    predictor: _Predictor, classes: Mapping[str, Sequence[Path]], templates: str
) -> tuple[Report, bool]:
    """Return the accuracy of zero-shot classification, and whether some files cannot be read."""
    sentences = read_templates(templates)
    paths = [path for files in classes.values() for path in files]
    failed = predictor.embed(paths, [text for texts in described(list(classes), sentences) for text in texts])
    if failed:
        _warn_unreadable(failed, len(paths), predictor.reporter)
    labeled = [
        (str(path), label) for label, files in enumerate(classes.values()) for path in files if str(path) not in failed
    ]
    index = Index(predictor.index)
    report = measure_classes(
        vectors_of(index, [name for name, _ in labeled]),
        [label for _, label in labeled],
        list(classes),
        lambda texts: vectors_of(index, map(text_name, texts)),
        sentences,
    )
    return report, bool(failed)


def _warn_unreadable(failed: Collection[str], count: int, reporter: Reporter) -> None:
    reporter.warning(f"{len(failed)} of {count} files cannot be read (first: {min(failed)}); the rest is measured")
