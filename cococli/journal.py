"""Journals: the JSONL file of a run, from which the next run resumes.

A task's lines are appended at once and never changed. The next run keeps those whose key is still the task's.
"""

import copy
import json
import math
import os
import stat
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from . import settings
from .errors import UsageError
from .files import container_of, copy_mode, create_temporary, digest, io_errors, sample_fields, sync_folder
from .packed import Table, View
from .parsing import parse_json, validate
from .portable import close_to_move, lock, read_at
from .urls import RemotePath, path_of

SYNC_EVERY = 5.0  # seconds of work that a power failure may cost
CHANGED = "changed"  # key of records that no run reuses


@dataclass(frozen=True)
class Task:
    """One input of a run and the key that identifies its records."""

    name: str  # path of a file, or `text_name` of a text
    key: str  # records with another key are recomputed
    file: Path | None = None
    described: str = field(default="", compare=False)  # options of the key; empty: the file is not checked again

    def current_key(self) -> str:
        """Return the key for records that are written now: `CHANGED` if the file was changed or removed meanwhile."""
        if not self.file or not self.described or digest(f"{_status(self.file)}\n{self.described}") == self.key:
            return self.key
        return CHANGED

    @property
    def path(self) -> Path:
        """Path of the file, which of a remote file holds more than the name."""
        return self.file or path_of(self.name)


@dataclass(frozen=True)
class Failure:
    """An input that failed, and why."""

    video: str
    error: str
    transient: bool = False  # caused by the state of the machine rather than by the file: the next run retries it

    def fields(self) -> dict[str, Any]:
        """Return the JSON fields."""
        fields = {"video": self.video, **sample_fields(self.video), "status": "error", "error": self.error}
        return fields | ({"transient": True} if self.transient else {})

    def to_json(self, key: str = "") -> str:
        """Return one line of JSON, with the key of its task in a journal."""
        return dump(self.fields() | ({"key": key} if key else {}))


def failure_from_json(fields: dict[str, Any]) -> Failure:
    """Read what `Failure.to_json` wrote.

    Raises:
        KeyError: A field is missing.
        UsageError: A field has the wrong type.
    """
    return validate({"error": fields["error"]} | fields, Failure, "damaged record")


class JournalRecord(Protocol):
    """Anything that is written as one line."""

    def to_json(self, key: str = "") -> str: ...


R = TypeVar("R", bound=JournalRecord)


def text_name(text: str) -> str:
    """Return the name of a text among tasks, which no path can have."""
    return f"\0{text}"


def text_of(name: str) -> str | None:
    """Return the text of a task; None for a file."""
    return name[1:] if name.startswith("\0") else None


def file_tasks(paths: Sequence[Path], *options: object) -> Sequence[Task]:
    """Return a task for each file: keys are made now, and tasks each time that they are read.

    Args:
        options: Everything besides the file that affects its records. See `fingerprint`.
    """
    described = _described(options)
    keys = array("Q", (int(digest(f"{_status(path)}\n{described}"), 16) for path in paths))

    def task(index: int) -> Task:
        path = paths[index]
        return Task(str(path), f"{keys[index]:016x}", path, described)

    return View(range(len(paths)), task)


def file_task(name: str, path: Path, *options: object) -> Task:
    """Return the task of a file that may have another name."""
    described = _described(options)
    return Task(name, digest(f"{_status(path)}\n{described}"), path, described)


def text_tasks(texts: Iterable[str], *options: str) -> list[Task]:
    """Return a task for each text.

    Args:
        options: Everything besides the text that affects its record.
    """
    return [Task(text_name(text), " ".join(("text", *options))) for text in texts]


def fingerprint(*options: object, file: Path | None = None) -> str:
    """Hash options, and the size and modification time of a file or the version of a remote one, into 16 hex digits.

    Runs, caches and evaluations resume by it, so what it returns for the same options must not change: options are
    hashed by their `repr`, which includes the names of dataclasses and of their fields.

    Args:
        options: Strings, numbers, dataclasses and collections of them. A single one is hashed without its tuple.
    """
    described = _described(options)
    return digest(described if file is None else f"{_status(file)}\n{described}")


