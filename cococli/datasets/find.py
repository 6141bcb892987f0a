"""Recognition of the data set in a folder."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

from ..errors import UsageError
from ..media.discover import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_media
from ..parsing import read_json
from ..reporting import SILENT, Reporter
from ..tables import SUFFIXES, split_column
from ..urls import RemotePath
from .caption_lists import read_caption_list, read_sidecars
from .coco import read_coco, read_karpathy
from .dataset import Dataset, RawExample, Split, gather, no_split, split_named, split_of
from .tars import find_tars, holds_captions, read_tars

_COCO = re.compile(r"captions_(train|val|test)\d*\.json")
_PICTURES = re.compile(r"(train|val|test)\d*")
_LISTS = (
    *(f"{name}.{suffix}" for name in ("captions", "metadata") for suffix in ("jsonl", "csv", "tsv", "parquet", "txt")),
    *("results.csv", "results_20130124.token", "Flickr8k.token.txt"),  # of Flickr30k and Flickr8k
)
_TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".token")  # lists of any name, if a folder holds no other data
_ARCHIVES = (".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_HINT = (
    "it may hold annotations/captions_train2017.json with train2017/, dataset_coco.json, captions.jsonl, .csv or .txt, "
    ".parquet or WebDataset .tar files, or a .txt beside each picture"
)


def find_dataset(
    data: Path,
    split: Split,
    karpathy: Path | None = None,
    images: Path | None = None,
    reporter: Reporter = SILENT,
) -> Dataset:
    """Return the examples of one split of a data set, recognized by the layout of its folder or by its file.

    In a folder, the first of these that exists is read: a Karpathy split (`dataset_coco.json`), COCO's annotations (of
    any year; the latest that has pictures), a list with captions, a text beside each file (see
    `caption_lists.read_sidecars`), WebDataset tars, and lists of any name. A list is `captions.csv` or the like, which
    Hugging Face calls `metadata`: one with a column of splits, one in a folder for each split, or one without splits
    that stands for any. The names of tars, and of lists of any name, may contain that of their split.

    Args:
        data: The folder; or a list, where `list.csv:column` names the column of captions, annotations, a Karpathy
            split, a tar, or several tars as in `{000..012}.tar`. Tars may be remote: URLs, or the prefix of a store.
        karpathy: A Karpathy split to use instead of the folder's own.
        images: Folder of the pictures; by default the folder itself.
        reporter: Receives progress of what takes long.

    Raises:
        UsageError: No data set is found, it lacks this split, or it is damaged.
        CocaError: The cache, to which files in Parquet are copied, cannot be written.
    """
    if images and not images.is_dir():
        raise UsageError(f"--images {images} is not a folder", "it takes the folder of the pictures, --data their list")
    if karpathy and (isinstance(data, RemotePath) or not data.is_dir()):
        raise UsageError(f"{data} is not a folder, which --karpathy needs", "--data takes the split itself, too")
    if isinstance(data, RemotePath):
        tars = find_tars(data.url)
        by_split = data.url.endswith("/")
        return _named_tars(data, tars, split, reporter) if by_split else _tars(data, tars, split, "", reporter)
    if not data.is_dir():
        return _file(data, split, images, reporter)
    if karpathy and karpathy.is_dir():
        raise UsageError(f"--karpathy {karpathy} is a folder", "name the file, such as dataset_coco.json")
    if source := karpathy or _karpathy(data):
        return _karpathy_split(source, data, split, images)
    if annotations := _annotations(data):
        return _coco(data.parent if data.name == "annotations" else data, split, annotations, images)
    return _listed(data, split, images, reporter)


def _file(data: Path, split: Split, images: Path | None, reporter: Reporter) -> Dataset:
    """Read a data set that is named by a file, or by a pattern of tars."""
    path, column = split_column(str(data))
    suffix = path.suffix.lower()
    notes: list[str] = []
    if suffix == ".tar":
        paths = find_tars(str(data)) if "{" in str(data) and not data.exists() else [data]
        return _tars(paths[0], paths, split, "", reporter)
    if suffix == ".json" and path.is_file():
        return _json(path, split, images)
    if suffix in SUFFIXES and (suffix or path.is_file()):
        return gather(path, split, read_caption_list(path, images, column, notes, reporter), notes=notes)
    if suffix in _ARCHIVES and path.is_file():
        raise UsageError(f"{path} is an archive", "unpack it and name the folder; .tar files can be read as they are")
    if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES and path.is_file():
        raise UsageError(f"{path} is a single file, not a data set", "name its folder, or a list with captions")
    raise UsageError(f"{data} is not a folder or a list", _HINT)


def _json(path: Path, split: Split, images: Path | None) -> Dataset:
    """Read COCO's annotations, or a Karpathy split, that are named instead of their folder."""
    content = read_json(path)
    pictures = content.get("images") if isinstance(content, dict) else None
    folder = path.parent.parent if path.parent.name == "annotations" else path.parent
    if isinstance(content, dict) and "annotations" in content:
        named = _COCO.fullmatch(path.name)
        dataset = _coco(folder, split, {named[1] if named else split: [path]}, images)
        return dataset if named else replace(dataset, split=None)  # else one would validate on what one trains on
    if isinstance(pictures, list):
        return _karpathy_split(path, folder, split, images)
    raise UsageError(
        f"{path} holds neither COCO's annotations nor a Karpathy split",
        'write other captions as .jsonl, an object on each line: {"path": "dog.jpg", "caption": "a dog"}',
    )


