"""Several processes that train one model, each on its part of every batch, as MindSpore's `msrun` starts them.

All have the same weights and take the same steps. What depends on the whole batch is put together from all of them, so
all must come to the same calls in the same order. The first one alone writes. When one ends, so do the others.
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

BUCKET = 4 << 20  # numbers that are summed at once: MindSpore's own library for CPUs once lost 100 MB


@dataclass(frozen=True)
class Workers:
    """The processes that train together, as one of them sees them."""

    rank: int = 0  # of this one
    count: int = 1
    launcher: int = 0  # the process that started it
    connections: tuple[Connection, ...] = ()  # of the first one to all others, and of each of these to it

    @property
    def part(self) -> slice:
        """This one's places in a batch. Cut into micro-batches, they are its places in the micro-batches of all."""
        return slice(self.rank, None, self.count)

    def exchange(self, value: Any) -> list[Any]:
        """The values of all workers. Waits for them, which MindSpore's library for CPUs does for 30 seconds only.

        Raises:
            CocaError: another worker has ended.
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
            raise CocaError("another worker has ended", "the end of its log says why") from None
        return values

    def total(self, number: float) -> float:
        return sum(self.exchange(number))

    def others(self, tensor: "Tensor") -> "Tensor":
        """[B, ...] -> [(count - 1) * B, ...], what the other workers have."""
        from ..engines.mindspore import as_tensor

        arrays = self.exchange(tensor.asnumpy())
        return as_tensor(np.concatenate(arrays[: self.rank] + arrays[self.rank + 1 :]))

    def sum(self, tensors: Sequence["Tensor"]) -> list["Tensor"]:
        """The sums over all workers, which take the place of the tensors."""
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

    def stop(self, asked: bool) -> bool:
        """Whether any worker is asked to stop, or msrun is gone."""
        return any(self.exchange(asked or (self.count > 1 and os.getppid() != self.launcher)))

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Let the first worker go through the block before the others."""
        if self.rank:
            self.exchange(None)
        yield
        if not self.rank:
            self.exchange(None)

    @contextmanager
    def ending_together(self, on: type[Exception]) -> Iterator[None]:
        """Let no worker leave the block before all have done so: msrun ends the others where one fails.

        Args:
            on: An error that all raise, if one does.
        """
        try:
            yield
        except on:
            self.exchange(None)
            raise
        self.exchange(None)


ALONE = Workers()


def join() -> Workers:
    """Meet the processes that msrun started with this one, if it did. Its scheduler serves them, and exits here.

    Raises:
        CocaError: another worker has ended.
    """
    if os.environ.get("MS_ROLE") not in ("MS_WORKER", "MS_SCHED"):
        return ALONE
    from mindspore.communication import get_group_size, get_rank, init

    init()
    rank, count = get_rank(), get_group_size()
    return Workers(rank, count, os.getppid(), _connect(rank, count))


def _connect(rank: int, count: int) -> tuple[Connection, ...]:
    """Connect all workers with the first, whose port and key the others learn from it as a sum."""
    host, key = os.environ["MS_SCHED_HOST"], secrets.token_bytes(16)
    if rank:
        port, *numbers = all_reduce(np.zeros(1 + len(key), np.float32)).astype(int).tolist()
        return (Client((host, port), authkey=bytes(numbers)),)
    with Listener((host, 0), backlog=count, authkey=key) as listener:
        all_reduce(np.array([listener.address[1], *key], np.float32))
        return tuple(listener.accept() for _ in range(count - 1))


def buckets(arrays: Sequence[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    """Flat views of the arrays, cut and put together to so many numbers at a time."""
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
    """The sum over all workers: by MCCL on CPU, by HCCL on Ascend."""
    from mindspore import Tensor, ops

    return ops.AllReduce()(Tensor(array)).asnumpy()
