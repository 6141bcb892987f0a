"""Files of vectors: `.npz`, JSONL, Parquet, LanceDB tables and the folders of clip-retrieval."""

import importlib.util
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CocaError, UsageError
from ..files import io_errors
from ..overwrite import remember, write_output
from ..tables import load_pyarrow
from .index import About, Entry

LANCE = ".lance"
SUFFIXES = (".npz", ".jsonl", ".parquet", LANCE)


@dataclass(frozen=True, eq=False)
class Embedding:
    """A vector of the joint space and what it stands for."""

    entry: Entry
    vector: np.ndarray  # [D] float32 or float16, L2-normalized
    model: str

    def to_json(self) -> str:
        """Return one line of ASCII, with the shortest numbers that identify the vector."""
        fields = {**self.entry.fields(), "model": self.model, "vector": [float(str(x)) for x in self.vector]}
        # An undecodable byte of a path stands as a lone surrogate.
        return json.dumps(fields)


def write_vectors(path: Path, entries: Sequence[Entry], vectors: np.ndarray, about: About) -> None:
    """Write vectors [K, D] and their entries to a file, complete or not at all, in the format of its suffix.

    `.npz` holds arrays of K rows: `vectors`, `video`, `start`, `end` and `text`; the others have a row for each.
    All name the model, as vectors of two models cannot be compared; `.npz` and the metadata of Parquet and LanceDB also
    have the other facts of `index.json`.

    Raises:
        CocaError: The file cannot be written.
    """
    facts = asdict(about)
    del facts["version"]
    if path.suffix.lower() == LANCE:
        _write_lance(path, _table(entries, vectors, facts))
        return
    if path.suffix.lower() not in SUFFIXES:
        _write_clip_retrieval(path, entries, vectors)
        return
    with io_errors("write", path), write_output(path) as (file,):
        if path.suffix.lower() == ".npz":
            _write_npz(file, {"vectors": vectors, **_columns(entries)} | {k: np.array(v) for k, v in facts.items()})
        elif path.suffix.lower() == ".parquet":
            _, parquet = load_pyarrow()
            parquet.write_table(_table(entries, vectors, facts), file)
        else:
            for entry, vector in zip(entries, vectors, strict=True):
                file.write(f"{Embedding(entry, vector, about.model).to_json()}\n".encode())


def _columns(entries: Sequence[Entry]) -> dict[str, np.ndarray]:
    """Return the columns of tables, as arrays that load without pickle."""
    return {
        "video": np.array([_encodable(entry.video) for entry in entries], np.str_),
        "start": np.array([entry.start for entry in entries], np.float64),
        "end": np.array([entry.end for entry in entries], np.float64),
        "text": np.array([entry.text for entry in entries], np.str_),
    }


def _write_npz(file: Any, arrays: Mapping[str, np.ndarray]) -> None:
    # Unlike np.savez, this closes the file when the disk is full.
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _table(entries: Sequence[Entry], vectors: np.ndarray, facts: Mapping[str, Any]) -> Any:
    """Return a table of PyArrow with a row for each vector."""
    pyarrow, _ = load_pyarrow()
    flat = pyarrow.array(np.ascontiguousarray(vectors).reshape(-1))
    columns = {name: pyarrow.array(column) for name, column in _columns(entries).items()}
    columns["model"] = pyarrow.array([facts["model"]] * len(entries), pyarrow.string())
    columns["vector"] = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pyarrow.table(columns, metadata={"coca": json.dumps(facts)})


def _encodable(path: str) -> str:
    """Spell out bytes of a path that are not UTF-8."""
    return path.encode(errors="backslashreplace").decode()


def check_lancedb() -> None:
    """Check that LanceDB is installed, without loading it: its threads would not survive in reader processes.

    Raises:
        UsageError: It is not.
    """
    load_pyarrow()
    if not importlib.util.find_spec("lancedb"):
        raise UsageError(".lance needs LanceDB", "pip install 'cococli[lance]'")


def files_of(output: Path) -> list[Path]:
    """Return the files of an output that may be replaced."""
    if output.suffix.lower() == LANCE:
        return [_lance_manifest(output)]
    names = ("img_emb/img_emb_0.npy", "text_emb/text_emb_0.npy", "metadata/metadata_0.parquet")
    return [output] if output.suffix.lower() in SUFFIXES else [output / name for name in names]


def _lance_manifest(path: Path) -> Path:
    """Return the file that describes the newest version of a LanceDB table; a missing one if there is no table."""
    versions = path / "_versions"
    return max(versions.glob("*.manifest"), key=lambda file: file.stat().st_mtime_ns, default=versions)


def _write_lance(path: Path, table: Any) -> None:
    """Write a LanceDB table: `db/clips.lance` is the table `clips` of the database `db`."""
    os.environ.setdefault("LANCE_LOG", "error")
    import lancedb

    try:
        written = lancedb.connect(path.parent).create_table(path.stem, table, mode="overwrite")
        written.optimize()  # which removes versions older than a week
    except Exception as error:  # it raises many kinds
        raise CocaError(f"cannot write {path}: {str(error).splitlines()[0]}") from None
    remember(_lance_manifest(path))


def _write_clip_retrieval(folder: Path, entries: Sequence[Entry], vectors: np.ndarray) -> None:
    """Write vectors as `clip-retrieval inference` does: pictures and videos with `image_path`, or texts."""
    pyarrow, parquet = load_pyarrow()
    columns = _columns(entries)
    pictures, texts, metadata = files_of(folder)
    if is_text := not any(entry.video for entry in entries):
        columns = {"caption": columns["text"]}
    else:
        columns = {"image_path": columns.pop("video"), "caption": columns.pop("text"), **columns}
    numbers = texts if is_text else pictures
    with io_errors("write", folder):
        for path in (numbers, metadata):
            path.parent.mkdir(parents=True, exist_ok=True)
        with write_output(numbers, metadata) as (array, table):
            np.lib.format.write_array(array, np.ascontiguousarray(vectors), allow_pickle=False)
            parquet.write_table(pyarrow.table({name: pyarrow.array(one) for name, one in columns.items()}), table)
