"""The command that cuts a moment out of a video."""

import os
import re
import shlex
from itertools import chain, count
from pathlib import Path

from ..media.videos import timestamp_offset
from .entries import Entry

_ROUNDED = 0.0005  # seconds by which an entry's times may be off: they are kept in milliseconds
_EARLY = 20.0  # seconds: in some containers ffmpeg lands up to a keyframe late, and what comes before is lost
_LONGEST_STEM = 200  # bytes; file systems take names of 255


def cut_command(entry: Entry, taken: set[str] | None = None) -> str:
    """The ffmpeg command that cuts the moment of an entry, to the frame, into a file in the working folder.

    It encodes anew: without that a cut begins at the keyframe before. It is one line, of printable characters only.

    Args:
        taken: Names of files that other commands write; this one's is added.

    Raises:
        VideoError: the video cannot be read any more.
    """
    path = Path(entry.video)
    demuxer, offset = timestamp_offset(path)
    start = max(0.0, entry.start - _ROUNDED) + offset
    seek = start - _EARLY if entry.start > _EARLY else 0.0
    words = [
        *("ffmpeg", "-nostdin"),  # else it eats the commands after it when a shell reads them from a pipe
        *("-protocol_whitelist", "file", "-f", demuxer),  # whatever the file holds by then, it opens no other
        *("-seek_timestamp", "1"),  # versions of ffmpeg differ in where they think that a file begins
        *_seconds("-ss", seek),
        *("-i", _argument(path)),
        *_seconds("-ss", start - seek),
        *_seconds("-t", entry.end - _ROUNDED + offset - start),
        *("-fps_mode", "vfr"),  # keep the frames as they are; ffmpeg 5 repeats them up to the time base
        *("-enc_time_base:v", "1/90000"),  # rounded to a frame rate, as usual, the last frame may drop out
        *("-c:v", "libx264", "-crf", "18", "-c:a", "aac"),
        _argument(Path(_name(path, entry, set() if taken is None else taken))),
    ]
    return " ".join(map(_quoted, words))


def _seconds(option: str, seconds: float) -> tuple[str, ...]:
    """An option of ffmpeg, left out where it is 0: some files cannot be sought in, not even to their start."""
    return (option, f"{seconds:.6f}") if seconds else ()


def _argument(path: Path) -> str:
    """A path that ffmpeg takes for one: neither an option nor a protocol."""
    return str(path) if path.is_absolute() else f"./{path}"


def _name(path: Path, entry: Entry, taken: set[str]) -> str:
    """A name that is not taken: videos in two folders may be called the same."""
    stem = os.fsdecode(os.fsencode(path.stem)[:_LONGEST_STEM]) + f"_{entry.start:.2f}-{entry.end:.2f}"
    names = chain([f"{stem}.mp4"], (f"{stem}_{number}.mp4" for number in count(2)))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return name


def _quoted(word: str) -> str:
    """A word as a shell reads it: line breaks, bytes that are no text and what steers a terminal are spelled out."""
    if word.isprintable():
        return shlex.quote(word)
    spelled = re.sub(rb"[^ -&(-\[\]-~]", lambda byte: b"\\x%02x" % byte[0][0], os.fsencode(word))
    return f"$'{spelled.decode()}'"
