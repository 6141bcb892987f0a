"""Resumable runs: what earlier runs have done, and where records are written."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import CocaError
from ..files import io_errors, temporary_folder
from ..journal import Failure, Journal, Records, Task, cache_path, file_tasks, open_journal, preview_journal
from ..media.tars import is_tar
from ..overwrite import find_foreign, refuse_foreign
from ..packed import View, select
from ..reporting import SILENT, Reporter
from ..retrieval.index import About, EntriesByTask, Entry, IndexWriter, index_files, open_index, preview_index
from ..shards import MANIFEST, Listing, manifest_of, withdraw_manifest
from ..stores import read_file
from ..urls import RemotePath, path_of, place_of
from .formats import CAPTION_ONLY, PAGE, PLAIN, STANDARD, SidecarText, content, write, write_sidecars
from .numbered_files import SHARD_SIZE, NumberedFiles, shard_manifest, shard_paths, size_of
from .outputs import STDOUT, beside, is_folder, mirrored
from .record_shards import RecordShards, is_manifest, is_numbered, manifest_path
from .records import Outcome, from_json
from .report import write_page
from .subtitles import CueStyle
from .webdataset import WebDatasetShards

NUMBERED_HINT = "after coca merge, run the shards and merge again; else name another output, or --overwrite"
EXISTING_HINT = "--existing keep, replace or append says what happens to such files; or name another output"


@dataclass(frozen=True)
class Plan:
    """Inputs and outputs of a run.

    Attributes:
        videos: Videos and pictures in the order of the records.
        options: Everything besides the video that affects its records. See `journal.fingerprint`.
        outputs: Files, folders for subtitles or text, and `-` for stdout, checked by `outputs.check_outputs`.
        beside: Write subtitles or text next to each video, too.
        suffix: Suffix of the files in folders and next to videos.
        text: Treatment of text in these files.
        cut_to: Folder of clips that are cut out, each with its caption.
        folders: Folders that the user named, for `outputs.mirrored`.
        shard_size: Inputs of a numbered file, where an output is `shards/%06d.tar`, which needs an index, or
            `out/%05d.parquet`.
        index: Folder that takes the embeddings, how they are made, and their dimension.
        listing: All inputs, if the videos are those of one shard. Outputs are those of the shard.
    """

    videos: Sequence[Path]
    options: tuple[object, ...]
    outputs: tuple[str, ...] = ()
    beside: bool = False
    suffix: str = ".srt"
    text: SidecarText = PLAIN
    cut_to: Path | None = None
    folders: Sequence[Path] = ()
    template: str = CAPTION_ONLY
    style: CueStyle = STANDARD
    overwrite: bool = False
    retry_failed: bool = False
    shard_size: int = SHARD_SIZE
    index: tuple[Path, About, int] | None = None
    listing: Listing | None = None

    @property
    def files(self) -> list[Path]:
        """Output files with the records of all videos."""
        named = [path_of(output) for output in self.outputs if output != STDOUT and not is_folder(output)]
        return [path for path in named if not is_tar(path) and not is_numbered(str(path))]

    @property
    def sharded(self) -> list[Path]:
        """Outputs that are numbered files, as `shards/%06d.tar` and `out/%05d.parquet`."""
        named = [output for output in self.outputs if not is_folder(output)]
        return [path_of(output) for output in named if is_tar(output) or is_numbered(output)]

    @property
    def shard_files(self) -> list[Path]:
        """The numbered files themselves."""
        return [path for output in self.sharded for path in shard_paths(output, len(self.videos), self.shard_size)]

    @property
    def shard_manifests(self) -> list[Path]:
        """Manifests of those that hold records."""
        return [manifest_path(output) for output in self.sharded if not is_tar(output)]

    @property
    def journal(self) -> Path | None:
        """File that the run resumes from: its JSONL output, else one in the cache; None if nothing is written.

        Stores cannot append to a file.
        """
        local = [path for path in self.files if not isinstance(path, RemotePath)]
        if lines := [path for path in local if path.suffix.lower() == ".jsonl"]:
            return lines[0]
        places = [place_of(output) for output in self.outputs if output != STDOUT]
        if self.beside:
            places += ["beside", *(str(folder.absolute()) for folder in self.folders)]
        if self.cut_to:
            places += ["cut", str(self.cut_to.absolute())]
        if places and self.listing:
            places.append(str(self.listing.shard))
        return cache_path(*places, suffix=".jsonl") if places else None

    @cached_property
    def sidecars(self) -> list[dict[Path, Path]]:
        """File of each video, for each output that has one for each, without those that are to be kept."""
        folders = [Path(output) for output in self.outputs if output != STDOUT and is_folder(output)]
        # Names depend on all videos: those of shards equal those of one run.
        videos = [path_of(name) for name in self.listing.names] if self.listing else self.videos
        files = [mirrored(videos, folder, self.suffix, self.folders) for folder in folders]
        files += [beside(videos, self.suffix)] if self.beside else []
        own = [{video: names[video] for video in self.videos if video in names} for names in files]
        if self.text.existing != "keep":
            return own
        kept = {path for names in own for path in find_foreign(names.values())}
        return [{video: path for video, path in names.items() if path not in kept} for names in own]

    @property
    def written(self) -> Iterator[tuple[str, Path]]:
        """Files that the run may write, each with its name in messages."""
        yield from ((f"-o {path}", path) for path in (*self.files, *self.shard_files, *self.shard_manifests))
        if self.journal and self.journal not in self.files:
            yield "the journal", self.journal
        yield from ((str(path), path) for files in self.sidecars for path in files.values())
        if self.index:
            yield from ((str(path), path) for path in index_files(self.index[0]))
        yield from ((str(path), path) for path in self.manifests)

    @property
    def manifests(self) -> list[Path]:
        """Manifests that declare a shard complete."""
        if not self.listing:
            return []
        lines = [manifest_of(path) for path in self.files if path == self.journal]
        numbered = [shard_manifest(output) for output in self.sharded]
        return [*lines, *numbered, *([self.index[0] / MANIFEST] if self.index else [])]


@dataclass
class Run:
    """A run in progress. `open_run` makes one."""

    plan: Plan
    tasks: Sequence[Task]
    outcomes: Records[Outcome]  # of each task that has some
    journal: Journal[Outcome] | None = None  # None in a preview
    index: IndexWriter | None = None
    indexed: EntriesByTask | None = None  # None if there is none, or none is wanted
    reporter: Reporter = SILENT
    shards: list[NumberedFiles] = field(init=False)

    def __post_init__(self) -> None:
        def vectors(name: str) -> np.ndarray:
            assert self.index
            return self.index.vectors_of(name)

        done, size = self._done(), self.plan.shard_size
        names = self.plan.listing.names if self.plan.listing else View(self.tasks, lambda task: task.name)
        self.shards = [
            WebDatasetShards(output, self.tasks, size, done, self.outcomes, vectors, names)
            if is_tar(output)
            else RecordShards(output, self.tasks, size, done, self.outcomes)
            for output in self.plan.sharded
        ]

    @property
    def todo(self) -> Sequence[Task]:
        """Tasks without records, or without embeddings where an index takes them."""
        return select(self.tasks, self._done())

    def _done(self) -> bytes:
        """Return for each task whether nothing is left to compute."""
        if not self.plan.index:
            return bytes(self.outcomes.present)
        if not self.indexed:
            return bytes(len(self.tasks))
        return bytes(map(min, self.outcomes.present, self.indexed.present))

    def is_done(self, task: Task) -> bool:
        """Return whether nothing is left to compute for a task."""
        is_indexed = not self.plan.index or (self.indexed is not None and task.name in self.indexed)
        return is_indexed and task.name in self.outcomes

    def take(self, task: Task, outcomes: list[Outcome], embeddings: np.ndarray) -> list[Failure]:
        """Write the records of a video to its subtitles or text, the index and the journal.

        Args:
            embeddings: [K, D] float32, L2-normalized, of its K records.

        Returns:
            Failures for files of the video that could not be written.

        Raises:
            CocaError: The journal or the index cannot be written.
        """
        style, text = self.plan.style, self.plan.text
        failures = [failure for names in self.plan.sidecars for failure in write_sidecars(names, outcomes, style, text)]
        if self.index and task.name not in self.index.reused:
            self.index.append(task, [_entry(outcome) for outcome in outcomes], embeddings)
        if self.journal and task.name not in self.journal.reused:
            self.journal.append(task, outcomes)
        if self.shards:
            place = self.outcomes.index(task.name)
            assert place is not None
            for shards in self.shards:
                shards.take(place)
        return failures

    def finish(self) -> None:
        """Write the outputs with the records of all videos, and missing subtitles or text of earlier runs.

        Raises:
            CocaError: One of them cannot be written.
        """
        pages = [path for path in self.plan.files if path.suffix.lower() == PAGE]
        for path in self.plan.files:
            if path not in (self.plan.journal, *pages):
                write(path, self.in_order(), self.plan.template, self.plan.style)
        for shards in self.shards:
            shards.finish()
        for names in self.plan.sidecars:
            missing = {video: path for video, path in names.items() if not path.exists()}
            for failure in write_sidecars(missing, self.in_order(), self.plan.style, self.plan.text):
                raise CocaError(failure.error)
        for path in pages:  # last, as they take longest
            index = self.plan.index[0] if self.plan.index else None
            write_page(path, self.in_order(), path.name, index, reporter=self.reporter)

    def complete(self) -> None:
        """Write the manifests of a shard if nothing is left to do.

        Raises:
            CocaError: One of them cannot be written.
        """
        if not (listing := self.plan.listing) or self.todo:
            return
        numbered = {shard_manifest(shards.output): shards for shards in self.shards}
        for path in self.plan.manifests:
            if shards := numbered.get(path):
                files = {path.name: size_of(path) for path in shards.paths}
                listing.write_manifest(path, numbered=shards.output.name, files=files)
            elif self.index and path.parent == self.index.folder:
                listing.write_manifest(path, self.index.kept_name)
            else:
                listing.write_manifest(path)

    def in_order(self) -> Iterator[Outcome]:
        """Iterate over all records in the order of the videos."""
        return (outcome for index in range(len(self.tasks)) for outcome in self.outcomes.at(index))

    def failures(self) -> Iterator[Failure]:
        """Iterate over the failures among them."""
        return (failure for _, failure in self.outcomes.failures())


@contextmanager
def open_run(plan: Plan, reporter: Reporter = SILENT) -> Iterator[Run]:
    """Open the outputs of a run. When the block ends, even by an error, they hold all finished records.

    Args:
        reporter: Receives the progress of what takes long to write.

    Raises:
        UsageError: The journal is in use or is not a journal, or an output is a file that coca did not write.
        CocaError: An output cannot be written.
    """
    tasks = file_tasks(plan.videos, *plan.options)
    _refuse_foreign(plan)
    with ExitStack() as stack:
        index = stack.enter_context(_open_index(plan, tasks)) if plan.index else None
        path = plan.journal or stack.enter_context(temporary_folder()) / "journal"
        journal = stack.enter_context(_open_journal(path, plan, tasks))
        run = Run(plan, tasks, journal.records, journal, index, index.entries if index else None, reporter)
        for path in plan.manifests:
            withdraw_manifest(path)
        try:
            yield run
        finally:
            run.finish()
            run.complete()


def preview(plan: Plan) -> Run:
    """Return the state that `open_run` would start from, without changing anything.

    Raises:
        UsageError, CocaError: As from `open_run`.
    """
    _refuse_foreign(plan)
    return _state(plan)


def _state(plan: Plan) -> Run:
    tasks = file_tasks(plan.videos, *plan.options)
    indexed = None
    if plan.index and not plan.overwrite:
        indexed = preview_index(plan.index[0], tasks, plan.retry_failed)
    if plan.journal and not plan.overwrite:
        outcomes = preview_journal(plan.journal, tasks, from_json, plan.retry_failed)
    else:
        outcomes = Records(Path(), tasks, from_json)
    return Run(plan, tasks, outcomes, indexed=indexed)


def _open_journal(path: Path, plan: Plan, tasks: Sequence[Task]) -> AbstractContextManager[Journal[Outcome]]:
    if path not in plan.files:
        with io_errors("write", path):
            path.parent.mkdir(parents=True, exist_ok=True)
    return open_journal(path, tasks, from_json, plan.overwrite, plan.retry_failed)


def _open_index(plan: Plan, tasks: Sequence[Task]) -> AbstractContextManager[IndexWriter]:
    assert plan.index
    folder, about, dimension = plan.index
    return open_index(folder, about, dimension, tasks, None, plan.overwrite, plan.retry_failed)


def _entry(outcome: Outcome) -> Entry | Failure:
    """Return the index entry of a record."""
    if isinstance(outcome, Failure):
        return outcome
    return Entry(-1, outcome.video, outcome.start, outcome.end, outcome.frames, outcome.segments, text=outcome.caption)


def _refuse_foreign(plan: Plan) -> None:
    """Refuse to replace files that coca did not write.

    Subtitles and text of finished videos are not written again, and a file may hold exactly what this run would write,
    as after the cache was lost: both are fine.

    Raises:
        UsageError: Such a file would be replaced.
    """
    tables = [path for path in plan.files if path != plan.journal]
    shards, manifests = plan.shard_files, plan.shard_manifests
    sidecars = {path: str(video) for files in plan.sidecars for video, path in files.items()}
    checked = [*tables, *shards, *manifests, *(sidecars if plan.text.existing is None else ())]
    if plan.overwrite or not (foreign := find_foreign(checked)):
        return
    run = _state(plan)
    done = {task.name for task in run.tasks if run.is_done(task)}
    current = {path for output in run.shards for index, path in enumerate(output.paths) if output.is_current(index)}
    for path in foreign:
        if path in sidecars:
            harmless = sidecars[path] in done
        elif path in manifests:
            harmless = is_manifest(path)
        elif path in shards:
            harmless = path in current
        else:
            # The thumbnails of a page are not read just to compare it.
            harmless = path.suffix.lower() != PAGE and _read(path) == content(
                path, run.in_order(), plan.template, plan.style
            )
        if not harmless:
            refuse_foreign(path, hint=EXISTING_HINT if path in sidecars else NUMBERED_HINT if path in shards else "")


def _read(path: Path) -> bytes:
    return read_file(path.url) if isinstance(path, RemotePath) else path.read_bytes()
