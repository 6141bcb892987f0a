"""Captioning of files: from a request to records and a summary."""

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .. import interrupts
from ..checkpoints.store import ModelFiles
from ..devices import open_devices, spread
from ..distributed.cluster import Cluster, check_cluster
from ..distributed.driver import compute_on_cluster
from ..engines.base import Engine
from ..engines.choice import Choice, resolve_options
from ..engines.sizes import SMALL, Sizes, choose_sizes
from ..errors import UsageError
from ..files import container_of
from ..jobs import (
    Summary,
    choose_model,
    list_files,
    load_engine,
    precision_key,
    protect_files,
    report_failures,
    warn_of_embeddings,
)
from ..journal import Failure, cache_path, fingerprint
from ..media.clips import Clip, ReadRequest, Sampling, Segments, parse_segments
from ..media.compute import Computed, Spent, compute_videos
from ..media.discover import discover, is_image
from ..media.tars import is_tar
from ..model.arrays import l2_normalize
from ..packed import Paths, View
from ..reporting import SILENT, Reporter
from ..requests import CaptionRequest
from ..retrieval.index import About, check_index
from ..shards import Listing, Shard, parse_shard
from ..urls import path_of, place_of
from .captioner import Caption, Captioner, RemoteCaptioner, Stream, check_request
from .cutting import check_cutting, cut_clips
from .formats import COCO, SidecarText, check_template, default_template
from .numbered_files import shard_paths, surplus_shards
from .outputs import STDOUT, check_outputs, is_folder, only_sidecars
from .records import Outcome, Record
from .resume import Plan, Run, open_run, preview
from .subtitles import CueStyle


@dataclass(frozen=True)
class CaptionJob:
    """A request whose files, model and outputs were checked. `prepare` makes one."""

    request: CaptionRequest
    plan: Plan
    read: ReadRequest
    model: ModelFiles
    choice: Choice | None  # None on a cluster, whose nodes choose
    cluster: Cluster | None
    incomplete: bool  # some arguments matched nothing

    def run(self, reporter: Reporter = SILENT, engine: Engine[Any] | None = None) -> Summary:
        """Caption what earlier runs did not; outputs hold what is done, however it ends.

        Each record goes to `reporter.record` once it is written.

        Args:
            engine: The loaded model; by default it is loaded unless everything is done already.

        Raises:
            UsageError: The journal belongs to another run, or an output is a file that coca did not write.
            ModelError: The weights are damaged.
            CocaError: An output cannot be written.
        """
        request, spent = self.request, Spent()
        with open_run(self.plan, reporter) as run:
            todo = run.todo
            summary = Summary(len(run.tasks), incomplete=self.incomplete)
            if before := len(run.tasks) - len(todo):
                reporter.note(f"{before} of {len(run.tasks)} files already captioned (use --overwrite to redo them)")
                if STDOUT in self.plan.outputs:
                    for outcome in run.in_order():
                        reporter.record(outcome)
            if todo:
                paths, limits = View(todo, lambda task: task.path), (request.merge, request.min_score)
                if self.cluster:
                    videos = self._computed(paths, self.cluster, reporter)
                    results = _results(videos, paths, self.model.name, *limits)
                    summary.incomplete |= not write_results(run, results, reporter)
                else:
                    with self._loaded(len(todo), reporter, engine) as (captioner, sizes):
                        results = caption_videos(paths, captioner, self.read, sizes, reporter, spent, *limits)
                        summary.incomplete |= not write_results(run, results, reporter, spent)
            if request.cut_to and not reporter.stop_requested:
                summary.incomplete |= not cut_clips(run, {task.name for task in todo}, reporter)
            summary.failures = report_failures((failure.error for failure in run.failures()), reporter)
        return summary

    def preview(self) -> Iterator[tuple[str, bool]]:
        """Yield the name of each input and whether it is done already, without changing anything."""
        run = preview(self.plan)
        return ((task.name, run.is_done(task)) for task in run.tasks)

    def estimate(self, videos: Sequence[str], reporter: Reporter = SILENT) -> float:
        """Caption videos without writing anything; return the seconds that one takes."""
        with self._loaded(len(videos), reporter) as (captioner, sizes):
            # The first pass compiles.
            paths = [path for path in self.plan.videos if str(path) in videos]
            for _ in range(2):
                started = time.perf_counter()
                list(caption_videos(paths, captioner, self.read, sizes))
            return (time.perf_counter() - started) / len(videos)

    @contextmanager
    def _loaded(
        self, videos: int, reporter: Reporter, engine: Engine[Any] | None = None
    ) -> Iterator[tuple[Captioner | RemoteCaptioner, Sizes]]:
        """Load the model, on all devices that there is work for, and choose the sizes of the run."""
        assert self.choice
        model, make = self.model, self._make_captioner
        choices = [self.choice] if engine else spread(self.choice, self.read.count(videos))
        sizes = partial(self._choose_sizes(videos), choice=choices[0])
        if len(choices) == 1:
            yield make(engine or load_engine(model, choices[0], reporter)), sizes()
            return
        with open_devices(model, choices, reporter) as devices:
            found = sizes(devices=len(choices), free=devices.memory)
            yield RemoteCaptioner(model.name, devices, make, found), found

    def _computed(
        self, paths: Sequence[Path], cluster: Cluster, reporter: Reporter
    ) -> Generator[Computed[Caption], None, None]:
        """Caption videos on a cluster."""
        make, choose = self._make_captioner, self._choose_sizes(len(paths))

        def stream(engine: Engine[Any], sizes: Sizes) -> Stream[Any]:
            return make(engine).stream(sizes.slots)

        return compute_on_cluster(paths, cluster, self.read, choose, stream, reporter)

    @property
    def _make_captioner(self) -> Callable[[Engine[Any]], Captioner]:
        request, model = self.request, self.model.name
        options = {"pool": request.pool, "prompt": request.prompt, "rerank": request.rerank}
        return partial(Captioner, model=model, search=request.search, **options)  # type: ignore[arg-type]

    def _choose_sizes(self, videos: int) -> Callable[..., Sizes]:
        """Return what chooses the sizes of the run for a `choice`."""
        options, search = self.request.model, self.request.search
        frames, beams, length = self.read.sampling.count, search.rows, search.max_length
        given: dict[str, Any] = {"videos": videos, "frames": frames, "beams": beams, "max_length": length}
        return partial(choose_sizes, self.model.config, options=options, **given)


