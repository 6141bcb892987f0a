"""Indexes: folders of `vectors.npy`, `entries.jsonl` and `index.json`, which other programs can read as well.

`entries.jsonl` is the journal of the runs that fill an index. Each of its lines names a row of `vectors.npy`. A vector
is written before its line, so that no line lacks its vector, whenever a run is killed. Rows without a line are free.

Paths in `entries.jsonl` are relative to the folder, or absolute if they only share the root with it; URLs are whole.
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
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from ..errors import UsageError
from ..files import check_regular, exists, io_errors, sample_fields, write_atomically
from ..journal import (
    Failure,
    Journal,
    Records,
    Task,
    dump,
    failure_from_json,
    open_journal,
    preview_journal,
    rounded,
    text_name,
    text_of,
)
from ..media.clips import Frames, Sampling
from ..packed import View
from ..parsing import parse_json, read_errors, read_json, validate
from ..reporting import Reporter
from ..urls import is_url
from .nearest import graph_files, remove_graph
from .vectors import REBUILD, VectorFile, are_unit, create, map_vectors

ABOUT, ENTRIES, VECTORS = "index.json", "entries.jsonl", "vectors.npy"
VERSION = 2  # in version 1 paths are relative to the working folder of the run
_REPAIR = "coca embed with the same paths repairs it; --overwrite rebuilds it"
_ROW = re.compile(rb'\{"row": (\d{1,18}), "(video|text)": ')


@dataclass(frozen=True)
class About:
    """How the vectors of an index were made. Queries must be embedded in the same way."""

    model: str
    identity: str  # changes with the weights
    frames: Frames = "middle"  # sampling and pooling of the videos that were added last
    num_frames: int = 8
    pool: Literal["joint", "mean"] = "joint"
    version: int = field(default=VERSION, repr=False)  # of the format; says nothing about the vectors

    def to_json(self) -> str:
        """Return the content of `index.json`."""
        facts = asdict(self)
        return json.dumps({"coca_index": facts.pop("version"), **facts}, indent=1)


@dataclass(frozen=True)
class Entry:
    """A video, a segment, a picture or a text, and the row of its vector: a line of `entries.jsonl`."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}
    row: int  # of `vectors.npy`
    video: str = ""  # path; empty for a text
    start: float = 0.0  # seconds
    end: float = 0.0  # seconds; 0.0 for a picture
    frames: tuple[float, ...] = ()  # timestamps of the frames, in seconds
    segments: int = 1  # number of entries of this video
    text: str = ""  # its caption, if it has one, or the text itself

    @property
    def name(self) -> str:
        """Name of its task, see `journal.Task`."""
        return self.video or text_name(self.text)

    def fields(self) -> dict[str, Any]:
        """Return the JSON fields apart from the row, with times rounded to milliseconds."""
        if not self.video:
            return {"text": self.text}
        return {
            "video": self.video,
            **sample_fields(self.video),
            "start": rounded(self.start, 3),
            "end": rounded(self.end, 3),
            **({"segments": self.segments} if self.segments > 1 else {}),
            **({"caption": self.text} if self.text else {}),
            "frames": [rounded(time, 3) for time in self.frames],
        }

    def to_json(self, key: str = "") -> str:
        """Return one line of JSON, the row first. See `journal` for the key."""
        return dump({"row": self.row, **self.fields(), "status": "ok", **({"key": key} if key else {})})


def parse_entry(fields: dict[str, Any], where: str = "damaged entry") -> Entry | Failure:
    """Read what `Entry.to_json` or `Failure.to_json` wrote.

    Raises:
        KeyError: A field is missing.
        UsageError: A field has the wrong type, or is a number that is not finite.
    """
    if fields["status"] != "ok":
        return failure_from_json(fields)
    if "video" not in fields:
        return validate({"row": fields["row"], "text": fields["text"]}, Entry, where)
    line = {name: fields[name] for name in ("row", "video", "start", "end", "frames")}
    return validate({**line, "segments": fields.get("segments", 1), "text": fields.get("caption", "")}, Entry, where)


