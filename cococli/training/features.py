"""What a frozen vision tower makes of every file, computed once and kept on disk for all runs.

It is shown the crop of the evaluation: a random one would need the tower again in every epoch.

A folder holds `rows.npy`, a row of Q * D numbers for each content, and `contents.txt`, whose lines are the sha256 of
these contents in the same order. A line is written after its row is safe on disk, so none is without one.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .. import settings
from ..catalog import CLIP, CocaConfig, Preprocess
from ..checkpoints.locks import acquire
from ..checkpoints.manifest import humanized
from ..errors import CocaError, UsageError, VideoError
from ..journal import told
from ..media.clips import ReadRequest
from ..media.flow import AtOnce, Reading, compute_videos
from ..media.reading import open_file, reason
from ..media.sampling import Sampling
from ..media.segments import Segments
from ..retrieval.vectors import VectorFile, create, map_vectors
from .feeding import Failed, StepBatch
from .order import Order
from .pairs import Pairs

ROWS, CONTENTS = "rows.npy", "contents.txt"
AT_ONCE = 32  # rows that are made safe together
_LINE = 65  # bytes: a sha256 and the end of the line

Encode = Callable[[np.ndarray], np.ndarray]  # [B, F, 3, S, S] float32, normalized -> [B, Q, D] float32


@dataclass(frozen=True)
class Tower:
    """A frozen vision tower, and how files are shown to it: all that decides on what it makes of them."""

    identity: str  # of its weights and of how pictures are prepared for it, see `identity_of`
    sampling: Sampling
    image_size: int  # S, pixels
    queries: int  # Q
    width: int  # D
    dtype: str = "float32"  # or float16, which takes half the room
    preprocess: Preprocess = field(default=CLIP, repr=False)  # its part of the folder's name is in `identity`

    @property
    def folder(self) -> Path:
        return settings.home() / "features" / hashlib.sha256(repr(self).encode()).hexdigest()[:16]

    @property
    def row_bytes(self) -> int:
        """What one file takes on disk."""
        return self.queries * self.width * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Features:
    """What the tower made of files."""

    images: np.ndarray  # [N, Q, D], read from disk as it is looked at
    row: np.ndarray  # [files] int64, each file's row; -1: it cannot be read


def identity_of(config: CocaConfig, weights: Mapping[str, np.ndarray]) -> str:
    """The sha256 of a vision tower, and of how pictures are prepared for it unless that is as for CLIP."""
    digest = hashlib.sha256(repr((config.vision, config.quick_gelu)).encode())
    if config.preprocess != CLIP:
        digest.update(repr(config.preprocess).encode())
    for name in sorted(name for name in weights if name.startswith("visual.")):
        digest.update(f"{name} {weights[name].dtype}".encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()


def prepare(
    files: Sequence[Path],
    tower: Tower,
    encode: Encode,
    progress: Callable[[int, int], object] = lambda done, total: None,
    failed: Failed = lambda path, why: None,
    waiting: Callable[[], object] = lambda: None,
    batch_size: int = 8,
    stopping: Callable[[], bool] = lambda: False,
) -> Features:
    """The features of files; what is not on disk is computed. It may be killed, and goes on from there.

    Args:
        encode: The tower.
        progress: Called with how many files are computed and are to be, first with 0; each takes `tower.row_bytes`.
        failed: Told of each file that cannot be read. It may raise, as `feeding.stop` does.
        waiting: Called once if another run computes features of this tower.
        stopping: Asked after each batch: whether to end early, with the features of what was computed by then.

    Raises:
        CocaError: the disk has too little room, or cannot be written to.
    """
    contents = [_content(path, failed) for path in files]
    with told(tower.folder):
        tower.folder.mkdir(parents=True, exist_ok=True)
    with _locked(tower.folder / "lock", waiting), closing(_Store(tower)) as store:
        found = dict(zip(contents, files, strict=True))
        lacking = {content: path for content, path in found.items() if content and content not in store.rows}
        _check_room(tower, len(lacking))
        request = ReadRequest(tower.sampling, Segments("none"), tower.image_size, preprocess=tower.preprocess)
        reading = Reading(request, batch_size)
        _compute(lacking, reading, encode, store, progress, failed, stopping)
    images = map_vectors(tower.folder / ROWS).reshape(-1, tower.queries, tower.width)
    return Features(images, np.array([store.rows.get(content, -1) for content in contents], np.int64))


def cached_feed(
    pairs: Pairs, order: Order, steps: range, features: Features, part: slice = slice(None)
) -> Generator[StepBatch, None, None]:
    """The batches that `feeding.feed` gives, of features in place of pixels.

    Raises:
        VideoError: no file can be read.
    """
    broken = set(np.flatnonzero(features.row < 0).tolist())
    for step in steps:
        chosen = np.array([pairs.readable(pair, broken) for pair in order.batch(step)[part].tolist()])
        images = features.images[features.row[pairs.file[chosen]]].astype(np.float32)
        yield StepBatch(step, chosen, pairs.ids[chosen], images=images)


class _Store:
    """The folder of a tower, open to add to it."""

    def __init__(self, tower: Tower) -> None:
        """Open what earlier runs left.

        Raises:
            CocaError: it cannot be written.
        """
        self._path = tower.folder / ROWS
        with told(self._path):
            self._vectors = _open_rows(tower)
            self._contents = (tower.folder / CONTENTS).open("a+b")
            self._contents.seek(0)
            lines = self._contents.read()
            count = min(self._vectors.count, len(lines) // _LINE)
            self._contents.truncate(count * _LINE)
        names = (lines[row * _LINE : (row + 1) * _LINE - 1].decode("ascii", "replace") for row in range(count))
        self.rows = {name: row for row, name in enumerate(names)}
        self._count = count
        self._unsafe: dict[str, np.ndarray] = {}

    def add(self, content: str, features: np.ndarray) -> None:
        """Add features [Q, D]; they are safe on disk `AT_ONCE` files later."""
        self._unsafe[content] = features.reshape(-1)
        if len(self._unsafe) == AT_ONCE:
            self._write()

    def _write(self) -> None:
        rows = range(self._count, self._count + len(self._unsafe))
        with told(self._path):
            self._vectors.write(rows, np.stack([*self._unsafe.values()]))
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
            self._contents.writelines(f"{content}\n".encode() for content in self._unsafe)
            self._contents.flush()
        self.rows.update(zip(self._unsafe, rows, strict=True))
        self._count = rows.stop
        self._unsafe.clear()

    def close(self) -> None:
        try:
            if self._unsafe:
                self._write()
        finally:
            self._vectors.close()
            self._contents.close()


def _open_rows(tower: Tower) -> VectorFile:
    """The file of rows, made anew where it is missing or damaged."""
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
    files: Mapping[str, Path],
    reading: Reading,
    encode: Encode,
    store: _Store,
    progress: Callable[[int, int], object],
    failed: Failed,
    stopping: Callable[[], bool],
) -> None:
    """Add the features of files, by their contents, to a store."""
    contents, paths = list(files), list(files.values())
    progress(0, len(paths))
    computer = AtOnce(lambda pixels, _: list(encode(pixels)))
    with closing(compute_videos(paths, computer, reading, stopping)) as videos:
        for done, video in enumerate(videos, start=1):
            if video.failure:
                failed(paths[video.place], video.failure)
            else:
                store.add(contents[video.place], video.values[0])
            progress(done, len(paths))


def _check_room(tower: Tower, files: int) -> None:
    needed, free = files * tower.row_bytes, shutil.disk_usage(tower.folder).free
    if needed > free:
        what = f"what the frozen vision tower makes of {files} files takes {humanized(needed)}"
        hint = "set COCA_HOME to a folder on another disk, or do not freeze the vision tower"
        raise CocaError(f"{what}, but {tower.folder} has room for {humanized(free)}", hint)


def _content(path: Path, failed: Failed) -> str:
    """The sha256 of a file; empty if it cannot be read."""
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except (VideoError, OSError) as error:
        failed(path, error.message if isinstance(error, VideoError) else reason(error))
        return ""


@contextmanager
def _locked(path: Path, waiting: Callable[[], object]) -> Iterator[None]:
    """Hold a folder against other runs, which wait."""
    from filelock import FileLock

    lock = FileLock(path)
    with told(path):
        acquire(lock, waiting)
    try:
        yield
    finally:
        lock.release()
