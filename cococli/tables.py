"""Lists and tables that people and other programs write: .txt, .csv, .tsv, .jsonl and .parquet."""

import csv
import io
import os
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from .errors import UsageError
from .parsing import parse_json, read_errors

SUFFIXES = ("", ".txt", ".token", ".csv", ".tsv", ".jsonl", ".parquet")

# The usual names of columns, without regard to case. The first that a table has is taken.
# fmt: off
PATHS = (
    "path", "filepath", "file_path", "video", "video_path", "image", "image_path", "image_file", "image_name", "img",
    "img_path", "file_name", "filename", "file",
)
CAPTIONS = ("captions", "caption", "title", "text", "sentence", "sentences", "comment", "description", "raw")
# fmt: on

URLS = ("url", "image_url", "video_url", "urls")  # columns of paths, if a table has no other

_READ = (*PATHS, *CAPTIONS, *URLS, "image_id", "id", "split", "start", "status")  # columns of a .parquet that are read
_FILES = (*PATHS, "jpg", "jpeg", "png", "webp", "mp4", "image_bytes", "bytes")  # columns of whole files in a .parquet
_BUFFER = 1 << 20  # bytes of a .parquet that are read ahead, rather than whole columns, which may be gigabytes
_TOKEN = re.compile(r"(.+\.\w+)#\d+\t(.*)")  # Flickr8k.token.txt: name.jpg#0<tab>caption
_SAVE_AS_UTF8 = "save it as UTF-8"

Row = dict[str, Any]


def split_column(name: str) -> tuple[Path, str | None]:
    """Split `list.csv:column` into a file and a column, unless a file has that very name."""
    column = re.fullmatch(r"(.+\.(?:txt|csv|tsv|jsonl|parquet)):(.+)", name, re.DOTALL | re.IGNORECASE)
    if column and not os.path.lexists(name):
        return Path(column[1]), column[2]
    return Path(name), None


def choose_column(columns: Iterable[str], usual: tuple[str, ...], wanted: str | None = None) -> str | None:
    """Return the wanted column, or else the first that has a usual name; None if there is none."""
    return _choose(tuple(columns), usual, wanted)


def read_table(path: Path, column: str | None = None, notes: list[str] | None = None) -> Iterator[tuple[str, Row]]:
    """Yield the records of a table with where each stands, such as `line 3 of list.csv`.

    A plain text yields a `path` from each line. Otherwise the first line names the columns, which may be separated by
    commas, tabs, semicolons or bars. Flickr8k's `name.jpg#0<tab>caption` needs no names.

    Args:
        column: A column that the user named. It may be missing.
        notes: Receives remarks for the user once the table is read.

    Raises:
        UsageError: The file cannot be read or is damaged, or a row has more fields than there are columns.
    """
    suffix = path.suffix.lower()
    with read_errors(path):
        if suffix == ".parquet":
            yield from _parquet_records(path, column)
            return
        with path.open("rb") as file:
            head = file.peek()
            if _is_utf16(head):
                raise UsageError(f"{path} is UTF-16 text", _SAVE_AS_UTF8)
            first = head.removeprefix(BOM_UTF8).lstrip(b"\r\n").partition(b"\n")[0].decode("utf-8", "surrogateescape")
            if suffix == ".jsonl":
                yield from _json_records(path, file)
            elif suffix in (".csv", ".tsv") or _names_captions(first):
                if b"\0" in head:
                    raise UsageError(f"{path} is not UTF-8 text", _SAVE_AS_UTF8)
                yield from _rows(path, file, _delimiter(first, suffix, column), column, notes)
            elif _TOKEN.fullmatch(first.rstrip("\r")):
                yield from _tokens(path, file)
            else:
                for number, line in enumerate(split_lines(file.read(), path), start=1):
                    yield f"line {number} of {path}", {"path": line}


def require_utf8(text: str, where: str) -> None:
    """Refuse a text with bytes that are not UTF-8, which only paths may have.

    Raises:
        UsageError: It has such bytes.
    """
    if not text.isascii() and re.search("[\udc80-\udcff]", text):
        raise UsageError(f"{where} is not UTF-8 text", _SAVE_AS_UTF8)


