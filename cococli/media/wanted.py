"""Which of the files that are found are taken: by globs, and by when they were modified."""

import math
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from glob import has_magic
from pathlib import Path

from ..errors import UsageError

_AGES = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}  # in seconds

Glob = tuple[str, ...]  # its parts between slashes


@dataclass(frozen=True)
class Wanted:
    """What is taken.

    A glob of one part is matched with each name in a path from the part `names` on; a longer one with the parts
    from `top` on or, if it begins with a name as in `videos/raw/*`, with the whole path. What matches a folder
    stands for all that is in it.
    """

    include: tuple[Glob, ...] = ()  # where there are any, one must match
    exclude: tuple[Glob, ...] = ()  # none may match
    since: float | None = None  # seconds since the epoch

    def takes(self, file: str, names: int, top: int) -> bool:
        """Whether a file is taken."""
        if self.include or self.exclude:
            parts = Path(file).parts
            if self.include and not _match(self.include, parts, names, top):
                return False
            if _match(self.exclude, parts, names, top):
                return False
        return self.since is None or _modified(file) >= self.since

    def skips(self, folder: str, names: int, top: int) -> bool:
        """Whether all that is in a folder is excluded."""
        inside = ""  # as a name it matches `*`, and no glob that could miss another one
        return bool(self.exclude) and _match(self.exclude, (*Path(folder).parts, inside), names, top)


def parse_glob(text: str) -> Glob:
    """The parts of a glob: `*`, `?` and `[...]` stay within one, and `**` stands for any number of them.

    Raises:
        UsageError: there is none.
    """
    *inner, last = Path(text).parts or [""]
    if last:
        return (*inner, "*" if last == "**" else last)  # what is deeper is in what `*` matches
    raise UsageError(f"{text!r} is no glob", "write it as '*.gif' or 'raw/**'")


def since(text: str) -> float:
    """The moment that a date, with or without a time of day, or an age such as 30m, 12h, 7d and 2w stands for.

    Returns:
        Seconds since the epoch. A time without an offset is local.

    Raises:
        UsageError: the text is neither.
    """
    if age := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([mhdw])", text):
        return time.time() - float(age[1]) * _AGES[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        hint = "write it as 2024-05-01, 2024-05-01T12:00, 30m, 12h, 7d or 2w"
        raise UsageError(f"{text!r} is no date and no age", hint) from None


def _match(globs: Iterable[Glob], parts: Sequence[str], names: int, top: int) -> bool:
    return any(
        _fits(parts[top:], glob) or (not has_magic(glob[0]) and _fits(parts, glob))
        if len(glob) > 1
        else any(fnmatchcase(name, glob[0]) for name in parts[names:])
        for glob in globs
    )


def _fits(parts: Sequence[str], glob: Glob) -> bool:
    """Whether a glob matches a path, or a folder that it is in."""
    if not glob:
        return True
    if glob[0] == "**":
        return any(_fits(parts[start:], glob[1:]) for start in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], glob[0]) and _fits(parts[1:], glob[1:])


def _modified(file: str) -> float:
    """Seconds since the epoch; infinite for what cannot be asked, so that reading it says what is wrong."""
    try:
        return Path(file).stat().st_mtime
    except (OSError, ValueError):
        return math.inf
