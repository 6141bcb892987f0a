"""How long captions are computed."""

import numpy as np
import pytest

from cococli.training.lengths import padded_lengths, trimmed

LONGEST = [(2, 12), (11, 12), (12, 16), (19, 20), (20, 28), (44, 76), (76, 76)]


def captions(*lengths: int, context: int = 76) -> np.ndarray:
    ids = np.zeros((len(lengths), context), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = 7
    return ids


@pytest.mark.parametrize(("longest", "length"), LONGEST)
def test_one_pad_stays_behind_the_longest_caption(longest: int, length: int) -> None:
    assert trimmed(captions(2, longest), 0).shape == (2, length)


def test_each_caption_has_a_length_of_its_own() -> None:
    longest, lengths = zip(*LONGEST, strict=True)
    assert padded_lengths(captions(*longest), 0).tolist() == list(lengths)


def test_no_length_is_longer_than_the_context() -> None:
    assert padded_lengths(captions(2, 12, 15, 16, context=16), 0).tolist() == [12, 16, 16, 16]


def test_a_token_that_looks_like_a_pad_ends_no_caption() -> None:
    ids = captions(13)
    ids[0, 4] = 0
    assert padded_lengths(ids, 0).tolist() == [16]
