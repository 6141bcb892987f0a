"""Data sets for classification: a folder of pictures or videos for each class."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..media.discover import find_media
from ..media.tars import is_tar
from ..parsing import read_errors, read_json
from ..reporting import SILENT, Reporter
from ..urls import RemotePath
from .tars import find_tars, read_class_tars

_NAMES = "classes.json"
IMAGENET_LISTS = (
    "LOC_synset_mapping.txt",
    "imagenet_class_index.json",
    "classnames.txt",
    "synset_words.txt",
    "words.txt",
    "meta.mat",
    "ILSVRC2012_devkit_t12/data/meta.mat",
)
_WNID = re.compile(r"n\d{8}")

# ImageNet has two classes "crane" and two "maillot"; these are the names of CLIP's authors.
_DISTINCT_NAMES = {
    "n02012849": "crane bird",
    "n03126707": "construction crane",
    "n03710637": "maillot",
    "n03710721": "one-piece bathing suit",
}


def class_folders(data: Path, names_file: Path | None = None, reporter: Reporter = SILENT) -> dict[str, list[Path]]:
    """Return the files of each class. The folder `golden_retriever` is the class "golden retriever".

    A `classes.json` in the folder, {"n02099601": "golden retriever"}, names those that it lists. Folders that are
    ImageNet's wnids are named by one of ImageNet's own lists in the folder or beside it.

    Tars, or a folder of them instead of folders, hold the class of each file in `.cls`; see `tars.read_class_tars`.

    Args:
        names_file: File of class names to use instead, in any of these formats.
        reporter: Receives notes on files that were skipped because they cannot be read.

    Raises:
        UsageError: There are fewer than two classes, one is empty, or two have the same name; or a file of names is
            damaged, or a folder is a wnid without a name.
    """
    if isinstance(data, RemotePath):
        return read_class_tars(find_tars(data.url), names_file, reporter)
    if is_tar(data):
        return read_class_tars(find_tars(str(data)), names_file, reporter)
    if not data.is_dir():
        raise UsageError(f"{data} is not a folder", "it must have a folder of pictures or videos for each class")
    folders = sorted(entry for entry in data.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(folders) < 2 and (tars := sorted([*data.glob("*.tar"), *data.glob("*/*.tar")])):
        return read_class_tars(tars, names_file, reporter)
    if len(folders) < 2:
        raise UsageError(f"{data} has fewer than two folders", "each folder is a class")
    names = class_names(data, [folder.name for folder in folders], names_file)
    classes: dict[str, list[Path]] = {}
    for folder in folders:
        name = names[folder.name]
        if name in classes:
            raise UsageError(f"two folders in {data} are the class {name!r}: one is {folder.name}")
        classes[name] = [*find_media(folder, reporter)]
        if not classes[name]:
            raise UsageError(f"{folder} holds no picture and no video", "each folder is a class")
    return classes


def class_names(data: Path, folders: Sequence[str], names_file: Path | None = None) -> dict[str, str]:
    """Return the names of the classes that are called like these folders. See `class_folders`.

    Raises:
        UsageError: A file of names is damaged, or a folder is a wnid without a name.
    """
    names = read_names(names_file) if names_file else _names(data / _NAMES, folders)
    wnids = [folder for folder in folders if _WNID.fullmatch(folder)]
    if any(wnid not in names for wnid in wnids) and not names_file:
        places = (place / name for place in (data, data.resolve().parent) for name in IMAGENET_LISTS)
        names = next((read_names(path) for path in places if path.is_file()), {}) | names
    if unnamed := [wnid for wnid in wnids if not names.get(wnid, "").strip()]:
        some = f"{len(unnamed)} of {len(folders)} folders in {data} are numbers, not names of classes: {unnamed[0]}"
        raise UsageError(some, f"put {IMAGENET_LISTS[0]} there, or give their names by --class-names FILE")
    repeated = {name for name, count in Counter(names[wnid] for wnid in wnids).items() if count > 1}
    names |= {wnid: _DISTINCT_NAMES[wnid] for wnid in wnids if names[wnid] in repeated and wnid in _DISTINCT_NAMES}
    return {folder: names.get(folder, folder.replace("_", " ")) for folder in folders}


def read_names(path: Path) -> dict[str, str]:
    """Read the names of class folders: a JSON object or lines of a folder and its name.

    Of several names, as in `n01440764 tench, Tinca tinca`, the first is taken. `imagenet_class_index.json` has
    {"0": ["n01440764", "tench"]}. `meta.mat` is of ImageNet's development kit.

    Raises:
        UsageError: The file cannot be read or has another format.
    """
    hint = "lines as in: n01440764 tench"
    if path.suffix.lower() == ".mat":
        names = dict(read_synsets(path).values())
    elif path.suffix.lower() == ".json":
        content = read_json(path)
        pairs = content.items() if isinstance(content, dict) else ()
        names = {
            (value[0] if _is_pair(value) else key): (value[1] if _is_pair(value) else value) for key, value in pairs
        }
    else:
        with read_errors(path):
            lines = [line.split(None, 1) for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
        if short := next((line for line in lines if len(line) < 2), None):
            raise UsageError(f"{path} has no name for {short[0]}", hint)
        names = dict(lines)
    if not names or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise UsageError(f"{path} does not hold names of classes", hint)
    return {
        folder: (name.split(",")[0].replace("_", " ") if _WNID.fullmatch(folder) else name).strip()
        for folder, name in names.items()
    }


def read_synsets(path: Path) -> dict[int, tuple[str, str]]:
    """Return wnid and names of the classes in the `meta.mat` of ImageNet's development kit, by their numbers from 1.

    Raises:
        UsageError: The file cannot be read or has another format.
    """
    from scipy.io import loadmat

    try:
        with read_errors(path, "MATLAB"):
            synsets = loadmat(path, squeeze_me=True)["synsets"]
            leaves = [row for row in synsets if int(row["num_children"]) == 0]
            found = {int(row["ILSVRC2012_ID"]): (str(row["WNID"]), str(row["words"])) for row in leaves}
    except (KeyError, IndexError, TypeError, NotImplementedError):
        found = {}
    if not found:
        raise UsageError(f"{path} does not hold ImageNet's synsets", "take that of ILSVRC2012_devkit_t12")
    return found


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(text, str) for text in value)


def _names(path: Path, folders: Sequence[str]) -> dict[str, str]:
    if not path.exists():
        return {}
    names = read_json(path)
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise UsageError(f"{path} is not a JSON object of names", 'for example: {"n02099601": "golden retriever"}')
    unknown = names.keys() - set(folders)
    if unknown:
        raise UsageError(f"{path} names {min(unknown)!r}, but there is no such folder")
    return names
