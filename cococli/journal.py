"""Journals: the JSONL file of a run, from which the next run resumes.

A task's lines are appended at once and never changed. The next run keeps those whose key is still the task's.
"""

import json
import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from . import settings
from .errors import UsageError
from .files import container_of, copy_mode, create_temporary, digest, io_errors, sample_fields, sync_folder
from .parsing import parse_json, validate
from .portable import close_to_move, lock
from .urls import RemotePath, path_of

SYNC_EVERY = 5.0  # seconds of work that a power failure may cost
CHANGED = "changed"  # key of records that no run reuses


@dataclass(frozen=True)
class Task:
    """One input of a run and the key that identifies its records."""

    name: str  # path of a file, or `text_name` of a text
    key: str  # records with another key are recomputed
    file: Path | None = None
    status: str = field(default="", compare=False)  # of the file when the key was made; empty: not checked again

    def current_key(self) -> str:
        """Return the key for records that are written now: `CHANGED` if the file was changed or removed meanwhile."""
        return CHANGED if self.file and self.status and _status(self.file) != self.status else self.key

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


def file_tasks(paths: Iterable[Path], *options: object) -> list[Task]:
    """Return a task for each file.

    Args:
        options: Everything besides the file that affects its records. See `fingerprint`.
    """
    return [file_task(str(path), path, *options) for path in paths]


def file_task(name: str, path: Path, *options: object) -> Task:
    """Return the task of a file that may have another name."""
    status = _status(path)
    return Task(name, digest(f"{status}\n{_described(options)}"), path, status)


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


class Journal(Generic[R]):
    """An open journal, from `open_journal`."""

    def __init__(self, path: Path, file: FileIO, reused: Mapping[str, list[R]], lines: list[dict[str, Any]]) -> None:
        self.path = path
        self.reused = reused  # records of this run's tasks that need not be recomputed
        self.lines = lines  # all lines at the time of opening, those of other runs included
        self._file = file
        self._synced = time.monotonic()

    def append(self, task: Task, records: Iterable[R]) -> None:
        """Write all records of a task in one go, and flush them to disk every `SYNC_EVERY` seconds.

        Those of a file that has changed since the run began are recomputed by the next one.

        Raises:
            CocaError: The disk is full or gone; earlier records are kept.
        """
        key = task.current_key()
        with io_errors("write", self.path):
            write_all(self._file, "".join(f"{record.to_json(key)}\n" for record in records).encode())
            if time.monotonic() - self._synced >= SYNC_EVERY:
                self.sync()

    def sync(self) -> None:
        """Flush the journal to disk, so that it survives a power failure."""
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()


@contextmanager
def open_journal(
    path: Path,
    tasks: Iterable[Task],
    parse: Callable[[dict[str, Any]], R],
    overwrite: bool = False,
    retry_failed: bool = False,
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

    Raises:
        UsageError: The file is not a journal, or another run writes to it.
        CocaError: It cannot be read or written.
    """
    with io_errors("write", path):
        file = _lock(path)
    try:
        with io_errors("read", path):
            lines = [] if overwrite else _lines(path, file)
        kept, reused = _split(path, lines, tasks, parse, retry_failed)
        with io_errors("write", path):
            file = _rewrite(path, file, [line.text for line in kept])
        if not lines:
            sync_folder(Path(os.path.realpath(path)).parent)  # the name of a new file
        journal = Journal(path, file, reused, [line.fields for line in kept])
        try:
            yield journal
        finally:
            journal.sync()
    finally:
        file.close()


def preview_journal(
    path: Path, tasks: Iterable[Task], parse: Callable[[dict[str, Any]], R], retry_failed: bool = False
) -> dict[str, list[R]]:
    """Return what `open_journal` would reuse, without changing anything.

    Raises:
        UsageError, CocaError: As from `open_journal`.
    """
    with io_errors("read", path):
        if not path.exists():
            return {}
        _require_regular(path)
        with FileIO(path) as file:
            lines = _lines(path, file)
    return _split(path, lines, tasks, parse, retry_failed)[1]


@dataclass(frozen=True)
class _Line:
    number: int  # from 1
    text: bytes  # with its line break
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        return self.fields["video"] if "video" in self.fields else text_name(self.fields["text"])


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


def _lines(path: Path, file: FileIO) -> list[_Line]:
    file.seek(0)
    *complete, _incomplete = file.readall().split(b"\n")
    return [_Line(number, text + b"\n", _fields(path, number, text)) for number, text in enumerate(complete, start=1)]


def _fields(path: Path, number: int, text: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        fields = parse_json(text)
        named = isinstance(fields, dict) and isinstance(fields.get("video", fields.get("text")), str)
        if named and fields.get("status") in ("ok", "error"):
            return dict(fields)
    raise UsageError(f"line {number} of {path} is not a record of coca", _HINT)


_HINT = "correct or delete that line, name another file, or --overwrite this one"


def _split(
    path: Path, lines: list[_Line], tasks: Iterable[Task], parse: Callable[[dict[str, Any]], R], retry_failed: bool
) -> tuple[list[_Line], dict[str, list[R]]]:
    """Return the lines to keep, and the records of this run's tasks among them."""
    keys = {task.name: task.key for task in tasks}
    by_name: dict[str, list[_Line]] = {}
    for line in lines:
        by_name.setdefault(line.name, []).append(line)
    reused = {
        name: records
        for name, own in by_name.items()
        if name in keys and (records := _reusable(path, own, keys[name], parse, retry_failed))
    }
    return [line for line in lines if line.name in reused or line.name not in keys], reused


def _reusable(
    path: Path, lines: list[_Line], key: str, parse: Callable[[dict[str, Any]], R], retry_failed: bool
) -> list[R]:
    """Return the records of a task if all are present and have its key, else none."""
    if any(line.fields.get("key") != key for line in lines):
        return []
    first = lines[0].fields
    if first["status"] != "ok" and (retry_failed or first.get("transient") or len(lines) > 1):
        return []
    try:
        records = [_parse(path, line, parse) for line in lines]
    except (KeyError, TypeError, ValueError, OverflowError):  # another version wrote it
        return []
    return records if len(records) == first.get("segments", first.get("records", 1)) else []


def _parse(path: Path, line: _Line, parse: Callable[[dict[str, Any]], R]) -> R:
    try:
        return parse(line.fields)
    except UsageError as error:
        raise UsageError(f"line {line.number} of {path}: {error.message}", _HINT) from None


def _rewrite(path: Path, file: FileIO, kept: list[bytes]) -> FileIO:
    """Reduce a locked file to some of its lines, all or nothing; return it still locked. A link stays a link."""
    size = sum(map(len, kept))
    file.seek(0)
    if file.read(size) == b"".join(kept):  # the usual case: there is at most an incomplete line to cut off
        file.truncate(size)
        return file
    place = Path(os.path.realpath(path))
    with create_temporary(place.parent) as new:
        try:
            new.writelines(kept)
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
    return round(float(value), digits) if math.isfinite(value) else None
