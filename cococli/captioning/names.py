"""Names for files that belong to one video each: beside it, or in a tree like that of the videos."""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..files import digest
from ..media.discover import VIDEO_SUFFIXES, is_image

_MOST_BYTES = 255  # of a name, on nearly every disk


def beside(videos: Sequence[Path], suffix: str) -> dict[Path, Path]:
    """A file for each video in its own folder, as `trip/a.srt` for `trip/a.mp4`. See `mirrored`."""
    return {video: video.with_name(path.name) for video, path in _named(videos, lambda folder: folder, suffix).items()}


def mirrored(videos: Sequence[Path], root: Path, suffix: str, folders: Iterable[Path] = ()) -> dict[Path, Path]:
    """A file for each video in a tree below `root` that is like the tree of the videos.

    No two videos get one name, not even on a disk that takes `A` for `a`: where `a.mp4` and `a.mkv` stand in one
    folder, they get `a.mp4.srt` and `a.mkv.srt`. What stands in a folder decides, not which of it was asked for; so
    when `a.mkv` is captioned later, `a.srt` stays as it was written for an `a.mp4` that was alone then.

    Args:
        videos: Pictures among them are left out: they have no subtitles.
        root: Need not exist.
        suffix: Of the files, as `.srt`.
        folders: Those that the user named. The tree begins where they and all videos have their common parent; with
            them it stays the same when videos come or go.
    """
    tops = {_absolute(folder) for folder in folders} | {_absolute(video).parent for video in videos}
    common = os.path.commonpath(tops) if tops else ""
    return _named(videos, lambda folder: root / folder.relative_to(common), suffix)


def _named(videos: Iterable[Path], place: Callable[[Path], Path], suffix: str) -> dict[Path, Path]:
    """Names in the folders where each video's folder has its place."""
    together = defaultdict(list)  # folders that some disk takes for one
    for video in videos:
        if not is_image(video):
            together[_folded(str(place(_absolute(video).parent)))].append(video)
    chosen = {}
    for group in together.values():
        claims = Counter(_folded(name) for path in _with_siblings(group) for name in _candidates(path, suffix))
        for video in group:
            path = _absolute(video)
            free = (name for name in _candidates(path, suffix) if claims[_folded(name)] == 1)
            chosen[video] = place(path.parent) / (next(free, None) or _digested(path, suffix))
    return chosen


def _with_siblings(videos: Iterable[Path]) -> set[Path]:
    """The videos, and those that stand beside them."""
    beside = (Path(folder, name) for folder in {video.parent for video in videos} for name in _listed(folder))
    return set(map(_absolute, (*videos, *(path for path in beside if path.suffix.lower() in VIDEO_SUFFIXES))))


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - a folder may hold a million
    except OSError:
        return []


def _candidates(path: Path, suffix: str) -> list[str]:
    """Names that a video may have, the one that players look for first."""
    names = dict.fromkeys(name + suffix for name in (path.stem, path.name))
    return [name for name in names if len(os.fsencode(name)) <= _MOST_BYTES]


def _digested(path: Path, suffix: str) -> str:
    """A name that no other video has, where all candidates are claimed twice or too long."""
    end = f".{digest(str(path), 8)}{suffix}"
    return os.fsencode(path.name)[: _MOST_BYTES - len(end)].decode(errors="ignore") + end


def _absolute(path: Path) -> Path:
    """Without `..`, so that nothing leads out of a tree."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - pathlib's keeps them


def _folded(name: str) -> str:
    """Equal for names that some disk takes for one."""
    return unicodedata.normalize("NFC", name.casefold())
