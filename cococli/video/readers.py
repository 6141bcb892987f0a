"""The right reader for a file."""

import os
import stat
from pathlib import Path

from ..errors import VideoError
from .discover import is_image
from .pictures import open_picture
from .reading import Reader, open_file, reason
from .videos import open_video


def open_reader(path: Path) -> Reader:
    """Read the frame times of a video or picture.

    Raises:
        VideoError: why it cannot be read, in a few words, without the path.
    """
    _require_content(path)
    if is_image(path):
        picture = open_picture(path)
        if picture is not None:
            return picture
    return open_video(path)


def _require_content(path: Path) -> None:
    """Refuse what is no readable file with something in it. A pipe would block for ever."""
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()
            raise VideoError("a folder, not a video")
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("not a regular file")
    except (OSError, ValueError) as error:
        raise VideoError(reason(error)) from None
    open_file(path).close()
    if status.st_size == 0:
        raise VideoError("empty file")
