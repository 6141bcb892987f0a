"""Vectors to one file: `.npz`, lines of JSON, or Parquet; written whole or not at all."""

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CocaError, UsageError
from ..overwrite import write_output
from .entries import Entry
from .index import About

SUFFIXES = (".npz", ".jsonl", ".parquet")


def write(path: Path, entries: Sequence[Entry], vectors: np.ndarray, about: About) -> None:
    """Write vectors [K, D] and what each stands for; the suffix tells the format. What stood there stays on a failure.

    `.npz` holds arrays of one length, `vectors`, `video`, `start`, `end` and `text`; JSONL and Parquet a row for each.
    All name the model: vectors of two models cannot be compared. `.npz` and the metadata of Parquet have as well what
    else `index.json` has: the identity of the weights, and how videos were sampled and pooled.

    Raises:
        CocaError: the file cannot be written.
    """
    try:
        with write_output(path) as (file,):
            if path.suffix.lower() == ".npz":
                facts = {name: np.array(value) for name, value in _facts(about).items()}
                _write_npz(file, {"vectors": vectors, **_columns(entries), **facts})
            elif path.suffix.lower() == ".parquet":
                _write_parquet(file, entries, vectors, about)
            else:
                file.writelines(f"{line}\n".encode() for line in json_lines(entries, vectors, about.model))
    except OSError as error:
        raise CocaError(f"cannot write {path}: {error.strerror or error}") from None


def json_lines(entries: Sequence[Entry], vectors: np.ndarray, model: str) -> Iterator[str]:
    """A line of JSON for each entry, with the shortest numbers that are the vector's."""
    for entry, vector in zip(entries, vectors, strict=True):
        fields = json.dumps(
            {**entry.fields(), "model": model}
        )  # in ASCII: an undecodable byte of a path stands as a lone surrogate
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


def _write_parquet(file: Any, entries: Sequence[Entry], vectors: np.ndarray, about: About) -> None:
    pyarrow, parquet = load_pyarrow()
    flat = pyarrow.array(np.ascontiguousarray(vectors).reshape(-1))
    columns = {name: pyarrow.array(column) for name, column in _columns(entries).items()}
    columns["model"] = pyarrow.array([about.model] * len(entries), pyarrow.string())
    columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    parquet.write_table(pyarrow.table(columns, metadata={"coca": json.dumps(_facts(about))}), file)


def _facts(about: About) -> dict[str, Any]:
    facts = asdict(about)
    del facts["version"]
    return facts


def _writable(path: str) -> str:
    """A path as UTF-8 can hold it."""
    return path.encode(errors="backslashreplace").decode()
