"""From what a user names to the files to read."""

import glob
import math
import os
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from ..errors import UsageError
from .lists import read_list, read_stdin
from .pictures import reads_heif

# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".264", ".265", ".3g2", ".3gp", ".amv", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".hevc",
    ".ivf", ".m2ts", ".m2v", ".m4v", ".mj2", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts",
    ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".wtv", ".y4m",
})
IMAGE_SUFFIXES = frozenset({
    ".apng", ".avif", ".bmp", ".heic", ".heif", ".hif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".mpo",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_UNREAD_SUFFIXES = (  # media that cannot be read: camera raw, drawings, documents
    ".3fr", ".ai", ".arw", ".braw", ".cr2", ".cr3", ".crw", ".djvu", ".dng", ".eps", ".erf", ".exr", ".jxl", ".kdc",
    ".mrw", ".nef", ".nrw", ".orf", ".pdf", ".pef", ".psb", ".psd", ".r3d", ".raf", ".rw2", ".rwl", ".sr2", ".srf",
    ".srw", ".svg", ".svgz", ".swf", ".tga", ".x3f", ".xcf",
)
# fmt: on

_HINT = "name files, folders, or a pattern such as 'videos/**/*.mp4'"
_SUFFIXES = tuple(VIDEO_SUFFIXES | IMAGE_SUFFIXES)

# Thumbnails and deleted files of Synology and QNAP drives, Windows and macOS.
_SYSTEM_FOLDERS = frozenset({
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin", "system volume information",
    "lost+found", "__macosx",
})  # fmt: skip
_TRANSPORT_STREAMS = (".ts", ".mts")  # MPEG-TS; or TypeScript
_PACKETS = re.compile(rb"G.{187}G.{187}G|G.{191}G.{191}G", re.DOTALL)  # 188 bytes of MPEG-TS each, or with 4 for a time

_AGES = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}  # in seconds

Glob = tuple[str, ...]  # its parts between slashes
_Skips = Callable[[str], bool]  # whether a folder is not to be walked into


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
        _fits(parts[top:], each) or (not glob.has_magic(each[0]) and _fits(parts, each))
        if len(each) > 1
        else any(fnmatchcase(name, each[0]) for name in parts[names:])
        for each in globs
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


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file's suffix says picture. WebP and PNG may still turn out to move."""
    return Path(path).suffix.lower() in IMAGE_SUFFIXES


