"""Pairs of a file and a caption: what is trained on."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..datasets.dataset import Dataset
from ..errors import VideoError
from ..tokenizer import tokenize


@dataclass(frozen=True)
class Pairs:
    """Every caption of every file, with that file. Pairs of one file stand together."""

    files: tuple[Path, ...]
    file: np.ndarray  # [P] int64: each pair's place in `files`
    ids: np.ndarray  # [P, T] int32: each pair's caption, as `tokenize` makes it

    def __len__(self) -> int:
        return len(self.file)

    def readable(self, pair: int, broken: Collection[int]) -> int:
        """This pair, or the next one whose file is not broken: the same in every run, whenever a file is found out.

        Args:
            broken: Places in `files`.

        Raises:
            VideoError: all are broken.
        """
        for other in range(pair, pair + len(self)):
            if self.file[other % len(self)] not in broken:
                return other % len(self)
        raise VideoError(f"none of {len(self.files)} files can be read")


def pairs_of(dataset: Dataset, context_length: int) -> Pairs:
    """The pairs of a data set; a caption that is longer than the context is cut, its EOT kept."""
    files = tuple(example.path for example in dataset.examples)
    file = np.repeat(np.arange(len(files)), [len(example.captions) for example in dataset.examples])
    captions = [caption for example in dataset.examples for caption in example.captions]
    return Pairs(files, file, tokenize(captions, context_length))
