"""Captions of models and of people, from the files that others write."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..errors import UsageError
from ..files import check_regular

_PICTURE = ("image_id", "id", "image", "video", "file_name", "filename")  # the first of these names it
_PREDICTIONS = (
    "captions are records with image_id and caption, coca's own .jsonl, or an object of pictures and captions"
)
_REFERENCES = (
    "references are COCO annotations, a Karpathy split, records, or an object of pictures and lists of captions"
)
_NAMED = 3  # pictures that a message names


@dataclass(frozen=True)
class References:
    """Captions by people."""

    captions: dict[str, list[str]]  # picture -> its captions
    files: dict[str, str]  # picture -> its file, where the references name one


def read_predictions(path: Path) -> dict[str, str]:
    """A caption per picture: from `coca caption -o out.jsonl` or other records, COCO results, or an object of captions.

    Records of videos that failed have no caption and are left out.

    Raises:
        UsageError: the file is missing or damaged, or has several captions for a picture.
    """
    found: dict[str, str] = {}
    for picture, caption in _captions(path, _load(path), _PREDICTIONS):
        if picture in found:
            raise UsageError(f"{path} has several captions for {picture}", "one a picture: caption without segments")
        found[picture] = caption
    return found


def read_references(path: Path, split: str = "test") -> References:
    """Captions by people: COCO annotations, a Karpathy split, an object of lists of captions, or records.

    Args:
        split: Of a Karpathy split file, the pictures to take.

    Raises:
        UsageError: the file is missing or damaged, or has no captions.
    """
    content = _load(path)
    try:
        if isinstance(content, dict) and "annotations" in content:
            found = _coco(path, content)
        elif isinstance(content, dict) and isinstance(content.get("images"), list):
            found = _karpathy(path, content["images"], split)
        else:
            found = References(_grouped(_captions(path, content, _REFERENCES)), {})
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} holds no references", _REFERENCES) from None
    if not found.captions:
        raise UsageError(f"{path} has no captions", _REFERENCES)
    return found


def matched(predictions: Mapping[str, str], references: References) -> dict[str, str]:
    """Predictions under the names that the references give their pictures.

    A picture is found by its id, else by its file's path, name or stem. What is not found keeps its own name.

    Raises:
        UsageError: a name fits several pictures, or several predictions one.
    """
    named: dict[str, str] = {}
    aliases = _aliases(references)
    sources: dict[str, str] = {}
    for source, caption in predictions.items():
        picture = source if source in references.captions else _find(source, aliases)
        if picture in named:
            raise UsageError(f"{sources[picture]} and {source} are both captions of {picture}")
        named[picture], sources[picture] = caption, source
    return named


def _coco(path: Path, content: Mapping[str, Any]) -> References:
    files = {str(image["id"]): str(image["file_name"]) for image in content.get("images", ())}
    return References(_grouped(_captions(path, content["annotations"], _REFERENCES)), files)


def _karpathy(path: Path, images: Iterable[Mapping[str, Any]], split: str) -> References:
    """https://cs.stanford.edu/people/karpathy/deepimagesent: all splits of a data set in one file."""
    splits = {image["split"] for image in images}
    if split not in splits:
        raise UsageError(f"{path} has no split {split}, only {', '.join(sorted(splits))}")
    captions, files = {}, {}
    for image in images:
        if image["split"] == split:
            picture = str(image["cocoid"] if "cocoid" in image else image["imgid"])
            captions[picture] = [str(sentence["raw"]) for sentence in image["sentences"]]
            files[picture] = str(image["filename"])
    return References(captions, files)


def _aliases(references: References) -> dict[str, list[str]]:
    """Name -> the pictures whose file has this path, name or stem."""
    aliases: dict[str, list[str]] = {}
    for picture in references.captions:
        for name in _names(references.files.get(picture, picture)):
            aliases.setdefault(name, []).append(picture)
    return aliases


def _find(source: str, aliases: Mapping[str, list[str]]) -> str:
    for name in _names(source):
        if len(found := aliases.get(name, [])) > 1:
            raise UsageError(f"{source} may be any of {', '.join(found[:_NAMED])}", "name pictures by their id or path")
        if found:
            return found[0]
    return source


def _names(file: str) -> list[str]:
    """A path, its last part, and that without the suffix; each once."""
    return list(dict.fromkeys((file, PurePath(file).name, PurePath(file).stem)))


def _grouped(captions: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for picture, caption in captions:
        groups.setdefault(picture, []).append(caption)
    return groups


def _captions(path: Path, content: Any, hint: str) -> Iterator[tuple[str, str]]:
    """Pictures and captions of a list of records, or of an object; a list of captions gives the picture again."""
    if isinstance(content, dict):
        entries = list(content.items())
    elif isinstance(content, list):
        entries = [_entry(record) for record in content if not _failed(record)]
    else:
        raise UsageError(f"{path} holds no captions", hint)
    for number, (picture, captions) in enumerate(entries, start=1):
        for caption in captions if isinstance(captions, list) else [captions]:
            if picture is None or not isinstance(caption, str):
                raise UsageError(f"entry {number} of {path} has no picture or no caption", hint)
            yield str(picture), caption


def _failed(record: Any) -> bool:
    return isinstance(record, dict) and record.get("status") == "error"


def _entry(record: Any) -> tuple[Any, Any]:
    """The picture and the caption of a record, or its captions; None for what it lacks."""
    if not isinstance(record, dict):
        return None, None
    picture = next((record[name] for name in _PICTURE if name in record), None)
    return picture, record.get("caption", record.get("captions"))


def _load(path: Path) -> Any:
    """What a .json or a .jsonl holds."""
    try:
        check_regular(path)
        text = path.read_text("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if path.suffix.lower() != ".jsonl":
        return _parsed(path, text)
    lines = enumerate(text.split("\n"), start=1)
    return [_parsed(path, line, number) for number, line in lines if line.strip()]


def _parsed(path: Path, text: str, first_line: int = 1) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise UsageError(f"{path} is damaged in line {line}: {error.msg}") from None
    except (ValueError, RecursionError):  # a number or a nesting beyond what Python reads
        raise UsageError(f"{path} is damaged in line {first_line}") from None
