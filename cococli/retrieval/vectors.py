"""Vectors on disk: a `.npy` file [N, D] that grows by rows and is read mapped."""

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..files import write_atomically

BLOCK = 1 << 22  # numbers that are looked at at once
_MOST = 1 << 24  # numbers of a vector, or of the image features of a frozen tower
CLOSE = 1e-3  # how far from 1 a vector's length may be; float16 rounds it by 5e-4 at most


class VectorFile:
    """An open file of vectors. One that is not whole at its end, as after a power cut, lacks that row."""

    def __init__(self, path: Path) -> None:
        """Open a file that `create` made.

        Raises:
            UsageError: it holds something else.
            OSError: it cannot be read and written.
        """
        self.path = path
        self._file = path.open("r+b", buffering=0)
        try:
            self.dimension, self.dtype, self._offset = _read_header(path)
        except BaseException:
            self.close()
            raise
        self.count = _rows(path, self._offset, self._size)
        self._tell_count()  # a run that was killed may not have come to it

    @property
    def _size(self) -> int:
        """Bytes of a row."""
        return self.dimension * self.dtype.itemsize

    def write(self, rows: Sequence[int], vectors: np.ndarray) -> None:
        """Write vectors [K, D] to these rows, which may lie at the end or be there.

        Raises:
            OSError: the disk is full or gone.
        """
        for row, vector in zip(rows, np.asarray(vectors, self.dtype), strict=True):
            _write_at(self._file.fileno(), self._offset + row * self._size, vector.tobytes())
        if rows and min(rows) < self.count:  # a power cut must not leave the old vector for the new one
            os.fsync(self._file.fileno())
        if rows and (count := max(rows) + 1) > self.count:
            self.count = count
            self._tell_count()

    def _tell_count(self) -> None:
        _write_at(self._file.fileno(), 0, _header(self.count, self.dimension, self.dtype))

    def close(self) -> None:
        self._file.close()


def create(path: Path, dimension: int, dtype: str) -> None:
    """Write a file of no vectors yet, in place of what is there.

    Raises:
        OSError: the disk is full or gone.
    """
    with write_atomically(path) as (file,):
        file.write(_header(0, dimension, np.dtype(dtype)))


def map_vectors(path: Path) -> np.ndarray:
    """The vectors of a file, [N, D] float32 or float16, read as they are looked at.

    Raises:
        UsageError: it holds something else.
        OSError: it cannot be read.
    """
    dimension, dtype, offset = _read_header(path)
    count = _rows(path, offset, dimension * dtype.itemsize)
    if count == 0:
        return np.zeros((0, dimension), dtype)
    return np.memmap(path, dtype, "r", offset, (count, dimension))


def are_unit(vectors: np.ndarray) -> np.ndarray:
    """[N] bool: whether each vector has length 1, as all are written. What a disk made up has another."""
    block = max(1, BLOCK // max(1, vectors.shape[1]))
    lengths = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), block):
        part = np.asarray(vectors[start : start + block], np.float32)
        lengths[start : start + block] = np.sqrt(np.einsum("nd,nd->n", part, part))
    return np.abs(lengths - 1) < CLOSE  # False for NaN


def _header(count: int, dimension: int, dtype: np.dtype) -> bytes:
    """Of one length, whatever the count: numpy leaves room for it to grow."""
    header = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, dimension)}
    np.lib.format.write_array_header_1_0(header, facts)
    return header.getvalue()


def _read_header(path: Path) -> tuple[int, np.dtype, int]:
    """Dimension and dtype of the vectors, and where they begin. Their number is told by the size of the file."""
    with path.open("rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):
                raise ValueError("another version")
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        except OSError:
            raise
        except Exception:  # of any kind, as Python's own parser throws them at junk
            raise UsageError(f"{path} is damaged: no header", "--overwrite makes the index anew") from None
        offset = file.tell()
    if len(shape) != 2 or fortran or dtype not in (np.float32, np.float16) or not 1 <= shape[1] <= _MOST:
        raise UsageError(f"{path} holds no vectors of coca: {dtype} {shape}", "--overwrite makes the index anew")
    if offset != len(_header(shape[0], shape[1], dtype)):
        raise UsageError(f"{path} was written by another program", "--overwrite makes the index anew")
    return shape[1], dtype, offset


def _rows(path: Path, offset: int, size: int) -> int:
    return (path.stat().st_size - offset) // size


def _write_at(file: int, offset: int, data: bytes) -> None:
    """A file may take only part of the data when the disk fills; asking again tells why."""
    while data:
        written = os.pwrite(file, data, offset)
        offset, data = offset + written, data[written:]
