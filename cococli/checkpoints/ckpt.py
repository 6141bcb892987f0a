"""MindSpore's `.ckpt`, written as a stream and read through a memory map.

A `.ckpt` is one protobuf message (`checkpoint.proto` of MindSpore 2.10), and concatenated messages merge, so a file
is one message after another, each a parameter or a slice of one:

    Checkpoint  1 value: Value, repeated
    Value       1 tag: the parameter's name    2 tensor: TensorProto    3 maptensor, not used here
    TensorProto 1 dims: int64, repeated    2 tensor_type: "Float32", ...    3 tensor_content: bytes, little-endian

`mindspore.load_checkpoint` holds a file twice in memory; the views of `read` cost nothing until they are used.
A tensor's bytes start at a multiple of 64 in the file: a field that MindSpore does not know fills the gap.
"""

import math
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..errors import ModelError
from ..files import os_reason

_VARINT, _BYTES = 0, 2  # protobuf's wire types
_VALUE, _TAG, _TENSOR = 1, 1, 2
_DIMS, _TYPE, _CONTENT, _PADDING = 1, 2, 3, 15
_ALIGNMENT = 64  # bytes, a cache line
_DTYPES = {
    "Bool": np.dtype("?"),
    **{f"Int{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"UInt{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"Float{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
_TYPES = {dtype: name for name, dtype in _DTYPES.items()}
_CHECKSUM, _CHECKSUM_BYTES = b"crc_num", 17  # MindSpore's optional trailer: these letters, then 10 bytes

ByteRange = tuple[int, int]  # first byte, and the byte after the last


class _Slice(NamedTuple):
    """One message: a whole parameter, or some of its rows (MindSpore splits parameters above 512 MB)."""

    shape: tuple[int, ...]  # of the whole parameter
    dtype: np.dtype
    content: ByteRange


def write(
    file: BinaryIO, name: str, shape: tuple[int, ...], parts: Iterable[np.ndarray], dtype: str = "float32"
) -> None:
    """Append one parameter to an open file, part by part, so that it is never in memory as a whole."""
    stored = np.dtype(dtype).newbyteorder("<")
    size = stored.itemsize * math.prod(shape)
    start, padding = file.tell(), 0
    while gap := -(start + len(_header(name, shape, stored, padding, size))) % _ALIGNMENT:
        padding += gap
    file.write(_header(name, shape, stored, padding, size))
    for part in parts:
        file.write(np.ascontiguousarray(part, stored).data)


def read(path: Path) -> dict[str, np.ndarray]:
    """Return every parameter of a `.ckpt` as a read-only view of the mapped file.

    Args:
        path: A file that `write` or `mindspore.save_checkpoint` wrote. It must not be truncated while the views live.

    Raises:
        ModelError: The file cannot be read, is truncated, or is not a `.ckpt`.
    """
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return {name: _array(data, slices) for name, slices in _parameters(data).items()}
    except OSError as error:
        raise ModelError(f"cannot read {path}: {os_reason(error)}") from error
    except (ValueError, OverflowError) as error:
        raise ModelError(f"{path} is not a MindSpore checkpoint, or is damaged: {error}") from None


def _header(name: str, shape: tuple[int, ...], dtype: np.dtype, padding: int, size: int) -> bytes:
    """Return a parameter's message up to its content of `size` bytes, which must follow."""
    tensor = b"".join(_key(_DIMS, _VARINT) + _encoded(length) for length in shape)
    tensor += _field(_TYPE, _TYPES[dtype].encode()) + _field(_PADDING, bytes(padding))
    tensor += _key(_CONTENT, _BYTES) + _encoded(size)
    value = _field(_TAG, name.encode()) + _key(_TENSOR, _BYTES) + _encoded(len(tensor) + size) + tensor
    return _key(_VALUE, _BYTES) + _encoded(len(value) + size) + value


def _field(number: int, content: bytes) -> bytes:
    return _key(number, _BYTES) + _encoded(len(content)) + content


def _key(number: int, wire_type: int) -> bytes:
    return _encoded(number << 3 | wire_type)


def _encoded(value: int) -> bytes:
    """Encode a number in base 128, lowest digit first, the high bit set on all bytes but the last."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _parameters(data: mmap.mmap) -> dict[str, list[_Slice]]:
    parameters: dict[str, list[_Slice]] = {}
    trailer = max(0, len(data) - _CHECKSUM_BYTES)
    end = trailer if data[trailer:].startswith(_CHECKSUM) else len(data)
    for number, span in _fields(data, (0, end)):
        if number != _VALUE:
            raise ValueError(f"unknown field {number}")
        value = dict(_fields(data, span))
        if not {_TAG, _TENSOR} <= value.keys():
            raise ValueError("a parameter without a name or a tensor")
        parameters.setdefault(_text(data, value[_TAG]), []).append(_slice(data, value[_TENSOR]))
    return parameters


def _slice(data: mmap.mmap, span: ByteRange) -> _Slice:
    fields = list(_fields(data, span))
    dims = tuple(length for number, digits in fields if number == _DIMS for length in _decoded(data, digits))
    last = dict(fields)
    if not {_TYPE, _CONTENT} <= last.keys():
        raise ValueError("a tensor without a type or content")
    dtype = _text(data, last[_TYPE])
    if dtype not in _DTYPES:
        raise ValueError(f"values of type {dtype!r}")
    return _Slice(dims, _DTYPES[dtype], last[_CONTENT])


def _array(data: mmap.mmap, slices: list[_Slice]) -> np.ndarray:
    shape, dtype, _ = slices[0]
    size = sum(stop - start for *_, (start, stop) in slices)
    if shape == (0,) and size:
        # Old releases of MindSpore write a scalar like this.
        shape = ()
    if size != math.prod(shape) * dtype.itemsize or any(piece[:2] != slices[0][:2] for piece in slices):
        raise ValueError(f"{size} bytes of content for a tensor of {shape} {dtype.name}")
    if len(slices) == 1:
        return np.ndarray(shape, dtype, data, slices[0].content[0])
    content = b"".join(data[start:stop] for *_, (start, stop) in slices)
    return np.frombuffer(content, dtype).reshape(shape)


def _fields(data: mmap.mmap, span: ByteRange) -> Iterator[tuple[int, ByteRange]]:
    """Yield the number and the bytes of each field of the message in `span`; of a number, its digits."""
    at, end = span
    while at < end:
        key, start = _digits(data, at, end)
        value, at = _digits(data, start, end)
        if key & 7 == _BYTES:
            start, at = at, at + value
        elif key & 7 != _VARINT:
            raise ValueError(f"unknown wire type {key & 7}")
        if at > end:
            raise ValueError(f"{at - end} bytes are missing at its end")
        yield key >> 3, (start, at)


def _decoded(data: mmap.mmap, span: ByteRange) -> Iterator[int]:
    at, end = span
    while at < end:
        value, at = _digits(data, at, end)
        yield value


def _digits(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Decode the number that starts at a byte; return it and the byte after it."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= end:
            raise ValueError("it ends within a number")
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _text(data: mmap.mmap, span: ByteRange) -> str:
    return data[span[0] : span[1]].decode()
