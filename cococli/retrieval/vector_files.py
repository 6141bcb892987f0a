"""Files of vectors: `.npz`, JSONL, Parquet, LanceDB tables and the folders of clip-retrieval."""

import importlib.util
import json
import os
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CocaError, UsageError
from ..files import io_errors
from ..overwrite import remember, write_output
from ..tables import load_pyarrow
from .index import ABOUT, About, Entry, Index, IndexPaths, about_of
from .vectors import REBUILD, are_unit

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
    if not importlib.util.find_spec("lancedb"):
        raise UsageError(".lance needs LanceDB", "pip install 'cococli[lance]'")
    load_pyarrow()


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


def _open_lance(path: Path) -> Any:
    """Open the database of a LanceDB table: `db/clips.lance` is the table `clips` of the database `db`."""
    os.environ.setdefault("LANCE_LOG", "error")
    import lancedb

    return lancedb.connect(path.parent)


def _write_lance(path: Path, table: Any) -> None:
    try:
        written = _open_lance(path).create_table(path.stem, table, mode="overwrite")
        written.optimize()  # which removes versions older than a week
    except Exception as error:  # it raises many kinds
        raise CocaError(f"cannot write {path}: {str(error).splitlines()[0]}") from None
    remember(_lance_manifest(path))


def open_vectors(path: Path, root: Path | None = None) -> Index:
    """Read an index, or a LanceDB table of `write_vectors`. See `Index`.

    Raises:
        UsageError: It is neither, or damaged; or LanceDB is not installed.
    """
    return LanceIndex(path, root) if path.suffix.lower() == LANCE and not (path / ABOUT).exists() else Index(path, root)


class LanceIndex(Index):
    """A LanceDB table in memory, with paths as the run that wrote it spelled them. Entries do not tell their frames."""

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        check_lancedb()
        self.folder, self.root = folder, root
        self.paths = IndexPaths(os.path.realpath(folder.parent), relative=False)
        if not _lance_manifest(folder).is_file():
            raise UsageError(f"{folder} is not a LanceDB table", "coca embed PATHS -o x.lance writes one")
        self._state = self._version()
        try:
            table = _open_lance(folder).open_table(folder.stem).to_arrow()
            facts = json.loads((table.schema.metadata or {}).get(b"coca", b"null"))
            if not facts or not {"video", "start", "end", "text", "vector"} <= {*table.column_names}:
                raise UsageError(f"{folder} is not a table that coca embed wrote", REBUILD)
            column = table["vector"].combine_chunks()
            self.vectors = np.asarray(column.flatten()).reshape(len(column), column.type.list_size)  # [N, D]
            empty = {"video": "", "start": 0.0, "end": 0.0, "text": ""}
            self._columns = {name: table[name].fill_null(value).to_pylist() for name, value in empty.items()}
        except UsageError:
            raise
        except Exception as error:  # LanceDB raises many kinds
            raise UsageError(f"cannot read {folder}: {str(error).splitlines()[0]}", REBUILD) from None
        self.about = about_of(facts, str(folder))
        self.rows = np.arange(len(column))
        self.is_text = np.array([not video for video in self._columns["video"]], bool)
        self._segments = Counter(self._columns["video"])
        if wrong := int((~are_unit(self.vectors)).sum()):
            raise UsageError(f"{folder} is damaged: {wrong} of {len(column)} vectors are not of length 1", REBUILD)

    def has_changed(self) -> bool:
        return self._version() != self._state

    def _version(self) -> tuple[int, int, int]:
        status = _lance_manifest(self.folder).stat()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _kept(self, row: int) -> Entry:
        video, start, end, text = (self._columns[name][row] for name in ("video", "start", "end", "text"))
        return Entry(row, video, start, end, (), self._segments[video] if video else 1, text)


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
