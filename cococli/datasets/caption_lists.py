"""Files with captions: in a list, or in a text file beside each."""

import reprlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..media.discover import find_media
from ..parsing import parse_json, read_errors
from ..reporting import SILENT, Reporter
from ..tables import CAPTIONS, PATHS, URLS, choose_column, read_table, require_utf8
from ..urls import is_url, remote_path
from .dataset import RawExample, find_file, split_of
from .embedded import CopiedFiles, copy_embedded_files

SIDECARS = (".txt", ".caption", ".json")  # the first that a picture has is read
_NOT_CAPTIONS = ("readme", "license")

_PICTURE_FOLDERS = ("images", "Images", "flickr30k_images", "Flicker8k_Dataset")  # beside a list, as downloads unpack


def read_caption_list(
    path: Path,
    folder: Path | None = None,
    column: str | None = None,
    notes: list[str] | None = None,
    reporter: Reporter = SILENT,
) -> list[RawExample]:
    """Read the files that a list names, each once with its captions from all lines; or those in a Parquet file.

    Args:
        folder: Folder that paths are relative to; by default that of the list. Paths that exist only in the working
            folder, as in the records of an earlier run, are relative to that.
        column: The column of the captions.
        notes: Receives remarks for the user about the list.
        reporter: Receives progress while files in a Parquet file are copied to the cache.

    Raises:
        UsageError: The list is damaged, names no files, has no captions, or has captions of parts of a video.
    """
    copied = copy_embedded_files(path, reporter) if path.suffix.lower() == ".parquet" else None
    base = folder or path.parent
    folders = [base, Path(), *(base / name for name in _PICTURE_FOLDERS)]
    entries: dict[str, RawExample] = {}
    for row, (where, record) in enumerate(read_table(path, column, notes)):
        file = None
        if copied:
            name, file = _embedded(record, copied, row, column, f"{path.name}/{row + 1}")
        else:
            name = record[_path_column(record, column, where)]
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"{where} has {reprlib.repr(name)} instead of a path")
        if is_url(name):
            file = remote_path(name)
            name = str(file)
        if _starts_later(record):
            raise UsageError(
                f"{where} describes a part of {name}", "an example is a whole file: cut the part out first"
            )
        split = record.get("split")
        if not isinstance(split, str | None):
            raise UsageError(f"{where} has {reprlib.repr(split)} instead of a split")
        split = split_of(split) if split else None
        if not (entry := entries.get(name)):
            entry = entries[name] = RawExample(name, file or find_file(name, folders) or base / name, split, [])
        if entry.split != split:
            raise UsageError(f"{where} puts {name} into another split than an earlier line")
        entry.captions.extend(_captions(record, column, where))
    return list(entries.values())


def read_sidecars(folder: Path) -> tuple[list[RawExample], dict[str, int]]:
    """Read the pictures and videos that have a file with captions of the same name beside them.

    img2dataset and video2dataset write `00000/000000000.jpg` with `00000/000000000.txt`. Files below a folder that is
    named after a split belong to that split.

    Returns:
        The examples, none if no file has a caption, and counts of what was left out.

    Raises:
        UsageError: A file with captions cannot be read.
    """
    entries = []
    unused: dict[Path, set[str]] = {}
    captioned: set[Path] = set()
    for file in find_media(folder):
        if (parent := file.parent) not in unused:
            unused[parent] = {entry.name for entry in parent.iterdir() if entry.suffix in SIDECARS}
        texts = [file.with_suffix(suffix) for suffix in SIDECARS]
        text = next((text for text in texts if text.name in unused[parent] or text.is_file()), None)
        captions: list[Any] = []
        if text:
            captioned.add(parent)
            unused[parent].difference_update(text.name for text in texts)
            with read_errors(text):
                captions = parse_captions(text.suffix, text.read_bytes())
        name = file.relative_to(folder)
        split = split_of(name.parts[0])
        is_split = len(name.parts) > 1 and split in ("train", "val", "test")
        entries.append(RawExample(str(name), file, split if is_split else None, captions))
    if not any(entry.captions for entry in entries):
        return [], {}
    rest = [Path(name) for parent in captioned for name in unused[parent] if not name.endswith(".json")]
    return entries, {"captions without a picture": sum(text.stem.lower() not in _NOT_CAPTIONS for text in rest)}


def parse_captions(suffix: str, content: bytes) -> list[Any]:
    """Return the captions in a file beside a picture: each line of a text, or the caption or captions in an object.

    Raises:
        ValueError: It is not UTF-8, or not JSON.
    """
    if suffix != ".json":
        return [line for line in content.decode("utf-8-sig").splitlines() if line.strip()]
    record = parse_json(content)
    name = choose_column(record, CAPTIONS) if isinstance(record, dict) else None
    value = record[name] if name else []
    return value if isinstance(value, list) else [value]


def _embedded(record: dict[str, Any], copied: CopiedFiles, row: int, column: str | None, other: str) -> tuple[Any, Any]:
    """Return the name of an embedded file, that of another column if there is one, and its path in the cache.

    A row without a file may have its path instead; then only that is returned.
    """
    origin = record.pop(copied.column, None)
    names = [name for name in record if name != choose_column(record, CAPTIONS, column)]
    named = choose_column(names, PATHS)
    name = record[named] if named and isinstance(record[named], str) else None
    base = (origin or name or "").replace("\\", "/").rpartition("/")[2] or f"{row + 1}.jpg"
    file = copied.path(row, base)
    if origin and not copied.has(row):
        return origin, None
    return name or other, file


def _path_column(record: Mapping[str, Any], column: str | None, where: str) -> str:
    others = [name for name in record if name != choose_column(record, CAPTIONS, column)]
    if name := choose_column(others, PATHS):
        return name
    if column and len(others) == 1 < len(record):
        return others[0]
    if url := choose_column(others, URLS):
        return url
    raise _missing(record, "paths", PATHS, where)


def _missing(record: Mapping[str, Any], what: str, usual: tuple[str, ...], where: str) -> UsageError:
    message = f"{where} has no column of {what}, but {', '.join(map(repr, record))}"
    hint = f"call it {usual[0]}, {usual[1]} or {usual[2]}"
    return UsageError(message, hint + "; list.csv:column names the column of captions" * (what == "captions"))


def _starts_later(record: Mapping[str, Any]) -> bool:
    """Return whether a record is about a later part of a video, so that others are about other parts."""
    try:
        return float(record.get("start") or 0) > 0
    except (TypeError, ValueError, OverflowError):
        return False


def _captions(record: Mapping[str, Any], column: str | None, where: str) -> list[Any]:
    """Return the captions of a record; a failed video has none."""
    if record.get("status") == "error":
        return []
    if not (name := choose_column(record, CAPTIONS, column)):
        raise _missing(record, "captions", CAPTIONS, where)
    value = record[name]
    if isinstance(value, str) and value.startswith('["') and value.endswith('"]'):  # Hugging Face's lists in cells
        with suppress(ValueError):
            value = parse_json(value)
    captions = value if isinstance(value, list) else [value]
    for caption in captions:
        if isinstance(caption, str):
            require_utf8(caption, where)
    return captions
