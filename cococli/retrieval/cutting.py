"""The command that cuts a moment out of a video."""

import shlex
from pathlib import Path

from ..video.videos import first_frame_time
from .entries import Entry

_ROUNDED = 0.0005  # seconds by which an entry's times may be off: they are kept in milliseconds


def cut_command(entry: Entry) -> str:
    """The ffmpeg command that cuts the moment of an entry, to the frame, into a file in the working folder.

    It encodes anew: without that a cut begins at the keyframe before.

    Raises:
        VideoError: the video cannot be read any more.
    """
    path = Path(entry.video)
    shift = first_frame_time(path) - _ROUNDED  # ffmpeg counts from the first packet, which may be one of sound
    start = max(0.0, entry.start + shift)
    name = f"{path.stem}_{entry.start:.2f}-{entry.end:.2f}.mp4"
    return shlex.join([
        *("ffmpeg", "-ss", f"{start:.6f}", "-i", _argument(path), "-t", f"{entry.end + shift - start:.6f}"),
        *("-c:v", "libx264", "-crf", "18", "-c:a", "aac", _argument(Path(name))),
    ])  # fmt: skip


def _argument(path: Path) -> str:
    """A path that ffmpeg takes for one: neither an option nor a protocol."""
    return str(path) if path.is_absolute() else f"./{path}"
