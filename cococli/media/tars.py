"""Pictures and videos in tars, which are read where they are: nothing is unpacked."""

import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import UsageError
from ..files import os_reason
from ..stores import open_file
from ..urls import RemotePath

TAR = ".tar"

_BRACES = re.compile(r"\{[^{}]*(?:\.\.|,)[^{}]*\}.*\.tar", re.IGNORECASE | re.DOTALL)


class TarMember(NamedTuple):
    """A file in an uncompressed tar."""

    name: str  # as the tar has it: anything
    offset: int  # of its first byte
    size: int

    def head(self, tar: BinaryIO, length: int = 4096) -> bytes:
        """Return its first bytes."""
        tar.seek(self.offset)
        return tar.read(min(self.size, length))


def is_tar(path: str | os.PathLike[str]) -> bool:
    """Return whether a file's name is that of a tar."""
    return os.fspath(path).lower().endswith(TAR)


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern of tars stands for, as `shards/{000..012}.tar`; other names unchanged.

    Raises:
        UsageError: The package webdataset is not installed.
    """
    if not _BRACES.search(pattern) or os.path.lexists(pattern):
        return [pattern]
    try:
        from braceexpand import braceexpand  # which webdataset uses, but is slow to import
    except ImportError:
        raise UsageError("patterns of tars need the package webdataset", "pip install 'cococli[webdataset]'") from None
    try:
        return list(braceexpand(pattern))
    except ValueError:  # its braces are unbalanced
        return [pattern]


@contextmanager
def open_tar(path: str | Path) -> Iterator[tuple[BinaryIO, str]]:
    """Open a tar; return its version, too, if it is remote. See `stores.Listed`.

    Raises:
        OSError: It cannot be read.
    """
    if isinstance(path, RemotePath):
        with open_file(path.url) as (remote, version):
            yield remote, version or path.version
    else:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib's may raise other errors
            yield file, ""


def read_members(file: BinaryIO, problems: list[str]) -> Iterator[TarMember]:
    """Yield the files in a tar, up to where it is damaged or ends.

    The position of `file` may be changed in between.

    Args:
        problems: Receives what is wrong with the tar, if anything is.

    Raises:
        OSError: It cannot be read.
    """
    size, end = file.seek(0, os.SEEK_END), 0
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                if member.size < 0:  # which leads back, perhaps to itself
                    raise tarfile.TarError
                end = tar.offset
                tar.members.clear()  # type: ignore[attr-defined]  # a tar of a million samples fills gigabytes
                if member.offset_data + member.size > size:
                    break
                if member.isreg() and not member.issparse():
                    yield TarMember(member.name, member.offset_data, member.size)
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError) as error:
        problem = "is truncated" if "unexpected end" in str(error) else "is damaged"
        problems.append(f"{problem} at byte {end:,}")
        return
    file.seek(end)
    rest = file.read(tarfile.BLOCKSIZE)
    if end > size or len(rest) < tarfile.BLOCKSIZE:
        problems.append(f"is truncated at byte {size:,}")
    elif rest.strip(b"\0"):
        problems.append(f"is damaged at byte {end:,}")


def clean_name(name: str) -> str:
    """Return the name of a file in a tar without parts that lead elsewhere: `../a/./b.jpg` is `a/b.jpg`."""
    return "/".join(part for part in name.split("/") if part not in ("", os.curdir, os.pardir))


def describe_tar(path: Path) -> str:
    """Return why a tar itself is among the inputs, and not only its pictures and videos."""
    problems: list[str] = []
    try:
        with path.open("rb") as file:
            for _ in read_members(file, problems):
                pass
    except OSError as error:
        return os_reason(error)
    return f"the tar {problems[0]}: the rest of it is left out" if problems else "no picture or video in this tar"