def split_lines(text: bytes, source: str | Path) -> Iterator[str]:
    """Split a text into lines, or at its NULs if it has any, as `find -print0` writes them. Skip blank lines.

    Raises:
        UsageError: It is not text.
    """
    if b"\0\0" in text or _is_utf16(text):
        raise UsageError(f"{source} is not UTF-8 text", _SAVE_AS_UTF8)
    parts = re.compile(rb"[^\0]+" if b"\0" in text else rb"[^\n]+?(?=\r?$)", re.MULTILINE)
    lines = (os.fsdecode(part[0]) for part in parts.finditer(text.removeprefix(BOM_UTF8)))
    return (line for line in lines if not line.isspace())


def _is_utf16(head: bytes) -> bool:
    return head.startswith((BOM_UTF16_LE, BOM_UTF16_BE))


def _normal(name: str) -> str:
    return re.sub("[ -]", "_", name.strip().lower())


@lru_cache(maxsize=64)
def _choose(columns: tuple[str, ...], usual: tuple[str, ...], wanted: str | None) -> str | None:
    if wanted is not None and wanted in columns:
        return wanted
    names = [_normal(name) for name in columns]
    found = (name for name in (usual if wanted is None else (_normal(wanted),)) if name in names)
    name = next(found, None)
    return None if name is None else columns[names.index(name)]


def _delimiter(first_line: str, suffix: str, column: str | None) -> str:
    """Return the separator of the names in the first line: the character that yields the most usual names."""
    usual = {*PATHS, *CAPTIONS, *([_normal(column)] if column else [])}

    def fit(delimiter: str) -> tuple[int, bool]:
        names = _names(first_line, delimiter)
        return sum(name in usual for name in names), len(names) > 1

    return max("\t,;|" if suffix == ".tsv" else ",\t;|", key=fit)


def _names(line: str, delimiter: str) -> list[str]:
    return [_normal(name.strip().strip('"')) for name in line.split(delimiter)]


def _names_captions(line: str) -> bool:
    """Return whether a text begins with the names of a column of paths and one of captions."""
    names = set(_names(line, _delimiter(line, "", None)))
    return not names.isdisjoint(PATHS) and not names.isdisjoint(CAPTIONS)


def _rows(
    path: Path, file: BinaryIO, delimiter: str, column: str | None, notes: list[str] | None
) -> Iterator[tuple[str, Row]]:
    rows = csv.reader(
        io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline=""), delimiter=delimiter, strict=True
    )
    joined: list[int] = []
    short: list[int] = []
    try:
        names = [name.strip() for name in next(filter(None, rows), [])]
        if len(names) == 1 and Path(names[0]).suffix and not column:  # a path, without a name above it
            yield f"line {rows.line_num} of {path}", {"path": names[0]}
            names = ["path"]
        open_ended = _open_ended(names, column)
        for row in filter(None, rows):
            if len(row) > len(names):
                if not any(cell.strip() for cell in row[len(names) :]):
                    del row[len(names) :]
                elif open_ended is None:
                    raise UsageError(
                        f"line {rows.line_num} of {path} has {len(row)} fields, but the first line names {len(names)}",
                        f"put fields that contain {delimiter!r} in double quotes",
                    )
                else:
                    end = open_ended + len(row) - len(names) + 1
                    row[open_ended:end] = [delimiter.join(row[open_ended:end])]
                    joined.append(rows.line_num)
            elif len(row) < len(names):
                short.append(rows.line_num)
            yield f"line {rows.line_num} of {path}", dict(zip_longest(names, row))
    except csv.Error as error:
        hint = "a quote inside a quoted field is written twice"
        raise UsageError(f"line {rows.line_num} of {path} is damaged: {error}", hint) from None
    if notes is not None and joined:
        what = f"rows with unquoted {delimiter!r} were joined to captions (first: line {joined[0]})"
        notes.append(f"{path}: {len(joined)} {what}")
    if notes is not None and short:
        notes.append(f"{path}: {len(short)} rows have fewer fields than the first line (first: line {short[0]})")


def _open_ended(names: list[str], column: str | None) -> int | None:
    """Return the column that takes surplus fields: the only one, or the captions beside paths."""
    if len(names) == 1:
        return 0
    caption = choose_column(names, CAPTIONS, column) or choose_column(names, CAPTIONS)
    return names.index(caption) if caption and len(names) == 2 else None


