"""Which pairs each step trains on: shuffled, and the same whenever a run is resumed."""

from functools import lru_cache

import numpy as np

from ..errors import UsageError

WINDOW = 32  # batches among which pairs are exchanged so that captions of a length meet


class Order:
    """An order of pairs for every epoch. It has no state: the number of a step tells its batch.

    A batch is computed at the length of its longest caption. So an epoch is shuffled, cut into windows of some batches,
    and those of a window are filled with one length after the other. Which pairs of a length meet, and when their
    batch comes, is left to chance.
    """

    def __init__(self, seed: int, lengths: np.ndarray, batch_size: int, accumulate: int = 1, workers: int = 1) -> None:
        """
        Args:
            lengths: [P], what `padded_lengths` gives for each pair.
            accumulate: Micro-batches of `batch_size` that make one batch here.
            workers: Processes that each micro-batch is shared out among.

        Raises:
            UsageError: there are not enough pairs for a batch.
        """
        self.seed, self.batch_size, self._lengths = seed, batch_size * accumulate, lengths
        if len(lengths) < self.batch_size:
            product = f" ({batch_size} x --accumulate {accumulate})" if accumulate > 1 else ""
            few = f"{len(lengths)} captions are fewer than the {self.batch_size} of one step{product}"
            raise UsageError(few, _fitting(len(lengths), batch_size, accumulate, workers))
        self._epoch = lru_cache(maxsize=2)(self._arranged)  # a batch that is read ahead may be of the next one

    @property
    def steps(self) -> int:
        """Steps of an epoch. Pairs left over that fill no batch wait for another epoch (open_clip's `drop_last`)."""
        return len(self._lengths) // self.batch_size

    def batch(self, step: int) -> np.ndarray:
        """[batch_size] int64: the pairs of a step, counted from 0 through all epochs."""
        epoch, place = divmod(step, self.steps)
        return self._epoch(epoch)[place]

    def _arranged(self, epoch: int) -> np.ndarray:
        """[steps, batch_size]: the pairs of all steps of an epoch."""
        shuffled = self._shuffled(epoch)[: self.steps * self.batch_size]
        windows = np.split(shuffled, range(WINDOW * self.batch_size, len(shuffled), WINDOW * self.batch_size))
        return np.concatenate([self._grouped(window) for window in windows])

    def _grouped(self, window: np.ndarray) -> np.ndarray:
        """Batches of like lengths, in the order in which each one's first pair was drawn."""
        places = np.argsort(self._lengths[window], kind="stable").reshape(-1, self.batch_size)
        return window[places[np.argsort(places.min(1))]]

    def _shuffled(self, epoch: int) -> np.ndarray:
        """By raw random numbers, which no version of numpy may change as it may `permutation`."""
        return np.argsort(np.random.PCG64([self.seed, epoch]).random_raw(len(self._lengths)), kind="stable")


def _fitting(pairs: int, batch_size: int, accumulate: int, workers: int) -> str:
    """Name the largest batch, or the most micro-batches, that so many pairs fill."""
    fewer = [f"--accumulate {pairs // batch_size}"] if pairs >= batch_size else []
    if size := pairs // accumulate // workers * workers:
        fewer.insert(0, f"--batch-size {size}")
    return f"{' or '.join(fewer)} or less" if fewer else "more captions, or fewer workers"
