"""Discovery of the files that the arguments of a command stand for."""

import glob
import heapq
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from itertools import chain, takewhile
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.request import url2pathname

from ..errors import UsageError
from ..files import member_name
from ..options import FileOptions
from ..packed import Paths, Table, View
from ..reporting import SILENT, Reporter
from ..stores import has_magic, is_prefix, list_files, open_store
from ..urls import WEB, RemotePath, is_url, path_of, public_name, remote_path, scheme_of
from .lists import read_list, read_stdin
from .pictures import reads_heif
from .tars import TAR, clean_name, expand_braces, is_tar, open_tar, read_members

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
_UNSUPPORTED_SUFFIXES = (  # camera raw, drawings, documents
    ".3fr", ".ai", ".arw", ".braw", ".cr2", ".cr3", ".crw", ".djvu", ".dng", ".eps", ".erf", ".exr", ".jxl", ".kdc",
    ".mrw", ".nef", ".nrw", ".orf", ".pdf", ".pef", ".psb", ".psd", ".r3d", ".raf", ".rw2", ".rwl", ".sr2", ".srf",
    ".srw", ".svg", ".svgz", ".swf", ".tga", ".x3f", ".xcf",
)
# fmt: on
_SUFFIXES = tuple(VIDEO_SUFFIXES | IMAGE_SUFFIXES)

# Thumbnails and deleted files on Synology and QNAP drives, Windows and macOS
_SYSTEM_FOLDERS = frozenset({
    "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin", "system volume information",
    "lost+found", "__macosx",
})  # fmt: skip

_TRANSPORT_STREAMS = (".ts", ".mts")  # MPEG-TS; or TypeScript
_PACKETS = re.compile(rb"G.{187}G.{187}G|G.{191}G.{191}G", re.DOTALL)  # of 188 bytes, or 192 with a timestamp

_AGES = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}  # seconds
_HINT = "name files, folders, or a pattern such as 'videos/**/*.mp4'"

ALL_FILES = FileOptions()

_Glob = tuple[str, ...]  # split at slashes
_File = str | Path


def is_image(path: str | os.PathLike[str]) -> bool:
    """Return whether a file's suffix is that of a picture. WebP and PNG files may still be animated."""
    return (path if isinstance(path, RemotePath) else Path(path)).suffix.lower() in IMAGE_SUFFIXES


def discover(
    paths: Sequence[str],
    options: FileOptions = ALL_FILES,
    reporter: Reporter = SILENT,
    stdin: BinaryIO | None = None,
    required: bool = True,
) -> tuple[Sequence[Path], list[UsageError]]:
    """Find the files that the arguments of a command stand for.

    A file is taken whatever its suffix. A folder stands for the videos and pictures in and below it, by suffix, without
    hidden files and folders, system folders, and source code in `.ts` files. A pattern (`*`, `?`, `[...]`, `**`)
    stands for what it matches, unless a file has that very name. A missing path is kept, so that only reading it
    fails. `@list.csv` and `-` (stdin) stand for the files and folders that they list; see `lists`. The URL of a web
    server stands for a file or a page; that of a store for a file, for what it matches, or for the files below it if it
    ends in a slash or has no suffix.

    A tar, alone, in a folder or one of several as in `{000..012}.tar`, stands for the videos and pictures in it, each
    as a `files.member_path`. A tar that is damaged or cannot be read is itself kept behind them, so that reading it
    reports why, as is one that was named but holds no video or picture.

    `include` and `exclude` are globs. One without a slash matches names: of files, and of folders below the one that is
    searched. One with a slash matches paths: relative to the searched folder or, if it begins with a name, as they are
    given. A glob that matches a folder applies to everything in it.

    Args:
        reporter: Receives notes on files skipped in folders because their format is not supported, and progress.
        stdin: Read instead of the process's own.
        required: False to find nothing without an error.

    Returns:
        Files in the order of the arguments, sorted within each, each file once under its first spelling; files in a
        list keep its order. And the problems: patterns without a match, and stores that cannot be listed.

    Raises:
        UsageError: A list, a glob or `since` is invalid, or no file is found.
    """
    finder = _Finder(Filter.of(options), stdin)
    found = _Distinct(file for argument in paths for file in finder.files_of(argument))
    files = _Distinct(finder.with_tars_read(found.files, reporter), str).files if finder.tars else found.files
    unsupported = _Distinct(file for file in finder.unsupported if not found.has(file))
    notes = _describe_unsupported(unsupported.files)
    if not files and required:
        if not paths:
            raise UsageError("no file is named", _HINT)
        if finder.problems:
            raise finder.problems[0]
        limits = " within --include, --exclude and --since" if finder.filter != Filter() else ""
        named = ", ".join(repr(public_name(path) if is_url(path) else path) for path in paths)
        raise UsageError(f"{named}: no video or picture found{limits}", "; ".join(notes) or _HINT)
    for note in notes:
        reporter.note(note)
    if found.same:
        reporter.note(f"{found.same} URLs differ from others only in signatures or tokens: taken for the same files")
    return files, finder.problems


