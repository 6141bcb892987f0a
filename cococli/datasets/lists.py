"""Lists of files with captions: `captions.jsonl`, `metadata.csv`, or the records of an earlier run."""

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..parsing import parse_json, read_errors
from .dataset import Entry, split_of

SUFFIXES = (".jsonl", ".csv")
_PATHS = ("path", "video", "image", "file_name", "file", "filename")  # the first of these that is there
_CAPTIONS = ("captions", "caption", "text")


def read_list(path: Path, folder: Path | None = None) -> list[Entry]:
    """The files that a list names, each once with all of its captions, whatever lines they stand on.

    Args:
        folder: What paths are relative to, in place of the list's own folder. One that exists only in the working
            folder is relative to that: so are those in the records of an earlier run.

    Raises:
        UsageError: the list is damaged, names no files, has no captions, or has some of parts of a video.
    """
    rows = _rows if path.suffix.lower() == ".csv" else _records
    entries: dict[str, Entry] = {}
    with read_errors(path):
        for number, record in rows(path):
            where = f"{path} in line {number}"
            name = _first(record, _PATHS, where)
            if not isinstance(name, str) or not name.strip():
                raise UsageError(f"{where} holds {name!r} in place of a path")
            if _starts_later(record):
                raise UsageError(f"{where} captions a part of {name}", "cut it out, for an example is a whole file")
            split = split_of(str(record["split"])) if record.get("split") else None
            if not (entry := entries.get(name)):
                entry = entries[name] = Entry(name, _place(folder or path.parent, name), split, [])
            if entry.split != split:
                raise UsageError(f"{where} puts {name} into another split than a line before")
            entry.captions.extend(_captions(record, where))
    return list(entries.values())


def _records(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                record = parse_json(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                raise UsageError(f"{path} is damaged in line {number}: no record in JSON")
            yield number, {name.lower(): value for name, value in record.items()}


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as text:
        rows = csv.reader(text, strict=True)
        try:
            names = [name.strip().lower() for name in next(rows, [])]
            for row in rows:
                if row:
                    yield rows.line_num, dict(zip(names, row, strict=False))
        except csv.Error as error:
            raise UsageError(f"{path} is damaged in line {rows.line_num}: {error}") from None


def _starts_later(record: Mapping[str, Any]) -> bool:
    """Whether a record is of a part of a video that is not its first, so that others are of other parts."""
    try:
        return float(record.get("start") or 0) > 0
    except (TypeError, ValueError):  # the user's own column
        return False


def _captions(record: Mapping[str, Any], where: str) -> list[Any]:
    """What a record says of its file; one of a failed video says nothing."""
    if record.get("status") == "error":
        return []
    said = _first(record, _CAPTIONS, where)
    return said if isinstance(said, list) else [said]


def _first(record: Mapping[str, Any], names: tuple[str, ...], where: str) -> Any:
    for name in names:
        if name in record:
            return record[name]
    raise UsageError(f"{where} has none of the fields {', '.join(names)}, but {', '.join(map(repr, record))}")


def _place(folder: Path, name: str) -> Path:
    beside = folder / name
    only_here = os.path.exists(name) and not os.path.exists(beside)  # noqa: PTH110 - pathlib's may raise
    return Path(name) if only_here else beside