def _described(options: tuple[object, ...]) -> str:
    return repr(options[0] if len(options) == 1 else options)


def cache_path(*outputs: str, suffix: str) -> Path:
    """Return the path in the cache of a journal or index, for a run whose outputs cannot be resumed from.

    Args:
        outputs: What the run writes, and whatever else the journal must not share with another run.
    """
    return settings.home() / "journals" / (digest("\n".join(outputs)) + suffix)


def _status(path: Path) -> str:
    if isinstance(path, RemotePath):
        return f"remote {path.version}"
    try:
        status = container_of(path).stat()
    except (OSError, ValueError):
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


class Records(Mapping[str, list[R]]):
    """Records of tasks by name, which are read from the journal each time: in memory is where they are."""

    def __init__(self, path: Path, tasks: Sequence[Task], parse: Callable[[dict[str, Any]], R]) -> None:
        self.tasks = tasks
        self.present = bytearray(len(tasks))  # whether there are records of each task
        self.failed = bytearray(len(tasks))  # whether they are a failure
        self._path, self.parse = path, parse
        self._file: FileIO | None = None  # once it is open
        self._names = Table(task.name for task in tasks)
        self._starts, self._sizes = array("q", bytes(8 * len(tasks))), array("I", bytes(4 * len(tasks)))
        self._more: dict[int, list[tuple[int, int]]] = {}  # of tasks whose lines are not in one place

    def snapshot(self) -> "Records[R]":
        """Return the records that there are now."""
        found = copy.copy(self)
        found.present = bytearray(self.present)
        return found

    def index(self, name: str) -> int | None:
        """Return the index of a task."""
        return next((index for index in self._names.candidates(name) if self.tasks[index].name == name), None)

    def at(self, index: int) -> list[R]:
        """Return the records of a task by index; none if there are none."""
        if not self.present[index]:
            return []
        spans = [(self._starts[index], self._sizes[index]), *self._more.get(index, ())]
        opened = self._file
        with FileIO(self._path) if opened is None or opened.closed else nullcontext(opened) as file:
            lines = b"".join(read_at(file.fileno(), size, start) for start, size in spans)
        return [self.parse(parse_json(line)) for line in lines.split(b"\n")[:-1]]

    def __getitem__(self, name: str) -> list[R]:
        if (index := self.index(name)) is None or not self.present[index]:
            raise KeyError(name)
        return self.at(index)

    def __contains__(self, name: object) -> bool:
        index = self.index(name) if isinstance(name, str) else None
        return index is not None and bool(self.present[index])

    def __iter__(self) -> Iterator[str]:
        return (task.name for task, present in zip(self.tasks, self.present, strict=True) if present)

    def __len__(self) -> int:
        return self.present.count(1)

    def failures(self) -> Iterator[tuple[int, Failure]]:
        """Yield the index of each task that failed, and its failure."""
        for index, is_failed in enumerate(self.failed):
            if is_failed:
                yield from ((index, record) for record in self.at(index) if isinstance(record, Failure))

    def read_from(self, file: FileIO) -> None:
        """Read records from an open file, which another may have taken the place of."""
        self._file = file

    def put(self, index: int, start: int, size: int, failed: bool) -> None:
        """Remember where the records of a task are."""
        self._starts[index], self._sizes[index] = start, size
        self._more.pop(index, None)
        self.present[index], self.failed[index] = True, failed

    def add_line(self, index: int, start: int, size: int) -> None:
        """Remember where a further line of a task is."""
        more = self._more.get(index)
        if more is None and start == self._starts[index] + self._sizes[index]:
            self._sizes[index] += size
        else:
            self._more.setdefault(index, []).append((start, size))