@dataclass(frozen=True)
class IndexPaths:
    """Conversion between paths in an index and paths as users write them."""

    folder: str  # of the index, without links
    relative: bool = True  # False in version 1, which keeps paths as they were given

    def keep(self, path: str) -> str:
        """Return a path relative to the index, or absolute if they only share the root."""
        if not self.relative or is_url(path):
            return path
        absolute = _absolute(path)
        apart = os.path.commonpath((absolute, self.folder)) == os.sep
        return absolute if apart else os.path.relpath(absolute, self.folder)

    def find(self, kept: str) -> str:
        """Return a kept path relative to the working folder if it lies below it, else absolute."""
        if is_url(kept):
            return kept
        if self.relative:
            return _shown(os.path.normpath(os.path.join(self.folder, kept)))  # noqa: PTH118 - keeps bytes of odd names
        beside = os.path.join(self.folder, kept)  # noqa: PTH118
        return _shown(beside) if os.path.lexists(beside) and not os.path.lexists(kept) else kept


def find_below(path: str, root: Path) -> str:
    """Return the file below a folder that the longest end of a path names; the path itself if there is none.

    A library that was moved or renamed is found by its new folder, or by one above it.
    """
    parts = Path(_absolute(path)).parts[1:]
    candidates = (os.path.join(root, *parts[start:]) for start in range(len(parts)))  # noqa: PTH118
    return next(filter(exists, candidates), path)


def _absolute(path: str) -> str:
    """Return an absolute path of the same file, in the user's spelling unless it climbs: a link may lead elsewhere."""
    absolute = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118
    if os.pardir not in Path(absolute).parts:
        return os.path.normpath(absolute)
    folder, name = os.path.split(absolute)
    return os.path.join(os.path.realpath(folder), name) if "\0" not in path else path  # noqa: PTH118


def _shown(absolute: str) -> str:
    here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118
    return absolute.removeprefix(here) if absolute != here else absolute


