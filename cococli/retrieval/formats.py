"""Vectors to one file: `.npz`, lines of JSON, or Parquet; written whole or not at all."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CocaError, UsageError
from ..overwrite import write_output
from .entries import Entry

SUFFIXES = (".npz", ".jsonl", ".parquet")


def write(path: Path, entries: Sequence[Entry], vectors: np.ndarray) -> None:
    """Write vectors [K, D] and what each stands for; the suffix tells the format. What stood there stays on a failure.

    `.npz` holds arrays of one length, `vectors`, `video`, `start`, `end` and `text`; JSONL and Parquet a row for each.

    Raises:
        CocaError: the file cannot be written.
    """
    try:
        with write_output(path) as (file,):
            if path.suffix.lower() == ".npz":
                _write_npz(file, {"vectors": vectors, **_columns(entries)})
            elif path.suffix.lower() == ".parquet":
                _write_parquet(file, entries, vectors)
            else:
                file.writelines(f"{line}\n".encode() for line in json_lines(entries, vectors))
    except OSError as error:
        raise CocaError(f"cannot write {path}: {error.strerror or error}") from None


def json_lines(entries: Sequence[Entry], vectors: np.ndarray) -> Iterator[str]:
    """A line of JSON for each entry, with the shortest numbers that are the vector's."""
    for entry, vector in zip(entries, vectors, strict=True):
        fields = json.dumps(entry.fields())  # in ASCII: an undecodable byte of a path stands as a lone surrogate
        yield f'{fields[:-1]}, "vector": [{", ".join(map(str, vector))}]}}'


def load_pyarrow() -> tuple[Any, Any]:
    """The packages that write Parquet.

    Raises:
        UsageError: they are not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UsageError("Parquet needs pyarrow", "pip install 'cococli[parquet]'") from None
    return pyarrow, parquet


def _columns(entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Arrays that load without pickle."""
    return {
        "video": np.array([_writable(entry.video) for entry in entries], np.str_),
        "start": np.array([entry.start for entry in entries], np.float64),
        "end": np.array([entry.end for entry in entries], np.float64),
        "text": np.array([entry.text for entry in entries], np.str_),
    }


def _write_npz(file: Any, arrays: Mapping[str, np.ndarray]) -> None:
    with zipfile.ZipFile(file, "w") as archive:  # np.savez leaves it open when the disk is full, which Python tells of
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _write_parquet(file: Any, entries: Sequence[Entry], vectors: np.ndarray) -> None:
    pyarrow, parquet = load_pyarrow()
    flat = pyarrow.array(np.ascontiguousarray(vectors).reshape(-1))
    columns = {name: pyarrow.array(column) for name, column in _columns(entries).items()}
    columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    parquet.write_table(pyarrow.table(columns), file)


def _writable(path: str) -> str:
    """A path as UTF-8 can hold it."""
    return path.encode(errors="backslashreplace").decode()
