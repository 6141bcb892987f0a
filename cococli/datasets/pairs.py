"""Pairs of a file and a caption, and the batches of every step: shuffled, and the same when a run resumes."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import UsageError, VideoError
from ..model import arrays
from ..tokenizer import tokenize
from .dataset import Dataset

LENGTHS = (12, 16, 20, 28, 44)  # tokens of captions that share batches; longer ones are grouped, too
ROUNDED = 4  # batches are padded to multiples of this
WINDOW = 32  # batches within which pairs are grouped by length


@dataclass(frozen=True)
class Pairs:
    """Every caption of every file, with that file. Pairs of one file are adjacent."""

    files: tuple[Path, ...]
    file: np.ndarray  # [P] int64: each pair's index in `files`
    ids: np.ndarray  # [P, T] int32: each pair's caption, as `tokenize` makes it

    def __len__(self) -> int:
        return len(self.file)

    def readable(self, pair: int, broken: Collection[int]) -> int:
        """Return this pair, or the next one whose file is readable, regardless of when its file was found to be broken.

        Args:
            broken: Indices in `files`.

        Raises:
            VideoError: All are broken.
        """
        for other in range(pair, pair + len(self)):
            if self.file[other % len(self)] not in broken:
                return other % len(self)
        raise VideoError(f"none of {len(self.files)} files can be read")


def pairs_of(dataset: Dataset, context_length: int) -> Pairs:
    """Return the pairs of a data set; captions longer than the context are truncated before their EOT."""
    files = tuple(example.path for example in dataset.examples)
    file = np.repeat(np.arange(len(files)), [len(example.captions) for example in dataset.examples])
    captions = [caption for example in dataset.examples for caption in example.captions]
    return Pairs(files, file, tokenize(captions, context_length))


def bucket_lengths(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """Return the length of the captions that each caption shares batches with: [P, T] -> [P] int64."""
    return arrays.padded_lengths(ids, pad_id, LENGTHS, ids.shape[1])


def trimmed(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """Remove pads that all captions [B, T] end with and that change neither losses nor gradients.

    The CLS attends to the first pad (see `arrays.text_mask`), so one pad remains.
    """
    longest = int(((ids != pad_id) * np.arange(1, ids.shape[1] + 1)).max())  # an id 0 inside a caption is not a pad
    return ids[:, : -(-(longest + 1) // ROUNDED) * ROUNDED]


class Order:
    """The order of pairs in every epoch. It has no state: the batch of a step depends on its number alone.

    A batch is computed at the length of its longest caption. So each epoch is shuffled and split into windows of
    several batches, and the pairs of a window are sorted by length into batches, which are shuffled again.
    """

    def __init__(self, seed: int, lengths: np.ndarray, batch_size: int, accumulate: int = 1, workers: int = 1) -> None:
        """
        Args:
            lengths: [P], the `bucket_lengths` of the pairs.
            accumulate: Micro-batches of `batch_size` in one batch of this order.
            workers: Processes that share each micro-batch.

        Raises:
            UsageError: There are fewer pairs than one batch needs.
        """
        self.seed, self.batch_size, self._lengths = seed, batch_size * accumulate, lengths
        if len(lengths) < self.batch_size:
            product = f" ({batch_size} x --accumulate {accumulate})" if accumulate > 1 else ""
            problem = f"one step needs {self.batch_size} captions{product}, but there are only {len(lengths)}"
            raise UsageError(problem, _fitting(len(lengths), batch_size, accumulate, workers))
        self._epoch = lru_cache(maxsize=2)(self._arranged)  # prefetched batches may belong to the next epoch

    @property
    def steps(self) -> int:
        """Steps of an epoch. An incomplete last batch is dropped, as with open_clip's `drop_last`."""
        return len(self._lengths) // self.batch_size

    def batch(self, step: int) -> np.ndarray:
        """Return the pairs of a step, counted from 0 through all epochs: [batch_size] int64."""
        epoch, index = divmod(step, self.steps)
        return self._epoch(epoch)[index]

    def _arranged(self, epoch: int) -> np.ndarray:
        """Return the pairs of all steps of an epoch: [steps, batch_size]."""
        shuffled = self._shuffled(epoch)[: self.steps * self.batch_size]
        windows = np.split(shuffled, range(WINDOW * self.batch_size, len(shuffled), WINDOW * self.batch_size))
        return np.concatenate([self._grouped(window) for window in windows])

    def _grouped(self, window: np.ndarray) -> np.ndarray:
        """Sort pairs by length into batches, ordered by when the first pair of each was drawn."""
        indices = np.argsort(self._lengths[window], kind="stable").reshape(-1, self.batch_size)
        return window[indices[np.argsort(indices.min(1))]]

    def _shuffled(self, epoch: int) -> np.ndarray:
        """Shuffle by raw random numbers, which stay the same in all versions of numpy, unlike `permutation`."""
        return np.argsort(np.random.PCG64([self.seed, epoch]).random_raw(len(self._lengths)), kind="stable")


def _fitting(pairs: int, batch_size: int, accumulate: int, workers: int) -> str:
    """Suggest the largest batch, or the most micro-batches, that this many pairs fill."""
    fewer = [f"--accumulate {pairs // batch_size}"] if pairs >= batch_size else []
    if size := pairs // accumulate // workers * workers:
        fewer.insert(0, f"--batch-size {size}")
    return f"{' or '.join(fewer)} or less" if fewer else "more captions, or fewer workers"
