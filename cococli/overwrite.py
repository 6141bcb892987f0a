"""Protect files from being overwritten: those that a command reads, and those that coca did not write.

Coca recognizes a file that it wrote by path, size and modification time, so one that was edited since counts as the
user's. A fingerprint of these is appended to `COCA_HOME/written` before a file takes its place; a run that is killed
in between leaves at worst one fingerprint too many. If the disk is full, neither is written.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import BinaryIO

from . import settings
from .errors import UsageError
from .files import digest, temporary_folder, write_atomically
from .stores import upload, version_of
from .urls import RemotePath

_LOG_LINE = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")


def check_paths(written: Iterable[tuple[str, Path]], read: Iterable[Path]) -> None:
    """Refuse to write to a file that is read, or to one file twice.

    Links and hard links count as the file that they lead to.

    Args:
        written: Every file that may be written, with how the user named it, such as `-o out.csv`.
        read: Every file that is read.

    Raises:
        UsageError: Two of them are the same file.
    """
    names: dict[object, str] = {}
    for name, path in written:
        if other := names.get(identity := _identity(path)):
            raise UsageError(
                f"{name} is given twice" if name == other else f"{other} and {name} are the same file",
                "name another file",
            )
        names[identity] = name
    for path in read:
        if name := names.get(_identity(path), ""):
            raise UsageError(f"{name} would overwrite {path}, which is read", "name another file")


def check_log(path: Path) -> None:
    """Refuse to append to a file that is not a log of coca.

    Raises:
        UsageError: It holds something else.
    """
    with suppress(OSError):
        if (status := path.stat()).st_size and stat.S_ISREG(status.st_mode):
            with path.open("rb") as file:
                if not _LOG_LINE.match(file.read(64)):
                    raise UsageError(f"{path} exists and is not a log of coca", "name another file with --log-file")


def find_foreign(paths: Iterable[Path]) -> list[Path]:
    """Return the files that coca did not write, or that were changed since."""
    existing = [(path, fingerprint) for path in paths if (fingerprint := _existing(path))]
    if not existing:
        return []
    known: set[bytes] = set()
    with suppress(OSError):
        known.update(_registry().read_bytes().split())
    return [path for path, fingerprint in existing if fingerprint not in known]


def refuse_foreign(*paths: Path, name: Path | None = None, hint: str = "") -> None:
    """Refuse to replace files that coca did not write.

    Args:
        name: What the user named, if the files are parts of it.
        hint: What to do instead; by default --overwrite is named.

    Raises:
        UsageError: One of them exists.
    """
    for path in find_foreign(paths):
        raise UsageError(
            f"{name or path} was not written by coca, or was changed since",
            hint or "--overwrite replaces it; or move it away, or name another output",
        )


@contextmanager
def write_output(*destinations: Path) -> Iterator[list[BinaryIO]]:
    """Write files for the user as `files.write_atomically` does, and remember that coca wrote them.

    Those of stores are written to a temporary folder and copied at the end.

    Raises:
        OSError: A folder is missing or not writable, the disk is full, or a store refuses the file.
    """
    remote = [path for path in destinations if isinstance(path, RemotePath)]
    with temporary_folder() if remote else nullcontext(Path()) as folder:
        places = [folder / str(i) if path in remote else path for i, path in enumerate(destinations)]
        with write_atomically(*places) as files:
            yield files
            for file, destination in zip(files, destinations, strict=True):
                if destination not in remote:
                    file.flush()
                    os.fsync(file.fileno())  # on a network disk the modification time is known only then
                    _remember(_fingerprint(destination, os.fstat(file.fileno())))
        for place, destination in zip(places, destinations, strict=True):
            if isinstance(destination, RemotePath):
                upload(place, destination.url)
                _remember(_existing(destination) or b"")


def remember(path: Path) -> None:
    """Remember that coca wrote a file."""
    _remember(_fingerprint(path, path.stat()))


def _identity(path: Path) -> object:
    """Return a value that is equal for all paths of one file: its inode, or its real path if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    except ValueError:
        return str(path)
    return status.st_dev, status.st_ino


def _existing(path: Path) -> bytes | None:
    """Return the fingerprint of a file that exists, and is a regular one and not empty if it is on this machine."""
    if isinstance(path, RemotePath):
        version = version_of(path.url)
        return digest(f"{path}\n{version}", 32).encode() if version else None
    with suppress(OSError, ValueError):
        if (status := path.stat()).st_size and stat.S_ISREG(status.st_mode):
            return _fingerprint(path, status)
    return None


def _fingerprint(path: Path, status: os.stat_result) -> bytes:
    text = f"{os.path.realpath(path)}\n{status.st_size}\n{status.st_mtime_ns}"
    return digest(text, 32).encode()


def _registry() -> Path:
    """Return the file of fingerprints, one a line, that only grows: concurrent runs need no lock to append to it."""
    return settings.home() / "written"


def _remember(fingerprint: bytes) -> None:
    line = b"\n" + fingerprint + b"\n"  # another process may have left a part of a line, on a full disk
    try:
        _registry().parent.mkdir(parents=True, exist_ok=True)
        with _registry().open("ab", buffering=0) as file:
            if (file.write(line) or 0) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(_registry()))
    except OSError as error:
        # If COCA_HOME is read-only, the next run asks for --overwrite. After a full disk it must not: it resumes.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