class Index:
    """A snapshot of an index, for reading."""

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
            # Entries are read before the vectors, which a run writes first.
            self._lines = (folder / ENTRIES).read_bytes()
            self.vectors = map_vectors(folder / VECTORS)  # [N, D]
        except OSError as error:
            raise UsageError(f"{folder} is damaged: {error.filename}: {error.strerror}", _REPAIR) from None
        self.paths = _paths(folder, self.about)
        named = _named_rows(folder / ENTRIES, self._lines)
        self.rows = named[:, 0]  # [K] int64, ascending: rows that have an entry
        self._starts = named[:, 1]  # offset of its line
        self.is_text = named[:, 2].astype(bool)  # [K]
        self._verify()

    def has_changed(self) -> bool:
        """Return whether a run has changed the index since it was read; rows may hold other vectors then."""
        return _state_of(self.folder) != self._state

    def entry(self, row: int) -> Entry:
        """Return the entry of a row, with its path as seen from the working folder.

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
        if missing := [video for video in named if not exists(video)]:
            advice = f"they are not in {self.root} either" if self.root else "--root FOLDER says where they were moved"
            reporter.warning(f"{len(missing)} of {len(named)} files are missing (first: {missing[0]}); {advice}")

    @cached_property
    def videos(self) -> np.ndarray:
        """[N] int64: a number for the video or text of each row; -1 for rows without an entry."""
        numbers: dict[str, int] = {}
        videos = np.full(len(self.vectors), -1, np.int64)
        for entry in map(self._kept, self.rows.tolist()):
            videos[entry.row] = numbers.setdefault(entry.name, len(numbers))
        return videos

    def rows_of(self, names: Iterable[str]) -> list[int]:
        """Return the row of each task by name, the last one of several."""
        return [self._row_of[_kept_name(self.paths, name)] for name in names]

    def entries(self, names: Iterable[str]) -> list[Entry]:
        """Return the entries of tasks in the given order, those of a video in temporal order."""
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
        """Return the entry of a row with its path as kept in the file."""
        start = self._starts[np.searchsorted(self.rows, row)]
        reason = "not an entry of coca"
        try:
            entry = parse_entry(parse_json(self._lines[start : self._lines.index(b"\n", start)]))
            if isinstance(entry, Entry):
                return entry
        except UsageError as error:
            reason = error.message
        except (KeyError, TypeError, ValueError):
            pass
        number = self._lines.count(b"\n", 0, start) + 1
        raise UsageError(f"line {number} of {self.folder / ENTRIES}: {reason}", REBUILD)

    def _verify(self) -> None:
        rows = self.rows
        if len(rows) and rows[-1] >= len(self.vectors):
            raise UsageError(f"{self.folder} is damaged: {VECTORS} ends before row {rows[-1]}", _REPAIR)
        if (rows[1:] == rows[:-1]).any():
            raise UsageError(f"{self.folder} is damaged: two entries share a vector", REBUILD)
        if wrong := int((~are_unit(self.vectors)[rows]).sum()):
            raise UsageError(f"{self.folder} is damaged: {wrong} of {len(rows)} vectors are not of length 1", _REPAIR)


_Record = TypeVar("_Record", bound=Entry | Failure)


class EntriesByTask(Mapping[str, list[Entry | Failure]]):
    """The entries of tasks by name, with paths as the tasks spell them."""

    def __init__(self, paths: IndexPaths, tasks: Sequence[Task], kept: Records[Entry | Failure]) -> None:
        self.present = kept.present  # whether there are entries of each task
        self._paths, self._tasks, self._kept = paths, tasks, kept

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _kept_name(self._paths, name) in self._kept

    def __getitem__(self, name: str) -> list[Entry | Failure]:
        return [_renamed(entry, name) for entry in self._kept[_kept_name(self._paths, name)]]

    def __iter__(self) -> Iterator[str]:
        return (task.name for task, present in zip(self._tasks, self.present, strict=True) if present)

    def __len__(self) -> int:
        return len(self._kept)

    def failures(self) -> Iterator[Failure]:
        """Iterate over those of tasks that failed."""
        return (_renamed(failure, self._tasks[index].name) for index, failure in self._kept.failures())


class IndexWriter:
    """An index that a run adds to, from `open_index`."""

    def __init__(
        self,
        folder: Path,
        journal: Journal[Entry | Failure],
        vectors: VectorFile,
        paths: IndexPaths,
        tasks: Sequence[Task],
    ) -> None:
        self.folder = folder
        self.entries = EntriesByTask(paths, tasks, journal.records)
        self.reused = EntriesByTask(paths, tasks, journal.reused)  # entries of earlier runs
        self._journal, self._vectors, self._paths, self._written_before = journal, vectors, paths, vectors.count
        used = _UsedRows(folder / ENTRIES, journal.lines, vectors.count)
        self._free = (row for row in count() if row not in used)
        self.appended = 0  # tasks

    def append(self, task: Task, entries: Sequence[Entry | Failure], vectors: np.ndarray) -> None:
        """Write all entries of a task and their vectors.

        Args:
            entries: K entries, or the one failure.
            vectors: [K, D]; none for a failure.

        Raises:
            CocaError: The disk is full or failed; earlier entries are kept.
        """
        rows = list(islice(self._free, len(vectors)))
        with io_errors("write", self.folder / VECTORS):
            # The graph holds the vectors that are replaced now.
            if rows and rows[0] < self._written_before:
                remove_graph(self.folder)
            self._vectors.write(rows, vectors)
        row = iter(rows)
        placed = [replace(entry, row=next(row)) if isinstance(entry, Entry) else entry for entry in entries]
        name = _kept_name(self._paths, task.name)
        self._journal.append(replace(task, name=name), [_renamed(entry, name) for entry in placed])
        self.appended += 1

    def vectors_of(self, name: str) -> np.ndarray:
        """Return the vectors [K, D] of a task of this run, or of an earlier one, in the order of its entries.

        Raises:
            OSError: They cannot be read.
        """
        return self._vectors.read([entry.row for entry in self.entries[name] if isinstance(entry, Entry)])

    def kept_name(self, name: str) -> str:
        """Return the name of a task as entries spell it."""
        return _kept_name(self._paths, name)


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
    """Open a new or existing index to add to it. Other runs are locked out.

    Entries of these tasks are kept if their key is the same and their vector is intact, and dropped otherwise. Those of
    other tasks are kept.

    Args:
        dimension: D of the vectors.
        dtype: `float32` or `float16`; by default that of the existing index, or float32.
        overwrite: Drop everything.
        retry_failed: Drop the failures among these tasks.

    Raises:
        UsageError: The folder is not an index, holds vectors of another model or dtype, or another run writes to it.
        CocaError: It cannot be written.
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
    options = overwrite, retry_failed, _verifier(path)
    with open_journal(folder / ENTRIES, _kept_tasks(paths, tasks), parse_entry, *options) as journal:
        with io_errors("write", folder):
            if overwrite or not path.exists():
                remove_graph(folder)
                create(path, dimension, dtype or "float32")
            _write_about(folder, about)
            vectors = VectorFile(path)
        try:
            if vectors.dimension != dimension:
                raise UsageError(f"{path} holds vectors of {vectors.dimension} dimensions, not {dimension}", REBUILD)
            yield IndexWriter(folder, journal, vectors, paths, tasks)
        finally:
            vectors.close()


