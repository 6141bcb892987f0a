"""Files of vectors grow by rows, stay plain `.npy` files, and report damage."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.errors import UsageError
from cococli.retrieval.vectors import REBUILD, VectorFile, are_unit, create, map_vectors

DIMENSION = 24
HEADER = 128  # bytes


def made(seed: int, count: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMENSION)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def add(path: Path, rows: list[int], vectors: np.ndarray) -> None:
    file = VectorFile(path)
    file.write(rows, vectors)
    file.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    create(tmp_path / "vectors.npy", DIMENSION, "float32")
    return tmp_path / "vectors.npy"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numpy_loads_files_at_any_time(tmp_path: Path, dtype: str) -> None:
    path, vectors = tmp_path / "vectors.npy", made(0, 12)
    create(path, DIMENSION, dtype)
    assert np.load(path).shape == (0, DIMENSION)
    for row in range(12):
        add(path, [row], vectors[row : row + 1])
        np.testing.assert_array_equal(np.load(path, mmap_mode="r"), vectors[: row + 1].astype(dtype), strict=True)
        np.testing.assert_array_equal(map_vectors(path), vectors[: row + 1].astype(dtype), strict=True)


def test_rows_are_written_in_any_order(path: Path) -> None:
    vectors = made(0, 4)
    add(path, [0, 1, 2], vectors[:3])
    add(path, [1, 3], vectors[[3, 1]])
    add(path, [], vectors[:0])
    np.testing.assert_array_equal(np.load(path), vectors[[0, 3, 2, 1]])


def test_header_length_is_constant(path: Path) -> None:
    file = VectorFile(path)
    file.write([10**8], made(0, 1))  # sparse: takes no space
    file.close()
    assert np.load(path, mmap_mode="r").shape == (10**8 + 1, DIMENSION)
    np.testing.assert_array_equal(map_vectors(path)[-1:], made(0, 1))


@given(cut=st.integers(HEADER, HEADER + 3 * DIMENSION * 4))
def test_truncated_file_keeps_complete_rows(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    path, vectors = tmp_path_factory.mktemp("cut") / "vectors.npy", made(0, 5)
    create(path, DIMENSION, "float32")
    add(path, [0, 1, 2], vectors[:3])
    path.write_bytes(path.read_bytes()[:cut])
    whole = (cut - HEADER) // (DIMENSION * 4)
    np.testing.assert_array_equal(map_vectors(path), vectors[:whole])
    file = VectorFile(path)
    assert file.count == whole
    np.testing.assert_array_equal(np.load(path), vectors[:whole])  # repaired when opened
    file.write([whole, whole + 1], vectors[whole : whole + 2])
    file.close()
    np.testing.assert_array_equal(np.load(path), vectors[: whole + 2])


def test_uncounted_rows_are_counted_when_opened(path: Path) -> None:
    add(path, [0], made(0, 1))
    with path.open("ab") as file:
        file.write(made(1, 1).tobytes())  # the header still counts one
    add(path, [1], made(2, 1))
    np.testing.assert_array_equal(np.load(path), np.concatenate([made(0, 1), made(2, 1)]))


@given(st.binary(max_size=200) | st.binary(max_size=150).map(lambda rest: b"\x93NUMPY\x01\x00v\x00" + rest))
def test_junk_is_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("junk") / "vectors.npy"
    path.write_bytes(junk)
    for read in (map_vectors, VectorFile):
        with pytest.raises(UsageError) as caught:
            read(path)
        assert caught.value.message.startswith(str(path))
        assert caught.value.hint == REBUILD


@pytest.mark.filterwarnings("ignore")  # numpy parses damaged headers as Python
@given(place=st.integers(0, HEADER - 1), byte=st.integers(0, 255))
def test_damaged_header_never_crashes(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int) -> None:
    path = tmp_path_factory.mktemp("header") / "vectors.npy"
    create(path, DIMENSION, "float32")
    add(path, [0, 1], made(0, 2))
    content = bytearray(path.read_bytes())
    content[place] = byte
    path.write_bytes(content)
    try:
        vectors = map_vectors(path)
    except UsageError as error:
        assert error.message.startswith(str(path))
    else:
        assert vectors.ndim == 2


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.eye(3), "does not hold vectors of coca, but float64 (3, 3)"),
        (np.eye(3, dtype=">f4"), "does not hold vectors of coca, but >f4 (3, 3)"),
        (np.ones(3, np.float32), "does not hold vectors of coca, but float32 (3,)"),
        (np.ones((3, 0), np.float32), "does not hold vectors of coca, but float32 (3, 0)"),
        (np.asfortranarray(np.eye(3, dtype=np.float32)[:2]), "does not hold vectors of coca, but float32 (2, 3)"),
    ],
    ids=["float64", "big-endian", "flat", "empty", "fortran"],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, what: str) -> None:
    path = tmp_path / "vectors.npy"
    np.save(path, array)
    with pytest.raises(UsageError) as caught:
        map_vectors(path)
    assert (caught.value.message, caught.value.hint) == (f"{path} {what}", REBUILD)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_only_vectors_of_length_one_are_unit(dtype: str) -> None:
    vectors = made(0, 1000).astype(dtype)
    assert are_unit(vectors).all()
    vectors[1] = 0
    vectors[2, 5] = np.nan
    vectors[3, 5] = np.inf
    vectors[4] *= 2
    vectors[5] = np.finfo(dtype).max
    assert np.flatnonzero(~are_unit(vectors)).tolist() == [1, 2, 3, 4, 5]


def test_truncated_vectors_are_not_unit() -> None:
    vector = np.ones((1, 768), np.float32)
    vector[:, -32:] = 0.5  # a power failure takes what lies past the last sector
    vector /= np.linalg.norm(vector)
    vector[:, -32:] = 0
    assert not are_unit(vector).any()


def test_many_vectors_are_checked_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cococli.retrieval.vectors.BLOCK", 100)
    vectors = made(0, 50)
    vectors[[0, 17, 49]] = 0
    assert np.flatnonzero(~are_unit(vectors)).tolist() == [0, 17, 49]
