"""Output files of a run: checks of `-o` before any work is done, and names of files that belong to one video."""

import os
import shlex
import tempfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..datasets.coco import image_ids
from ..errors import UsageError
from ..files import digest, sample_key, without_range
from ..media.discover import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_image
from ..media.tars import TAR
from ..report.page import load_jinja
from ..stores import check_writable
from ..tables import load_pyarrow
from ..urls import RemotePath, is_url, path_of, public_name, remote_path
from .formats import COCO, PAGE, SUBTITLES, SUFFIXES, TEXT
from .numbered_files import check_number
from .record_shards import FORMATS

STDOUT = "-"
_LONGEST_NAME = 255  # bytes, on nearly every file system


def is_folder(output: str) -> bool:
    """Return whether an output is a folder, for subtitles of each video. One that does not exist ends in a slash."""
    return not is_url(output) and (output.endswith(("/", os.sep)) or path_of(output).is_dir())


def only_sidecars(outputs: Sequence[str], beside: bool) -> bool:
    """Return whether files that belong to one video or picture are the only output."""
    return (beside or bool(outputs)) and all(map(is_folder, outputs))


def check_outputs(outputs: Sequence[str], videos: Sequence[Path], beside: bool = False, suffix: str = ".srt") -> None:
    """Check that the captions of these videos can be written.

    Args:
        outputs: Files, folders for subtitles or text, and `-` for stdout.
        videos: Videos and pictures to caption.
        beside: Write subtitles or text next to each video, too.
        suffix: Suffix of the files in folders and next to videos.

    Raises:
        UsageError: A format is unknown, a folder is missing or not writable, an output is given twice, or subtitles
            are requested for several videos in one file, or for pictures.
    """
    if beside:
        if remote := next((video for video in videos if isinstance(video, RemotePath)), None):
            raise UsageError(f"nothing can be written beside {remote}", "use a folder, as -o subtitles/")
        if suffix in SUBTITLES:
            _check_subtitles(videos)
        if inside := next((video for video in videos if sample_key(str(video)) is not None), None):
            raise UsageError(f"nothing can be written next to {inside}", "use -o FOLDER/ for what is in tars")
    seen = set()
    for output in outputs:
        try:
            _check(output, videos, suffix)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from None
        path = output if output == STDOUT or is_url(output) else os.path.realpath(output)
        if path in seen:
            raise UsageError(f"-o {output} is given twice")
        seen.add(path)


def _check(output: str, videos: Sequence[Path], suffix: str) -> None:
    if output == STDOUT:
        return
    if is_url(output):
        _check_remote(output, videos)
    elif is_folder(output):
        if suffix in SUBTITLES:
            _check_subtitles(videos)
        check_folder(Path(output))
    else:
        _check_file(Path(output), videos)


def _check_remote(url: str, videos: Sequence[Path]) -> None:
    if url.endswith("/"):
        hint = f"number the files, as -o {public_name(url)}%05d.parquet or .jsonl"
        raise UsageError(f"-o {public_name(url)} is a folder of a store", hint)
    _check_format(remote_path(url), videos)
    check_writable(url)