def _karpathy_split(source: Path, folder: Path, split: Split, images: Path | None) -> Dataset:
    return gather(source, split, read_karpathy(source, [images] if images else [folder, folder / "images"]))


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


def _listed(data: Path, split: Split, images: Path | None, reporter: Reporter) -> Dataset:
    notes: list[str] = []
    if found := _list_in(data):
        entries = read_caption_list(found, images, None, notes, reporter)
        return gather(found, split, entries, notes=notes)
    folders = [folder for folder in sorted(data.iterdir()) if split_of(folder.name) in get_args(Split)]
    if inner := {split_of(folder.name): [file] for folder in folders if (file := _list_in(folder))}:
        return _split_lists(data, inner, split, images, reporter)
    entries, left_out = read_sidecars(data)
    if entries:
        return gather(data, split, entries, left_out)
    tars = [*sorted(data.glob("*.tar")), *sorted(data.glob("*/*.tar"))]
    if tars and holds_captions(tars[0]):  # not the pictures of a list
        return _named_tars(data, tars, split, reporter)
    if tables := _tables(data):
        return _split_lists(data, tables, split, images, reporter)
    if find_media(data) and (_annotations(data.parent) or _karpathy(data.parent) or _list_in(data.parent)):
        raise UsageError(f"{data} holds pictures, but no captions", f"their captions are in --data {data.parent}")
    raise UsageError(f"no captions found in {data}", _HINT)


def _split_lists(
    data: Path, lists: dict[str, list[Path]], split: Split, images: Path | None, reporter: Reporter
) -> Dataset:
    """Read the lists of a split. Lists without a split, under an empty name, stand for any."""
    if split not in lists and "" not in lists:
        raise no_split(data, split, lists)
    name = split if split in lists else ""
    notes: list[str] = []
    entries: list[RawExample] = []
    for file in lists[name]:
        found = read_caption_list(file, images, None, notes, reporter)
        entries += [entry._replace(split=split) for entry in found] if name else found
    return gather(lists[name][0], split, entries, notes=notes)


def _named_tars(data: Path, tars: list[Path], split: Split, reporter: Reporter) -> Dataset:
    """Read those tars of a folder or a store whose names contain the split; all if no name contains one."""
    names = {tar: split_named(tar.stem, tar.parent.name if tar.parent != data else "") for tar in tars}
    splits = set(filter(None, names.values()))
    if splits and split not in splits:
        raise no_split(data, split, splits)
    chosen = [tar for tar in tars if names[tar] == split] if splits else tars
    return _tars(data, chosen, split, split if splits else "", reporter)


def _tars(source: Path, tars: list[Path], split: Split, named: str, reporter: Reporter) -> Dataset:
    """Read the tars of a split, if it is named, or those that stand for any."""
    entries, left_out, notes = read_tars(tars, reporter)
    return gather(source, split, [entry._replace(split=named or None) for entry in entries], left_out, notes)


def _list_in(folder: Path) -> Path | None:
    return next((folder / name for name in _LISTS if (folder / name).is_file()), None)


def _tables(data: Path) -> dict[str, list[Path]]:
    """Return the lists of any name in a folder by the split in their name, which is empty if none has one.

    Hugging Face's repositories hold `data/train-00000-of-00004.parquet`.

    Raises:
        UsageError: There are several, and neither splits nor parts of one table tell them apart.
    """
    tables: dict[str, list[Path]] = {}
    for file in sorted([*data.glob("*"), *data.glob("data/*")]):
        if file.suffix.lower() in _TABLES and file.is_file():
            tables.setdefault(split_named(file.stem) or "", []).append(file)
    rest = tables.get("", [])
    if len(tables) > 1:
        tables.pop("", None)
    elif len(rest) > 1 and {file.suffix.lower() for file in rest} != {".parquet"}:
        raise UsageError(f"{data} has several lists: {', '.join(file.name for file in rest)}", f"--data {rest[0]}")
    return tables
