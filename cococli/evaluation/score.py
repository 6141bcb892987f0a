"""Similarity of existing captions to their pictures or videos, to filter data by."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from .. import interrupts
from ..captioning.formats import write_scores
from ..captioning.outputs import STDOUT, check_outputs
from ..captioning.records import Score, score_from_json
from ..datasets.dataset import Dataset, Example
from ..distributed.cluster import check_cluster
from ..engines.base import Engine
from ..engines.choice import resolve_options
from ..errors import UsageError
from ..files import container_of
from ..jobs import (
    Summary,
    choose_model,
    precision_key,
    protect_files,
    report_failures,
    warn_of_embeddings,
)
from ..journal import Failure, Journal, Task, cache_path, file_task, open_journal
from ..media.clips import ReadRequest, Sampling, Segments
from ..media.compute import Computed, Spent
from ..overwrite import refuse_foreign
from ..reporting import SILENT, Reporter
from ..requests import ScoreRequest
from ..retrieval.embed import TEXTS_AT_ONCE, compute, embed_texts, open_embedder
from ..urls import RemotePath, path_of
from .evaluate import find_examples

SUFFIXES = (".jsonl", ".csv", ".parquet")
CLIPSCORE = 2.5  # its factor (Hessel et al., arXiv 2104.08718)


def score(request: ScoreRequest, reporter: Reporter = SILENT, engine: Engine[Any] | None = None) -> Summary:
    """Compare captions with their pictures or videos, apart from those that earlier runs did.

    The outputs hold what is done, however the run ends. Each `Score` and `Failure` goes to `reporter.record`.

    Args:
        engine: The loaded model; by default it is loaded unless everything is done already.

    Raises:
        UsageError: The options do not fit each other or the data, or an output would overwrite a file.
        ModelError: The model does not exist, or its weights are damaged.
        CocaError: An output cannot be written.
    """
    options, sampling = request.model, Sampling(request.frames, request.num_frames)
    if request.cluster.ray is None:
        resolve_options(options)  # which refuses invalid ones
    dataset, incomplete = find_examples(request, reporter)
    assert dataset
    captions = _captions_by_path(dataset)
    paths = [example.path for example in captions.values()]
    files = _check_outputs(request, paths)
    model = choose_model(options.model)
    choice = check_cluster(request.cluster, model, options) or resolve_options(options, model.config)
    read_only = [dataset.source, *filter(None, (request.data, request.karpathy)), *map(container_of, paths)]
    local = [path for path in files if not isinstance(path, RemotePath)]
    journal = next((path for path in local if path.suffix.lower() == ".jsonl"), None)
    if files and not journal:
        places = (str(path.absolute() if path in local else path) for path in files)
        journal = cache_path("score", *places, suffix=".jsonl")
        journal.parent.mkdir(parents=True, exist_ok=True)
    tables = [path for path in files if path != journal]
    if not request.run.overwrite:
        refuse_foreign(*tables)
    protect_files(((f"-o {path}", path) for path in files), read_only, model, request.run.log_file, reporter)
    reporter.checked()
    warn_of_embeddings(model.name, reporter)
    key = model.name, model.identity, request.pool, sampling, *precision_key(options.precision)
    tasks = [file_task(name, example.path, *key, example) for name, example in captions.items()]
    vision, preprocess = model.config.vision, model.config.preprocess
    read = ReadRequest(sampling, Segments(), vision.image_size, None, preprocess, request.timeout)
    kept = request.run.overwrite, request.run.retry_failed
    with open_journal(journal, tasks, score_from_json, *kept) if journal else nullcontext() as lines:
        outcomes: dict[str, list[Score | Failure]] = dict(lines.reused) if lines else {}
        todo = [task for task in tasks if task.name not in outcomes]
        if outcomes:
            reporter.note(f"{len(outcomes)} of {len(tasks)} files already scored (use --overwrite to redo them)")
        for task in tasks:
            for outcome in outcomes.get(task.name, ()):
                reporter.record(outcome)
        spent = Spent()
        try:
            if todo:
                embedder = open_embedder(model, choice, request, len(todo), True, read, reporter, engine)
                with embedder as (computer, engine, sizes):
                    assert engine
                    found = [task.path for task in todo]
                    videos = compute(found, computer, read, sizes, reporter, spent)
                    with closing(videos):
                        scored = _scores(videos, todo, captions, engine, model.name)
                        _write(scored, lines, outcomes, todo, spent, reporter)
        finally:
            in_order = [outcome for task in tasks for outcome in outcomes.get(task.name, ())]
            for path in tables:
                write_scores(path, in_order)
    _report_mean([outcome for outcome in in_order if isinstance(outcome, Score)], reporter)
    failed = report_failures((outcome.error for outcome in in_order if isinstance(outcome, Failure)), reporter)
    return Summary(len(tasks), failed, incomplete)


def _captions_by_path(dataset: Dataset) -> dict[str, Example]:
    """Return the examples by path, with all distinct captions of files that are listed several times."""
    found: dict[str, Example] = {}
    for example in dataset.examples:
        first = found.get(name := str(example.path), example)
        found[name] = Example(first.path, tuple(dict.fromkeys((*first.captions, *example.captions))), first.id)
    return found


def _check_outputs(request: ScoreRequest, paths: Sequence[Path]) -> list[Path]:
    """Check the outputs; return the files among them.

    Raises:
        UsageError: A format is unknown, or a file cannot be written.
    """
    files = [path_of(output) for output in request.output if output != STDOUT]
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"unknown output format: {path}", f"use one of {', '.join(SUFFIXES)}")
    check_outputs(request.output, paths)
    return files


def _scores(
    videos: Iterator[Computed[np.ndarray]],
    tasks: Sequence[Task],
    captions: Mapping[str, Example],
    engine: Engine[Any],
    model: str,
) -> Iterator[tuple[Task, list[Score | Failure]]]:
    """Yield the scores of each file; captions of several files share a batch."""
    waiting: list[tuple[Task, np.ndarray]] = []

    def scored() -> Iterator[tuple[Task, list[Score | Failure]]]:
        texts = [caption for task, _ in waiting for caption in captions[task.name].captions]
        vectors = (vector[0] for _, _, vector in embed_texts(texts, engine))
        for task, picture in waiting:
            name, own, example = task.name, captions[task.name].captions, captions[task.name].id
            cosines = [round(float(next(vectors) @ picture), 4) for _ in own]
            scores = [
                Score(name, example, caption, cosine, CLIPSCORE * max(cosine, 0.0), model, len(own))
                for caption, cosine in zip(own, cosines, strict=True)
            ]
            yield task, [*scores]
        waiting.clear()

    for video in videos:
        task = tasks[video.index]
        if video.failure:
            yield from scored()
            yield task, [Failure(task.name, video.failure, video.transient)]
            continue
        waiting.append((task, video.values[0]))
        if sum(len(captions[task.name].captions) for task, _ in waiting) >= TEXTS_AT_ONCE:
            yield from scored()
    yield from scored()


def _write(
    scored: Iterator[tuple[Task, list[Score | Failure]]],
    journal: Journal[Score | Failure] | None,
    outcomes: dict[str, list[Score | Failure]],
    todo: Sequence[Task],
    spent: Spent,
    reporter: Reporter,
) -> None:
    """Write scores to the journal, and keep them by the names of their tasks."""
    with reporter.progress("scoring", len(todo), done="scored", on_stop="finishing the batch") as progress:
        progress.current(todo[0].name)
        for (task, own), following in zip(scored, [*(task.name for task in todo[1:]), ""], strict=False):
            # An interrupt waits, so that everything written is counted.
            with interrupts.held():
                if journal:
                    journal.append(task, own)
                outcomes[task.name] = own
                for outcome in own:
                    if isinstance(outcome, Failure):
                        reporter.warning(f"{outcome.video}: {outcome.error}")
                    reporter.record(outcome)
                progress.current(following)
                progress.advance(ok=isinstance(own[0], Score))
        progress.conclude(spent.describe(len(todo)))


def _report_mean(scores: Sequence[Score], reporter: Reporter) -> None:
    if scores:
        similarity = float(np.nanmean([one.similarity for one in scores]))
        clipscore = float(np.nanmean([one.clipscore for one in scores]))
        reporter.note(f"{len(scores)} captions: mean similarity {similarity:.4f}, CLIPScore {clipscore:.4f}")