def find_media(folder: Path, reporter: Reporter = SILENT) -> Sequence[Path]:
    """Find the videos and pictures in and below a folder, but not in tars, sorted; see `discover`."""
    finder = _Finder(Filter(), None)
    found = _Distinct(file for file in finder.files_under(str(folder), 0, 0) if str(file) not in finder.tars)
    for note in _describe_unsupported(finder.unsupported):
        reporter.note(f"{folder}: {note}")
    return found.files


def refuse_url(name: str) -> None:
    """Raise a UsageError if a name is a URL instead of that of a file."""
    if is_url(name):
        raise UsageError(f"{public_name(name)} is a URL, not a file", "download it first")


def parse_since(text: str) -> float:
    """Parse a date, with or without a time of day, or an age such as 30m, 12h, 7d or 2w.

    Returns:
        Seconds since the epoch. A time without an offset is local.

    Raises:
        UsageError: The text is neither.
    """
    if age := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([mhdw])", text):
        return time.time() - float(age[1]) * _AGES[age[2]]
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        hint = "write it as 2024-05-01, 2024-05-01T12:00, 30m, 12h, 7d or 2w"
        raise UsageError(f"{text!r} is neither a date nor an age", hint) from None


def _parse_glob(text: str) -> _Glob:
    """Split a glob: `*`, `?` and `[...]` match within a part, `**` matches any number of parts."""
    *parents, last = Path(text).parts or [""]
    if not last:
        raise UsageError(f"{text!r} is not a glob", "write it as '*.gif' or 'raw/**'")
    # What `*` matches includes everything deeper.
    return (*parents, "*" if last == "**" else last)


@dataclass(frozen=True)
class Filter:
    """Limits on the files to take.

    Globs of one part are matched with each name of a path from the part `first_name` on; longer ones with the parts
    from `top` on or, if they begin with a name as in `videos/raw/*`, with the whole path.
    """

    include: tuple[_Glob, ...] = ()  # if there are any, one must match
    exclude: tuple[_Glob, ...] = ()  # none may match
    since: float | None = None  # seconds since the epoch

    @classmethod
    def of(cls, options: FileOptions) -> "Filter":
        include, exclude = (tuple(map(_parse_glob, globs)) for globs in (options.include, options.exclude))
        return cls(include, exclude, parse_since(options.since) if options.since else None)

    def accepts(self, file: str, first_name: int, top: int, modified: float | None = None) -> bool:
        if self.include or self.exclude:
            parts = Path(file).parts
            if self.include and not _any_match(self.include, parts, first_name, top):
                return False
            if _any_match(self.exclude, parts, first_name, top):
                return False
        return self.accepts_age(file, modified)

    def accepts_age(self, file: str, modified: float | None = None) -> bool:
        return self.since is None or (_modification_time(file) if modified is None else modified) >= self.since

    def excludes_folder(self, folder: str, first_name: int, top: int) -> bool:
        # An empty name matches `*`, but no glob that some files do not match.
        any_file = ""
        return bool(self.exclude) and _any_match(self.exclude, (*Path(folder).parts, any_file), first_name, top)


def _any_match(globs: Iterable[_Glob], parts: Sequence[str], first_name: int, top: int) -> bool:
    return any(
        any(fnmatchcase(name, head) for name in parts[first_name:])
        if not rest
        else _matches_start(parts[top:], (head, *rest))
        or (not glob.has_magic(head) and _matches_start(parts, (head, *rest)))
        for head, *rest in globs
    )


def _matches_start(parts: Sequence[str], pattern: _Glob) -> bool:
    """Return whether a glob matches a path or a folder that contains it."""
    if not pattern:
        return True
    if pattern[0] == "**":
        return any(_matches_start(parts[start:], pattern[1:]) for start in range(len(parts)))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches_start(parts[1:], pattern[1:])


