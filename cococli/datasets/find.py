"""From a folder to the data set that is in it."""

import re
from pathlib import Path
from typing import get_args

from ..errors import UsageError
from .coco import read_coco, read_karpathy
from .dataset import Dataset, Split, gather, no_split, split_of
from .lists import SUFFIXES, read_list

_COCO = re.compile(r"captions_(train|val|test)\d*\.json")
_LISTS = ("captions.jsonl", "captions.csv", "metadata.jsonl", "metadata.csv")
_HINT = "it may hold annotations/captions_train2017.json with train2017/, dataset_coco.json, captions.jsonl or .csv"


def find_dataset(data: Path, split: Split, karpathy: Path | None = None, images: Path | None = None) -> Dataset:
    """The examples of one split of the data set in a folder, told by its layout.

    These are looked for, the first that is there is taken: a Karpathy split (`dataset_coco.json`), COCO's
    annotations (of any year; the latest that has pictures), and a list with captions, `captions.jsonl` or `.csv`,
    which Hugging Face calls `metadata`: one with a column of splits, one in a folder for each split, or one that
    knows no splits and stands for any.

    Args:
        data: The folder, or a list itself.
        karpathy: A Karpathy split in place of the folder's own.
        images: Where the pictures are, in place of the folder itself.

    Raises:
        UsageError: nothing is found, or not this split, or what is found is damaged.
    """
    if data.suffix.lower() in SUFFIXES and data.is_file():
        return gather(data, split, read_list(data, images), {})
    if not data.is_dir():
        raise UsageError(f"{data} is no folder", _HINT)
    if source := karpathy or _karpathy(data):
        folders = [images] if images else [data, data / "images"]
        return gather(source, split, read_karpathy(source, folders), {})
    if annotations := _annotations(data):
        return _coco(data, split, annotations, images)
    return _listed(data, split, images)


def _karpathy(data: Path) -> Path | None:
    found = sorted([*data.glob("dataset_*.json"), *data.glob("annotations/dataset_*.json")])
    if len(found) > 1:
        raise UsageError(f"{data} has several splits: {', '.join(map(str, found))}", "--karpathy names one")
    return found[0] if found else None


def _annotations(data: Path) -> dict[str, list[Path]]:
    """The annotations of each split, the latest year first."""
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
    entries, left_out = read_coco(source, split, [*_pictures(top, source), top, top / "images"])
    return gather(source, split, entries, left_out)


def _pictures(top: Path, annotations: Path) -> list[Path]:
    """Where the pictures of a `captions_val2017.json` may be: in a `val2017`."""
    name = annotations.stem.removeprefix("captions_")
    return [top / name, top / "images" / name]


def _listed(data: Path, split: Split, images: Path | None) -> Dataset:
    if found := _list_in(data):
        return gather(found, split, read_list(found, images), {})
    folders = (folder for folder in sorted(data.iterdir()) if split_of(folder.name) in get_args(Split))
    inner = {split_of(folder.name): file for folder in folders if (file := _list_in(folder))}
    if not inner:
        raise UsageError(f"no captions found in {data}", _HINT)
    if split not in inner:
        raise no_split(data, split, inner)
    entries = [entry._replace(split=split) for entry in read_list(inner[split], images)]
    return gather(inner[split], split, entries, {})


def _list_in(folder: Path) -> Path | None:
    return next((folder / name for name in _LISTS if (folder / name).is_file()), None)
