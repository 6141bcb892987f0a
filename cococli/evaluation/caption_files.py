"""Captions of models and reference captions, from files in common formats."""

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ..datasets.benchmark_folder import Event
from ..datasets.coco import id_field
from ..datasets.dataset import image_id, split_of
from ..errors import UsageError
from ..files import format_span
from ..parsing import field, read_json, validate
from ..tables import CAPTIONS, PATHS, choose_column, read_table, require_utf8, split_column
from ..tokenizer import decode, encode

_PICTURE = ("image_id", "id", *PATHS)  # the first of these names it
_PREDICTIONS = (
    "captions are records with image_id and caption, coca's own .jsonl, or an object of pictures and captions"
)
_REFERENCES = (
    "references are COCO annotations, a Karpathy split, records, or an object of pictures and lists of captions"
)
_NAMED = 3  # pictures that a message names


@dataclass(frozen=True)
class References:
    """Reference captions."""

    captions: dict[str, list[str]]  # picture -> its captions
    files: dict[str, str]  # picture -> its file, where the references name one


def read_predictions(path: Path, notes: list[str] | None = None) -> dict[str, str]:
    """Read a caption per picture: from `coca caption -o out.jsonl`, COCO results, an object of captions, or a table.

    Records of videos that failed have no caption and are left out. Captions by coca are scored as the tokenizer decodes
    them (`t - shirt`), as open_clip's published scores are. `list.csv:column` names the column of captions.

    Args:
        notes: Receives remarks for the user about a table.

    Raises:
        UsageError: The file is missing or damaged, or has several captions for a picture.
    """
    found: dict[str, str] = {}
    path, column = split_column(str(path))
    content = _load(path, column, notes)
    if results := _results(path, content):
        content = {f"{video} {format_span(*it.timestamp)}": it.sentence for video, own in results.items() for it in own}
    for picture, caption in _captions(path, content, column, _PREDICTIONS):
        if picture in found:
            raise UsageError(f"{path} has several captions for {picture}", "one a picture: caption without segments")
        found[picture] = caption
    return found


def read_events(path: Path, notes: list[str] | None = None) -> dict[str, list[Event]] | None:
    """Read captions of parts of videos, by video: densevid_eval's JSON, or records with start and end as coca writes.

    Records of videos that failed are left out.

    Args:
        notes: Receives remarks for the user about a table.

    Returns:
        None if the file has captions without times.

    Raises:
        UsageError: The file is missing or damaged.
    """
    path, column = split_column(str(path))
    content = _load(path, column, notes)
    if (results := _results(path, content)) is not None:
        return results
    records = [(where, record) for where, record in content if not _failed(record)] if isinstance(content, list) else []
    if not any(isinstance(record, dict) and {"start", "end"} <= record.keys() for _, record in records):
        return None
    events: dict[str, list[Event]] = {}
    for where, record in records:
        video, caption = _entry(record, column)
        times = {"timestamp": (record.get("start"), record.get("end"))} if isinstance(record, dict) else {}
        event = validate({"sentence": caption, **times}, Event, where)
        events.setdefault(PurePath(str(video).replace("\\", "/")).stem, []).append(event)
    return events


def read_references(path: Path, split: str = "test", notes: list[str] | None = None) -> References:
    """Read reference captions: COCO annotations, a Karpathy split, an object of lists of captions, or a table.

    Args:
        split: Of a Karpathy split file, the pictures to take.
        notes: Receives remarks for the user about a table.

    Raises:
        UsageError: The file is missing or damaged, or has no captions.
    """
    path, column = split_column(str(path))
    content = _load(path, column, notes)
    if isinstance(content, dict) and "annotations" in content:
        found = _coco(path, content)
    elif isinstance(content, dict) and isinstance(content.get("images"), list):
        found = _karpathy(path, content["images"], split)
    else:
        found = References(_grouped(_captions(path, content, column, _REFERENCES)), {})
    if not found.captions:
        raise UsageError(f"{path} has no captions", _REFERENCES)
    return found


