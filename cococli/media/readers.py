"""Interface of all readers, and the choice of a reader for a file."""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np

from ..errors import VideoError
from ..reporting import SILENT, Reporter

MAX_FRAME_PIXELS = 100_000_000  # of a video or animation: three times 8K; decoders hold several frames at once
PROGRESS_BYTES = 16 << 10  # compressed bytes whose decoding counts as progress

_MOTION_JPEG = (".mjpeg", ".mjpg")  # consecutive JPEGs, of which Pillow would read only the first
_ARCHIVES = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"PK\x07\x08": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2")  # of still pictures


class Frame(NamedTuple):
    """A decoded frame."""

    time: float  # seconds, on the clock of its file
    pixels: np.ndarray  # [H, W, 3] uint8, RGB, upright


class Reader(Protocol):
    """A video or picture whose frames are timed but not decoded.

    Times are those that players show: 0 is where the file begins, with sound or with a picture.
    """

    @property
    def starts(self) -> np.ndarray:
        """[N] float64: when each frame appears, in seconds, ascending."""

    @property
    def end(self) -> float:
        """End of the last frame in seconds; 0.0 for a still picture."""

    def frames(self, indices: Sequence[int]) -> Iterator[Frame]:
        """Decode the frames at these ascending indices, one in memory at a time.

        A frame that is damaged is replaced by the one that a player would still show.

        Raises:
            VideoError: Nothing can be decoded.
        """


def open_reader(path: Path, reporter: Reporter = SILENT) -> Reader:
    """Read the frame times of a video or picture. The content decides which it is, not the file's name.

    Args:
        reporter: Receives a note if the decoder chosen for a video fails and another one decodes it.

    Raises:
        VideoError: Why it cannot be read, without its path.
    """
    from .pictures import open_picture, reads_heif
    from .videos import open_video

    _require_content(path)
    with open_file(path) as file:
        head = file.read(512)
    if archive := _archive(head):
        raise VideoError(f"a {archive} archive, not a video or picture: unpack it first")
    if path.suffix.lower() not in _MOTION_JPEG and (picture := open_picture(path)):
        return picture
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:  # FFmpeg would show one tile of it
        raise VideoError(f"not a HEIC picture that can be read{'' if reads_heif() else ': pip install pillow-heif'}")
    return open_video(path, reporter)


def _archive(head: bytes) -> str | None:
    """Recognize an archive by the first 512 bytes of a file; FFmpeg would find the pictures inside."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return next((kind for magic, kind in _ARCHIVES.items() if head.startswith(magic)), None)
    return "tar"


def _require_content(path: Path) -> None:
    """Refuse empty files, folders and special files; reading a pipe would block forever."""
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


def open_file(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        VideoError: It cannot be opened.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise VideoError(reason(error)) from None


def reason(error: Exception) -> str:
    """Describe an error in one line, in lower case."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return text.splitlines()[0].lower()


_progress_listeners: list[Callable[[int], object]] = []


def listen_to_progress(listener: Callable[[int], object]) -> None:
    """Call a function with the size of every packet and frame from now on."""
    _progress_listeners[:] = [listener]


def report_progress(size: int = PROGRESS_BYTES) -> None:
    """Report the number of compressed bytes decoded; by default, enough to count as progress.

    The number of frames does not measure progress: a few bytes may stand for thousands of huge ones.
    """
    for listener in _progress_listeners:
        listener(size)
