"""An index: a folder of `vectors.npy`, `entries.jsonl` and `index.json`, which other programs read as they are.

Paths in `entries.jsonl` are relative to the folder, or absolute where they only share the root with it.

`entries.jsonl` is the journal, and each of its lines names a row of `vectors.npy`. A vector is written before its line
is, so that no line is without one, whenever a run is killed. Rows that no line names are free, and written next.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import UsageError
from ..files import check_regular, io_errors, write_atomically
from ..journal import Failure, Journal, Task, open_journal, preview_journal, text_of
from ..media.clips import Frames, Sampling
from ..parsing import parse_json, read_errors, read_json, validate
from ..reporting import Reporter
from . import approximate
from .entries import Entry, from_json
from .paths import Paths, find_below
from .vectors import VectorFile, are_unit, create, map_vectors

ABOUT, ENTRIES, VECTORS = "index.json", "entries.jsonl", "vectors.npy"
VERSION = 2  # 1 kept paths as they were given to the run
_ROW = re.compile(rb'\{"row": (\d{1,18}), "(video|text)": ')


@dataclass(frozen=True)
class About:
    """What an index was made with. A query must be made with the same."""

    model: str
    identity: str  # changes when the weights do
    frames: Frames = "middle"  # how videos were sampled last, and pooled
    num_frames: int = 8
    pool: Literal["joint", "mean"] = "joint"
    version: int = field(default=VERSION, repr=False)  # of the format; says nothing about the vectors


class Index:
    """An index as it stands, to be searched."""

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        """Read and verify an index.

        Args:
            root: Where its videos are now, if they were moved; see `find_below`.

        Raises:
            UsageError: There is none, or it is damaged.
        """
        self.folder, self.root = folder, root
        self.about = read_about(folder)
        try:
            for name in (ENTRIES, VECTORS):
                check_regular(folder / name)
            self._state = _state_of(folder)
            self._lines = (folder / ENTRIES).read_bytes()  # first: a run that is under way writes vectors before
            self.vectors = map_vectors(folder / VECTORS)  # [N, D]
        except OSError as error:
            raise UsageError(f"{folder} is damaged: {error.filename}: {error.strerror}", _REMAKE) from None
        self.paths = _paths(folder, self.about)
        named = _named_rows(folder / ENTRIES, self._lines)
        self.rows = named[:, 0]  # [K] int64, ascending: the rows that an entry names
        self._starts = named[:, 1]  # where its line begins
        self.is_text = named[:, 2].astype(bool)  # [K]
        self._verify()

    def has_changed(self) -> bool:
        """Whether a run has added to it, or changed it, since it was read: then rows may be of other vectors."""
        return _state_of(self.folder) != self._state

    def entry(self, row: int) -> Entry:
        """Return what the vector of a row stands for, its path as it is used in the working folder.

        Raises:
            UsageError: The entry is damaged.
        """
        entry = self._kept(row)
        if not entry.video:
            return entry
        video = self.paths.find(entry.video)
        return replace(entry, video=find_below(video, self.root) if self.root else video)

    def warn_of_missing(self, videos: Iterable[str], reporter: Reporter) -> None:
        """Warn of videos that do not exist any more."""
        named = list(dict.fromkeys(filter(None, videos)))
        if missing := [video for video in named if not os.path.lexists(video)]:
            advice = f"they are not in {self.root} either" if self.root else "--root FOLDER says where they were moved"
            reporter.warning(f"{len(missing)} of {len(named)} files are missing (first: {missing[0]}); {advice}")

    @cached_property
    def videos(self) -> np.ndarray:
        """[N] int64: for each row a number of its video, or text; -1 where no entry names it."""
        numbers: dict[str, int] = {}
        videos = np.full(len(self.vectors), -1, np.int64)
        for entry in map(self._kept, self.rows.tolist()):
            videos[entry.row] = numbers.setdefault(entry.name, len(numbers))
        return videos

    def rows_of(self, names: Iterable[str]) -> list[int]:
        """Return the row of each task by its name, the last one where it has several."""
        return [self._row_of[_kept_name(self.paths, name)] for name in names]

    def entries(self, names: Iterable[str]) -> list[Entry]:
        """The entries of these tasks, in this order, those of a video in the order of time."""
        found: dict[str, list[Entry]] = {name: [] for name in names}
        name_of = {_kept_name(self.paths, name): name for name in found}
        for entry in map(self._kept, self.rows.tolist()):
            if name := name_of.get(entry.name):
                found[name].append(replace(entry, video=name) if entry.video else entry)
        return [entry for own in found.values() for entry in sorted(own, key=lambda entry: entry.start)]

    @cached_property
    def _row_of(self) -> dict[str, int]:
        return {entry.name: entry.row for entry in map(self._kept, self.rows.tolist())}

    def _kept(self, row: int) -> Entry:
        """Return the entry of a row with its path as it is kept."""
        start = self._starts[np.searchsorted(self.rows, row)]
        reason = "it is not an entry of coca"
        try:
            entry = from_json(parse_json(self._lines[start : self._lines.index(b"\n", start)]))
            if isinstance(entry, Entry):
                return entry
        except UsageError as error:
            reason = error.message
        except (KeyError, TypeError, ValueError):
            pass
        number = self._lines.count(b"\n", 0, start) + 1
        raise UsageError(f"line {number} of {self.folder / ENTRIES}: {reason}", _ANEW)

    def _verify(self) -> None:
        rows = self.rows
        if len(rows) and rows[-1] >= len(self.vectors):
            raise UsageError(f"{self.folder} is damaged: {VECTORS} ends before row {rows[-1]}", _REMAKE)
        if (rows[1:] == rows[:-1]).any():
            raise UsageError(f"{self.folder} is damaged: two entries have one vector", "--overwrite makes it anew")
        if wrong := int((~are_unit(self.vectors)[rows]).sum()):
            raise UsageError(f"{self.folder} is damaged: {wrong} of {len(rows)} vectors are not of length 1", _REMAKE)


class IndexWriter:
    """An index under way. `open_index` makes one."""

    def __init__(
        self, folder: Path, journal: Journal[Entry | Failure], vectors: VectorFile, paths: Paths, tasks: Sequence[Task]
    ) -> None:
        self.folder = folder
        self.reused = _reused(paths, tasks, journal.reused)  # entries of each task that need not be made again
        self._journal, self._vectors, self._paths, self._written_before = journal, vectors, paths, vectors.count
        named = _used_rows(folder / ENTRIES, journal.lines)  # some past the end, where a power cut took vectors
        self._free = (row for row in count() if row not in named)

    def append(self, task: Task, entries: Sequence[Entry | Failure], vectors: np.ndarray) -> None:
        """Write all entries of a task with their vectors, at rows that it finds for them.

        Args:
            entries: K entries, or the one failure.
            vectors: [K, D], or none.

        Raises:
            CocaError: the disk is full or gone; what was written before stays.
        """
        rows = list(islice(self._free, len(vectors)))
        with io_errors("write", self.folder / VECTORS):
            if rows and rows[0] < self._written_before:  # what was made of the vectors there is of others now
                (self.folder / approximate.NAME).unlink(missing_ok=True)
            self._vectors.write(rows, vectors)
        row = iter(rows)
        placed = [replace(entry, row=next(row)) if isinstance(entry, Entry) else entry for entry in entries]
        name = _kept_name(self._paths, task.name)
        self._journal.append(Task(name, task.key), [_renamed(entry, name) for entry in placed])


@contextmanager
def open_index(
    folder: Path,
    about: About,
    dimension: int,
    tasks: Sequence[Task],
    dtype: str | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
) -> Iterator[IndexWriter]:
    """Open an index, new or left by an earlier run, to add to it, and hold it against other runs.

    Entries of these tasks are kept where file and options are the same and their vector is whole; else they are
    dropped. Those of other tasks stay.

    Args:
        dimension: D of its vectors.
        dtype: `float32` or `float16`. None: as the index is, or else float32.
        overwrite: Drop everything.
        retry_failed: Drop the failures among these tasks.

    Raises:
        UsageError: it is no index, another model's, of another dtype, or another run writes to it.
        CocaError: it cannot be written.
    """
    check_index(folder, about, dtype, overwrite)
    path = folder / VECTORS
    with io_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / ABOUT).exists():
            _write_about(folder, about)
    if not overwrite:
        about = replace(about, version=read_about(folder).version)
    paths = _paths(folder, about)
    with open_journal(folder / ENTRIES, _kept_tasks(paths, tasks), _parser(path), overwrite, retry_failed) as journal:
        with io_errors("write", folder):
            if overwrite or not path.exists():
                (folder / approximate.NAME).unlink(missing_ok=True)
                create(path, dimension, dtype or "float32")
            _write_about(folder, about)
            vectors = VectorFile(path)
        try:
            if vectors.dimension != dimension:
                what = f"holds vectors of {vectors.dimension} numbers, not {dimension}"
                raise UsageError(f"{path} {what}", "--overwrite makes the index anew")
            yield IndexWriter(folder, journal, vectors, paths, tasks)
        finally:
            vectors.close()


def preview_index(folder: Path, tasks: Sequence[Task], retry_failed: bool = False) -> dict[str, list[Entry | Failure]]:
    """The entries that `open_index` would keep of these tasks, with nothing changed.

    Raises:
        UsageError: it is no index.
    """
    if not os.path.exists(folder / ABOUT):  # noqa: PTH110
        return {}
    paths = _paths(folder, read_about(folder))
    parser = _parser(folder / VECTORS)
    return _reused(paths, tasks, preview_journal(folder / ENTRIES, _kept_tasks(paths, tasks), parser, retry_failed))


def index_files(folder: Path) -> list[Path]:
    """Every file that an index may consist of."""
    return [folder / name for name in (ABOUT, ENTRIES, VECTORS, approximate.NAME, f"{approximate.NAME}.json")]


def check_index(folder: Path, about: About, dtype: str | None = None, overwrite: bool = False) -> None:
    """Refuse a folder that these vectors cannot be added to.

    Raises:
        UsageError: it is no index, another model's, or of another dtype.
        CocaError: it cannot be read.
    """
    with io_errors("read", folder):
        if not _is_index(folder) or overwrite:
            return
        check_model(folder, read_about(folder), about)
        if dtype and (folder / VECTORS).exists() and (kept := map_vectors(folder / VECTORS).dtype) != dtype:
            hint = "name another folder, or --overwrite this one"
            raise UsageError(f"{folder} holds {kept} vectors, not {dtype}", hint)


def _is_index(folder: Path) -> bool:
    """Whether a folder is an index, damaged or not; else it is new, or empty but for what a killed run left."""
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    about = folder / ABOUT  # other programs have one, too
    if about.exists():
        with read_errors(about):
            if (folder / ENTRIES).exists() or b"coca_index" in about.read_bytes():
                return True
    if any(not path.name.startswith(".coca-") for path in folder.iterdir()):
        raise UsageError(f"{folder} holds something else than an index", "name a new folder with -o")
    return False


def check_model(folder: Path, kept: About, asked: About) -> None:
    """Refuse vectors of two models, which cannot be compared.

    Raises:
        UsageError: the models differ.
    """
    if kept.identity != asked.identity:
        what = f"vectors of {kept.model}, not {asked.model}"
        if kept.model == asked.model:
            what = f"vectors of another {kept.model} than the one that is here"
        raise UsageError(f"{folder} holds {what}", "vectors of two models cannot be compared: name another folder")


def read_about(folder: Path) -> About:
    """What an index was made with.

    Raises:
        UsageError: there is no index, or one of a later version.
    """
    path = folder / ABOUT
    if not os.path.exists(path):  # noqa: PTH110 - pathlib's raises where a folder is closed
        raise UsageError(f"{folder} is no index", "coca embed PATHS -o FOLDER/ makes one")
    try:
        facts = read_json(path)
    except UsageError as error:
        raise UsageError(error.message, _ANEW) from None
    version = facts.get("coca_index") if isinstance(facts, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UsageError(f"{path} is damaged: 'coca_index' is not a version", _ANEW)
    if version > VERSION:
        raise UsageError(f"{folder} was written by a newer coca", "pip install --upgrade cococli")
    about = validate({**facts, "version": version}, About, str(path), _ANEW)
    if "\0" in about.model:
        raise UsageError(f"{path}: 'model': it cannot be a name", _ANEW)
    try:
        Sampling(about.frames, about.num_frames)
    except UsageError:
        raise UsageError(f"{path}: 'num_frames': it is {about.num_frames}", _ANEW) from None
    return about


_ANEW = "--overwrite makes the index anew"
_REMAKE = "coca embed with the same paths mends it; --overwrite makes it anew"


def _write_about(folder: Path, about: About) -> None:
    facts = asdict(about)
    with write_atomically(folder / ABOUT) as (file,):
        file.write(json.dumps({"coca_index": facts.pop("version"), **facts}, indent=1).encode())


def _paths(folder: Path, about: About) -> Paths:
    return Paths(os.path.realpath(folder), relative=about.version > 1)


def _kept_name(paths: Paths, name: str) -> str:
    """Return the name of a task as entries have it."""
    return paths.keep(name) if text_of(name) is None else name


def _kept_tasks(paths: Paths, tasks: Sequence[Task]) -> list[Task]:
    return [Task(_kept_name(paths, task.name), task.key) for task in tasks]


def _renamed(record: Entry | Failure, name: str) -> Entry | Failure:
    return replace(record, video=name) if record.video else record


def _reused(
    paths: Paths, tasks: Sequence[Task], kept: Mapping[str, list[Entry | Failure]]
) -> dict[str, list[Entry | Failure]]:
    """Return the entries that a journal keeps under the names of the tasks."""
    named = ((task.name, kept.get(_kept_name(paths, task.name))) for task in tasks)
    return {name: [_renamed(entry, name) for entry in entries] for name, entries in named if entries}


def _used_rows(path: Path, lines: list[dict[str, Any]]) -> set[int]:
    """Return the rows that lines name.

    Raises:
        UsageError: An entry names none.
    """
    rows = set()
    for number, line in enumerate(lines, start=1):
        row = line.get("row")
        if isinstance(row, int) and row >= 0:
            rows.add(row)
        elif line["status"] == "ok":
            raise UsageError(f"line {number} of {path}: 'row' is missing or not a number", _ANEW)
    return rows


def _parser(path: Path) -> Callable[[dict[str, Any]], Entry | Failure]:
    """What reads an entry, and refuses one whose vector is not whole."""
    unit: np.ndarray | None = None

    def parse(line: dict[str, Any]) -> Entry | Failure:
        nonlocal unit
        if unit is None:  # only now: the index is held against other runs
            unit = are_unit(map_vectors(path)) if path.exists() else np.zeros(0, bool)
        entry = from_json(line)
        if isinstance(entry, Entry) and not (0 <= entry.row < len(unit) and unit[entry.row]):
            raise ValueError(f"row {entry.row} has no vector")
        return entry

    return parse


def _state_of(folder: Path) -> tuple[int, int, int]:
    status = (folder / ENTRIES).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _named_rows(path: Path, lines: bytes) -> np.ndarray:
    """[K, 3] int64, ascending: the rows that lines name, where each of these lines begins, and whether it is a text."""
    named, start = [], 0
    for number, line in enumerate(lines.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            break  # was not written to its end
        if row := _ROW.match(line):
            named.append((int(row[1]), start, row[2] == b"text"))
        elif b'"status": "error"' not in line:
            raise UsageError(f"line {number} of {path} is no entry of coca", "--overwrite makes the index anew")
        start += len(line)
    return np.array(sorted(named), np.int64).reshape(-1, 3)
