"""The JSONL output of a run is its journal: a line stands once it is written, and the next run goes on from there."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from ..errors import CocaError, UsageError
from .records import Failure, Outcome, from_json


@dataclass(frozen=True)
class Work:
    """A video of a run, and what its records must carry to be taken for this run's."""

    path: Path
    key: str  # of the file as it is now and the options that change its records

    @property
    def video(self) -> str:
        return str(self.path)


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


class Journal:
    """An open journal. `open_journal` makes one."""

    def __init__(self, path: Path, file: FileIO, reused: Mapping[str, list[Outcome]]) -> None:
        self.path = path
        self.reused = reused  # the records of each video of this run that need not be made again
        self._file = file

    def append(self, work: Work, outcomes: Iterable[Outcome]) -> None:
        """Write all records of a video at once.

        Raises:
            CocaError: the disk is full or gone; what was written before stays.
        """
        with told(self.path):
            write_all(self._file, "".join(f"{outcome.to_json(work.key)}\n" for outcome in outcomes).encode())


@contextmanager
def open_journal(
    path: Path, works: Iterable[Work], overwrite: bool = False, retry_failed: bool = False
) -> Iterator[Journal]:
    """Open the output of a run, new or left by an earlier one, and hold it against other runs.

    What an earlier run wrote of these videos is kept where file and options are the same, else dropped; what it wrote
    of other videos is kept. A last line that was not written to its end is dropped.

    Args:
        works: The videos of this run.
        overwrite: Drop everything.
        retry_failed: Drop the failures among these videos.

    Raises:
        UsageError: it holds something else than records, or another run writes to it.
        CocaError: it cannot be read or written.
    """
    with told(path):
        file = _held(path)
    try:
        with told(path):
            lines = [] if overwrite else _lines(path, file)
            keys = {work.video: work.key for work in works}
            kept, reused = _sorted_out(lines, keys, retry_failed)
            file = _rewritten(path, file, [line.text for line in kept])
        yield Journal(path, file, reused)
    finally:
        file.close()


def look(path: Path, works: Iterable[Work], retry_failed: bool = False) -> dict[str, list[Outcome]]:
    """What `open_journal` would reuse, with nothing changed.

    Raises:
        UsageError, CocaError: as from `open_journal`.
    """
    with told(path):
        if not path.exists():
            return {}
        with FileIO(path) as file:
            lines = _lines(path, file)
    return _sorted_out(lines, {work.video: work.key for work in works}, retry_failed)[1]


@dataclass(frozen=True)
class _Line:
    text: bytes  # with its end
    fields: dict[str, Any]

    @property
    def video(self) -> str:
        return self.fields["video"]


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
        if isinstance(fields, dict) and isinstance(fields.get("video"), str) and "status" in fields:
            return fields
    raise UsageError(f"line {number} of {path} is no record of coca", "name another file, or --overwrite this one")


def _sorted_out(
    lines: list[_Line], keys: Mapping[str, str], retry_failed: bool
) -> tuple[list[_Line], dict[str, list[Outcome]]]:
    """The lines to keep, and the records of this run among them."""
    by_video: dict[str, list[_Line]] = {}
    for line in lines:
        by_video.setdefault(line.video, []).append(line)
    reused = {
        video: outcomes
        for video, own in by_video.items()
        if video in keys and (outcomes := _reusable(own, keys[video], retry_failed))
    }
    return [line for line in lines if line.video in reused or line.video not in keys], reused


def _reusable(lines: list[_Line], key: str, retry_failed: bool) -> list[Outcome]:
    """The records of a video, if they are all there and were made of the same with the same options."""
    if any(line.fields.get("key") != key for line in lines):
        return []
    try:
        outcomes = [from_json(line.fields) for line in lines]
    except (KeyError, TypeError, ValueError):  # of another version
        return []
    if isinstance(outcomes[0], Failure):
        return [] if retry_failed or len(outcomes) > 1 else outcomes
    return outcomes if len(outcomes) == lines[0].fields.get("segments", 1) else []


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
