"""Paths of videos in an index: kept relative to its folder, so that both can be moved together."""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """How an index keeps paths."""

    folder: str  # of the index, without links
    relative: bool = True  # False in old indexes, which keep them as they were given to the run

    def keep(self, path: str) -> str:
        """Return a path as the index keeps it: relative to its folder, or absolute if they only share the root."""
        if not self.relative:
            return path
        absolute = _absolute(path)
        apart = os.path.commonpath((absolute, self.folder)) == os.sep
        return absolute if apart else os.path.relpath(absolute, self.folder)

    def find(self, kept: str) -> str:
        """Return a kept path as it is used now: relative to the working folder if it lies below it, else absolute."""
        if self.relative:
            return _shown(os.path.normpath(os.path.join(self.folder, kept)))  # noqa: PTH118 - keeps bytes of odd names
        beside = os.path.join(self.folder, kept)  # noqa: PTH118
        return _shown(beside) if os.path.lexists(beside) and not os.path.lexists(kept) else kept


def find_below(path: str, root: Path) -> str:
    """Return the file that the longest end of a path names below a folder; the path itself if there is none.

    A library that was moved or renamed is found by its new folder, or by one above it.
    """
    parts = Path(_absolute(path)).parts[1:]
    candidates = (os.path.join(root, *parts[start:]) for start in range(len(parts)))  # noqa: PTH118
    return next(filter(os.path.lexists, candidates), path)


def _absolute(path: str) -> str:
    """Return an absolute path of the same file, in the user's spelling unless it climbs: a link may lead elsewhere."""
    absolute = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118
    if os.pardir not in Path(absolute).parts:
        return os.path.normpath(absolute)
    folder, name = os.path.split(absolute)
    return os.path.join(os.path.realpath(folder), name) if "\0" not in path else path  # noqa: PTH118


def _shown(absolute: str) -> str:
    here = os.path.join(os.getcwd(), "")  # noqa: PTH109, PTH118
    return absolute.removeprefix(here) if absolute != here else absolute
