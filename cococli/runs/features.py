"""Image features of a frozen vision tower, computed once per file and stored on disk for all runs.

Pictures are cropped as in evaluation: random crops would need the tower in every epoch.

A folder holds `rows.npy`, a row of Q * D numbers for each file content, and `contents.txt`, whose lines are the sha256
of these contents in the same order. A line is written after its row is flushed to disk, so every line has a row.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import settings
from ..catalog import CLIP, CocaConfig, Preprocess
from ..checkpoints.cache import acquire
from ..datasets.feeding import StepBatch, report_unreadable
from ..datasets.pairs import Order, Pairs
from ..errors import CocaError, UsageError
from ..files import check_space, digest, format_size, hash_file, io_errors, os_reason
from ..journal import CHANGED, Task, file_tasks
from ..media.clips import ReadRequest, Sampling, Segments
from ..media.compute import FunctionComputer, compute_videos
from ..media.frames import reason
from ..portable import sync
from ..reporting import SILENT, Reporter
from ..retrieval.vectors import VectorFile, create, map_vectors

ROWS, CONTENTS = "rows.npy", "contents.txt"
AT_ONCE = 32  # rows flushed together
_LINE = 65  # bytes: a sha256 and the end of the line

Encode = Callable[[np.ndarray], np.ndarray]  # [B, F, S, S, 3] uint8 -> [B, Q, D] float32


@dataclass(frozen=True)
class Tower:
    """A frozen vision tower and its input: everything that determines the features of a file."""

    identity: str  # of its weights and of how pictures are prepared for it, see `identity_of`
    sampling: Sampling
    image_size: int  # S, pixels
    queries: int  # Q
    width: int  # D
    dtype: str = "float32"  # or float16, which takes half the space
    preprocess: Preprocess = field(default=CLIP, repr=False)  # its part of the folder's name is in `identity`

    @property
    def folder(self) -> Path:
        return settings.home() / "features" / digest(repr(self))

    @property
    def row_bytes(self) -> int:
        """Size of the features of one file on disk."""
        return self.queries * self.width * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Features:
    """The stored features of some files."""

    images: np.ndarray  # [N, Q, D], a memory map
    row: np.ndarray  # [files] int64, each file's row; -1 if it cannot be read


def identity_of(config: CocaConfig, weights: Mapping[str, np.ndarray]) -> str:
    """Hash a vision tower, and its preprocessing unless that is CLIP's."""
    hashed = hashlib.sha256(repr((config.vision, config.quick_gelu)).encode())
    if config.preprocess != CLIP:
        hashed.update(repr(config.preprocess).encode())
    for name in sorted(name for name in weights if name.startswith("visual.")):
        hashed.update(f"{name} {weights[name].dtype}".encode())
        hashed.update(np.ascontiguousarray(weights[name]).data)
    return hashed.hexdigest()


def prepare(
    files: Sequence[Path],
    tower: Tower,
    encode: Encode,
    reporter: Reporter = SILENT,
    strict: bool = False,
    batch_size: int = 8,
    readers: int = 2,
) -> Features:
    """Return the features of files, computing those that are not on disk. Interrupted runs resume where they stopped.

    A requested stop returns early, with the features computed so far.

    Args:
        encode: The tower.
        reporter: Receives progress, and a warning for each file that cannot be read.
        strict: Whether a file that cannot be read raises a VideoError.
        readers: Processes that read files.

    Raises:
        CocaError: The disk is full or cannot be written.
    """

    def failed(path: Path, why: str) -> None:
        report_unreadable(path, why, strict, reporter)

    tasks = file_tasks(files)
    contents = [_content(path, failed) for path in files]
    with io_errors("write", tower.folder):
        tower.folder.mkdir(parents=True, exist_ok=True)
    with _locked(tower.folder / "lock", reporter), closing(_Store(tower)) as store:
        found = dict(zip(contents, tasks, strict=True))
        missing = {content: task for content, task in found.items() if content and content not in store.rows}
        _check_room(tower, len(missing))
        request = ReadRequest(tower.sampling, Segments("none"), tower.image_size, preprocess=tower.preprocess)
        if missing:
            size = format_size(len(missing) * tower.row_bytes)
            reporter.note(f"encoding {len(missing)} files once with the frozen vision tower: {size} in {tower.folder}")
            _compute(missing, request, batch_size, readers, encode, store, failed, reporter)
    images = map_vectors(tower.folder / ROWS).reshape(-1, tower.queries, tower.width)
    return Features(images, np.array([store.rows.get(content, -1) for content in contents], np.int64))


