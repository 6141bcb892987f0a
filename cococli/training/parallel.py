"""Data parallelism: processes that each train on a part of every batch, started by torchrun or MindSpore's msrun.

All have the same weights and take the same steps. Values that depend on the whole batch are exchanged, so all must make
the same calls in the same order. Only the first worker validates and writes. When one ends, so do the others.
"""

import atexit
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..errors import CocaError

if TYPE_CHECKING:
    from torch import Tensor

BUCKET = 16 << 20  # numbers summed at once
WAIT = timedelta(days=7)  # for the first worker, which validates


@dataclass(frozen=True)
class Workers:
    """The processes that train together, from the view of one of them.

    Attributes:
        rank: Index of this process.
        count: Number of processes.
        launcher: Id of the process that started it.
    """

    rank: int = 0
    count: int = 1
    launcher: int = 0

    @property
    def part(self) -> slice:
        """Indices of this worker in a batch, and in each of its micro-batches."""
        return slice(self.rank, None, self.count)

    def exchange(self, value: Any) -> list[Any]:
        """Wait for all workers and return their values.

        Raises:
            CocaError: Another worker has ended.
        """
        if self.count == 1:
            return [value]
        from torch import distributed

        values = [None] * self.count
        try:
            distributed.all_gather_object(values, value)
        except RuntimeError:
            raise CocaError("another worker has ended", "see the end of its log") from None
        return values

    def total(self, number: float) -> float:
        """Return the sum of a number over all workers."""
        return sum(self.exchange(number))

    def gather(self, tensor: "Tensor") -> "Tensor":
        """Return the tensors of all workers: [B, ...] -> [count * B, ...]."""
        if self.count == 1:
            return tensor
        import torch

        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        torch.distributed.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def sum(self, tensors: "Sequence[Tensor]") -> None:
        """Replace tensors by their sums over all workers."""
        if self.count == 1:
            return
        import torch

        for bucket in buckets(tensors, BUCKET):
            summed = torch.cat([tensor.reshape(-1) for tensor in bucket])
            torch.distributed.all_reduce(summed)
            for tensor, part in zip(bucket, summed.split([tensor.numel() for tensor in bucket]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def stop(self, requested: bool) -> bool:
        """Return whether any worker is requested to stop, or what started them has ended."""
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
        """Let workers leave the block together: the launcher ends the others if one fails.

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
    """Join the processes that torchrun or msrun started with this one, if any. msrun's scheduler exits here."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _join_torchrun()
    if os.environ.get("MS_ROLE") in ("MS_WORKER", "MS_SCHED"):
        return _join_msrun()
    return ALONE


def _join_torchrun() -> Workers:
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=WAIT)
    atexit.register(torch.distributed.destroy_process_group)
    return Workers(torch.distributed.get_rank(), torch.distributed.get_world_size(), os.getppid())


def _join_msrun() -> Workers:
    """Join msrun's group, and a group of torch for what is exchanged in Python."""
    import numpy as np
    from mindspore import Tensor, ops
    from mindspore.communication import get_group_size, get_rank, init
    from torch import distributed

    init()
    rank, count, host = get_rank(), get_group_size(), os.environ["MS_SCHED_HOST"]
    store = None if rank else distributed.TCPStore(host, 0, count, True, WAIT, wait_for_workers=False)
    port = int(ops.AllReduce()(Tensor(np.float32(store.port if store else 0))).asnumpy())
    store = store or distributed.TCPStore(host, port, count, False, WAIT)
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=count, timeout=WAIT)
    return Workers(rank, count, os.getppid())


def buckets(tensors: "Sequence[Tensor]", size: int) -> "Iterator[list[Tensor]]":
    """Yield tensors in groups of at most `size` numbers, or of one tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        if bucket and sum(one.numel() for one in bucket) + tensor.numel() > size:
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket
