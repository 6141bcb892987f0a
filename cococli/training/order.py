"""Which pairs each step trains on: shuffled, and the same whenever a run is resumed."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..errors import UsageError


@dataclass(frozen=True)
class Order:
    """An order of pairs for every epoch. It has no state: the number of a step tells its batch.

    Raises:
        UsageError: there are not enough pairs for a batch.
    """

    seed: int
    pairs: int
    batch_size: int

    def __post_init__(self) -> None:
        if self.pairs < self.batch_size:
            few = f"{self.pairs} pairs of a file and a caption make no batch of {self.batch_size}"
            raise UsageError(few, f"--batch-size {self.pairs} or less")

    @property
    def steps(self) -> int:
        """Steps of an epoch. Pairs left over that fill no batch wait for another epoch (open_clip's `drop_last`)."""
        return self.pairs // self.batch_size

    def batch(self, step: int) -> np.ndarray:
        """[batch_size] int64: the pairs of a step, counted from 0 through all epochs."""
        epoch, place = divmod(step, self.steps)
        return _shuffled(self.seed, epoch, self.pairs)[place * self.batch_size :][: self.batch_size]


@lru_cache(maxsize=2)  # a batch that is read ahead may be of the next epoch
def _shuffled(seed: int, epoch: int, pairs: int) -> np.ndarray:
    """By raw random numbers, which no version of numpy may change as it may `permutation`."""
    return np.argsort(np.random.PCG64([seed, epoch]).random_raw(pairs), kind="stable")
