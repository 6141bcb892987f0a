"""Memory of mapped files: it counts as the process's own until it is given back."""

import ctypes
import mmap
import sys


def release(address: int, size: int) -> None:
    """Give back the whole pages within `size` bytes of a mapped file, which are read again when next touched.

    Only for what lies in a file: other memory loses its content. A no-op outside Linux.
    """
    first = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (address + size) // mmap.PAGESIZE * mmap.PAGESIZE
    if sys.platform == "linux" and first < last:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
