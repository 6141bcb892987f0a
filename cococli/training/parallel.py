"""Data parallelism: processes started by MindSpore's `msrun` that each train on a part of every batch.

All have the same weights and take the same steps. Values that depend on the whole batch are exchanged, so all must make
the same calls in the same order. Only the first worker writes. When one ends, so do the others.
"""

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CocaError

if TYPE_CHECKING:
    from mindspore import Tensor

BUCKET = 4 << 20  # numbers summed at once: with 100 MB, MindSpore's library for CPUs lost data


@dataclass(frozen=True)
class Workers:
    """The processes that train together, from the view of one of them.

    Attributes:
        rank: Index of this process.
        count: Number of processes.
        launcher: Id of the process that started it.
        connections: In the first worker, to each of the others; in the others, to the first one.
    """

    rank: int = 0
    count: int = 1
    launcher: int = 0
    connections: tuple[Connection, ...] = ()

    @property
    def part(self) -> slice:
        """Indices of this worker in a batch, and in each of its micro-batches."""
        return slice(self.rank, None, self.count)

    def exchange(self, value: Any) -> list[Any]:
        """Wait for all workers and return their values. MindSpore's library for CPUs waits for only 30 seconds.

        Raises:
            CocaError: Another worker has ended.
        """
        try:
            if self.rank:
                self.connections[0].send((self.rank, value))
                return list(self.connections[0].recv())
            found = dict([(0, value), *(other.recv() for other in self.connections)])
            values = [found[rank] for rank in range(self.count)]
            for other in self.connections:
                other.send(values)
        except (EOFError, OSError):
            raise CocaError("another worker has ended", "see the end of its log") from None
        return values

    def total(self, number: float) -> float:
        """Return the sum of a number over all workers."""
        return sum(self.exchange(number))

    def others(self, tensor: "Tensor") -> "Tensor":
        """Return the tensors of the other workers: [B, ...] -> [(count - 1) * B, ...]."""
        from ..engines.mindspore import as_tensor

        arrays = self.exchange(tensor.asnumpy())
        return as_tensor(np.concatenate(arrays[: self.rank] + arrays[self.rank + 1 :]))

    def sum(self, tensors: Sequence["Tensor"]) -> list["Tensor"]:
        """Return the sums over all workers, written into the memory of the tensors."""
        from ..engines.mindspore import as_tensor

        if self.count == 1:
            return list(tensors)
        arrays = [tensor.asnumpy() for tensor in tensors]
        self.exchange(None)
        for bucket in buckets(arrays, BUCKET):
            ends = np.cumsum([piece.size for piece in bucket])
            summed = all_reduce(np.concatenate(bucket))
            for piece, found in zip(bucket, np.split(summed, ends[:-1]), strict=True):
                piece[:] = found
        return [as_tensor(array) for array in arrays]

    def stop(self, requested: bool) -> bool:
        """Return whether any worker is requested to stop, or msrun has ended."""
        return any(self.exchange(requested or (self.count > 1 and os.getppid() != self.launcher)))

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first worker complete the block before the others enter it."""
        if self.rank:
            self.exchange(None)
        yield
        if not self.rank:
            self.exchange(None)

    @contextmanager
    def ending_together(self, on: type[Exception]) -> Iterator[None]:
        """Let workers leave the block together: msrun ends the others if one fails.

        Args:
            on: Error that all raise if one does.
        """
        try:
            yield
        except on:
            self.exchange(None)
            raise
        self.exchange(None)


ALONE = Workers()


def join() -> Workers:
    """Connect to the processes that msrun started with this one, if any. Its scheduler serves them, and exits here.

    Raises:
        CocaError: Another worker has ended.
    """
    if os.environ.get("MS_ROLE") not in ("MS_WORKER", "MS_SCHED"):
        return ALONE
    from mindspore.communication import get_group_size, get_rank, init

    init()
    rank, count = get_rank(), get_group_size()
    return Workers(rank, count, os.getppid(), _connect(rank, count))


def _connect(rank: int, count: int) -> tuple[Connection, ...]:
    """Connect all workers to the first, which sends its port and key by a sum over all."""
    host, key = os.environ["MS_SCHED_HOST"], secrets.token_bytes(16)
    if rank:
        port, *numbers = all_reduce(np.zeros(1 + len(key), np.float32)).astype(int).tolist()
        return (Client((host, port), authkey=bytes(numbers)),)
    with Listener((host, 0), backlog=count, authkey=key) as listener:
        all_reduce(np.array([listener.address[1], *key], np.float32))
        return tuple(listener.accept() for _ in range(count - 1))


def buckets(arrays: Sequence[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Yield flat views of the arrays, split and grouped into `size` numbers each."""
    bucket: list[np.ndarray] = []
    room = size
    for array in arrays:
        flat = array.reshape(-1)
        while flat.size:
            bucket.append(flat[:room])
            flat = flat[room:]
            room -= bucket[-1].size
            if not room:
                yield bucket
                bucket, room = [], size
    if bucket:
        yield bucket


def all_reduce(array: np.ndarray) -> np.ndarray:
    """Sum an array over all workers: by MCCL on CPU, by HCCL on Ascend."""
    from mindspore import Tensor, ops

    return ops.AllReduce()(Tensor(array)).asnumpy()
