"""Edits of captions: an append-only file beside the JSONL, which itself never changes."""

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal

from ..captioning.records import Outcome, Record, from_json
from ..errors import UsageError
from ..files import check_regular, digest, io_errors, sync_folder
from ..journal import Failure, dump, rounded, write_all
from ..parsing import parse_json
from ..portable import lock

SUFFIX = ".review.jsonl"

Verdict = Literal["accepted", "rejected"]


@dataclass(frozen=True)
class Edit:
    """Correction and verdict of a record in a review."""

    version: int = 0  # number of edits of the record
    caption: str | None = None  # the correction; None where the model's caption stands
    verdict: Verdict | None = None


class Conflict(Exception):
    """An edit of a version of a record that is no longer the newest."""


def record_id(video: str, start: float | None = None, end: float | None = None) -> str:
    """Return a name of a record for URLs, which stays the same when it is captioned anew."""
    span = [None if time is None else rounded(time, 3) for time in (start, end)]
    return digest(json.dumps([_absolute(video), *span]))


def _absolute(path: str) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - pathlib's keeps `..`


def id_of(outcome: Outcome) -> str:
    """Return the `record_id` of a record or a failure."""
    if isinstance(outcome, Failure):
        return record_id(outcome.video)
    return record_id(outcome.video, outcome.start, outcome.end)