def _tokens(path: Path, file: BinaryIO) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(file, start=1):
        where = f"line {number} of {path}"
        text = line.decode("utf-8-sig", "surrogateescape").rstrip("\r\n")
        if match := _TOKEN.fullmatch(text):
            yield where, {"path": match[1], "caption": match[2]}
        elif text and not text.isspace():
            raise UsageError(f"{where} is not a name, a tab and a caption, as in 'dog.jpg#0<tab>a dog'")


def _json_records(path: Path, file: BinaryIO) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(file, start=1):
        where = f"line {number} of {path}"
        text = line.decode("utf-8-sig", "surrogateescape")
        if not text or text.isspace():
            continue
        try:
            record = parse_json(text)
        except ValueError as error:
            raise UsageError(f"{where} is not valid JSON: {getattr(error, 'msg', error)}") from None
        if not isinstance(record, dict):
            raise UsageError(f"{where} is not a JSON object")
        yield where, record


def _parquet_records(path: Path, column: str | None) -> Iterator[tuple[str, Row]]:
    number = 0
    with _parquet(path) as table:
        names = table.schema_arrow.names
        files = _file_column(table)
        chosen = [name for name in names if name == column or _normal(name) in _READ]
        if not chosen or column not in (None, *names):  # the caller says what is missing
            chosen = names
        columns = [name for name in chosen if name != files]
        if files is not None and _has_child(table, files, "path"):
            columns.append(f"{files}.path")
        for batch in table.iter_batches(columns=columns):
            for record in batch.to_pylist():
                number += 1
                if files is not None:
                    record[files] = (record.get(files) or {}).get("path")
                yield f"row {number} of {path}", record


@dataclass(frozen=True)
class EmbeddedFiles:
    """The column of a Parquet file that holds whole files, as Hugging Face's images do."""

    path: Path
    column: str  # its cells are read as the paths that the files had, or None
    rows: int
    size: int  # bytes of all, or a few more

    def read(self) -> Iterator[bytes]:
        """Yield the file in each row; empty where there is none.

        Raises:
            UsageError: The table cannot be read or is damaged.
        """
        with read_errors(self.path), _parquet(self.path) as table:
            nested = _has_child(table, self.column, "bytes")
            for batch in table.iter_batches(16, columns=[f"{self.column}.bytes" if nested else self.column]):
                for cell in batch.column(0):
                    value = cell.as_py()
                    yield (value["bytes"] if nested and value else value) or b""


def find_embedded_files(path: Path) -> EmbeddedFiles | None:
    """Return the embedded files of a Parquet file; None if there are only paths.

    Raises:
        UsageError: The table cannot be read or is damaged.
    """
    with read_errors(path), _parquet(path) as table:
        if (column := _file_column(table)) is None:
            return None
        size, metadata = 0, table.metadata
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for chunk in map(group.column, range(group.num_columns)):
                if chunk.path_in_schema in (column, f"{column}.bytes"):
                    size += chunk.total_uncompressed_size
        return EmbeddedFiles(path, column, metadata.num_rows, size)


def _file_column(table: Any) -> str | None:
    """Return the column of a Parquet file that holds files: objects with their bytes, or bytes that are not paths."""
    schema = table.schema_arrow
    if nested := [name for name in schema.names if _has_child(table, name, "bytes")]:
        return choose_column(nested, _FILES) or nested[0]
    flat = [name for name in schema.names if "binary" in str(schema.field(name).type) and _normal(name) in _FILES]
    for name in flat:
        first = next((cell for batch in table.iter_batches(1, columns=[name]) for cell in batch.column(0)), None)
        if first is not None and b"\0" in (first.as_py() or b"")[:64]:
            return name
    return None


def _has_child(table: Any, column: str, name: str) -> bool:
    kind = table.schema_arrow.field(column).type
    return hasattr(kind, "get_field_index") and kind.get_field_index(name) >= 0


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    """Open a Parquet file.

    Raises:
        UsageError: It is damaged, or pyarrow is not installed.
    """
    pyarrow, parquet = load_pyarrow()
    with path.open("rb") as file:
        try:
            yield parquet.ParquetFile(file, buffer_size=_BUFFER, pre_buffer=False)
        except (pyarrow.ArrowException, ValueError) as error:
            raise UsageError(f"{path} is damaged: {str(error).splitlines()[0]}") from None


def load_pyarrow() -> tuple[Any, Any]:
    """Return the packages that read and write Parquet.

    Raises:
        UsageError: They are not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow", "pip install 'cococli[parquet]'") from None
    return pyarrow, parquet
