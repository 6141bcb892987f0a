"""Sets of real files to train on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cococli.datasets.dataset import Dataset, Example
from cococli.datasets.pairs import Order, Pairs, bucket_lengths, pairs_of


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> Path:
    """A lossless picture of width and height, of smooth colors."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def pictures(folder: Path, count: int) -> list[Path]:
    return [picture(folder / f"{number}.png", number) for number in range(count)]


def pairs(files: Sequence[Path]) -> Pairs:
    """Two captions of every file."""
    examples = tuple(Example(path, (f"{path.stem} one", f"{path.stem} two"), path.name) for path in files)
    return pairs_of(Dataset(Path("x.json"), "train", examples, {}), 12)


def ordered(made: Pairs, seed: int, batch_size: int) -> Order:
    """The order in which a run takes these pairs."""
    return Order(seed, bucket_lengths(made.ids, 0), batch_size)