def _check_file(path: Path, videos: Sequence[Path]) -> None:
    _check_format(path, videos)
    if not path.parent.is_dir():
        raise UsageError(
            f"cannot write {path}: there is no folder {path.parent}", f"mkdir -p {shlex.quote(str(path.parent))}"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file")
    _check_writable(Path(os.path.realpath(path)).parent)
    if path.exists():
        path.open("r+b").close()


def _check_format(path: Path, videos: Sequence[Path]) -> None:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        hint = f"use one of {', '.join(SUFFIXES)}, or a name that ends in / for a file of each video"
        raise UsageError(f"unknown output format: {path}", hint)
    if suffix == ".parquet":
        load_pyarrow()
    if suffix == PAGE:
        load_jinja()
    if suffix in (TAR, *FORMATS):
        check_number(path)
    if suffix == COCO:
        _check_ids(videos)
    if suffix in SUBTITLES:
        _check_subtitles(videos)
        if len(videos) != 1:
            hint = "use a folder for one file per video, as in -o subtitles/"
            raise UsageError(f"{path} can hold the subtitles of one video, not of {len(videos)}", hint)


def _check_ids(videos: Sequence[Path]) -> None:
    """Check that no two files have the same id in COCO's results."""
    files: dict[int | str, Path] = {}
    for path, image in image_ids(videos).items():
        if (other := files.setdefault(image, path)) != path:
            raise UsageError(f"{other} and {path} have the same id in COCO's results: {image}", "rename one of them")


def check_folder(folder: Path) -> None:
    """Check that a folder exists or can be created, and is writable."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir():
        raise UsageError(f"{existing} is not a folder")
    _check_writable(existing)


def _check_writable(folder: Path) -> None:
    """Create a file and remove it: permissions that can be read do not promise as much."""
    tempfile.TemporaryFile(dir=folder).close()


def _check_subtitles(videos: Sequence[Path]) -> None:
    if videos and all(map(is_image, videos)):
        raise UsageError("pictures have no subtitles", "use -o captions.jsonl")


def beside(videos: Sequence[Path], suffix: str) -> dict[Path, Path]:
    """Return a file next to each video, as `trip/a.srt` for `trip/a.mp4`. See `mirrored` for their names."""
    return {video: video.with_name(path.name) for video, path in _named(videos, lambda folder: folder, suffix).items()}


def mirrored(videos: Sequence[Path], root: Path, suffix: str, folders: Iterable[Path] = ()) -> dict[Path, Path]:
    """Return a file for each video in a tree below `root` that mirrors the tree of the videos.

    No two videos share a name, not even on a case-insensitive file system: `a.mp4` and `a.mkv` in one folder get
    `a.mp4.srt` and `a.mkv.srt`. All videos in the folder count, not only the requested ones, so that names do not
    depend on the request.

    Args:
        videos: Videos and pictures. Pictures are left out unless the suffix is `.txt`.
        root: Folder of the tree, which need not exist.
        suffix: Suffix of the files, as `.srt`.
        folders: Folders that the user named. The tree starts at the common parent of these and of all videos; with
            them it stays the same when videos come or go.
    """
    tops = {_absolute(folder) for folder in folders} | {_absolute(video).parent for video in videos}
    common = os.path.commonpath(tops) if tops else ""
    return _named(videos, lambda folder: root / folder.relative_to(common), suffix)


def _named(videos: Iterable[Path], target: Callable[[Path], Path], suffix: str) -> dict[Path, Path]:
    """Name a file for each video.

    Args:
        target: Returns the folder that takes the files of the videos in a folder.
    """
    # Folders that a case-insensitive file system takes for one share a group.
    groups = defaultdict(list)
    for video in videos:
        if suffix == TEXT or not is_image(video):
            groups[_folded(str(target(_absolute(video).parent)))].append(video)
    files = {}
    for group in groups.values():
        claims = Counter(
            _folded(name) for path in _with_siblings(group, suffix) for name in _possible_names(path, suffix)
        )
        for video in group:
            path = _absolute(video)
            free = (name for name in _possible_names(path, suffix) if claims[_folded(name)] == 1)
            files[video] = target(path.parent) / (next(free, None) or _unique_name(path, suffix))
    return files


def _with_siblings(videos: Iterable[Path], suffix: str) -> set[Path]:
    """Return the videos and all other files in their folders that may have one of this suffix."""
    kinds = VIDEO_SUFFIXES | IMAGE_SUFFIXES if suffix == TEXT else VIDEO_SUFFIXES
    siblings = (Path(folder, name) for folder in {video.parent for video in videos} for name in _listed(folder))
    return set(map(_absolute, (*videos, *(path for path in siblings if path.suffix.lower() in kinds))))


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - a folder may hold a million
    except OSError:
        return []


def _possible_names(path: Path, suffix: str) -> list[str]:
    """Return the names that a video's file may have, first the one that players look for."""
    names = dict.fromkeys(name + suffix for name in (path.stem, path.name))
    return [name for name in names if len(os.fsencode(name)) <= _LONGEST_NAME]


def _unique_name(path: Path, suffix: str) -> str:
    """Return a name that no other video has, for when the usual ones are taken or too long."""
    end = f".{digest(str(path), 8)}{suffix}"
    return os.fsencode(path.name)[: _LONGEST_NAME - len(end)].decode(errors="ignore") + end


def _absolute(path: Path) -> Path:
    """Return an absolute path without `..`, which could lead out of the tree; a tar counts as a folder."""
    return Path(os.path.abspath(without_range(path)))  # noqa: PTH100 - pathlib's keeps them


def _folded(name: str) -> str:
    """Fold names that a case-insensitive or normalizing file system takes for one."""
    return unicodedata.normalize("NFC", name.casefold())