def _modification_time(file: str) -> float:
    """Return seconds since the epoch; infinity if unknown, so that reading the file reports what is wrong."""
    try:
        return Path(file).stat().st_mtime
    except (OSError, ValueError):
        return math.inf


class _Tar(NamedTuple):
    """A tar, to which globs apply as to a folder, and whether it was named rather than found."""

    first_name: int
    top: int
    named: bool


class _Finder:
    """Collects files, and what is wrong with arguments."""

    def __init__(self, filter: Filter, stdin: BinaryIO | None) -> None:
        self.filter, self.stdin = filter, stdin
        self.problems: list[UsageError] = []
        self.unsupported: set[str] = set()  # files in folders and tars, of formats that cannot be read
        self.tars: dict[str, _Tar] = {}

    def files_of(self, argument: str) -> Iterable[_File]:
        if len(expanded := expand_braces(argument)) > 1:
            return (file for name in expanded for file in self.files_of(name))
        names: Iterable[str]
        path_of(argument)  # refuses an empty one
        if argument == "-":
            names = read_stdin(self.stdin)
        elif argument.startswith("@"):
            names = read_list(argument[1:])
        elif is_url(argument):
            return self._remote_files(argument, is_argument=True)
        elif os.path.lexists(argument) or not glob.has_magic(argument):
            names = [argument]
        else:
            return self._files_matching(argument)
        return chain.from_iterable(
            self._remote_files(name) if is_url(name) else self.files_under(name, len(Path(name).parent.parts), 0)
            for name in names
        )

    def _remote_files(self, url: str, is_argument: bool = False) -> Iterable[_File]:
        """Return a remote file, or those that a prefix or, as an argument, a pattern stands for."""
        scheme, path = scheme_of(url), remote_path(url)
        if scheme == "file":
            local = url2pathname(url.partition("://")[2])
            return self.files_under(local, len(Path(local).parent.parts), 0)
        try:
            if scheme not in WEB:
                is_pattern = is_argument and has_magic(url)
                is_unclear = is_argument and path.suffix.lower() not in (*_SUFFIXES, TAR)
                if is_pattern or url.endswith("/") or (is_unclear and is_prefix(url)):
                    return self._files_in_store(url, is_pattern)
                open_store(url)
        except UsageError as error:
            if all(error.message != other.message for other in self.problems):
                self.problems.append(error)
            return []
        name = str(path)
        matched = name.partition("?")[0] if scheme in WEB else name
        if path.suffix.lower() == TAR:
            self.tars[name] = _Tar(len(Path(matched).parent.parts), len(Path(matched).parts), named=True)
            return [path]
        return [path] if self.filter.accepts(matched, len(Path(matched).parent.parts), 0) else []

    def _files_in_store(self, url: str, is_pattern: bool) -> Iterable[_File]:
        parts = Path(url).parts
        top = len(list(takewhile(lambda part: not glob.has_magic(part), parts))) if is_pattern else len(parts)
        below = top + 1  # two slashes follow the scheme
        found, is_sorted, last = Paths(), True, ""
        unsupported, listed = _unsupported_suffixes(), (*_SUFFIXES, *_UNSUPPORTED_SUFFIXES, TAR)
        for file, version, modified in list_files(url):
            if not file.lower().endswith(listed):
                continue
            if _is_hidden(file.split("/", below)[-1]):
                continue
            if is_tar(file):
                if modified is not None and not self.filter.accepts_age(file, modified):
                    continue
                self.tars[str(remote_path(file))] = _Tar(top, top, named=False)
            elif not self.filter.accepts(file, top, top, modified):
                continue
            elif file.lower().endswith(unsupported):
                self.unsupported.add(file)
                continue
            is_sorted, last = is_sorted and last <= file, file
            found.append(remote_path(file, version))
        return found if is_sorted else sorted(found, key=str)

    def _files_matching(self, pattern: str) -> Iterable[_File]:
        parts = Path(pattern).parts
        start = len(list(takewhile(lambda part: not glob.has_magic(part), parts)))
        system = _SYSTEM_FOLDERS - {part.lower() for part in parts}
        matches = sorted(set(_expand(pattern, lambda folder: self.filter.excludes_folder(folder, start, start))))
        matches = [match for match in matches if system.isdisjoint(part.lower() for part in Path(match).parts[start:])]
        if not matches and not _expand(pattern, lambda folder: False):
            self.problems.append(UsageError(f"{pattern!r} matches no file", _HINT))
        return (file for match in matches for file in self.files_under(match, start, start))

    def files_under(self, path: str, first_name: int, top: int) -> Iterable[_File]:
        """Return a file itself, or the videos, pictures and tars below a folder, sorted, that the filter accepts."""
        if not os.path.isdir(path):  # noqa: PTH112 - pathlib's may raise
            if is_tar(path) and os.path.isfile(path):  # noqa: PTH113
                self.tars[str(Path(path))] = _Tar(first_name, len(Path(path).parts), named=True)
                return [path]
            return [path] if self.filter.accepts(path, first_name, top) else []
        # Globs are relative to the folder.
        top = len(Path(path).parts)
        if self.filter.excludes_folder(path, first_name, top):
            return []
        # Folders that cannot be listed are kept, so that reading them reports why their files are missing.
        unlisted: list[str] = []
        walk = _walk(path, lambda folder: self.filter.excludes_folder(folder, first_name, top), unlisted)
        suffixes, unsupported = (*_SUFFIXES, *_UNSUPPORTED_SUFFIXES, TAR), _unsupported_suffixes()
        found, folders = Paths(), list[Sequence[Path]]()
        for _, files in walk:
            start = len(found)
            for file in sorted(file for file in files if file.lower().endswith(suffixes)):
                if is_tar(file):
                    self.tars.setdefault(str(Path(file)), _Tar(first_name, top, named=False))
                elif not self.filter.accepts(file, first_name, top) or _is_typescript(file):
                    continue
                elif file.lower().endswith(unsupported):
                    self.unsupported.add(file)
                    continue
                found.append(file)
            folders.append(View(found, indexes=range(start, len(found))))
        return heapq.merge(*folders, map(Path, sorted(unlisted)), key=str) if len(folders) > 1 or unlisted else found

    def with_tars_read(self, files: Sequence[Path], reporter: Reporter) -> Iterator[_File]:
        """Yield files, and what tars among them hold in their place."""
        with reporter.progress("reading tars", sum(str(file) in self.tars for file in files)) as progress:
            for file in files:
                if tar := self.tars.get(str(file)):
                    yield from self._files_in(file, tar)
                    progress.advance()
                else:
                    yield file

    def _files_in(self, path: Path, tar: _Tar) -> Iterator[_File]:
        """Yield the videos and pictures in a tar; then the tar itself if it cannot be read, or not to its end."""
        shown = str(path)
        if not self.filter.accepts_age(shown) or self.filter.excludes_folder(shown, tar.first_name, tar.top):
            return
        problems: list[str] = []
        empty, unsupported = tar.named, _unsupported_suffixes()
        try:
            with open_tar(path) as (file, version):
                for member in read_members(file, problems):
                    name = clean_name(member.name)
                    if not name.lower().endswith(_SUFFIXES + _UNSUPPORTED_SUFFIXES) or _is_hidden(name):
                        continue
                    empty = False
                    if not self.filter.accepts(f"{shown}/{name}", tar.first_name, tar.top):
                        continue
                    span = member.offset, member.size, name
                    inside: _File = member_name(shown, *span)
                    if isinstance(path, RemotePath):
                        inside = remote_path(member_name(path.url, *span), version, str(inside))
                    if name.lower().endswith(unsupported):
                        self.unsupported.add(str(inside))
                    elif not (name.lower().endswith(_TRANSPORT_STREAMS) and _is_source(member.head(file))):
                        yield inside
        except OSError:
            empty = True
        if empty or problems:
            yield path


