"""From what a user names to the files to read."""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..errors import UsageError

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".gif", ".ivf", ".m2ts", ".m2v", ".m4v", ".mkv", ".mov",
    ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".ts", ".vob", ".webm", ".wmv", ".y4m",
})
IMAGE_SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp",
})
# fmt: on

_HINT = "name files, folders, or a pattern such as 'videos/**/*.mp4'"


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file's suffix says picture. WebP and PNG may still turn out to move."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def discover(paths: Sequence[str]) -> list[Path]:
    """The files that the arguments of a command stand for.

    A file is taken whatever its suffix. A folder stands for the videos and pictures in and below it, by
    suffix, without hidden files and folders. A pattern (`*`, `?`, `[...]`, `**`) stands for what it matches,
    unless a file has that very name. A path that does not exist is kept, so that reading it fails alone.

    Returns:
        Files in the order of the arguments, sorted within each, each file once under its first spelling.

    Raises:
        UsageError: a pattern matches nothing, or no file comes out at all.
    """
    first_spelling: dict[str, Path] = {}
    for argument in paths:
        for name in _files_of(argument):
            first_spelling.setdefault(os.path.realpath(name), Path(name))
    if not first_spelling:
        named = ", ".join(map(repr, paths)) or "no path"
        raise UsageError(f"{named}: no video or picture found" if paths else "no file is named", _HINT)
    return list(first_spelling.values())


def _files_of(argument: str) -> list[str]:
    if os.path.lexists(argument) or not glob.has_magic(argument):
        return _files_under(argument)
    matches = sorted(set(_matches(argument)))
    if not matches:
        raise UsageError(f"{argument!r} matches no file", _HINT)
    return [name for match in matches for name in _files_under(match)]


def _files_under(path: str) -> list[str]:
    """The file itself, or the videos and pictures below a folder, sorted."""
    if not Path(path).is_dir():
        return [path]
    unreadable: list[str] = []  # kept, so that reading them says why they are missing
    names = [str(Path(folder, name)) for folder, files in _walk(path, unreadable) for name in _media(files)]
    return sorted(names + unreadable)


def _media(names: Iterable[str]) -> Iterator[str]:
    known = VIDEO_SUFFIXES | IMAGE_SUFFIXES
    return (name for name in names if not name.startswith(".") and Path(name).suffix.lower() in known)


def _walk(top: str, unreadable: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every folder at and below `top` that is not hidden, with its files; each once, though links may circle."""
    seen = {os.path.realpath(top)}
    for folder, inner, files in os.walk(top, followlinks=True, onerror=lambda error: unreadable.append(error.filename)):
        inner[:] = [name for name in sorted(inner) if not name.startswith(".")]
        real = {name: os.path.realpath(Path(folder, name)) for name in inner}
        inner[:] = [name for name in inner if real[name] not in seen]
        seen.update(real[name] for name in inner)
        yield folder, files


def _matches(pattern: str) -> list[str]:
    """What a pattern matches. `**/` is walked here: glob's own follows links that circle."""
    head, *tail = re.split(r"(?:(?<=/)|^)\*\*/+", pattern, maxsplit=1)
    if not tail:
        return glob.glob(pattern)  # noqa: PTH207 - pathlib's knows no patterns from the root
    tops = [top for top in _matches(head or os.curdir) if Path(top).is_dir()]
    folders = [folder for top in tops for folder, _ in _walk(top, [])]
    return [match for folder in folders for match in _matches(str(Path(glob.escape(folder), tail[0])))]