def discover(
    paths: Sequence[str],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    since: float | None = None,
    stdin: BinaryIO | None = None,
    warn: Callable[[UsageError], object] | None = None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """The files that the arguments of a command stand for.

    A file is taken whatever its suffix. A folder stands for the videos and pictures in and below it, by
    suffix, without hidden files and folders, those that systems keep deleted files and thumbnails in, and source code
    in `.ts` files. A pattern (`*`, `?`, `[...]`, `**`) stands for what it matches,
    unless a file has that very name. A path that does not exist is kept, so that reading it fails alone.
    `@list.csv` and `-` (stdin) stand for the files and folders that they list; see `lists`.

    A glob without a slash is matched with names: of files, and of folders below the one that is searched. One
    with a slash is matched with paths: from the searched folder on or, if it begins with a name, as they are
    named. What matches a folder stands for all that is in it.

    Args:
        include: Globs; only files that one of them matches are taken.
        exclude: Globs; what one of them matches is left out, and such a folder never opened.
        since: Only files modified then or later are taken, in seconds since the epoch.
        stdin: Read in place of the process's own.
        warn: Called for each pattern without a match and for URLs, while the rest is taken. By default they are raised.
        note: Called with what was skipped in folders because it cannot be read, such as camera raw.

    Returns:
        Files in the order of the arguments, sorted within each, each file once under its first spelling.
        Those in a list stay in its order.

    Raises:
        UsageError: a list or a glob is none, or no file comes out at all.
    """
    wanted = Wanted(tuple(map(parse_glob, include)), tuple(map(parse_glob, exclude)), since)
    folders: dict[str, str] = {}
    first_spelling: dict[tuple[str, str], str] = {}
    problems: list[UsageError] = []
    skipped: set[str] = set()
    for argument in paths:
        for name in _files_of(argument, wanted, stdin, problems, skipped):
            first_spelling.setdefault(_place(name, folders), name)
    for problem in problems:
        if warn is None or not first_spelling:
            raise problem
        warn(problem)
    unread = {_place(name, folders) for name in skipped} - first_spelling.keys()
    advice = list(_describe(name for _, name in unread))
    if not first_spelling:
        named = ", ".join(map(repr, paths)) or "no path"
        limits = " within --include, --exclude and --since" if wanted != Wanted() else ""
        hint = "; ".join(advice) or _HINT
        raise UsageError(f"{named}: no video or picture found{limits}" if paths else "no file is named", hint)
    for text in advice:
        note(text)
    return [Path(name) for name in first_spelling.values()]


def refuse_url(name: str) -> None:
    """Refuse a URL, which is not the name of a file.

    Raises:
        UsageError: It is one.
    """
    if _is_url(name):
        raise _url_error([name])


def _is_url(name: str) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+://", name, re.IGNORECASE) is not None and not os.path.lexists(name)


def _url_error(urls: list[str]) -> UsageError:
    are = "is a URL, not a file" if len(urls) == 1 else f"and {len(urls) - 1} more are URLs, not files"
    return UsageError(f"{urls[0]} {are}", f"download it first, for example: yt-dlp {shlex.quote(urls[0])}")


def _describe(names: Iterable[str]) -> Iterator[str]:
    """Say how many files of which suffixes were skipped, and what to do about it."""
    counts = Counter(Path(name).suffix.lower() for name in names)
    for advice, suffixes in (
        ("pip install pillow-heif", _HEIF_SUFFIXES),
        ("convert them to JPEG, PNG or MP4 first", _UNREAD_SUFFIXES),
    ):
        if found := [f"{counts[suffix]} {suffix}" for suffix in suffixes if counts[suffix]]:
            plural = "s" * (sum(counts[suffix] for suffix in suffixes) > 1)
            yield f"skipped {', '.join(found)} file{plural}: {advice}"


def _place(path: str, folders: dict[str, str]) -> tuple[str, str]:
    """Where a file or folder really is: its folder, resolved once for all that are in it, and its name there."""
    folder, name = os.path.split(path)
    if name in ("", os.curdir, os.pardir) or os.path.islink(path):  # noqa: PTH114 - pathlib's may raise
        return os.path.split(_resolved(path))
    if folder not in folders:
        folders[folder] = _resolved(folder)
    return folders[folder], name


def _resolved(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:  # a list may hold what can be no path
        return path


def _files_of(
    argument: str, wanted: Wanted, stdin: BinaryIO | None, problems: list[UsageError], skipped: set[str]
) -> Iterable[str]:
    """The files that an argument stands for; appends why it stands for none."""
    if argument == "-":
        named = list(read_stdin(stdin))
    elif argument.startswith("@"):
        named = list(read_list(argument[1:]))
    elif os.path.lexists(argument) or _is_url(argument) or not glob.has_magic(argument):
        named = [argument]
    else:
        return _files_matched(argument, wanted, problems, skipped)
    if urls := list(filter(_is_url, named)):
        problems.append(_url_error(urls))
        named = [name for name in named if not _is_url(name)]
    return (file for path in named for file in _files_under(path, len(Path(path).parent.parts), 0, wanted, skipped))


def _files_matched(pattern: str, wanted: Wanted, problems: list[UsageError], skipped: set[str]) -> Iterable[str]:
    parts = Path(pattern).parts
    start = len(list(takewhile(lambda part: not glob.has_magic(part), parts)))
    unnamed = _SYSTEM_FOLDERS - {part.lower() for part in parts}
    found = sorted(set(_matches(pattern, lambda folder: wanted.skips(folder, start, start))))
    matches = [match for match in found if unnamed.isdisjoint(part.lower() for part in Path(match).parts[start:])]
    if not matches and not _matches(pattern, lambda folder: False):
        problems.append(UsageError(f"{pattern!r} matches no file", _HINT))
    return (file for match in matches for file in _files_under(match, start, start, wanted, skipped))


def _files_under(path: str, names: int, top: int, wanted: Wanted, skipped: set[str]) -> list[str]:
    """The file itself, or the videos and pictures below a folder, sorted; those that are wanted.

    Media that cannot be read are added to `skipped`.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - pathlib's may raise
        return [path] if wanted.takes(path, names, top) else []
    top = len(Path(path).parts)  # globs begin in the folder
    if wanted.skips(path, names, top):
        return []
    unreadable: list[str] = []  # kept, so that reading them says why they are missing
    walk = _walk(path, lambda folder: wanted.skips(folder, names, top), unreadable)
    media = (file for _, files in walk for file in files if file.lower().endswith(_SUFFIXES + _UNREAD_SUFFIXES))
    found = [file for file in media if wanted.takes(file, names, top) and _may_be_video(file)]
    unread = _UNREAD_SUFFIXES if reads_heif() else _UNREAD_SUFFIXES + _HEIF_SUFFIXES
    skipped.update(file for file in found if file.lower().endswith(unread))
    return sorted([file for file in found if file not in skipped] + unreadable)


def _may_be_video(file: str) -> bool:
    """Whether a file may be what its suffix says: a .ts file without packets of MPEG-TS is source code."""
    if not file.lower().endswith(_TRANSPORT_STREAMS):
        return True
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - pathlib's may raise other errors
            head = stream.read(4096)
    except (OSError, ValueError):
        return True  # reading it says why it cannot be read
    return b"\0" in head and _PACKETS.search(head) is not None


def _walk(top: str, skips: _Skips, unreadable: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Every folder at and below `top` that is not hidden, with its files; each once, though links may circle."""
    folders: dict[str, str] = {}
    seen = {_place(top, folders)}
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            inner, files = _listed(folder)
        except OSError:
            unreadable.append(folder)
            continue
        yield folder, files
        fresh = {_place(path, folders): path for path in inner if not skips(path)}
        folders.update({path: str(Path(*place)) for place, path in fresh.items()})
        waiting += [path for place, path in fresh.items() if place not in seen]
        seen |= fresh.keys()


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """The folders in a folder, the last first, and the files, without hidden ones and system folders."""
    inner: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in _SYSTEM_FOLDERS:
                # Asked itself, an entry that is a link in a circle raises.
                is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # noqa: PTH112
                (inner if is_folder else files).append(entry.path)
    return sorted(inner, reverse=True), files


def _matches(pattern: str, skips: _Skips) -> list[str]:
    """What a pattern matches. `**/` is walked here: glob's own follows links that circle."""
    head, *tail = re.split(r"(?:(?<=/)|^)\*\*/+", pattern, maxsplit=1)
    if not tail:
        return glob.glob(pattern)  # noqa: PTH207 - pathlib's knows no patterns from the root
    unreadable: list[str] = []  # kept, as those in a folder that is named
    tops = [top for top in _matches(head or os.curdir, skips) if os.path.isdir(top)]  # noqa: PTH112
    patterns = [Path(glob.escape(folder), tail[0]) for top in tops for folder, _ in _walk(top, skips, unreadable)]
    return [match for inner in patterns for match in _matches(str(inner), skips)] + unreadable