def _unsupported_suffixes() -> tuple[str, ...]:
    return _UNSUPPORTED_SUFFIXES if reads_heif() else _UNSUPPORTED_SUFFIXES + _HEIF_SUFFIXES


def _describe_unsupported(files: Iterable[_File]) -> list[str]:
    counts = Counter(Path(file).suffix.lower() for file in files)
    notes = []
    for advice, suffixes in (
        ("pip install pillow-heif", _HEIF_SUFFIXES),
        ("convert them to JPEG, PNG or MP4 first", _UNSUPPORTED_SUFFIXES),
    ):
        if found := [f"{counts[suffix]} {suffix}" for suffix in suffixes if counts[suffix]]:
            plural = "s" * (sum(counts[suffix] for suffix in suffixes) > 1)
            notes.append(f"skipped {', '.join(found)} file{plural}: {advice}")
    return notes


def _is_typescript(file: str) -> bool:
    """Return whether a file is source code: a .ts file without packets of MPEG-TS."""
    if not file.lower().endswith(_TRANSPORT_STREAMS):
        return False
    try:
        with open(file, "rb") as stream:  # noqa: PTH123 - pathlib's may raise other errors
            return _is_source(stream.read(4096))
    except (OSError, ValueError):
        return False


def _is_source(head: bytes) -> bool:
    return b"\0" not in head or _PACKETS.search(head) is None


