"""Pairs of a file and a caption."""

from pathlib import Path

import numpy as np
import pytest

from cococli.datasets.dataset import Dataset, Example
from cococli.errors import VideoError
from cococli.tokenizer import EOT_ID, SOT_ID, encode
from cococli.training.pairs import Pairs, pairs_of

A, B, C = Path("a.jpg"), Path("b.jpg"), Path("c.jpg")


@pytest.fixture
def pairs() -> Pairs:
    examples = (Example(A, ("a dog", "a cat"), "1"), Example(B, ("a bird",), "2"), Example(C, ("x " * 90, "a"), "3"))
    return pairs_of(Dataset(Path("x.json"), "train", examples, {}), 10)


def test_each_caption_of_a_file_is_a_pair(pairs: Pairs) -> None:
    assert pairs.files == (A, B, C)
    assert len(pairs) == 5
    assert pairs.file.tolist() == [0, 0, 1, 2, 2]
    assert (pairs.ids.shape, pairs.ids.dtype) == ((5, 10), np.int32)
    assert pairs.ids[2].tolist() == [SOT_ID, *encode("a bird"), EOT_ID, *[0] * 6]


def test_a_caption_that_is_too_long_is_cut_and_still_ends(pairs: Pairs) -> None:
    assert pairs.ids[3].tolist() == [SOT_ID, *encode("x " * 8), EOT_ID]


@pytest.mark.parametrize(
    ("broken", "taken"), [(set(), 0), ({1}, 0), ({0}, 2), ({0, 1}, 3), ({0, 2}, 2)], ids=lambda value: str(value)
)
def test_the_next_file_that_can_be_read_stands_for_one_that_cannot(pairs: Pairs, broken: set[int], taken: int) -> None:
    assert pairs.readable(0, broken) == taken


def test_after_the_last_file_comes_the_first(pairs: Pairs) -> None:
    assert pairs.readable(4, {2}) == 0


def test_nothing_to_read_is_told(pairs: Pairs) -> None:
    with pytest.raises(VideoError) as caught:
        pairs.readable(1, {0, 1, 2})
    assert caught.value.message == "none of 3 files can be read"