def prepare(request: CaptionRequest, reporter: Reporter = SILENT, required: bool = True) -> CaptionJob:
    """Check a request and find its files, before anything is loaded.

    Args:
        required: Whether there must be files.

    Raises:
        UsageError: The options do not fit each other, the files or the model, or an output would overwrite a file.
        ModelError: The model does not exist.
    """
    options, shard = request.model, parse_shard(request.shard)
    if shard:
        request = _outputs_of_shard(request, shard)
    if request.cluster.ray is None:
        resolve_options(options)  # which refuses invalid ones
    sampling, segments = Sampling(request.frames, request.num_frames), parse_segments(request.segments)
    videos, problems = discover(request.paths, request.files, reporter, required=required)
    folders = [Path(path) for path in request.paths if Path(path).is_dir()]
    _check_outputs(request, videos, folders, segments)
    only = not request.embed and not request.cut_to and only_sidecars(request.output, request.beside)
    if only and request.subtitles != "txt" and (pictures := sum(map(is_image, videos))):
        reporter.warning(f"{pictures} of {len(videos)} files skipped: pictures have no subtitles")
        videos = Paths(path for path in videos if not is_image(path))
    model = choose_model(options.model)
    cluster = check_cluster(request.cluster, model, options)
    choice = None if cluster else resolve_options(options, model.config)
    check_request(model.config, request.search, request.pool, request.prompt, request.rerank)
    if request.rerank or request.embed or request.min_score is not None:
        warn_of_embeddings(model.name, reporter)
    vision, timeout = model.config.vision, request.files.timeout
    read = ReadRequest(sampling, segments, vision.image_size, None, model.config.preprocess, timeout)
    plan = _plan(request, videos, folders, model, read, shard)
    if only and request.existing == "keep":
        plan = _without_kept(plan, reporter)
    if plan.index:
        folder, about, _ = plan.index
        check_index(folder, about, None, request.run.overwrite)
    sources = chain(map(container_of, videos), list_files(request.paths))
    protect_files(plan.written, sources, model, request.run.log_file, reporter)
    reporter.checked()
    for problem in problems:
        reporter.warning(f"{problem.message}; {problem.hint}")
    for output in plan.sharded:
        if left := surplus_shards(output, len(shard_paths(output, len(plan.videos), plan.shard_size))):
            reporter.warning(f"{len(left)} files of a run with more shards will remain (first: {left[0]})")
    if plan.listing:
        reporter.note(plan.listing.describe())
    return CaptionJob(request, plan, read, model, choice, cluster, bool(problems))