def _is_hidden(name: str) -> bool:
    """Return whether a file in a tar or a store is hidden, or in a hidden or system folder."""
    return any(part.startswith(".") or part.lower() in _SYSTEM_FOLDERS for part in name.split("/"))


class _Distinct:
    """Files of different locations, each under its first spelling.

    Args:
        location: Returns what is the same for the same file; by default its real folder and the name there.
    """

    def __init__(self, files: Iterable[_File], location: Callable[[_File], Hashable] | None = None) -> None:
        self.files = Paths()
        self.same = 0  # URLs that differ from others in their secrets only
        self._table, self._location = Table(), location or _locator()
        for file in files:
            place = self._location(file)
            if (known := self._find(place)) is None:
                self.files.append(file)
                self._table.add(place)
            elif isinstance(file, RemotePath) and isinstance(known, RemotePath) and str(file) != file.url != known.url:
                self.same += 1

    def has(self, file: _File) -> bool:
        """Return whether the location of a file is among these."""
        return self._find(self._location(file)) is not None

    def _find(self, location: Hashable) -> Path | None:
        found = (self.files[number] for number in self._table.candidates(location))
        return next((file for file in found if self._location(file) == location), None)


def _locator() -> Callable[[_File], Hashable]:
    """Return a function that finds the real location of files, and resolves each folder once."""
    folders: dict[str, str] = {}
    return lambda file: ("", str(file)) if isinstance(file, RemotePath) else _real_location(str(file), folders)


def _real_location(path: str, real_folders: dict[str, str]) -> tuple[str, str]:
    """Return the real folder of a file or folder, which is resolved once for all its files, and the name there."""
    folder, name = os.path.split(path)
    if name in ("", os.curdir, os.pardir) or os.path.islink(path):  # noqa: PTH114 - pathlib's may raise
        return os.path.split(_resolve(path))
    if folder not in real_folders:
        real_folders[folder] = _resolve(folder)
    return real_folders[folder], name


def _resolve(path: str) -> str:
    try:
        return os.path.realpath(path)
    except ValueError:
        # A list may hold strings that cannot be paths.
        return path


def _walk(top: str, skips: Callable[[str], bool], unlisted: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield folders at and below `top` that are not hidden, with their files; each once, though links may circle."""
    real_folders: dict[str, str] = {}
    seen = {_real_location(top, real_folders)}
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            subfolders, files = _list_folder(folder)
        except OSError:
            unlisted.append(folder)
            continue
        yield folder, files
        found = {_real_location(path, real_folders): path for path in subfolders if not skips(path)}
        real_folders.update({path: str(Path(*location)) for location, path in found.items()})
        waiting += [path for location, path in found.items() if location not in seen]
        seen |= found.keys()


def _list_folder(folder: str) -> tuple[list[str], list[str]]:
    """Return the subfolders, in reverse order, and the files of a folder, without hidden and system ones."""
    subfolders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.name.lower() not in _SYSTEM_FOLDERS:
                # The entry's own method raises for a link in a circle.
                is_folder = os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()  # noqa: PTH112
                (subfolders if is_folder else files).append(entry.path)
    return sorted(subfolders, reverse=True), files


def _expand(pattern: str, skips: Callable[[str], bool]) -> list[str]:
    """Return what a pattern matches. `**/` is walked here, as the glob module follows links that circle."""
    head, *tail = re.split(r"(?:(?<=/)|^)\*\*/+", pattern, maxsplit=1)
    if not tail:
        return glob.glob(pattern)  # noqa: PTH207 - pathlib's knows no patterns from the root
    unlisted: list[str] = []
    tops = [top for top in _expand(head or os.curdir, skips) if os.path.isdir(top)]  # noqa: PTH112
    patterns = [Path(glob.escape(folder), tail[0]) for top in tops for folder, _ in _walk(top, skips, unlisted)]
    return [match for inner in patterns for match in _expand(str(inner), skips)] + unlisted
