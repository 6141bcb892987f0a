"""COCO's annotations, and Karpathy's splits of them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..parsing import field, read_json
from .dataset import Entry, split_of


def read_coco(path: Path, split: str, folders: Sequence[Path]) -> tuple[list[Entry], dict[str, int]]:
    """The pictures of a `captions_train2017.json` and the like, and what was left out.

    Args:
        folders: Where the pictures may be; the first that holds any is taken to hold all.

    Raises:
        UsageError: the file is damaged or of another kind, or no folder holds any of its pictures.
    """
    content = read_json(path)
    captions: dict[str, list[Any]] = {}
    for number, annotation in enumerate(field(content, "annotations", list, str(path))):
        image = field(annotation, "image_id", (int, str), f"annotations[{number}] of {path}")
        captions.setdefault(str(image), []).append(annotation.get("caption"))
    pictures = []
    for number, image in enumerate(field(content, "images", list, str(path))):
        where = f"images[{number}] of {path}"
        pictures.append((str(field(image, "id", (int, str), where)), field(image, "file_name", str, where)))
    places = _placed([name for _, name in pictures], folders, path)
    entries = [
        Entry(image, place, split, captions.get(image, [])) for (image, _), place in zip(pictures, places, strict=True)
    ]
    known = {image for image, _ in pictures}
    strays = sum(len(texts) for image, texts in captions.items() if image not in known)
    return entries, {"captions of unknown files": strays}


def read_karpathy(path: Path, folders: Sequence[Path]) -> list[Entry]:
    """The pictures of a `dataset_coco.json` or `dataset_flickr30k.json` (Karpathy and Fei-Fei, arXiv 1412.2306).

    Args:
        folders: Where the pictures, or the folders that the file names, may be.

    Raises:
        UsageError: the file is damaged or of another kind, or no folder holds any of its pictures.
    """
    images = field(read_json(path), "images", list, str(path))
    entries = [_karpathy_entry(image, f"images[{number}] of {path}") for number, image in enumerate(images)]
    places = _placed([str(entry.path) for entry in entries], folders, path)
    return [entry._replace(path=place) for entry, place in zip(entries, places, strict=True)]


def _karpathy_entry(image: Any, where: str) -> Entry:
    """A picture whose path is still relative."""
    name = field(image, "filename", str, where)
    folder = field(image, "filepath", str, where) if "filepath" in image else ""  # Flickr's has none
    split = split_of(field(image, "split", str, where))
    sentences = field(image, "sentences", list, where)
    captions = [sentence.get("raw") if isinstance(sentence, dict) else None for sentence in sentences]
    return Entry(str(image.get("cocoid", image.get("imgid", name))), Path(folder, name), split, captions)


def _placed(names: Sequence[str], folders: Sequence[Path], source: Path) -> list[Path]:
    """Where pictures are: in the first folder that holds any, below the folders that their names tell or not."""
    flat = [Path(name).name for name in names]
    for form in (names, flat):
        for folder in folders:
            if any(os.path.isfile(os.path.join(folder, name)) for name in form):  # noqa: PTH113, PTH118 - faster
                return [folder / name for name in form]
    searched = ", ".join(map(str, dict.fromkeys(folders)))
    raise UsageError(f"no picture that {source} names is in {searched}", "--images names their folder")
