"""Lists of paths: on stdin, in a text, in a column of a table, or in the records of an earlier run."""

import os
import reprlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import UsageError
from ..tables import PATHS, SUFFIXES, URLS, choose_column, read_table, split_column, split_lines

_HINT = "a list is a .txt, .csv, .tsv, .jsonl or .parquet file, or one without suffix; @list.csv:path names a column"


def read_stdin(stdin: BinaryIO | None = None) -> Iterator[str]:
    """Yield the paths on stdin, or in another stream: one a line, or between NULs, as `find -print0` writes them.

    Raises:
        UsageError: No path is listed, or the input is not text.
    """
    stdin = stdin or getattr(sys.stdin, "buffer", None)
    try:
        text = stdin.read() if stdin else b""
    except OSError as error:
        raise UsageError(f"cannot read stdin: {error.strerror or error}") from None
    return _require_some(split_lines(text, "stdin"), "stdin")


def read_list(name: str) -> Iterator[str]:
    """Yield the paths in a list. `list.csv:column` names a column of a table, or a field of records.

    A path is relative to the working folder, or to the list's where it exists only there.

    Raises:
        UsageError: The list is missing, empty, damaged or not a list, or has no such column.
    """
    path, column = locate_list(name)
    hint = f"./@{name} is the file itself" if os.path.lexists(f"@{name}") else _HINT
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is not a list of paths", hint)
    try:
        for entry in _require_some(_column(path, column), path):
            yield entry if os.path.lexists(entry) else _beside(path, entry)
    except UsageError as error:
        raise UsageError(error.message, error.hint or hint) from None


def locate_list(name: str) -> tuple[Path, str | None]:
    """Return the file of a list, and the column that `list.csv:column` names."""
    return split_column(os.path.expanduser(name))  # noqa: PTH111 - a shell leaves @~ alone; pathlib fails without a home


def _column(path: Path, wanted: str | None) -> Iterator[str]:
    column = wanted
    for where, record in read_table(path, wanted):
        name = choose_column(record, (*PATHS, *URLS), column)
        name = name or (next(iter(record)) if len(record) == 1 and not column else None)
        if name is None:
            # Either the first record lacks the column, or a later one.
            source = path if column == wanted else where
            missing = "column of paths" if column is None else f"column {column!r}"
            raise UsageError(f"{source} has no {missing}", f"name one as in @list.csv:column: {', '.join(record)}")
        column = name
        yield _path(record[name], where)


def _path(value: Any, where: str) -> str:
    path = os.fsdecode(value) if isinstance(value, bytes) else value
    if not isinstance(path, str | None):
        raise UsageError(f"{where} has {reprlib.repr(path)} instead of a path")
    return path or ""


def _require_some(entries: Iterable[str], source: str | Path) -> Iterator[str]:
    """Yield the paths that are not blank; there must be one."""
    count = 0
    for entry in entries:
        if entry and not entry.isspace():
            count += 1
            yield entry
    if not count:
        raise UsageError(f"{source} lists no path")


def _beside(path: Path, entry: str) -> str:
    beside = str(path.parent / entry)
    return beside if os.path.lexists(beside) else entry
