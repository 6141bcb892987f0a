"""Vectors on disk: a `.npy` file [N, D] that grows by rows and is mapped for reading."""

import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..files import write_atomically
from ..portable import read_at, write_at

REBUILD = "coca embed --overwrite rebuilds the index"
BLOCK = 1 << 22  # numbers that are checked at a time
_MAX_DIMENSION = 1 << 24  # of a vector, or of the image features of a frozen tower
TOLERANCE = 1e-3  # of the length of a vector; float16 rounds it by at most 5e-4


class VectorFile:
    """An open file of vectors. An incomplete last row, as after a power failure, does not count."""

    def __init__(self, path: Path) -> None:
        """Open a file that `create` made.

        Raises:
            UsageError: It is not such a file.
            OSError: It cannot be read or written.
        """
        self.path = path
        self._file = path.open("r+b", buffering=0)
        try:
            self.dimension, self.dtype, self._offset = _read_header(path)
        except BaseException:
            self.close()
            raise
        self.count = _rows(path, self._offset, self._size)
        # A killed run may not have written the count.
        self._write_count()

    @property
    def _size(self) -> int:
        """Size of a row in bytes."""
        return self.dimension * self.dtype.itemsize

    def write(self, rows: Sequence[int], vectors: np.ndarray) -> None:
        """Write vectors [K, D] to these rows, which exist or follow the last one.

        Raises:
            OSError: The disk is full or failed.
        """
        for row, vector in zip(rows, np.asarray(vectors, self.dtype), strict=True):
            _write_at(self._file.fileno(), self._offset + row * self._size, vector.tobytes())
        # After a power failure the old vector must not remain.
        if rows and min(rows) < self.count:
            os.fsync(self._file.fileno())
        if rows and (count := max(rows) + 1) > self.count:
            self.count = count
            self._write_count()

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """Read vectors [K, D] that were written.

        Raises:
            OSError: They cannot be read.
        """
        read = b"".join(read_at(self._file.fileno(), self._size, self._offset + row * self._size) for row in rows)
        return np.frombuffer(read, self.dtype).reshape(len(rows), self.dimension)

    def _write_count(self) -> None:
        _write_at(self._file.fileno(), 0, header(self.count, self.dimension, self.dtype))

    def close(self) -> None:
        """Flush the vectors to disk, as far as possible, and close the file."""
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()


def create(path: Path, dimension: int, dtype: str) -> None:
    """Write a file without vectors, replacing an existing one.

    Raises:
        OSError: The disk is full or failed.
    """
    with write_atomically(path) as (file,):
        file.write(header(0, dimension, np.dtype(dtype)))


def map_vectors(path: Path) -> np.ndarray:
    """Map the vectors of a file into memory: [N, D] float32 or float16.

    Raises:
        UsageError: It is not such a file.
        OSError: It cannot be read.
    """
    dimension, dtype, offset = _read_header(path)
    count = _rows(path, offset, dimension * dtype.itemsize)
    if count == 0:
        return np.zeros((0, dimension), dtype)
    return np.memmap(path, dtype, "r", offset, (count, dimension))


def are_unit(vectors: np.ndarray) -> np.ndarray:
    """Return whether each vector has length 1, which damaged ones do not: [N] bool."""
    block = max(1, BLOCK // max(1, vectors.shape[1]))
    lengths = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), block):
        part = np.asarray(vectors[start : start + block], np.float32)
        lengths[start : start + block] = np.sqrt(np.einsum("nd,nd->n", part, part))
    return np.abs(lengths - 1) < TOLERANCE  # False for NaN


def header(count: int, dimension: int, dtype: np.dtype) -> bytes:
    """Return the header of a file, whose length does not depend on the count: numpy leaves room for growth."""
    written = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, dimension)}
    np.lib.format.write_array_header_1_0(written, facts)
    return written.getvalue()


def _read_header(path: Path) -> tuple[int, np.dtype, int]:
    """Read the dimension and dtype of the vectors, and their offset. The size of the file determines their number."""
    with path.open("rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("another version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except OSError:
            raise
        except Exception:
            # numpy parses the header as Python, which raises many kinds of errors.
            raise UsageError(f"{path} is damaged: invalid header", REBUILD) from None
        offset = file.tell()
    if len(shape) != 2 or fortran or dtype not in (np.float32, np.float16) or not 1 <= shape[1] <= _MAX_DIMENSION:
        raise UsageError(f"{path} does not hold vectors of coca, but {dtype} {shape}", REBUILD)
    if offset != len(header(shape[0], shape[1], dtype)):
        raise UsageError(f"{path} was written by another program", REBUILD)
    return shape[1], dtype, offset


def _rows(path: Path, offset: int, size: int) -> int:
    return (path.stat().st_size - offset) // size


def _write_at(file: int, offset: int, data: bytes) -> None:
    """Write all data. When the disk fills, a first call may write a part, and the next one raises."""
    while data:
        written = write_at(file, data, offset)
        offset, data = offset + written, data[written:]
