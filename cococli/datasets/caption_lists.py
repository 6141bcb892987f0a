"""Files with captions: in a list, or in a text file beside each."""

import reprlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..media.discover import find_media
from ..parsing import parse_json, read_errors
from ..tables import CAPTIONS, PATHS, choose_column, read_table, require_utf8
from .dataset import RawExample, find_file, split_of

_PICTURE_FOLDERS = ("images", "Images", "flickr30k_images", "Flicker8k_Dataset")  # beside a list, as downloads unpack


def read_caption_list(
    path: Path, folder: Path | None = None, column: str | None = None, notes: list[str] | None = None
) -> list[RawExample]:
    """Read the files that a list names, each once with its captions from all lines.

    Args:
        folder: Folder that paths are relative to; by default that of the list. Paths that exist only in the working
            folder, as in the records of an earlier run, are relative to that.
        column: The column of the captions.
        notes: Receives remarks for the user about the list.

    Raises:
        UsageError: The list is damaged, names no files, has no captions, or has captions of parts of a video.
    """
    base = folder or path.parent
    folders = [base, Path(), *(base / name for name in _PICTURE_FOLDERS)]
    entries: dict[str, RawExample] = {}
    for where, record in read_table(path, column, notes):
        name = record[_path_column(record, column, where)]
        if not isinstance(name, str) or not name.strip():
            raise UsageError(f"{where} has {reprlib.repr(name)} instead of a path")
        if _starts_later(record):
            raise UsageError(
                f"{where} describes a part of {name}", "an example is a whole file: cut the part out first"
            )
        split = record.get("split")
        if not isinstance(split, str | None):
            raise UsageError(f"{where} has {reprlib.repr(split)} instead of a split")
        split = split_of(split) if split else None
        if not (entry := entries.get(name)):
            entry = entries[name] = RawExample(name, find_file(name, folders) or base / name, split, [])
        if entry.split != split:
            raise UsageError(f"{where} puts {name} into another split than an earlier line")
        entry.captions.extend(_captions(record, column, where))
    return list(entries.values())


def read_sidecars(folder: Path) -> list[RawExample]:
    """Read the pictures and videos that have a text file of the same name beside them, with one caption per line.

    img2dataset and video2dataset write `00000/000000000.jpg` with `00000/000000000.txt`. Files below a folder that is
    named after a split belong to that split. No entries are returned if no file has a text.

    Raises:
        UsageError: A text cannot be read.
    """
    entries = []
    for file in find_media(folder):
        text = file.with_suffix(".txt")
        captions = _lines(text) if text.exists() else []
        name = file.relative_to(folder)
        split = split_of(name.parts[0])
        is_split = len(name.parts) > 1 and split in ("train", "val", "test")
        entries.append(RawExample(str(name), file, split if is_split else None, captions))
    return entries if any(entry.captions for entry in entries) else []


def _lines(path: Path) -> list[Any]:
    with read_errors(path):
        return [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]


def _path_column(record: Mapping[str, Any], column: str | None, where: str) -> str:
    others = [name for name in record if name != choose_column(record, CAPTIONS, column)]
    if name := choose_column(others, PATHS):
        return name
    if column and len(others) == 1 < len(record):
        return others[0]
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
