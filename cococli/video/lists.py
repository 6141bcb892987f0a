"""Lists of paths: on stdin, in a text, in a column of a table, or in the records of an earlier run."""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UsageError
from ..files import check_regular

_COLUMNS = ("path", "video", "file", "filename")  # where none is named, the first of these holds the paths
_HINT = "a list is a .txt, .csv, .tsv, .jsonl or .parquet file, or one without suffix; @list.csv:path names a column"


def read_stdin(stdin: BinaryIO | None = None) -> Iterator[str]:
    """The paths on stdin, or in another stream: one a line, or between NULs, as `find -print0` writes them.

    Raises:
        UsageError: there is none, or what comes is no text.
    """
    stdin = stdin or getattr(sys.stdin, "buffer", None)
    with _told("stdin"):
        text = stdin.read() if stdin else b""  # there is none where it was closed
    return _some(_split(text, "stdin"), "stdin")


def read_list(name: str) -> Iterator[str]:
    """The paths in a file. Its suffix tells the kind; `list.csv:column` names a column of a table, a field of records.

    A path is relative to the working folder, or to the list's where it exists only there.

    Raises:
        UsageError: the list is missing, empty, damaged or no list, or has no such column.
    """
    path, column = _named(name)
    hint = f"./@{name} is the file itself" if os.path.lexists(f"@{name}") else _HINT
    if path.suffix.lower() not in _READERS:
        raise UsageError(f"{path} is no list of paths", hint)
    with _told(path, hint):
        if path.exists():
            check_regular(path)
        for entry in _some(_READERS[path.suffix.lower()](path, column), path):
            yield entry if os.path.lexists(entry) else _beside(path, entry)


def _named(name: str) -> tuple[Path, str | None]:
    """The file of a list, and the column that is named after it."""
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - a shell leaves @~ alone; pathlib fails without a home
    column = re.fullmatch(r"(.+\.(?:csv|tsv|jsonl|parquet)):(.+)", str(path), re.DOTALL | re.IGNORECASE)
    if column and not os.path.lexists(path):
        return Path(column[1]), column[2]
    return path, None


def _beside(path: Path, entry: str) -> str:
    beside = str(path.parent / entry)
    return beside if os.path.lexists(beside) else entry


def _some(entries: Iterable[Any], source: str | Path) -> Iterator[str]:
    """The paths among what a list holds: a blank one is none, and there must be one."""
    count = 0
    for entry in entries:
        path = os.fsdecode(entry) if isinstance(entry, bytes) else entry
        if not isinstance(path, str | None):
            raise UsageError(f"{source} holds {path!r} in place of a path")
        if path and not path.isspace():
            count += 1
            yield path
    if not count:
        raise UsageError(f"{source} lists no path")


def _lines(path: Path, column: None) -> Iterator[bytes]:
    return _split(path.read_bytes(), path)


def _split(text: bytes, source: str | Path) -> Iterator[bytes]:
    """The lines of a text, or what stands between its NULs. Cut one by one, for there may be millions."""
    if b"\0\0" in text or text.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{source} is no UTF-8 text", _HINT)
    parts = re.compile(rb"[^\0]+" if b"\0" in text else rb"[^\n]+?(?=\r?$)", re.MULTILINE)
    return (part[0] for part in parts.finditer(text.removeprefix(b"\xef\xbb\xbf")))


def _rows(path: Path, column: str | None) -> Iterator[str]:
    """A column of a .csv or .tsv."""
    with path.open("rb") as file:
        head = file.peek()
        if b"\0" in head:
            raise UsageError(f"{path} is no UTF-8 text", _HINT)
        titles = head.partition(b"\n")[0]
        semicolons = b";" in titles and b"," not in titles  # as spreadsheets write where numbers have commas
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ";" if semicolons else ","
        text = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        try:
            names = next(filter(None, rows), [""])
            place = names.index(_column(names, column, path))
            if len(names) == 1 and Path(names[0]).suffix and not column:  # no title, but a path
                yield names[0]
            yield from (row[place] for row in rows if len(row) > place)
        except csv.Error as error:
            raise UsageError(f"{path} is damaged in line {rows.line_num}: {error}") from None


def _records(path: Path, column: str | None) -> Iterator[Any]:
    """A field of the records in a .jsonl."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number, line in enumerate(lines, start=1):
            if line.isspace():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                record = None
            if not isinstance(record, dict):
                raise UsageError(f"{path} is damaged in line {number}: no record in JSON")
            column = _column(list(record), column, f"{path} in line {number}")
            yield record[column]


def _parquet(path: Path, column: str | None) -> Iterator[Any]:
    """A column of a .parquet."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise UsageError(f"reading {path} needs pyarrow", "pip install 'cococli[parquet]'") from None
    with path.open("rb") as file:
        try:
            table = pyarrow.parquet.ParquetFile(file)
            name = _column(table.schema_arrow.names, column, path)
            for batch in table.iter_batches(columns=[name]):
                yield from batch.column(0).to_pylist()
        except (pyarrow.ArrowException, ValueError) as error:
            raise UsageError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


_READERS: dict[str, Callable[[Path, Any], Iterator[Any]]] = {
    "": _lines,
    ".txt": _lines,
    ".csv": _rows,
    ".tsv": _rows,
    ".jsonl": _records,
    ".parquet": _parquet,
}


def _column(names: Sequence[str], wanted: str | None, source: str | Path) -> str:
    """The column that is wanted, or else the one that holds the paths."""
    if wanted is None:
        known = [name for title in _COLUMNS for name in names if name.lower() == title]
        if known or len(names) == 1:
            return (known or names)[0]
    elif wanted in names:
        return wanted
    missing = "column of paths" if wanted is None else f"column {wanted!r}"
    raise UsageError(f"{source} has no {missing}", f"name one as in @list.csv:column: {', '.join(names)}")


@contextmanager
def _told(source: str | Path, hint: str = "") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise UsageError(f"cannot read {source}: {reason}", hint) from None
