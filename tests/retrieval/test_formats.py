"""Vectors in one file are read back equal by what others read them with, and a file is whole or not there."""

import json
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pyarrow import parquet

from cococli.errors import CocaError
from cococli.retrieval.entries import Entry
from cococli.retrieval.formats import SUFFIXES, json_lines, write
from cococli.retrieval.index import About

UNDECODABLE = b"caf\xe9.mp4".decode("utf-8", "surrogateescape")
ENTRIES = [
    Entry(4, "a.mp4", 0.0, 2.0, (1.0,), 2, "ein Käfer"),
    Entry(0, "a.mp4", 2.0, 3.5, (2.75,), 2),
    Entry(2, UNDECODABLE, end=1.0, frames=(0.5,)),
    Entry(1, text="a \u2028 dog"),
]
WRITTEN = ["a.mp4", "a.mp4", "caf\\udce9.mp4", ""]  # an undecodable byte as JSON spells it, where only UTF-8 goes
ABOUT = About("shapes", "sha256 of its weights", "multi", 4, "mean")
FACTS = {"model": "shapes", "identity": "sha256 of its weights", "frames": "multi", "num_frames": 4, "pool": "mean"}
VECTORS = np.random.default_rng(0).normal(size=(4, 7)).astype(np.float32) ** 9  # of every magnitude


@pytest.fixture(params=["float32", "float16"])
def vectors(request: pytest.FixtureRequest) -> np.ndarray:
    return VECTORS.clip(-1, 1).astype(request.param)


def test_npz_holds_arrays_of_one_length(tmp_path: Path, vectors: np.ndarray) -> None:
    write(tmp_path / "out.npz", ENTRIES, vectors, ABOUT)
    with np.load(tmp_path / "out.npz", allow_pickle=False) as read:
        np.testing.assert_array_equal(read["vectors"], vectors, strict=True)
        columns = {name: read[name].tolist() for name in read.files if name != "vectors"}
    assert columns == {
        "video": WRITTEN,
        "start": [0.0, 2.0, 0.0, 0.0],
        "end": [2.0, 3.5, 1.0, 0.0],
        "text": ["ein Käfer", "", "", "a \u2028 dog"],
        **FACTS,
    }


def test_parquet_holds_a_row_for_each(tmp_path: Path, vectors: np.ndarray) -> None:
    write(tmp_path / "out.PARQUET", ENTRIES, vectors, ABOUT)
    table = parquet.read_table(tmp_path / "out.PARQUET")
    assert table.column_names == ["video", "start", "end", "text", "model", "vector"]
    assert set(table["model"].to_pylist()) == {"shapes"}
    assert json.loads(table.schema.metadata[b"coca"]) == FACTS
    read = np.array([row.as_py() for row in table["vector"]], vectors.dtype)
    np.testing.assert_array_equal(read, vectors, strict=True)
    assert table["video"].to_pylist() == WRITTEN
    assert table["text"].to_pylist() == [entry.text for entry in ENTRIES]
    assert table["end"].to_pylist() == [2.0, 3.5, 1.0, 0.0]


def test_json_lines_hold_the_very_numbers(tmp_path: Path, vectors: np.ndarray) -> None:
    write(tmp_path / "out.jsonl", ENTRIES, vectors, ABOUT)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("ascii").splitlines()]
    read = np.array([line.pop("vector") for line in lines], vectors.dtype)
    np.testing.assert_array_equal(read, vectors, strict=True)
    assert {line.pop("model") for line in lines} == {"shapes"}
    assert lines == [
        {"video": "a.mp4", "start": 0.0, "end": 2.0, "segments": 2, "caption": "ein Käfer", "frames": [1.0]},
        {"video": "a.mp4", "start": 2.0, "end": 3.5, "segments": 2, "frames": [2.75]},
        {"video": UNDECODABLE, "start": 0.0, "end": 1.0, "frames": [0.5]},
        {"text": "a \u2028 dog"},
    ]


@given(arrays.arrays(np.float32, 5, elements=st.floats(-1, 1, width=32)))
def test_every_float_is_written_exactly(vector: np.ndarray) -> None:
    (line,) = json_lines([Entry(0, text="a dog")], vector[None], "shapes")
    np.testing.assert_array_equal(np.array(json.loads(line)["vector"], np.float32), vector)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_nothing_is_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, [], VECTORS[:0], ABOUT)
    shapes: dict[str, Callable[[], object]] = {
        ".npz": lambda: np.load(path)["vectors"].shape,
        ".parquet": lambda: (parquet.read_table(path).num_rows, 7),
        ".jsonl": lambda: (len(path.read_text()), 7),
    }
    assert shapes[suffix]() == (0, 7)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_stood_there_stays_when_the_disk_is_full(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("mine")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(CocaError) as caught:
            write(path, ENTRIES, VECTORS, ABOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.message.startswith(f"cannot write {path}: ") and "\n" not in caught.value.message
    assert "File too large" in caught.value.message
    assert (path.read_text(), list(tmp_path.iterdir())) == ("mine", [path])


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to(tmp_path / "there" / "out.jsonl")
    write(link, ENTRIES, VECTORS, ABOUT)
    assert link.is_symlink()
    assert len((tmp_path / "there" / "out.jsonl").read_text().splitlines()) == 4
