"""Where captions go: what `-o` names, checked before any work is done."""

import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..media.discover import is_image
from ..retrieval.formats import load_pyarrow
from .formats import SUBTITLES, SUFFIXES

STDOUT = "-"


def is_folder(output: str) -> bool:
    """Whether an output is a folder, for a file of subtitles for each video. One that is not there ends in a slash."""
    return output.endswith("/") or Path(output).is_dir()


def only_subtitles(outputs: Sequence[str], beside: bool) -> bool:
    """Return whether captions go nowhere but into subtitles, which pictures have none of."""
    return (beside or bool(outputs)) and all(map(is_folder, outputs))


def check_outputs(outputs: Sequence[str], videos: Sequence[Path], beside: bool = False) -> None:
    """Refuse outputs that could not take the captions of these videos.

    Args:
        outputs: Files, folders for subtitles, and `-` for stdout.
        videos: What is captioned.
        beside: Subtitles go beside each video.

    Raises:
        UsageError: an unknown format, a place that is missing or not writable, one place twice, or subtitles of
            several videos in one file, or of pictures.
    """
    if beside:
        _check_subtitles(videos)
    written = set()
    for output in outputs:
        try:
            _check(output, videos)
        except OSError as error:
            raise UsageError(f"cannot write {output}: {error.strerror}") from None
        place = output if output == STDOUT else os.path.realpath(output)
        if place in written:
            raise UsageError(f"-o {output} is given twice")
        written.add(place)


def _check(output: str, videos: Sequence[Path]) -> None:
    if output == STDOUT:
        return
    if is_folder(output):
        _check_subtitles(videos)
        _check_folder(Path(output))
    else:
        _check_file(Path(output), videos)


def _check_file(path: Path, videos: Sequence[Path]) -> None:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        hint = f"end its name in {', '.join(SUFFIXES)}, or in / for a folder of subtitles"
        raise UsageError(f"cannot tell the format of {path}", hint)
    if not path.parent.is_dir():
        raise UsageError(
            f"there is no folder {path.parent} to write {path.name} in", f"mkdir -p {shlex.quote(str(path.parent))}"
        )
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file")
    _try(Path(os.path.realpath(path)).parent)
    if path.exists():
        path.open("r+b").close()
    if suffix == ".parquet":
        load_pyarrow()
    if suffix in SUBTITLES:
        _check_subtitles(videos)
        if len(videos) != 1:
            hint = "name a folder for a file of each, as in -o subtitles/"
            raise UsageError(f"{path} holds the subtitles of one video, but {len(videos)} were given", hint)


def _check_folder(folder: Path) -> None:
    """Refuse a folder that can neither be written in nor made."""
    there = next(place for place in (folder, *folder.parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"{there} is not a folder")
    _try(there)


def _try(folder: Path) -> None:
    """Make a file and remove it: no rights can be read that promise as much."""
    tempfile.TemporaryFile(dir=folder).close()


def _check_subtitles(videos: Sequence[Path]) -> None:
    if all(map(is_image, videos)):
        raise UsageError("pictures have no subtitles", "use -o captions.jsonl")