class Review:
    """The records of a JSONL file and their edits, while other processes may add to both.

    Attributes:
        path: File that `coca caption` wrote; None for records that are not edited.
        records: Records and failures by id, in the order of the file.
        stamp: Grows with every change of a record.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the records and their edits.

        Raises:
            UsageError: The file is missing or holds something else.
        """
        self.path = path
        self.records: dict[str, Outcome] = {}
        self.stamp = 0
        self._edits: dict[str, tuple[Edit, str]] = {}  # and the model's caption at that time
        self._changed: dict[str, int] = {}  # stamp of the last change of each record
        self._replaced = 0  # stamp at which all records were replaced
        self._videos: tuple[int, dict[str, list[tuple[str, Record]]]] = (-1, {})  # records by video, of a stamp
        self._lock = threading.RLock()
        if path:
            if not path.is_file():
                raise UsageError(f"no such file: {path}", f"coca caption videos/ -o {path}")
            self.edits_path = path.with_name(path.stem + SUFFIX)
            self._lines, self._edit_lines = _Tail(path), _Tail(self.edits_path)
            self.refresh()

    def refresh(self) -> int:
        """Read what was added to the files. Return the stamp.

        Raises:
            UsageError: A line is neither a record nor an edit.
        """
        if not self.path:
            return self.stamp
        with self._lock:
            for tail, forget, take in (
                (self._lines, self.records.clear, self._take_record),
                (self._edit_lines, self._edits.clear, self._take_edit),
            ):
                replaced, lines = tail.read()
                if replaced or lines:
                    self.stamp += 1
                if replaced:
                    forget()
                    self._replaced = self.stamp
                wrong = None
                for number, text in lines:
                    try:
                        take(parse_json(text))
                    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, UsageError):
                        wrong = wrong or number
                if wrong:
                    what = "a caption of coca" if tail is self._lines else "an edit of coca review"
                    raise UsageError(f"line {wrong} of {tail.path} is not {what}")
            return self.stamp

    def edit_of(self, id: str) -> Edit:
        """Return the newest edit of a record. A verdict on a caption that the model has since changed is dropped."""
        edit, original = self._edits.get(id, (Edit(), ""))
        record = self.records.get(id)
        stale = edit.caption is None and isinstance(record, Record) and record.caption != original
        return Edit(edit.version) if stale else edit

    def state(self, id: str) -> dict[str, Any]:
        """Return what the page knows of a record: its fields with the corrected caption, and the model's own."""
        outcome, edit = self.records[id], self.edit_of(id)
        state = {**outcome.fields(), "id": id, "version": edit.version, "verdict": edit.verdict}
        if isinstance(outcome, Record):
            state |= {"caption": edit.caption or outcome.caption, "original": outcome.caption}
        return state

    def since(self, stamp: int) -> dict[str, Any]:
        """Return the newest stamp and the ids of records that changed after one: of all if they were replaced."""
        with self._lock:
            complete = stamp < self._replaced or stamp > self.stamp
            ids = [id for id in self.records if complete or self._changed.get(id, 0) > stamp]
            return {"stamp": self.stamp, "complete": complete, "records": ids}

    def edit(self, id: str, version: int, caption: str | None, verdict: Verdict | None) -> Edit:
        """Save an edit to disk.

        Args:
            version: Version of the record that the edit was made on.
            caption: The correction; None, or the model's own caption, for no correction.

        Raises:
            KeyError: There is no such record.
            Conflict: The record has been edited since.
            CocaError: The edit cannot be written; earlier ones are kept.
        """
        record = self.records[id]
        if not self.path or not isinstance(record, Record):
            raise KeyError(id)
        caption = " ".join((caption or "").split())
        with self._lock, self._appending() as file:
            self.refresh()
            if version != self.edit_of(id).version:
                raise Conflict
            edit = Edit(version + 1, caption if caption not in ("", record.caption) else None, verdict)
            fields = {
                "video": record.video,
                "start": rounded(record.start, 3),
                "end": rounded(record.end, 3),
                "original": record.caption,
                **({"caption": edit.caption} if edit.caption else {}),
                **({"verdict": verdict} if verdict else {}),
                "version": edit.version,
            }
            write_all(file, f"{dump(fields)}\n".encode())
            os.fsync(file.fileno())
            self.refresh()
            return edit

    def reviewed(self) -> Iterator[tuple[Record, str]]:
        """Yield records that were corrected or accepted, and not rejected, with their caption."""
        for id, record in self.records.items():
            edit = self.edit_of(id)
            if isinstance(record, Record) and edit.verdict != "rejected" and (edit.caption or edit.verdict):
                yield record, edit.caption or record.caption

    def find(self, video: str, start: float, end: float) -> str | None:
        """Return the id of the record of this span, or else of the one of this video that shares most with it."""
        if (id := record_id(video, start, end)) in self.records:
            return id
        with self._lock:
            if self._videos[0] != self.stamp:
                videos: dict[str, list[tuple[str, Record]]] = {}
                for known, record in self.records.items():
                    if isinstance(record, Record):
                        videos.setdefault(_absolute(record.video), []).append((known, record))
                self._videos = self.stamp, videos
        shared = [
            (min(end, record.end) - max(start, record.start), known)
            for known, record in self._videos[1].get(_absolute(video), ())
        ]
        overlap, nearest = max(shared, default=(-1.0, None))
        return nearest if overlap >= 0 else None

    def add(self, outcome: Outcome) -> str:
        """Add a record that is in no file, such as a moment of an index, and return its id."""
        id = id_of(outcome)
        with self._lock:
            if id not in self.records:
                self.stamp += 1
                self._put(id, outcome)
        return id

    @contextmanager
    def _appending(self) -> Iterator[FileIO]:
        """Open the file of edits, locked against other processes, without a line that a crash cut short."""
        with io_errors("write", self.edits_path), FileIO(self.edits_path, "a+") as file:
            lock(file, wait=True)
            file.seek(0)
            content = file.readall()
            if not content:
                sync_folder(Path(os.path.realpath(self.edits_path)).parent)  # the name of a new file
            elif not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
            yield file

    def _take_record(self, fields: dict[str, Any]) -> None:
        outcome = from_json(fields)
        self._put(id_of(outcome), outcome)

    def _take_edit(self, fields: dict[str, Any]) -> None:
        id = record_id(fields["video"], float(fields["start"]), float(fields["end"]))
        caption, verdict, original = fields.get("caption"), fields.get("verdict"), fields["original"]
        if not isinstance(caption, str | None) or verdict not in (None, "accepted", "rejected"):
            raise ValueError
        self._edits[id] = Edit(int(fields["version"]), caption, verdict), original
        self._changed[id] = self.stamp

    def _put(self, id: str, outcome: Outcome) -> None:
        self.records[id] = outcome
        self._changed[id] = self.stamp


class _Tail:
    """The complete lines of a growing file, each of which is read once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: tuple[int, int] | None = None
        self._read = self._number = 0  # bytes and lines
        self._last = b""

    def read(self) -> tuple[bool, list[tuple[int, bytes]]]:
        """Return whether the file was replaced since, and its new lines with their numbers, from 1."""
        with io_errors("read", self.path):
            try:
                check_regular(self.path)
                file = FileIO(self.path)
            except FileNotFoundError:
                replaced = self._file is not None
                self._file, self._read, self._number, self._last = None, 0, 0, b""
                return replaced, []
        with io_errors("read", self.path), file:
            status = os.fstat(file.fileno())
            identity = status.st_dev, status.st_ino
            file.seek(self._read - len(self._last))
            # A file that is rewritten in place may be as long as it was.
            replaced = self._file is not None and (identity != self._file or file.read(len(self._last)) != self._last)
            if replaced:
                self._read = self._number = 0
                self._last = b""
            self._file = identity
            file.seek(self._read)
            *lines, _incomplete = file.readall().split(b"\n")
        if lines:
            self._read += sum(map(len, lines)) + len(lines)
            self._last = lines[-1] + b"\n"
        first = self._number + 1
        self._number += len(lines)
        return replaced, list(enumerate(lines, first))
