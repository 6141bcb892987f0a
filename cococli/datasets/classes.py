"""Folders that are classes, with the pictures or videos of each."""

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from ..parsing import read_json
from ..video.discover import discover

_NAMES = "classes.json"


def class_folders(data: Path, note: Callable[[str], None] = lambda text: None) -> dict[str, list[Path]]:
    """The files of each class: a class is a folder, `golden_retriever` the class "golden retriever".

    A `classes.json` in the folder, {"n02099601": "golden retriever"}, names those that it lists.

    Args:
        note: Called with what was skipped because it cannot be read.

    Raises:
        UsageError: there are no two classes, one is empty, or two have one name; or `classes.json` is damaged.
    """
    if not data.is_dir():
        raise UsageError(f"{data} is no folder", "it holds a folder of pictures or videos for each class")
    folders = sorted(entry for entry in data.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(folders) < 2:
        raise UsageError(f"{data} has no two folders, which would be classes to tell apart")
    names = _names(data / _NAMES, folders)
    classes: dict[str, list[Path]] = {}
    for folder in folders:
        name = names.get(folder.name, folder.name.replace("_", " "))
        if name in classes:
            raise UsageError(f"two folders in {data} are the class {name!r}: one is {folder.name}")
        classes[name] = _files(folder, note)
    return classes


def _names(path: Path, folders: list[Path]) -> dict[str, str]:
    if not path.exists():
        return {}
    names = read_json(path)
    if not isinstance(names, dict) or not all(isinstance(name, str) and name.strip() for name in names.values()):
        raise UsageError(f"{path} is no object of names", 'it looks like {"n02099601": "golden retriever"}')
    unknown = names.keys() - {folder.name for folder in folders}
    if unknown:
        raise UsageError(f"{path} names {min(unknown)!r}, which is no folder beside it")
    return names


def _files(folder: Path, note: Callable[[str], None]) -> list[Path]:
    try:
        return discover([str(folder)], note=lambda text: note(f"{folder}: {text}"))
    except UsageError:
        raise UsageError(f"{folder} holds no picture and no video", "each folder is a class") from None
