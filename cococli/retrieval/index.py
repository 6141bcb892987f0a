"""An index: a folder of `vectors.npy`, `entries.jsonl` and `index.json`, which other programs read as they are.

`entries.jsonl` is the journal, and each of its lines names a row of `vectors.npy`. A vector is written before its line
is, so that no line is without one, whenever a run is killed. Rows that no line names are free, and written next.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..files import write_atomically
from ..journal import Failure, Journal, Work, look, open_journal, told
from ..video.sampling import Frames
from . import approximate
from .entries import Entry, from_json
from .vectors import VectorFile, are_unit, create, map_vectors

ABOUT, ENTRIES, VECTORS = "index.json", "entries.jsonl", "vectors.npy"
VERSION = 1
_ROW = re.compile(rb'\{"row": (\d{1,18}), "(video|text)": ')


@dataclass(frozen=True)
class About:
    """What an index was made with. A query must be made with the same."""

    model: str
    identity: str  # changes when the weights do
    frames: Frames = "middle"  # how videos were sampled last, and pooled
    num_frames: int = 8
    pool: str = "joint"


class Index:
    """An index as it stands, to be searched."""

    def __init__(self, folder: Path) -> None:
        """Read and verify an index.

        Raises:
            UsageError: there is none, or it is damaged.
        """
        self.folder = folder
        self.about = read_about(folder)
        try:
            self._state = _state_of(folder)
            self._lines = (folder / ENTRIES).read_bytes()  # first: a run that is under way writes vectors before
            self.vectors = map_vectors(folder / VECTORS)  # [N, D]
        except OSError as error:
            raise UsageError(f"{folder} is damaged: {error.filename}: {error.strerror}", _REMAKE) from None
        named = _named_rows(folder / ENTRIES, self._lines)
        self.rows = named[:, 0]  # [K] int64, ascending: the rows that an entry names
        self._starts = named[:, 1]  # where its line begins
        self.is_text = named[:, 2].astype(bool)  # [K]
        self._verify()

    def has_changed(self) -> bool:
        """Whether a run has added to it, or changed it, since it was read: then rows may be of other vectors."""
        return _state_of(self.folder) != self._state

    def entry(self, row: int) -> Entry:
        """What the vector of a row stands for."""
        start = self._starts[np.searchsorted(self.rows, row)]
        try:
            entry = from_json(json.loads(self._lines[start : self._lines.index(b"\n", start)]))
        except (KeyError, TypeError, ValueError):
            entry = None
        if not isinstance(entry, Entry):
            raise UsageError(f"{self.folder} is damaged: the entry of row {row}", "--overwrite makes it anew")
        return entry

    @cached_property
    def videos(self) -> np.ndarray:
        """[N] int64: for each row a number of its video, or text; -1 where no entry names it."""
        numbers: dict[str, int] = {}
        videos = np.full(len(self.vectors), -1, np.int64)
        for entry in map(self.entry, self.rows.tolist()):
            videos[entry.row] = numbers.setdefault(entry.name, len(numbers))
        return videos

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each work by its name, the last one where it has several."""
        return {entry.name: entry.row for entry in map(self.entry, self.rows.tolist())}

    def entries(self, names: Iterable[str]) -> list[Entry]:
        """The entries of these works, in this order, those of a video in the order of time."""
        found: dict[str, list[Entry]] = {name: [] for name in names}
        for entry in map(self.entry, self.rows.tolist()):
            if entry.name in found:
                found[entry.name].append(entry)
        return [entry for own in found.values() for entry in sorted(own, key=lambda entry: entry.start)]

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

    def __init__(self, folder: Path, journal: Journal[Entry | Failure], vectors: VectorFile) -> None:
        self.folder = folder
        self.reused = journal.reused  # the entries of each work of this run that need not be made again
        self._journal, self._vectors, self._written_before = journal, vectors, vectors.count
        named = {line.get("row") for line in journal.lines}  # some past the end, where a power cut took vectors
        self._free = (row for row in count() if row not in named)

    def append(self, work: Work, entries: Sequence[Entry | Failure], vectors: np.ndarray) -> None:
        """Write all entries of a work with their vectors, at rows that it finds for them.

        Args:
            entries: K entries, or the one failure.
            vectors: [K, D], or none.

        Raises:
            CocaError: the disk is full or gone; what was written before stays.
        """
        rows = list(islice(self._free, len(vectors)))
        with told(self.folder / VECTORS):
            if rows and rows[0] < self._written_before:  # what was made of the vectors there is of others now
                (self.folder / approximate.NAME).unlink(missing_ok=True)
            self._vectors.write(rows, vectors)
        row = iter(rows)
        placed = [replace(entry, row=next(row)) if isinstance(entry, Entry) else entry for entry in entries]
        self._journal.append(work, placed)