class Journal(Generic[R]):
    """An open journal, from `open_journal`."""

    def __init__(self, path: Path, file: FileIO, records: Records[R]) -> None:
        self.path = path
        self.records = records  # of this run's tasks
        self.reused = records.snapshot()  # those that need not be recomputed
        self._file = file
        self._synced = time.monotonic()

    @property
    def lines(self) -> Iterator[dict[str, Any]]:
        """All lines, those of other runs included."""
        return (_fields(self.path, number, text) for number, _, text in _lines(self._file))

    def append(self, task: Task, records: Sequence[R]) -> None:
        """Write all records of a task in one go, and flush them to disk every `SYNC_EVERY` seconds.

        Those of a file that has changed since the run began are recomputed by the next one.

        Raises:
            CocaError: The disk is full or gone; earlier records are kept.
        """
        key = task.current_key()
        data = "".join(f"{record.to_json(key)}\n" for record in records).encode()
        with io_errors("write", self.path):
            start = self._file.seek(0, os.SEEK_END)
            write_all(self._file, data)
            if time.monotonic() - self._synced >= SYNC_EVERY:
                self.sync()
        if data and (index := self.records.index(task.name)) is not None:
            self.records.put(index, start, len(data), isinstance(records[0], Failure))

    def sync(self) -> None:
        """Flush the journal to disk, so that it survives a power failure."""
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()


@contextmanager
def open_journal(
    path: Path,
    tasks: Sequence[Task],
    parse: Callable[[dict[str, Any]], R],
    overwrite: bool = False,
    retry_failed: bool = False,
    verify: Callable[[R], bool] = lambda _: True,
) -> Iterator[Journal[R]]:
    """Open the journal of a run, new or left by an earlier run, and lock it against other runs.

    Lines of these tasks are kept if their key is the task's and they are complete, lines of other tasks always. An
    incomplete last line is dropped.

    Args:
        tasks: Inputs of this run.
        parse: Reads a record from the fields of its line. A KeyError, TypeError, ValueError or OverflowError means that
            another version wrote it, so that it is recomputed; a UsageError means that it is damaged.
        overwrite: Drop all lines.
        retry_failed: Drop the failures of these tasks.
        verify: Returns whether a record of an earlier run may be kept.

    Raises:
        UsageError: The file is not a journal, or another run writes to it.
        CocaError: It cannot be read or written.
    """
    with io_errors("write", path):
        file = _lock(path)
    records = Records(path, tasks, parse)
    try:
        if overwrite:
            size = 0
            with io_errors("write", path):
                file.truncate(0)
        else:
            with io_errors("read", path):
                size, drops = _find_reusable(path, file, records, retry_failed, verify)
            with io_errors("write", path):
                if drops:
                    file = _without_dropped(path, file, records)
                else:  # the usual case: there is at most an incomplete line to cut off
                    file.truncate(size)
        if not size:
            sync_folder(Path(os.path.realpath(path)).parent)  # the name of a new file
        records.read_from(file)
        journal = Journal(path, file, records)
        try:
            yield journal
        finally:
            journal.sync()
    finally:
        file.close()


def preview_journal(
    path: Path,
    tasks: Sequence[Task],
    parse: Callable[[dict[str, Any]], R],
    retry_failed: bool = False,
    verify: Callable[[R], bool] = lambda _: True,
) -> Records[R]:
    """Return what `open_journal` would reuse, without changing anything.

    Raises:
        UsageError, CocaError: As from `open_journal`.
    """
    records = Records(path, tasks, parse)
    with io_errors("read", path):
        if path.exists():
            _require_regular(path)
            with FileIO(path) as file:
                _find_reusable(path, file, records, retry_failed, verify)
    return records


def _lock(path: Path) -> FileIO:
    """Open or create a file and lock it. The lock ends with the process."""
    _require_regular(path)
    file = FileIO(path, "a+")
    try:
        if not lock(file):
            return file
    except BlockingIOError:
        file.close()
        raise UsageError(f"another run writes to {path}", "wait for it, or name another file with -o") from None
    if not os.path.samestat(os.fstat(file.fileno()), path.stat()):  # another run has just replaced it
        file.close()
        return _lock(path)
    return file


