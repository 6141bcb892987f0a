"""COCO's annotations, and Karpathy's splits of them."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..parsing import field, read_json
from .dataset import RawExample, find_file, image_id, split_of

_ANNOTATIONS = re.compile(r"(captions|image_info)_.*\.json")
_COCO_NAME = re.compile(r"(?:COCO_\w+_)?([0-9]{12})")


def read_coco(
    path: Path, split: str, folders: Sequence[Path], others: Sequence[Path] = ()
) -> tuple[list[RawExample], dict[str, int]]:
    """Read the pictures of a `captions_train2017.json` or similar, and count what was left out.

    Args:
        folders: Folders to search for each picture.
        others: Folders to search for the others, see `_find_pictures`.

    Raises:
        UsageError: The file is damaged or of another kind, or two pictures have one id.
    """
    content = read_json(path)
    captions: dict[str, list[Any]] = {}
    for number, annotation in enumerate(field(content, "annotations", list, str(path))):
        image = id_field(annotation, "image_id", f"annotations[{number}] of {path}")
        captions.setdefault(image, []).append(annotation.get("caption"))
    names: dict[str, str] = {}
    pictures = field(content, "images", list, str(path))
    for number, picture in enumerate(pictures):
        where = f"images[{number}] of {path}"
        image, name = id_field(picture, "id", where), field(picture, "file_name", str, where)
        if names.setdefault(image, name) != name:
            raise UsageError(f"{where}: {name!r} has the id of {names[image]!r}: {image}")
    places = _find_pictures(list(names.values()), path, folders, others)
    entries = [
        RawExample(image, place, split, captions.get(image, [])) for image, place in zip(names, places, strict=True)
    ]
    strays = sum(len(texts) for image, texts in captions.items() if image not in names)
    return entries, {"captions of unknown files": strays, "files listed twice": len(pictures) - len(names)}


def read_karpathy(path: Path, folders: Sequence[Path]) -> list[RawExample]:
    """Read the pictures of a `dataset_coco.json` or `dataset_flickr30k.json` (Karpathy and Fei-Fei, arXiv 1412.2306).

    Args:
        folders: Folders of the pictures, or of the folders that the file names.

    Raises:
        UsageError: The file is damaged or of another kind.
    """
    entries = karpathy_entries(path)
    places = _find_pictures([str(entry.path) for entry in entries], path, folders)
    return [entry._replace(path=place) for entry, place in zip(entries, places, strict=True)]


def karpathy_entries(path: Path) -> list[RawExample]:
    """Read the pictures of a Karpathy split; their paths are those in the file.

    Raises:
        UsageError: The file is damaged or of another kind.
    """
    images = field(read_json(path), "images", list, str(path))
    return [_karpathy_entry(image, f"images[{number}] of {path}") for number, image in enumerate(images)]


def image_ids(paths: Iterable[Path]) -> dict[Path, int | str]:
    """Return the id of each picture or video, as the official tools of COCO name it.

    That is the id in COCO's annotations, if the folder of the file is beside them, as `val2017/` beside `annotations/`;
    else the number of a name such as `COCO_val2014_000000000042.jpg`; else the name without its suffix.
    """
    known = cache(_annotated_ids)
    return {path: known(path.parent).get(path.name, _id_in_name(path.stem)) for path in paths}


def _annotated_ids(folder: Path) -> dict[str, int | str]:
    """Return the ids of files in a folder by their names."""
    ids: dict[str, int | str] = {}
    for file in sorted((folder.parent / "annotations").glob("*.json")):
        if _ANNOTATIONS.fullmatch(file.name):
            for number, image in enumerate(field(read_json(file), "images", list, str(file))):
                where = f"images[{number}] of {file}"
                name = field(image, "file_name", str, where).replace("\\", "/").rpartition("/")[2]
                ids[name] = field(image, "id", (int, str), where)
    return ids


def _id_in_name(stem: str) -> int | str:
    found = _COCO_NAME.fullmatch(stem)
    return int(found[1]) if found else stem


def id_field(record: Any, name: str, where: str) -> str:
    """Return an id of a record as text; see `image_id`.

    Raises:
        UsageError: The record is not an object, or the id is missing or not a whole number or text.
    """
    try:
        return image_id(field(record, name, (int, float, str), where))
    except ValueError as error:
        raise UsageError(f"{where}: {name!r}: {error}") from None


def _karpathy_entry(image: Any, where: str) -> RawExample:
    """Return a picture whose path is still relative."""
    name = field(image, "filename", str, where)
    folder = field(image, "filepath", str, where) if "filepath" in image else ""  # Flickr's has none
    split = split_of(field(image, "split", str, where))
    sentences = field(image, "sentences", list, where)
    captions = [sentence.get("raw") if isinstance(sentence, dict) else None for sentence in sentences]
    key = next((key for key in ("cocoid", "imgid") if key in image), None)
    return RawExample(id_field(image, key, where) if key else name, Path(folder, name), split, captions)


def _find_pictures(
    names: Sequence[str], source: Path, folders: Sequence[Path], others: Sequence[Path] = ()
) -> list[Path]:
    """Return the paths of pictures; missing ones are assumed in the first folder.

    If no picture is found by its name, which may begin with folders, all are searched by the last part of it. The
    other folders hold pictures of other splits: they are only searched if they share no file name with the folders, as
    each may have a 0001.png.

    Raises:
        UsageError: None is found.
    """
    flat = [name.replace("\\", "/").rpartition("/")[2] for name in names]
    for form in (names, flat) if len(set(flat)) == len(set(names)) else (names,):
        found = [find_file(name, folders) for name in form]
        if None in found:
            taken = _files_in(folders)
            apart = [folder for folder in others if taken.isdisjoint(_files_in([folder]))]
            found = [place or find_file(name, apart) for name, place in zip(form, found, strict=True)]
        if any(found) or not names:
            return [place or folders[0] / name for name, place in zip(form, found, strict=True)]
    searched = ", ".join(map(str, dict.fromkeys([*folders, *others])))
    message = f"no pictures found for {len(names):,} images of {source} (first: {names[0]}; searched: {searched})"
    raise UsageError(message, "pass the picture folder with --images")


def _files_in(folders: Iterable[Path]) -> set[str]:
    return {entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir()}