@contextmanager
def open_index(
    folder: Path,
    about: About,
    dimension: int,
    works: Sequence[Work],
    dtype: str | None = None,
    overwrite: bool = False,
    retry_failed: bool = False,
) -> Iterator[IndexWriter]:
    """Open an index, new or left by an earlier run, to add to it, and hold it against other runs.

    Entries of these works are kept where file and options are the same and their vector is whole; else they are
    dropped. Those of other works stay.

    Args:
        dimension: D of its vectors.
        dtype: `float32` or `float16`. None: as the index is, or else float32.
        overwrite: Drop everything.
        retry_failed: Drop the failures among these works.

    Raises:
        UsageError: it is no index, another model's, of another dtype, or another run writes to it.
        CocaError: it cannot be written.
    """
    check_index(folder, about, dtype, overwrite)
    path = folder / VECTORS
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / ABOUT).exists():
            _write_about(folder, about)
    with open_journal(folder / ENTRIES, works, _parser(path), overwrite, retry_failed) as journal:
        with told(folder):
            if overwrite or not path.exists():
                (folder / approximate.NAME).unlink(missing_ok=True)
                create(path, dimension, dtype or "float32")
            _write_about(folder, about)
            vectors = VectorFile(path)
        try:
            if vectors.dimension != dimension:
                what = f"holds vectors of {vectors.dimension} numbers, not {dimension}"
                raise UsageError(f"{path} {what}", "--overwrite makes the index anew")
            yield IndexWriter(folder, journal, vectors)
        finally:
            vectors.close()


def indexed(folder: Path, works: Sequence[Work], retry_failed: bool = False) -> dict[str, list[Entry | Failure]]:
    """The entries that `open_index` would keep of these works, with nothing changed.

    Raises:
        UsageError: it is no index.
    """
    return look(folder / ENTRIES, works, _parser(folder / VECTORS), retry_failed)


def index_files(folder: Path) -> list[Path]:
    """Every file that an index may consist of."""
    return [folder / name for name in (ABOUT, ENTRIES, VECTORS, approximate.NAME, f"{approximate.NAME}.json")]


def check_index(folder: Path, about: About, dtype: str | None = None, overwrite: bool = False) -> None:
    """Refuse a folder that these vectors cannot be added to.

    Raises:
        UsageError: it is no index, another model's, or of another dtype.
        CocaError: it cannot be read.
    """
    with told(folder):
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
    if about.exists() and ((folder / ENTRIES).exists() or b"coca_index" in about.read_bytes()):
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
    try:
        facts = json.loads((folder / ABOUT).read_bytes())
        version, known = facts["coca_index"], {field.name for field in fields(About)}
        if version > VERSION:
            raise UsageError(f"{folder} was written by a newer coca", "pip install --upgrade cococli")
        return About(**{name: value for name, value in facts.items() if name in known})
    except OSError:
        raise UsageError(f"{folder} is no index", "coca embed PATHS -o FOLDER/ makes one") from None
    except (ValueError, TypeError, KeyError, RecursionError):
        raise UsageError(f"{folder / ABOUT} is damaged", "--overwrite makes the index anew") from None


_REMAKE = "coca embed with the same paths mends it; --overwrite makes it anew"


def _write_about(folder: Path, about: About) -> None:
    with write_atomically(folder / ABOUT) as (file,):
        file.write(json.dumps({"coca_index": VERSION, **asdict(about)}, indent=1).encode())


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