def _require_regular(path: Path) -> None:
    """Refuse pipes and devices, whose reading may never end."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise UsageError(f"{path} is not a file", "name another file with -o")


def _lines(file: FileIO) -> Iterator[tuple[int, int, bytes]]:
    """Yield the number of each line from 1, its first byte, and its text with the line break. It is complete."""
    start = 0
    with os.fdopen(os.dup(file.fileno()), "rb") as reader:
        reader.seek(0)
        for number, text in enumerate(reader, start=1):
            if text.endswith(b"\n"):
                yield number, start, text
            start += len(text)


def _fields(path: Path, number: int, text: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        fields = parse_json(text)
        named = isinstance(fields, dict) and isinstance(fields.get("video", fields.get("text")), str)
        if named and fields.get("status") in ("ok", "error"):
            return dict(fields)
    raise UsageError(f"line {number} of {path} is not a record of coca", _HINT)


_HINT = "correct or delete that line, name another file, or --overwrite this one"


def _name(fields: dict[str, Any]) -> str:
    return fields["video"] if "video" in fields else text_name(fields["text"])


def _find_reusable(
    path: Path,
    file: FileIO,
    records: Records[R],
    retry_failed: bool,
    verify: Callable[[R], bool],
) -> tuple[int, bool]:
    """Find the records of tasks that are complete and have the task's key.

    Returns:
        The size of the complete lines, and whether those of some tasks are not reusable.
    """
    count, size = len(records.tasks), 0
    lines, expected, wrong = array("I", bytes(4 * count)), array("I", bytes(4 * count)), bytearray(count)
    for number, start, text in _lines(file):
        fields, size = _fields(path, number, text), start + len(text)
        if (index := records.index(_name(fields))) is None:
            continue
        lines[index] += 1
        failed = fields["status"] != "ok"
        if lines[index] == 1:
            records.put(index, start, len(text), failed)
            wanted = fields.get("segments", fields.get("records", 1))
            expected[index] = wanted if isinstance(wanted, int) and 0 < wanted < 1 << 32 else 0
            wrong[index] = failed and bool(retry_failed or fields.get("transient"))
        else:
            records.add_line(index, start, len(text))
            wrong[index] |= records.failed[index]
        if fields.get("key") != records.tasks[index].key:
            wrong[index] = True
        if not wrong[index]:
            try:
                wrong[index] = not verify(records.parse(fields))
            except UsageError as error:
                raise UsageError(f"line {number} of {path}: {error.message}", _HINT) from None
            except (KeyError, TypeError, ValueError, OverflowError):  # another version wrote it
                wrong[index] = True
    for index in range(count):
        records.present[index] = lines[index] > 0 and not wrong[index] and lines[index] == expected[index]
    return size, any(lines[index] and not records.present[index] for index in range(count))


def _without_dropped(path: Path, file: FileIO, records: Records[R]) -> FileIO:
    """Reduce a locked file to the lines of reusable and of other tasks, all or nothing; return it still locked.

    A link stays a link.
    """
    place, end = Path(os.path.realpath(path)), 0
    moved = bytearray(len(records.tasks))
    with create_temporary(place.parent) as new:
        try:
            for number, _, text in _lines(file):
                fields = _fields(path, number, text)
                if (index := records.index(_name(fields))) is not None:
                    if not records.present[index]:
                        continue
                    if moved[index]:
                        records.add_line(index, end, len(text))
                    else:
                        records.put(index, end, len(text), fields["status"] != "ok")
                        moved[index] = True
                new.write(text)
                end += len(text)
            new.flush()
            copy_mode(place, new)
            os.fsync(new.fileno())
            close_to_move(new, file)
            Path(new.name).replace(place)
        except BaseException:
            close_to_move(new)
            Path(new.name).unlink(missing_ok=True)
            raise
        sync_folder(place.parent)
        file.close()
        return _lock(path) if new.closed else FileIO(os.dup(new.fileno()), "a+")


def write_all(file: FileIO, data: bytes) -> None:
    """Write all data to a raw file, which may take only part of it at a time, as when the disk fills up."""
    while data:
        data = data[file.write(data) :]


def dump(fields: dict[str, Any]) -> str:
    """Return one line of JSON."""
    # A lone surrogate cannot be written as UTF-8; spelled \udcXX it is JSON's own escape and reads back the same.
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def rounded(value: float, digits: int) -> float | None:
    """Round a number for JSON; None if it is not finite, which JSON cannot express."""
    return round(float(value), digits) + 0.0 if math.isfinite(value) else None  # + 0.0: not -0.0
