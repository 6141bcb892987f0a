"""Captioning of files as they arrive in folders."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import interrupts
from ..devices import spread
from ..engines.base import Engine
from ..errors import UsageError
from ..files import io_errors
from ..jobs import Summary, load_engine, report_failures
from ..media.discover import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..reporting import SILENT, Reporter
from ..requests import CaptionRequest
from .formats import NAMED, SUBTITLES
from .job import CaptionJob, prepare
from .outputs import STDOUT

SETTLED = 2.0  # seconds without a change, after which a file is complete
TICK = 200  # milliseconds between looks at files that are not complete yet

_Version = tuple[int, int]  # size and modification time of a file


def watch_folders(request: CaptionRequest, reporter: Reporter = SILENT, engine: Engine[Any] | None = None) -> Summary:
    """Caption what is in folders, then new and changed files once they have stopped growing, until an interrupt.

    Args:
        reporter: Its stop request ends the watch, too.
        engine: The loaded model; by default it is loaded once there is work.

    Raises:
        UsageError: The options do not fit each other or a watch, or a package is missing.
        ModelError: The model does not exist, or its weights are damaged.
        CocaError: An output cannot be written.
    """
    folders = _check(request)
    files, reports, done = _Files(), _Reports(reporter), set[tuple[Path, _Version]]()
    with io_errors("read", folders[0]):
        changes = _changes(folders)
        next(changes)  # before the files are listed, so that none is missed
    job = prepare(request, reports, required=False)
    with reporter.progress(f"watching {', '.join(map(str, folders))}", on_stop="ending"):
        while True:
            complete = [path for path in job.plan.videos if files.is_complete(path)]
            # Without a journal, no run knows what earlier ones printed.
            fresh = [path for path in complete if (path, files.version(path)) not in done]
            plan = replace(job.plan, videos=complete if job.plan.journal else fresh)
            job = replace(job, plan=plan if request.template else replace(plan, template=NAMED))
            engine = engine or _load(job, not reports.quiet, reporter)
            summary = job.run(reports, engine)
            done.update((path, files.version(path)) for path in complete)
            reports.quiet = True
            while not reporter.stop_requested and not files.has_arrived(next(changes)):
                pass
            if reporter.stop_requested:
                break
            job = prepare(request, reports, required=False)
    if all(is_done or name in reports.captioned for name, is_done in job.preview()):
        interrupts.forget()  # it interrupted nothing
    total = summary.total if job.plan.journal else len(done)
    reporter.note(f"{total - len(summary.failures)} of {total} files captioned")
    report_failures(summary.failures, reporter)
    return summary


def _check(request: CaptionRequest) -> list[Path]:
    """Return the folders to watch.

    Raises:
        UsageError: Something else was given, or an output is for a known set of files.
    """
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        raise UsageError("--watch needs watchfiles", "pip install 'cococli[review]'") from None
    folders = [Path(path) for path in request.paths]
    if others := [path for path in folders if not path.is_dir()]:
        raise UsageError(f"--watch takes folders, and {others[0]} is not one")
    if request.shard:
        raise UsageError("--watch and --shard exclude each other", "watch a folder on each machine")
    if request.cluster.ray:
        raise UsageError("--watch and --ray exclude each other", "leave --ray out")
    if STDOUT in request.output and len(request.output) > 1:
        raise UsageError("with --watch, captions go to files or to stdout, not to both")
    if wrong := [output for output in request.output if Path(output).suffix.lower() in SUBTITLES]:
        raise UsageError(f"--watch cannot write all files to {wrong[0]}", "use -o subtitles/ for one file per video")
    return folders


def _changes(folders: Sequence[Path]) -> Iterator[set[tuple[Any, str]]]:
    """Yield changes of videos and pictures; nothing, often, while there are none."""
    import watchfiles

    def matters(change: Any, path: str) -> bool:
        suffix = Path(path).suffix.lower()
        return suffix in VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES or Path(path).is_dir()

    return watchfiles.watch(*folders, watch_filter=matters, rust_timeout=TICK, yield_on_timeout=True)


def _load(job: CaptionJob, first: bool, reporter: Reporter) -> Engine[Any] | None:
    """Load the model to keep, if there is work. Many files that were there before go to all devices instead."""
    assert job.choice
    todo = sum(not done for _, done in job.preview())
    if not todo or (first and len(spread(job.choice, job.read.count(todo))) > 1):
        return None
    return load_engine(job.model, job.choice, reporter)


class _Files:
    """Files that may still grow."""

    def __init__(self) -> None:
        self._versions: dict[Path, tuple[_Version, float]] = {}  # and since when it has been the same
        self._growing: set[Path] = set()

    def version(self, path: Path) -> _Version:
        return self._versions[path][0]

    def is_complete(self, path: Path) -> bool:
        """Return whether a file has not changed for a while."""
        try:
            status = path.stat()
        except OSError:  # it is gone
            self._growing.discard(path)
            return False
        version = status.st_size, status.st_mtime_ns
        known, since = self._versions.get(path, (None, 0.0))
        if known != version:
            age = max(time.time() - status.st_mtime, 0.0) if known is None else 0.0
            since = time.monotonic() - age
            self._versions[path] = version, since
        complete = time.monotonic() - since >= SETTLED
        (self._growing.discard if complete else self._growing.add)(path)
        return complete

    def has_arrived(self, changes: set[tuple[Any, str]]) -> bool:
        """Return whether there is a new folder, or a file that is complete now."""
        paths = [Path(path) for _, path in changes]
        return any(path.is_dir() or self.is_complete(path) for path in [*paths, *self._growing])


class _Reports(Reporter):
    """Passes on records, warnings and progress, and the notes of the first pass."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self.quiet = reporter, False
        self.captioned: set[str] = set()
        self.warning, self.progress = reporter.warning, reporter.progress  # type: ignore[method-assign]

    def note(self, text: str) -> None:
        if not self.quiet:
            self._reporter.note(text)

    def checked(self) -> None:
        if not self.quiet:
            self._reporter.checked()

    def log_to(self, path: Path) -> None:
        if not self.quiet:
            self._reporter.log_to(path)

    def record(self, record: Any) -> None:
        self.captioned.add(record.video)
        self._reporter.record(record)

    @property
    def stop_requested(self) -> bool:
        return self._reporter.stop_requested
