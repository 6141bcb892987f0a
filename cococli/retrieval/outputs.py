"""Where vectors go."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..journal import cache_path
from .formats import SUFFIXES, load_pyarrow
from .index import index_files

STDOUT = "-"


@dataclass(frozen=True)
class Outputs:
    """The places that a user named."""

    index: Path | None  # a folder; one in the cache where only files were named; None: only stdout was
    files: tuple[Path, ...]
    stdout: bool

    @property
    def written(self) -> list[tuple[str, Path]]:
        """Every file that may be written, with how the user named it."""
        index = index_files(self.index) if self.index else []
        return [*((f"-o {path}", path) for path in self.files), *((str(path), path) for path in index)]


def parse_outputs(outputs: Sequence[str], made_with: str) -> Outputs:
    """Tell folders, which are indexes, from files.

    Args:
        made_with: The model and the like. An index in the cache is of one kind only.

    Raises:
        UsageError: nothing is named, two folders are, or a file that cannot be written or of an unknown format.
    """
    if not outputs:
        raise UsageError("where are the vectors to go?", "name a folder for an index, as in -o index/")
    named = [output for output in outputs if output != STDOUT]
    folders = [Path(output) for output in named if _is_folder(output)]
    files = tuple(Path(output) for output in named if not _is_folder(output))
    if len(folders) > 1:
        raise UsageError(f"-o names two folders: {folders[0]} and {folders[1]}", "one run fills one index")
    for path in files:
        _check(path)
    index = folders[0] if folders else None
    if files and not folders:
        index = cache_path(made_with, *map(os.path.realpath, files), suffix=".index")
    return Outputs(index, files, STDOUT in outputs)


def _is_folder(output: str) -> bool:
    return output.endswith("/") or not Path(output).suffix or Path(output).is_dir()


def _check(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        hint = f"end its name in {', '.join(SUFFIXES)}, or in / for an index"
        raise UsageError(f"cannot tell the format of {path}", hint)
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is not a file")
    if path.suffix.lower() == ".parquet":
        load_pyarrow()
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {path}: {folder} is no folder that can be written to")