def preview_index(folder: Path, tasks: Sequence[Task], retry_failed: bool = False) -> EntriesByTask | None:
    """Return the entries of these tasks that `open_index` would keep, without changing anything; None without an index.

    Raises:
        UsageError: The index is damaged.
    """
    if not os.path.exists(folder / ABOUT):  # noqa: PTH110
        return None
    paths = _paths(folder, read_about(folder))
    verify = _verifier(folder / VECTORS)
    kept = preview_journal(folder / ENTRIES, _kept_tasks(paths, tasks), parse_entry, retry_failed, verify)
    return EntriesByTask(paths, tasks, kept)


def index_files(folder: Path) -> list[Path]:
    """Return every file that an index may consist of."""
    return [*(folder / name for name in (ABOUT, ENTRIES, VECTORS)), *graph_files(folder)]


def check_index(folder: Path, about: About, dtype: str | None = None, overwrite: bool = False) -> None:
    """Refuse a folder that these vectors cannot be added to.

    Raises:
        UsageError: The folder is not an index, or holds vectors of another model or dtype.
        CocaError: It cannot be read.
    """
    with io_errors("read", folder):
        if not _is_index(folder) or overwrite:
            return
        check_model(folder, read_about(folder), about)
        if dtype and (folder / VECTORS).exists() and (kept := map_vectors(folder / VECTORS).dtype) != dtype:
            hint = "name another folder, or --overwrite this one"
            raise UsageError(f"{folder} holds {kept} vectors, not {dtype}", hint)


