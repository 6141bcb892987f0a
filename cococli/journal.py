"""The JSONL output of a run is its journal: a line stands once it is written, and the next run goes on from there."""

import json
import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from .errors import CocaError, UsageError
from .files import copy_mode, create_temporary, digest, os_reason, sync_folder
from .parsing import parse_json, validate

SYNC_EVERY = 5.0  # seconds of writing that a power failure may cost


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
    transient: bool = False  # the machine's fault rather than the video's: the next run tries again

    def to_json(self, key: str = "") -> str:
        """One line of JSON."""
        fields = {"video": self.video, "status": "error", "error": self.error}
        return dump(fields | ({"transient": True} if self.transient else {}) | ({"key": key} if key else {}))


def failure_from_json(fields: dict[str, Any]) -> Failure:
    """Read what `Failure.to_json` wrote.

    Raises:
        KeyError: A field is missing.
        UsageError: A field has the wrong type.
    """
    return validate({"error": fields["error"]} | fields, Failure, "damaged record")


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
    return digest(f"{file}\n{options}")


class Journal(Generic[R]):
    """An open journal. `open_journal` makes one."""

    def __init__(self, path: Path, file: FileIO, reused: Mapping[str, list[R]], lines: list[dict[str, Any]]) -> None:
        self.path = path
        self.reused = reused  # the records of each work of this run that need not be made again
        self.lines = lines  # all that it held when it was opened, those of other runs included
        self._file = file
        self._synced = time.monotonic()

    def append(self, work: Work, records: Iterable[R]) -> None:
        """Write all records of a work at once, and bring them to the disk unless that was done a moment ago.

        Raises:
            CocaError: the disk is full or gone; what was written before stays.
        """
        with told(self.path):
            write_all(self._file, "".join(f"{record.to_json(work.key)}\n" for record in records).encode())
            if time.monotonic() - self._synced >= SYNC_EVERY:
                self.sync()

    def sync(self) -> None:
        """Bring what was written to the disk, so that it survives a power failure."""
        with suppress(OSError):  # a file system that cannot
            os.fsync(self._file.fileno())
        self._synced = time.monotonic()


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
        parse: Reads a record from the fields of its line. A KeyError, TypeError, ValueError or OverflowError says that
            it was written by another version and must be made again, a UsageError that it is damaged.
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
            kept, reused = _sorted_out(path, lines, works, parse, retry_failed)
            file = _rewritten(path, file, [line.text for line in kept])
        journal = Journal(path, file, reused, [line.fields for line in kept])
        try:
            yield journal
        finally:
            journal.sync()
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
        _require_regular(path)
        with FileIO(path) as file:
            lines = _lines(path, file)
    return _sorted_out(path, lines, works, parse, retry_failed)[1]


@dataclass(frozen=True)
class _Line:
    number: int  # the first is 1
    text: bytes  # with its end
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        return self.fields["video"] if "video" in self.fields else text_name(self.fields["text"])


def _held(path: Path) -> FileIO:
    """The open file, made if need be, with a lock on it that goes with the process."""
    import fcntl

    _require_regular(path)
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


def _require_regular(path: Path) -> None:
    """Refuse a pipe, which would be read for ever, and other devices."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise UsageError(f"{path} is not a file", "name another file with -o")


def _lines(path: Path, file: FileIO) -> list[_Line]:
    file.seek(0)
    *whole, _torn = file.readall().split(b"\n")  # what stands after the last line end was not written to its end
    return [_Line(number, text + b"\n", _fields(path, number, text)) for number, text in enumerate(whole, start=1)]


def _fields(path: Path, number: int, text: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        fields = parse_json(text)
        named = isinstance(fields, dict) and isinstance(fields.get("video", fields.get("text")), str)
        if named and fields.get("status") in ("ok", "error"):
            return dict(fields)
    raise UsageError(f"line {number} of {path} is not a record of coca", _HINT)


_HINT = "correct or delete that line, name another file, or --overwrite this one"


def _sorted_out(
    path: Path, lines: list[_Line], works: Iterable[Work], parse: Callable[[dict[str, Any]], R], retry_failed: bool
) -> tuple[list[_Line], dict[str, list[R]]]:
    """The lines to keep, and the records of this run among them."""
    keys = {work.name: work.key for work in works}
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
    """The records of a work, if they are all there and were made of the same with the same options."""
    if any(line.fields.get("key") != key for line in lines):
        return []
    first = lines[0].fields
    if first["status"] != "ok" and (retry_failed or first.get("transient") or len(lines) > 1):
        return []
    try:
        records = [_parsed(path, line, parse) for line in lines]
    except (KeyError, TypeError, ValueError, OverflowError):  # of another version
        return []
    return records if len(records) == first.get("segments", 1) else []


def _parsed(path: Path, line: _Line, parse: Callable[[dict[str, Any]], R]) -> R:
    try:
        return parse(line.fields)
    except UsageError as error:
        raise UsageError(f"line {line.number} of {path}: {error.message}", _HINT) from None


def _rewritten(path: Path, file: FileIO, kept: list[bytes]) -> FileIO:
    """The journal with only these lines, in one step, and still held. A link stays one."""
    size = sum(map(len, kept))
    file.seek(0)
    if file.read(size) == b"".join(kept):  # the usual case: at most a torn line is to be cut off
        file.truncate(size)
        return file
    place = Path(os.path.realpath(path))
    with create_temporary(place.parent) as new:
        try:
            new.writelines(kept)
            new.flush()
            copy_mode(place, new)
            os.fsync(new.fileno())
            Path(new.name).replace(place)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise
        sync_folder(place.parent)
        file.close()
        return FileIO(os.dup(new.fileno()), "a+")  # shares its lock


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
        raise CocaError(f"cannot write {path}: {os_reason(error)}", "what was written so far is kept") from None


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