def _outputs_of_shard(request: CaptionRequest, shard: Shard) -> CaptionRequest:
    """Return the request with outputs that only this shard writes."""
    outputs = tuple(
        output if output == STDOUT or is_folder(output) else str(shard.file(path_of(output)))
        for output in request.output
    )
    return replace(request, output=outputs, embed=shard.folder(request.embed) if request.embed else None)


def _check_outputs(
    request: CaptionRequest, videos: Sequence[Path], folders: Sequence[Path], segments: Segments
) -> None:
    """Refuse options of outputs that do not fit each other or the inputs."""
    CueStyle(max_seconds=request.max_cue)  # which refuses invalid ones
    if request.template is not None:
        check_template(request.template)
    appends = request.existing == "append" and (request.beside or not request.cut_to)
    if appends and request.subtitles != "txt":
        raise UsageError("--existing append needs --as txt", "subtitles can be replaced or kept")
    check_outputs(request.output, videos, request.beside, f".{request.subtitles}")
    if segments.kind != "none" and any(output.lower().endswith(COCO) for output in request.output):
        raise UsageError("COCO's results hold one caption of each file", "leave out --segments, or use .jsonl")
    if request.cut_to:
        check_cutting(request.cut_to, videos, folders)


def _plan(
    request: CaptionRequest,
    videos: Sequence[Path],
    folders: Sequence[Path],
    model: ModelFiles,
    read: ReadRequest,
    shard: Shard | None,
) -> Plan:
    """Return what the run reads and writes, and what its records depend on."""
    identity = (model.name, model.identity, request.pool, request.prompt, request.rerank, request.merge)
    precision = precision_key(request.model.precision)
    key = (*identity, request.min_score, *precision), asdict(request.search), read.sampling, read.segments
    listing = Listing(shard, View(videos, str), fingerprint(*key)) if shard else None
    folder = request.embed
    if not folder and (tars := [output for output in request.output if is_tar(output)]):
        folder = cache_path(model.identity, *map(place_of, tars), suffix=".index")
    about = About(model.name, model.identity, request.frames, request.num_frames, request.pool)
    return Plan(
        View(videos, indexes=listing.own) if listing else videos,
        options=key,
        outputs=request.output,
        beside=request.beside,
        suffix=f".{request.subtitles}",
        text=SidecarText(request.existing, request.prefix, request.suffix),
        cut_to=request.cut_to,
        folders=folders,
        template=default_template(videos) if request.template is None else request.template,
        style=CueStyle(max_seconds=request.max_cue),
        overwrite=request.run.overwrite,
        retry_failed=request.run.retry_failed,
        shard_size=request.shard_size,
        index=(folder, about, model.config.embed_dim) if folder else None,
        listing=listing,
    )


def _without_kept(plan: Plan, reporter: Reporter) -> Plan:
    """Leave out videos whose only outputs are files that exist and are kept."""
    wanted = {video for names in plan.sidecars for video in names}
    if kept := [video for video in plan.videos if video not in wanted]:
        reporter.note(f"{len(kept)} of {len(plan.videos)} files skipped: they have a {plan.suffix}")
        return replace(plan, videos=[video for video in plan.videos if video in wanted])
    return plan


@dataclass(frozen=True)
class Result:
    """The records of a video."""

    index: int  # in the given paths
    outcomes: list[Outcome]  # its records in order, or one failure
    embeddings: np.ndarray  # [K, D] float32, L2-normalized, of its K records


