"""Choice of a reader for a video or picture."""

import os
import stat
import tarfile
from pathlib import Path

from ..errors import VideoError
from ..files import find_member
from ..reporting import SILENT, Reporter
from .frames import Reader, open_file, reason
from .pictures import open_picture, reads_heif
from .tars import describe_tar, is_tar
from .videos import open_video

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
# In these, FFmpeg would find the pictures, too.
_DOCUMENTS = {b"%PDF-": "a PDF", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": "an Office document"}
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2")  # of still pictures


def open_reader(path: Path, reporter: Reporter = SILENT) -> Reader:
    """Read the frame times of a video or picture. The content decides which it is, not the file's name.

    Args:
        reporter: Receives a note if the decoder chosen for a video fails and another one decodes it.

    Raises:
        VideoError: Why it cannot be read, without its path.
    """
    _require_content(path)
    with open_file(path) as file:
        head = file.read(512)
    archive = _archive(head)
    if is_tar(path) and archive in ("tar", None):
        raise VideoError(describe_tar(path))
    if archive:
        raise VideoError(f"a {archive} archive, not a video or picture: unpack it first")
    if document := next((kind for magic, kind in _DOCUMENTS.items() if head.startswith(magic)), None):
        raise VideoError(f"{document}, not a video or picture: save its pages as pictures first")
    if path.suffix.lower() not in _MOTION_JPEG and (picture := open_picture(path)):
        return picture
    # FFmpeg would show one tile of such a picture.
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
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
        member = find_member(path)
        status = member.container.stat() if member else path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()
            raise VideoError("a folder, not a video")
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("not a regular file")
    except (OSError, ValueError) as error:
        raise VideoError(reason(error)) from None
    open_file(path).close()
    if (member.size if member else status.st_size) == 0:
        raise VideoError("empty file")
