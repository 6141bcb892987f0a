"""Files embedded in Parquet, as in Hugging Face's data sets: copied once to the cache, where each is read on its own.

A row of a Parquet file cannot be read without the thousand rows around it, so shuffled training would read each picture
a thousand times.
"""

import os
from array import array
from dataclasses import dataclass
from pathlib import Path

from .. import settings
from ..errors import CocaError
from ..files import check_space, digest, format_size, io_errors, member_path, os_reason, write_atomically
from ..reporting import SILENT, Reporter
from ..tables import EmbeddedFiles, find_embedded_files


@dataclass(frozen=True)
class CopiedFiles:
    """The embedded files of a Parquet file in the cache, one after the other."""

    column: str
    file: Path
    offsets: "array[int]"  # of each row's file, and the end of the last

    def has(self, row: int) -> bool:
        """Return whether a row has a file."""
        return self.offsets[row] < self.offsets[row + 1]

    def path(self, row: int, name: str) -> Path:
        """Return the path of a row's file. It is empty if the row has none."""
        start, end = self.offsets[row : row + 2]
        return member_path(self.file, start, end - start, name)


def copy_embedded_files(path: Path, reporter: Reporter = SILENT) -> CopiedFiles | None:
    """Copy the files embedded in a Parquet file to the cache, unless they are there; return None if it has none.

    The copy starts with the offsets, as 64-bit integers. Copies of what the file held earlier are removed.

    Raises:
        UsageError: The file is damaged.
        CocaError: The cache cannot be written.
    """
    if not (embedded := find_embedded_files(path)):
        return None
    status = path.stat()
    name = f"{path.stem[:80]}.{digest(str(path.resolve()), 8)}"
    folder = settings.home() / "datasets"
    key = digest(f"{status.st_size} {status.st_mtime_ns} {embedded.column}", 8)
    copy = folder / f"{name}.{key}"
    with io_errors("write", folder):
        folder.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    with FileLock(folder / "lock"):
        if not copy.exists():
            for old in folder.glob(f"{name}.*"):
                old.unlink()
            _copy(embedded, copy, reporter)
            os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))  # captions of a copy made again are reused
    with io_errors("read", copy), copy.open("rb") as file:
        offsets = array("q")
        offsets.fromfile(file, embedded.rows + 1)
    return CopiedFiles(embedded.column, copy, offsets)


def _copy(embedded: EmbeddedFiles, copy: Path, reporter: Reporter) -> None:
    try:
        check_space(copy.parent, embedded.size)
    except OSError as error:
        hint = "set COCA_HOME to a folder on another disk"
        raise CocaError(f"cannot copy the pictures in {embedded.path}: {os_reason(error)}", hint) from None
    reporter.note(f"copying the files in {embedded.path} once: {format_size(embedded.size)} in {copy.parent}")
    offsets = array("q", [8 * (embedded.rows + 1)])
    with (
        reporter.progress(f"copying the files in {embedded.path.name}", embedded.rows) as progress,
        io_errors("write", copy),
        write_atomically(copy) as (file,),
    ):
        file.seek(offsets[0])
        for content in embedded.read():
            file.write(content)
            offsets.append(offsets[-1] + len(content))
            progress.advance()
        file.seek(0)
        offsets.tofile(file)
