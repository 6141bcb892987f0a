"""Recognition of the data set in a folder."""

import re
from pathlib import Path
from typing import get_args

from ..errors import UsageError
from ..tables import SUFFIXES, split_column
from .caption_lists import read_caption_list, read_sidecars
from .coco import read_coco, read_karpathy
from .dataset import Dataset, Split, gather, no_split, split_of

_COCO = re.compile(r"captions_(train|val|test)\d*\.json")
_PICTURES = re.compile(r"(train|val|test)\d*")
_LISTS = (
    *(f"{name}.{suffix}" for name in ("captions", "metadata") for suffix in ("jsonl", "csv", "tsv", "parquet", "txt")),
    *("results.csv", "results_20130124.token", "Flickr8k.token.txt"),  # of Flickr30k and Flickr8k
)
_HINT = (
    "it may hold annotations/captions_train2017.json with train2017/, dataset_coco.json, captions.jsonl, .csv or .txt, "
    "or a .txt beside each picture"
)


def find_dataset(data: Path, split: Split, karpathy: Path | None = None, images: Path | None = None) -> Dataset:
    """Return the examples of one split of the data set in a folder, recognized by its layout.

    The first of these that exists is read: a Karpathy split (`dataset_coco.json`), COCO's annotations (of any year; the
    latest that has pictures), a list with captions, and a text beside each file (see `caption_lists.read_sidecars`). A
    list is `captions.csv` or the like, which Hugging Face calls `metadata`: one with a column of splits, one in a
    folder for each split, or one without splits that stands for any.

    Args:
        data: The folder, or a list itself; `list.csv:column` names the column of captions.
        karpathy: A Karpathy split to use instead of the folder's own.
        images: Folder of the pictures; by default the folder itself.

    Raises:
        UsageError: No data set is found, it lacks this split, or it is damaged.
    """
    path, column = split_column(str(data))
    if path.suffix and path.suffix.lower() in SUFFIXES and not path.is_dir():
        notes: list[str] = []
        return gather(path, split, read_caption_list(path, images, column, notes), notes=notes)
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder or a list", _HINT)
    if source := karpathy or _karpathy(data):
        folders = [images] if images else [data, data / "images"]
        return gather(source, split, read_karpathy(source, folders))
    if annotations := _annotations(data):
        return _coco(data, split, annotations, images)
    return _listed(data, split, images)


def _karpathy(data: Path) -> Path | None:
    found = sorted([*data.glob("dataset_*.json"), *data.glob("annotations/dataset_*.json")])
    if len(found) > 1:
        raise UsageError(f"{data} has several splits: {', '.join(map(str, found))}", "--karpathy names one")
    return found[0] if found else None


def _annotations(data: Path) -> dict[str, list[Path]]:
    """Return the annotations of each split, the latest year first."""
    by_split: dict[str, list[Path]] = {}
    for file in sorted([*data.glob("annotations/*.json"), *data.glob("*.json")], key=lambda file: file.name):
        if named := _COCO.fullmatch(file.name):
            by_split.setdefault(named[1], []).insert(0, file)
    return by_split


def _coco(data: Path, split: Split, annotations: dict[str, list[Path]], images: Path | None) -> Dataset:
    if split not in annotations:
        raise no_split(data, split, annotations)
    files = annotations[split]
    top = images or data
    source = next((file for file in files if any(folder.is_dir() for folder in _pictures(top, file))), files[0])
    folders = [*_pictures(top, source), top, top / "images"]
    others = [folder for folder in sorted([*top.glob("*"), *top.glob("images/*")]) if _PICTURES.fullmatch(folder.name)]
    entries, left_out = read_coco(source, split, folders, [folder for folder in others if folder not in folders])
    return gather(source, split, entries, left_out)


def _pictures(top: Path, annotations: Path) -> list[Path]:
    """Return the folders that may hold the pictures of a `captions_val2017.json`: each `val2017`."""
    name = annotations.stem.removeprefix("captions_")
    return [top / name, top / "images" / name]


def _listed(data: Path, split: Split, images: Path | None) -> Dataset:
    notes: list[str] = []
    if found := _list_in(data):
        return gather(found, split, read_caption_list(found, images, notes=notes), notes=notes)
    folders = (folder for folder in sorted(data.iterdir()) if split_of(folder.name) in get_args(Split))
    inner = {split_of(folder.name): file for folder in folders if (file := _list_in(folder))}
    if not inner:
        return _sidecars(data, split)
    if split not in inner:
        raise no_split(data, split, inner)
    entries = [entry._replace(split=split) for entry in read_caption_list(inner[split], images, notes=notes)]
    return gather(inner[split], split, entries, notes=notes)


def _sidecars(data: Path, split: Split) -> Dataset:
    if not (entries := read_sidecars(data)):
        raise UsageError(f"no captions found in {data}", _HINT)
    return gather(data, split, entries)


def _list_in(folder: Path) -> Path | None:
    return next((folder / name for name in _LISTS if (folder / name).is_file()), None)
