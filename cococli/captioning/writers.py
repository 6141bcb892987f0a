"""Records to files, each written as it comes."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import FileIO
from pathlib import Path

from ..errors import CocaError, UsageError
from ..video.discover import is_image
from .records import Outcome, Record

Write = Callable[[Outcome], None]


def check_output(path: Path, videos: Sequence[Path]) -> None:
    """Refuse an output that could not take the captions of these videos, before any work is done.

    Raises:
        UsageError: unknown format, a folder that is missing or not writable, or subtitles of more than one video.
    """
    if path.suffix.lower() not in WRITERS:
        raise UsageError(f"cannot tell the format of {path}", f"end its name in {' or '.join(WRITERS)}")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "name a file in it, as in captions.jsonl")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} in", f"mkdir -p {path.parent}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(f"no permission to write {path}")
    if path.suffix.lower() == ".srt":
        _check_subtitles(path, videos)


def open_writer(path: Path) -> AbstractContextManager[Write]:
    """A function that writes one outcome to this file, which is emptied first. The suffix tells the format.

    Raises:
        CocaError: the file cannot be opened, or, from the function, written; what was written stays.
    """
    return WRITERS[path.suffix.lower()](path)


@contextmanager
def jsonl_writer(path: Path) -> Iterator[Write]:
    """One line of JSON for each outcome."""
    with _one_line_errors(path):
        # Unbuffered: a line is on disk when it is written, and closing a full disk has nothing left to fail on.
        file = path.open("wb", buffering=0)

    def write(outcome: Outcome) -> None:
        with _one_line_errors(path):
            _write_all(file, f"{outcome.to_json()}\n".encode())

    with file:
        yield write


@contextmanager
def srt_writer(path: Path) -> Iterator[Write]:
    """SubRip subtitles. A video that failed leaves the file as it was."""

    def write(outcome: Outcome) -> None:
        if isinstance(outcome, Record):
            with _one_line_errors(path):
                path.write_text(to_srt([outcome]), encoding="utf-8", newline="\n")

    yield write


WRITERS = {".jsonl": jsonl_writer, ".srt": srt_writer}


def to_srt(records: Sequence[Record]) -> str:
    """Subtitles with one cue for each record (SubRip: number, times, text, blank line)."""
    cues = []
    for number, record in enumerate(records, start=1):
        # A one-frame file has no length, and a cue without one is never shown.
        end = record.end if record.end > record.start else record.start + 1
        cues.append(f"{number}\n{srt_time(record.start)} --> {srt_time(end)}\n{cue_text(record.caption)}\n")
    return "\n".join(cues)


def srt_time(seconds: float) -> str:
    """Seconds as SubRip's HH:MM:SS,mmm."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d},{milliseconds:03d}"


def cue_text(text: str) -> str:
    """The text on one line that no player takes for the end of the cue or the times of the next."""
    return " ".join(text.split()).replace("-->", "->") or "-"


def _check_subtitles(path: Path, videos: Sequence[Path]) -> None:
    if len(videos) != 1:
        raise UsageError(
            f"{path} holds the subtitles of one video, but {len(videos)} were given",
            "use -o captions.jsonl for many, or one command for each",
        )
    if is_image(videos[0]):
        raise UsageError(f"a picture has no subtitles: {videos[0]}", "use -o captions.jsonl")


def _write_all(file: FileIO, data: bytes) -> None:
    """A raw file may take only part of the data when the disk fills; asking again tells why."""
    while data:
        data = data[file.write(data) :]


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CocaError(f"cannot write {path}: {error.strerror or error}", "what was written so far is kept") from error