def write_results(
    run: Run, results: Generator[Result, None, None], reporter: Reporter = SILENT, spent: Spent | None = None
) -> bool:
    """Write the results of the videos of a run that are not done, each as soon as it is there.

    Args:
        spent: Filled by `caption_videos`, for the summary.

    Returns:
        Whether all of their captions could be written.
    """
    todo, ok = run.todo, True
    with (
        reporter.progress("captioning", len(todo), done="captioned", on_stop="finishing the batch") as progress,
        closing(results),
    ):
        progress.current(todo[0].name if todo else "")
        for result in results:
            # An interrupt waits, so that everything written is counted.
            with interrupts.held():
                for failure in run.take(todo[result.index], result.outcomes, result.embeddings):
                    reporter.warning(f"{failure.video}: {failure.error}")
                    ok = False
                for outcome in result.outcomes:
                    reporter.record(outcome)
                following = result.index + 1
                progress.current(todo[following].name if following < len(todo) else "")
                progress.advance(ok=isinstance(result.outcomes[0], Record))
        if spent:
            progress.conclude(spent.describe(len(todo)))
    return ok


def caption_videos(
    paths: Sequence[Path],
    captioner: Captioner | RemoteCaptioner,
    read: ReadRequest,
    sizes: Sizes = SMALL,
    reporter: Reporter = SILENT,
    spent: Spent | None = None,
    merge: float | None = None,
    min_score: float | None = None,
) -> Generator[Result, None, None]:
    """Caption every video, in the order given. See `media.compute.compute_videos`.

    Args:
        read: Frames and segments to read.
        sizes: Clips that are encoded and decoded at once, and processes that read.
        merge: Least cosine of the embeddings of consecutive segments that are merged; None merges none.
        min_score: Captions of a lower similarity are marked as weak.
    """
    stream = captioner.stream(sizes.slots)
    videos = compute_videos(paths, stream, read, sizes.batch, reporter, spent, sizes.readers)
    return _results(videos, paths, captioner.model, merge, min_score)


def _results(
    videos: Generator[Computed[Caption], None, None],
    paths: Sequence[Path],
    model: str,
    merge: float | None,
    min_score: float | None,
) -> Generator[Result, None, None]:
    with closing(videos):
        for video in videos:
            yield _result(video, str(paths[video.index]), model, merge, min_score)


def merge_segments(
    records: Sequence[Record], embeddings: np.ndarray, threshold: float
) -> tuple[list[Record], np.ndarray]:
    """Merge consecutive segments whose captions are the same, or whose embeddings are similar.

    Args:
        records: Records of one video, in order.
        embeddings: [N, D] float32, L2-normalized, of their clips.
        threshold: Least cosine of two embeddings whose segments are merged.

    Returns:
        Records that span the merged segments, with the caption of the highest similarity, and their embeddings: the
        mean of the merged ones, L2-normalized.
    """
    merged: list[Record] = []
    starts: list[int] = []
    for i, record in enumerate(records):
        if merged and (_same_caption(record, records[i - 1]) or embeddings[i] @ embeddings[i - 1] >= threshold):
            last = merged[-1]
            best = max(last, record, key=lambda one: one.similarity)
            merged[-1] = replace(best, start=last.start, end=record.end, frames=(*last.frames, *record.frames))
        else:
            merged.append(record)
            starts.append(i)
    if len(merged) == len(records):
        return merged, embeddings
    sums = np.add.reduceat(embeddings, starts)
    return merged, l2_normalize(sums)


def _same_caption(one: Record, other: Record) -> bool:
    """Compare captions regardless of case and white space."""
    return one.caption.casefold().split() == other.caption.casefold().split()


def _result(video: Computed[Caption], path: str, model: str, merge: float | None, min_score: float | None) -> Result:
    if video.failure:
        failure = Failure(path, video.failure, video.transient)
        return Result(video.index, [failure], np.zeros((0, 0), np.float32))
    records = [
        _record(path, clip, caption, model, min_score) for clip, caption in zip(video.clips, video.values, strict=True)
    ]
    embeddings = np.stack([caption.embedding for caption in video.values])
    if merge is not None:
        records, embeddings = merge_segments(records, embeddings, merge)
    return Result(video.index, [replace(record, segments=len(records)) for record in records], embeddings)


def _record(path: str, clip: Clip, caption: Caption, model: str, min_score: float | None) -> Record:
    return Record(
        video=path,
        start=clip.start,
        end=clip.end,
        caption=caption.text,
        logprob=caption.logprob,
        similarity=caption.similarity,
        frames=tuple(clip.times),
        model=model,
        weak=min_score is not None and caption.similarity < min_score,
        candidates=caption.candidates if len(caption.candidates) > 1 else (),
    )
