"""ffmpeg commands that cut moments out of videos."""

import os
import re
import shlex
from itertools import chain, count
from pathlib import Path

from ..files import find_member
from ..media.videos import timestamp_offset
from .index import Entry

_ROUNDING = 0.0005  # seconds: entries keep times in milliseconds
_EARLY = 20.0  # seconds to seek before the moment: in some containers ffmpeg seeks up to a keyframe too far
_LONGEST_STEM = 200  # bytes; file systems limit names to 255


def cut_command(entry: Entry, taken: set[str] | None = None) -> str:
    """Return the ffmpeg command that cuts out the moment of an entry, exact to the frame.

    It writes a file in the working folder, encoded again, as copies start at keyframes. It is one line of printable
    characters.

    Args:
        taken: Names of files that other commands write; that of this command is added.

    Raises:
        VideoError: The video cannot be read.
    """
    path = Path(entry.video)
    name = _name(path, entry, set() if taken is None else taken)
    return " ".join(map(_quoted, [*cut_words(path, entry.start, entry.end), _argument(Path(name))]))


def cut_words(path: Path, start: float, end: float) -> list[str]:
    """Return the words of an ffmpeg command that cuts a span out of a video, up to the name of the output.

    Args:
        start: Seconds into the video, to the millisecond.
        end: Likewise.

    Raises:
        VideoError: The video cannot be read.
    """
    demuxer, offset = timestamp_offset(path)
    source, protocols = _argument(path), "file"
    if member := find_member(path):
        first, after = member.offset, member.offset + member.size
        source, protocols = f"subfile,,start,{first},end,{after},,:{_argument(member.container)}", "file,subfile"
    begin = max(0.0, start - _ROUNDING) + offset
    seek = begin - _EARLY if start > _EARLY else 0.0
    return [
        # Otherwise it reads the commands that follow in a pipe.
        *("ffmpeg", "-nostdin"),
        # Keeps the file from opening others, whatever it holds by then.
        *("-protocol_whitelist", protocols, "-f", demuxer),
        # Versions of ffmpeg differ in the start of a file.
        *("-seek_timestamp", "1"),
        *_seconds("-ss", seek),
        *("-i", source),
        *_seconds("-ss", begin - seek),
        *_seconds("-t", end - _ROUNDING + offset - begin),
        # Otherwise ffmpeg 5 repeats frames up to the time base.
        *("-fps_mode", "vfr"),
        # Rounding to a frame rate may drop the last frame.
        *("-enc_time_base:v", "1/90000"),
        *("-c:v", "libx264", "-crf", "18", "-c:a", "aac"),
    ]


def _seconds(option: str, seconds: float) -> tuple[str, ...]:
    """Return an option of ffmpeg, or nothing for 0: some files cannot be seeked, not even to their start."""
    return (option, f"{seconds:.6f}") if seconds else ()


def _argument(path: Path) -> str:
    """Return a path that ffmpeg reads neither as an option nor as a protocol."""
    return str(path) if path.is_absolute() else f"./{path}"


def _name(path: Path, entry: Entry, taken: set[str]) -> str:
    """Return a name that is not taken yet: videos in two folders may have the same name."""
    stem = os.fsdecode(os.fsencode(path.stem)[:_LONGEST_STEM]) + f"_{entry.start:.2f}-{entry.end:.2f}"
    names = chain([f"{stem}.mp4"], (f"{stem}_{number}.mp4" for number in count(2)))
    name = next(name for name in names if name not in taken)
    taken.add(name)
    return name


def _quoted(word: str) -> str:
    """Quote a word for a shell, with line breaks, undecodable bytes and control characters spelled out."""
    if word.isprintable():
        return shlex.quote(word)
    spelled = re.sub(rb"[^ -&(-\[\]-~]", lambda byte: b"\\x%02x" % byte[0][0], os.fsencode(word))
    return f"$'{spelled.decode()}'"