def cached_feed(
    pairs: Pairs, order: Order, steps: range, features: Features, part: slice = slice(None)
) -> Generator[StepBatch, None, None]:
    """Yield the batches of `feeding.feed` with features instead of pixels.

    Raises:
        VideoError: No file can be read.
    """
    broken = set(np.flatnonzero(features.row < 0).tolist())

    def batch(step: int) -> StepBatch:
        chosen = np.array([pairs.readable(pair, broken) for pair in order.batch(step)[part].tolist()])
        images = features.images[features.row[pairs.file[chosen]]].astype(np.float32, copy=False)
        return StepBatch(step, chosen, pairs.ids[chosen], images=images)

    with ThreadPoolExecutor(1) as pool:  # reads the next batch while a step computes
        pending: deque[Future[StepBatch]] = deque()
        for step in steps:
            pending.append(pool.submit(batch, step))
            if len(pending) > 1:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)


class _Store:
    """The feature folder of a tower, open for appending."""

    def __init__(self, tower: Tower) -> None:
        """Open the features of earlier runs.

        Raises:
            CocaError: The folder cannot be written.
        """
        self._path = tower.folder / ROWS
        with io_errors("write", self._path):
            self._vectors = _open_rows(tower)
            self._contents = (tower.folder / CONTENTS).open("a+b")
            self._contents.seek(0)
            lines = self._contents.read()
            count = min(self._vectors.count, len(lines) // _LINE)
            self._contents.truncate(count * _LINE)
        names = (lines[row * _LINE : (row + 1) * _LINE - 1].decode("ascii", "replace") for row in range(count))
        self.rows = {name: row for row, name in enumerate(names)}
        self._count = count
        self._pending: dict[str, np.ndarray] = {}

    def add(self, content: str, features: np.ndarray) -> None:
        """Add features [Q, D]; they are flushed to disk every `AT_ONCE` files."""
        self._pending[content] = features.reshape(-1)
        if len(self._pending) == AT_ONCE:
            self._write()

    def _write(self) -> None:
        rows = range(self._count, self._count + len(self._pending))
        with io_errors("write", self._path):
            self._vectors.write(rows, np.stack([*self._pending.values()]))
            sync(self._path)
            self._contents.writelines(f"{content}\n".encode() for content in self._pending)
            self._contents.flush()
        self.rows.update(zip(self._pending, rows, strict=True))
        self._count = rows.stop
        self._pending.clear()

    def close(self) -> None:
        try:
            if self._pending:
                self._write()
        finally:
            self._vectors.close()
            self._contents.close()


def _open_rows(tower: Tower) -> VectorFile:
    """Open the file of rows; recreate it if it is missing or damaged."""
    rows, size = tower.folder / ROWS, tower.queries * tower.width
    with suppress(UsageError, FileNotFoundError):
        vectors = VectorFile(rows)
        if (vectors.dimension, vectors.dtype) == (size, tower.dtype):
            return vectors
        vectors.close()
    (tower.folder / CONTENTS).unlink(missing_ok=True)
    create(rows, size, tower.dtype)
    return VectorFile(rows)


def _compute(
    tasks: Mapping[str, Task],
    request: ReadRequest,
    batch_size: int,
    readers: int,
    encode: Encode,
    store: _Store,
    failed: Callable[[Path, str], None],
    reporter: Reporter,
) -> None:
    """Add the features of files, keyed by their contents, to a store."""
    contents, paths = list(tasks), [task.path for task in tasks.values()]
    computer = FunctionComputer(lambda pixels, _: list(encode(pixels)))
    with (
        reporter.progress("encoding", len(paths), on_stop="saving") as progress,
        closing(compute_videos(paths, computer, request, batch_size, reporter, readers=readers)) as videos,
    ):
        for done, video in enumerate(videos, start=1):
            if video.failure:
                failed(paths[video.index], video.failure)
            elif tasks[contents[video.index]].current_key() == CHANGED:
                failed(paths[video.index], "it was changed while it was read")
            else:
                store.add(contents[video.index], video.values[0])
            progress.update(done, len(paths))


def _check_room(tower: Tower, files: int) -> None:
    try:
        check_space(tower.folder, files * tower.row_bytes)
    except OSError as error:
        hint = "set COCA_HOME to a folder on another disk, or do not freeze the vision tower"
        raise CocaError(f"cannot store the image features of {files} files: {os_reason(error)}", hint) from None


def _content(path: Path, failed: Callable[[Path, str], None]) -> str:
    """Return the SHA-256 of a file; empty if it cannot be read."""
    try:
        return hash_file(path)
    except OSError as error:
        failed(path, reason(error))
        return ""


@contextmanager
def _locked(path: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the lock of a folder; wait for another run that has it."""
    from filelock import FileLock

    lock = FileLock(path)
    with io_errors("write", path):
        acquire(lock, lambda: reporter.note("waiting for another run that encodes files with this tower"))
    try:
        yield
    finally:
        lock.release()
