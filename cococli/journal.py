"""The JSONL output of a run is its journal: a line stands once it is written, and the next run goes on from there."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from .errors import CocaError, UsageError


@dataclass(frozen=True)
class Work:
    """A video of a run, or a text, and what its lines must carry to be taken for this run's."""

    name: str  # the video's path, or `text_name` of a text
    key: str  # of the file as it is now and the options that change what its lines say


@dataclass(frozen=True)
class Failure:
    """A video that nothing could be made of, and why."""

    video: str
    error: str

    def to_json(self, key: str = "") -> str:
        """One line of JSON."""
        return dump({"video": self.video, "status": "error", "error": self.error} | ({"key": key} if key else {}))


class Record(Protocol):
    """What one line tells."""

    def to_json(self, key: str = "") -> str: ...


R = TypeVar("R", bound=Record)


def text_name(text: str) -> str:
    """The name of a text among works, which no path can have."""
    return f"\0{text}"


def text_of(name: str) -> str | None:
    """The text of a work; None: it is a video."""
    return name[1:] if name.startswith("\0") else None


def key_of(path: Path, options: str) -> str:
    """What changes when the records of a video do: its size, its time of change, and the options.

    Args:
        options: Everything else that decides what the records say.
    """
    try:
        status = path.stat()
        file = f"{status.st_size} {status.st_mtime_ns}"
    except (OSError, ValueError):
        file = "missing"
    return hashlib.sha256(f"{file}\n{options}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Journal(Generic[R]):
    """An open journal. `open_journal` makes one."""

    def __init__(self, path: Path, file: FileIO, reused: Mapping[str, list[R]], lines: list[dict[str, Any]]) -> None:
        self.path = path
        self.reused = reused  # the records of each work of this run that need not be made again
        self.lines = lines  # all that it held when it was opened, those of other runs included
        self._file = file

    def append(self, work: Work, records: Iterable[R]) -> None:
        """Write all records of a work at once.

        Raises:
            CocaError: the disk is full or gone; what was written before stays.
        """
        with told(self.path):
            write_all(self._file, "".join(f"{record.to_json(work.key)}\n" for record in records).encode())


@contextmanager
def open_journal(
    path: Path,
    works: Iterable[Work],
    parse: Callable[[dict[str, Any]], R],
    overwrite: bool = False,
    retry_failed: bool = False,
) -> Iterator[Journal[R]]:
    """Open the output of a run, new or left by an earlier one, and hold it against other runs.

    What an earlier run wrote of these works is kept where file and options are the same, else dropped; what it wrote
    of others is kept. A last line that was not written to its end is dropped.

    Args:
        works: Those of this run.
        parse: Reads a record from the fields of its line; a KeyError, TypeError or ValueError says that it cannot be
            used.
        overwrite: Drop everything.
        retry_failed: Drop the failures among these works.

    Raises:
        UsageError: it holds something else than records, or another run writes to it.
        CocaError: it cannot be read or written.
    """
    with told(path):
        file = _held(path)
    try:
        with told(path):
            lines = [] if overwrite else _lines(path, file)
            kept, reused = _sorted_out(lines, works, parse, retry_failed)
            file = _rewritten(path, file, [line.text for line in kept])
        yield Journal(path, file, reused, [line.fields for line in kept])
    finally:
        file.close()


def look(
    path: Path, works: Iterable[Work], parse: Callable[[dict[str, Any]], R], retry_failed: bool = False
) -> dict[str, list[R]]:
    """What `open_journal` would reuse, with nothing changed.

    Raises:
        UsageError, CocaError: as from `open_journal`.
    """
    with told(path):
        if not path.exists():
            return {}
        with FileIO(path) as file:
            lines = _lines(path, file)
    return _sorted_out(lines, works, parse, retry_failed)[1]


@dataclass(frozen=True)
class _Line:
    text: bytes  # with its end
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        return self.fields["video"] if "video" in self.fields else text_name(self.fields["text"])


def _held(path: Path) -> FileIO:
    """The open file, made if need be, with a lock on it that goes with the process."""
    import fcntl

    file = FileIO(path, "a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise UsageError(f"another run writes to {path}", "wait for it, or name another file with -o") from None
    except OSError:  # a file system without locks
        return file
    if not os.path.samestat(os.fstat(file.fileno()), path.stat()):  # another run has just put a new one there
        file.close()
        return _held(path)
    return file


def _lines(path: Path, file: FileIO) -> list[_Line]:
    file.seek(0)
    *whole, _torn = file.readall().split(b"\n")  # what stands after the last line end was not written to its end
    return [_Line(text + b"\n", _fields(path, number, text)) for number, text in enumerate(whole, start=1)]


def _fields(path: Path, number: int, text: bytes) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        fields = json.loads(text)
        if isinstance(fields, dict) and isinstance(fields.get("video", fields.get("text")), str) and "status" in fields:
            return fields
    raise UsageError(f"line {number} of {path} is no record of coca", "name another file, or --overwrite this one")


def _sorted_out(
    lines: list[_Line], works: Iterable[Work], parse: Callable[[dict[str, Any]], R], retry_failed: bool
) -> tuple[list[_Line], dict[str, list[R]]]:
    """The lines to keep, and the records of this run among them."""
    keys = {work.name: work.key for work in works}
    by_name: dict[str, list[_Line]] = {}
    for line in lines:
        by_name.setdefault(line.name, []).append(line)
    reused = {
        name: records
        for name, own in by_name.items()
        if name in keys and (records := _reusable([line.fields for line in own], keys[name], parse, retry_failed))
    }
    return [line for line in lines if line.name in reused or line.name not in keys], reused


def _reusable(
    lines: list[dict[str, Any]], key: str, parse: Callable[[dict[str, Any]], R], retry_failed: bool
) -> list[R]:
    """The records of a work, if they are all there and were made of the same with the same options."""
    if any(line.get("key") != key for line in lines):
        return []
    try:
        records = [parse(line) for line in lines]
    except (KeyError, TypeError, ValueError):  # of another version
        return []
    if lines[0]["status"] != "ok":
        return [] if retry_failed or len(lines) > 1 else records
    return records if len(records) == lines[0].get("segments", 1) else []


def _rewritten(path: Path, file: FileIO, kept: list[bytes]) -> FileIO:
    """The journal with only these lines, in one step, and still held."""
    size = sum(map(len, kept))
    file.seek(0)
    if file.read(size) == b"".join(kept):  # the usual case: at most a torn line is to be cut off
        file.truncate(size)
        return file
    import fcntl

    part = path.with_name(f".coca-{os.getpid()}.part")
    new = FileIO(part, "a+")
    try:
        with suppress(OSError):
            fcntl.flock(new, fcntl.LOCK_EX | fcntl.LOCK_NB)
        write_all(new, b"".join(kept))
        os.fsync(new.fileno())
        part.replace(path)
    except BaseException:
        new.close()
        part.unlink(missing_ok=True)
        raise
    file.close()
    return new


def write_all(file: FileIO, data: bytes) -> None:
    """A raw file may take only part of the data when the disk fills; asking again tells why."""
    while data:
        data = data[file.write(data) :]


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Tell in one line that a file cannot be written, or read."""
    try:
        yield
    except OSError as error:
        raise CocaError(f"cannot write {path}: {error.strerror or error}", "what was written so far is kept") from None


def dump(fields: dict[str, Any]) -> str:
    """One line of JSON."""
    # A lone surrogate cannot be written as UTF-8; spelled \udcXX it is JSON's own escape and reads back the same.
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def rounded(value: float, digits: int) -> float | None:
    """None for a number that JSON cannot write."""
    return round(float(value), digits) if math.isfinite(value) else None


def number(value: float | None) -> float:
    """What `rounded` wrote."""
    return math.nan if value is None else float(value)