def matched(predictions: Mapping[str, str], references: References) -> dict[str, str]:
    """Rename the pictures of predictions as in the references.

    A picture is found by its id, else by its file's path, name or stem. Others keep their names.

    Raises:
        UsageError: A name fits several pictures, or several predictions one.
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
    captions: list[tuple[str, str]] = []
    for number, annotation in enumerate(field(content, "annotations", list, str(path))):
        where = f"annotations[{number}] of {path}"
        captions.append((id_field(annotation, "image_id", where), field(annotation, "caption", str, where)))
    files = {}
    for number, image in enumerate(field(content, "images", list, str(path)) if "images" in content else ()):
        where = f"images[{number}] of {path}"
        files[id_field(image, "id", where)] = field(image, "file_name", str, where)
    return References(_grouped(captions), files)


def _karpathy(path: Path, images: list[Any], split: str) -> References:
    """Read one split of https://cs.stanford.edu/people/karpathy/deepimagesent: a file has all splits of a data set."""
    captions, files, splits = {}, {}, set()
    for number, image in enumerate(images):
        where = f"images[{number}] of {path}"
        splits.add(own := split_of(field(image, "split", str, where)))
        if own == split:
            picture = id_field(image, "cocoid" if "cocoid" in image else "imgid", where)
            sentences = field(image, "sentences", list, where)
            captions[picture] = [field(sentence, "raw", str, f"sentences of {where}") for sentence in sentences]
            files[picture] = field(image, "filename", str, where)
    if split not in splits:
        raise UsageError(f"{path} has no split {split}, only {', '.join(sorted(splits))}")
    return References(captions, files)


def _aliases(references: References) -> dict[str, list[str]]:
    """Return the pictures that go by each name: their file's path, name or stem, or their id by its value."""
    aliases: dict[str, list[str]] = {}
    for picture in references.captions:
        for name in dict.fromkeys([*_names(references.files.get(picture, picture)), image_id(picture)]):
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
    """Return a path, its last part, that without the suffix, and the number that this is; each once."""
    stem = PurePath(file.replace("\\", "/")).stem
    return list(dict.fromkeys((file, PurePath(file).name, PurePath(file).stem, stem, image_id(stem))))


def _grouped(captions: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for picture, caption in captions:
        groups.setdefault(picture, []).append(caption)
    return groups


def _captions(path: Path, content: Any, column: str | None, hint: str) -> Iterator[tuple[str, str]]:
    """Yield pictures and captions; a list of captions gives the picture again."""
    if isinstance(content, dict):
        entries = [(f"entry {number} of {path}", *entry) for number, entry in enumerate(content.items(), start=1)]
    elif isinstance(content, list):
        entries = [(where, *_entry(record, column)) for where, record in content if not _failed(record)]
    else:
        raise UsageError(f"{path} holds no captions", hint)
    for where, picture, captions in entries:
        if picture is None or captions is None:
            raise UsageError(f"{where} has no picture or no caption", hint)
        try:
            name = picture if isinstance(picture, str) else image_id(picture)
        except ValueError:
            raise UsageError(f"{where} has {reprlib.repr(picture)} instead of a picture", hint) from None
        for caption in captions if isinstance(captions, list) else [captions]:
            if not isinstance(caption, str):
                raise UsageError(f"{where} has {reprlib.repr(caption)} instead of a caption", hint)
            require_utf8(caption, where)
            yield name, caption


def _failed(record: Any) -> bool:
    return isinstance(record, dict) and record.get("status") == "error"


def _entry(record: Any, column: str | None) -> tuple[Any, Any]:
    """Return the picture and the caption of a record, or its captions; None for what it lacks."""
    if not isinstance(record, dict):
        return None, None
    picture, named = choose_column(record, _PICTURE), choose_column(record, CAPTIONS, column)
    caption = record[named] if named else None
    if isinstance(caption, str) and "logprob" in record and "similarity" in record:
        caption = decode(encode(caption))
    return record[picture] if picture else None, caption


def _results(path: Path, content: Any) -> dict[str, list[Event]] | None:
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        return None
    return validate(content["results"], dict[str, list[Event]], f"results in {path}")


def _load(path: Path, column: str | None, notes: list[str] | None) -> Any:
    """Return what a .json holds, a list as pairs of a place and an entry; or the records of a table."""
    if path.suffix.lower() in (".jsonl", ".csv", ".tsv", ".txt", ".token", ".parquet"):
        return list(read_table(path, column, notes))
    content = read_json(path)
    if isinstance(content, list):
        return [(f"entry {number} of {path}", entry) for number, entry in enumerate(content, start=1)]
    return content