def _is_index(folder: Path) -> bool:
    """Return whether a folder is an index, damaged or not; otherwise it is new or holds leftovers of a killed run.

    Raises:
        UsageError: It holds other files.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder")
    # Other programs use that name, too.
    about = folder / ABOUT
    if about.exists():
        with read_errors(about):
            if (folder / ENTRIES).exists() or b"coca_index" in about.read_bytes():
                return True
    if any(not path.name.startswith(".coca-") for path in folder.iterdir()):
        raise UsageError(f"{folder} is not an index, and not empty", "name a new folder")
    return False


def check_model(folder: Path, kept: About, requested: About) -> None:
    """Refuse to mix vectors of two models.

    Raises:
        UsageError: The models differ.
    """
    if kept.identity != requested.identity:
        what = f"vectors of {kept.model}, not {requested.model}"
        if kept.model == requested.model:
            what = f"vectors of another model named {kept.model}"
        raise UsageError(f"{folder} holds {what}", "vectors of two models cannot be compared: name another folder")


def read_about(folder: Path) -> About:
    """Return how the vectors of an index were made.

    Raises:
        UsageError: There is no index, or its version is newer than this program.
    """
    path = folder / ABOUT
    if not os.path.exists(path):  # noqa: PTH110 - pathlib raises without permission
        raise UsageError(f"{folder} is not an index", "coca embed PATHS -o FOLDER/ creates one")
    try:
        facts = read_json(path)
    except UsageError as error:
        raise UsageError(error.message, REBUILD) from None
    version = facts.get("coca_index") if isinstance(facts, dict) else None
    if not isinstance(version, int) or isinstance(version, bool):
        raise UsageError(f"{path} is damaged: 'coca_index' is not a version", REBUILD)
    if version > VERSION:
        raise UsageError(f"{folder} was written by a newer version of coca", "pip install --upgrade cococli")
    return about_of({**facts, "version": version}, str(path))


def about_of(facts: Mapping[str, Any], where: str) -> About:
    """Return how vectors were made, of what a file says.

    Raises:
        UsageError: The facts are incomplete or of other types.
    """
    about = validate(dict(facts), About, where, REBUILD)
    if "\0" in about.model:
        raise UsageError(f"{where}: 'model': not a name", REBUILD)
    try:
        Sampling(about.frames, about.num_frames)
    except UsageError:
        raise UsageError(f"{where}: 'num_frames': cannot be {about.num_frames}", REBUILD) from None
    return about


def _write_about(folder: Path, about: About) -> None:
    with write_atomically(folder / ABOUT) as (file,):
        file.write(about.to_json().encode())


def _paths(folder: Path, about: About) -> IndexPaths:
    return IndexPaths(os.path.realpath(folder), relative=about.version > 1)


def _kept_name(paths: IndexPaths, name: str) -> str:
    """Return the name of a task as entries spell it."""
    return paths.keep(name) if text_of(name) is None else name


def _kept_tasks(paths: IndexPaths, tasks: Sequence[Task]) -> Sequence[Task]:
    return View(tasks, lambda task: Task(_kept_name(paths, task.name), task.key))


def _renamed(record: _Record, name: str) -> _Record:
    return replace(record, video=name) if record.video else record


class _UsedRows:
    """The rows that lines name."""

    def __init__(self, path: Path, lines: Iterable[dict[str, Any]], count: int) -> None:
        """
        Args:
            count: Rows of the file.

        Raises:
            UsageError: An entry does not name a row.
        """
        self._inside, self._outside = bytearray(count), set[int]()  # after a power failure some lie past the end
        for number, line in enumerate(lines, start=1):
            row = line.get("row")
            if not isinstance(row, int) or row < 0:
                if line["status"] == "ok":
                    raise UsageError(f"line {number} of {path}: 'row' is missing or not a number", REBUILD)
            elif row < count:
                self._inside[row] = True
            else:
                self._outside.add(row)

    def __contains__(self, row: int) -> bool:
        return bool(self._inside[row]) if row < len(self._inside) else row in self._outside


def _verifier(path: Path) -> Callable[[Entry | Failure], bool]:
    """Return a function that tells whether the vector of an entry is intact."""
    unit: np.ndarray | None = None

    def verify(entry: Entry | Failure) -> bool:
        nonlocal unit
        # Read now, when other runs are locked out.
        if unit is None:
            unit = are_unit(map_vectors(path)) if path.exists() else np.zeros(0, bool)
        return isinstance(entry, Failure) or (0 <= entry.row < len(unit) and bool(unit[entry.row]))

    return verify


def _state_of(folder: Path) -> tuple[int, int, int]:
    status = (folder / ENTRIES).stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _named_rows(path: Path, lines: bytes) -> np.ndarray:
    """[K, 3] int64, ascending: the rows that lines name, the offset of each line, and whether it is a text."""
    named, start = [], 0
    for number, line in enumerate(lines.splitlines(keepends=True), start=1):
        if not line.endswith(b"\n"):
            # The last line is incomplete.
            break
        if row := _ROW.match(line):
            named.append((int(row[1]), start, row[2] == b"text"))
        elif b'"status": "error"' not in line:
            raise UsageError(f"line {number} of {path} is not an entry of coca", REBUILD)
        start += len(line)
    return np.array(sorted(named), np.int64).reshape(-1, 3)
