"""Pairs of a file and a caption, their padded lengths and their order."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.datasets.dataset import Dataset, Example
from cococli.datasets.pairs import WINDOW, Order, Pairs, bucket_lengths, pairs_of, trimmed
from cococli.errors import UsageError, VideoError
from cococli.tokenizer import EOT_ID, SOT_ID, encode

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


def test_long_captions_are_truncated_before_eot(pairs: Pairs) -> None:
    assert pairs.ids[3].tolist() == [SOT_ID, *encode("x " * 8), EOT_ID]


@pytest.mark.parametrize(
    ("broken", "taken"), [(set(), 0), ({1}, 0), ({0}, 2), ({0, 1}, 3), ({0, 2}, 2)], ids=lambda value: str(value)
)
def test_unreadable_files_yield_next_pair(pairs: Pairs, broken: set[int], taken: int) -> None:
    assert pairs.readable(0, broken) == taken


def test_after_the_last_file_comes_the_first(pairs: Pairs) -> None:
    assert pairs.readable(4, {2}) == 0


def test_nothing_to_read_is_told(pairs: Pairs) -> None:
    with pytest.raises(VideoError) as caught:
        pairs.readable(1, {0, 1, 2})
    assert caught.value.message == "none of 3 files can be read"


LONGEST = [(2, 12), (11, 12), (12, 16), (19, 20), (20, 28), (44, 76), (76, 76)]


def captions(*lengths: int, context: int = 76) -> np.ndarray:
    ids = np.zeros((len(lengths), context), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = 7
    return ids


@pytest.mark.parametrize(("longest", "length"), [(2, 4), (3, 4), (4, 8), (20, 24), (44, 48), (75, 76), (76, 76)])
def test_one_pad_stays_behind_the_longest_caption(longest: int, length: int) -> None:
    assert trimmed(captions(2, longest), 0).shape == (2, length)


def test_each_caption_has_a_length_of_its_own() -> None:
    longest, lengths = zip(*LONGEST, strict=True)
    assert bucket_lengths(captions(*longest), 0).tolist() == list(lengths)


def test_no_length_is_longer_than_the_context() -> None:
    assert bucket_lengths(captions(2, 12, 15, 16, context=16), 0).tolist() == [12, 16, 16, 16]


def test_id_0_inside_caption_is_not_padding() -> None:
    ids = captions(13)
    ids[0, 4] = 0
    assert bucket_lengths(ids, 0).tolist() == [16]


ALIKE = np.ones(100)
IMPORTS = "import numpy as np; from cococli.datasets.pairs import Order"


@given(seed=st.integers(0, 2**32), pairs=st.integers(1, 50), data=st.data())
def test_epochs_hold_each_pair_once(seed: int, pairs: int, data: st.DataObject) -> None:
    lengths = np.array(data.draw(st.lists(st.sampled_from([12, 16, 76]), min_size=pairs, max_size=pairs)))
    order = Order(seed, lengths, data.draw(st.integers(1, pairs)))
    first = data.draw(st.integers(0, 3)) * order.steps
    epoch = np.concatenate([order.batch(step) for step in range(first, first + order.steps)])
    assert len(set(epoch.tolist()) & set(range(pairs))) == len(epoch) > pairs - order.batch_size


def test_order_differs_by_epoch_and_seed() -> None:
    epochs = {tuple(Order(seed, ALIKE[:20], 20).batch(step).tolist()) for seed in range(5) for step in range(5)}
    assert len(epochs) == 25


def test_batches_do_not_depend_on_earlier_ones() -> None:
    order = Order(3, np.arange(100) % 3, 8)
    forward = [order.batch(step).tolist() for step in range(40)]
    assert [order.batch(step).tolist() for step in reversed(range(40))] == forward[::-1]


def test_order_is_pinned() -> None:
    wanted = [5, 6, 9, 3, 2, 1, 0, 8, 4, 7]
    assert Order(1, ALIKE[:10], 10).batch(2).tolist() == wanted
    code = f"{IMPORTS}; print(Order(1, np.ones(10), 10).batch(2).tolist())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == str(wanted)


def test_all_places_are_as_likely() -> None:
    counts = np.bincount([Order(seed, ALIKE[:4], 1).batch(0)[0] for seed in range(4000)], minlength=4)
    assert abs(counts - 1000).max() < 120  # four standard deviations


def test_pairs_of_a_length_share_batches() -> None:
    """All but one batch of each length, in each window."""
    lengths = np.random.default_rng(0).choice([12, 14, 16], 4 * WINDOW)
    order = Order(5, lengths, 4)
    mixed = [step for step in range(order.steps) if np.ptp(lengths[order.batch(step)])]
    assert len(mixed) <= 2
    assert len({tuple(lengths[order.batch(step)]) for step in range(6)}) > 1  # not one length after the other


def test_batches_group_pairs_by_length() -> None:
    order = Order(5, np.array([12] * 8 + [40] * 8), 4)
    met = {tuple(sorted(order.batch(step).tolist())) for step in range(8 * order.steps)}
    assert len(met) > 24


def test_a_window_is_no_wider_than_it_is() -> None:
    """What is drawn early in an epoch is trained on early."""
    count = 4 * WINDOW
    grouped, shuffled = Order(5, np.arange(count) % 3, 2), Order(5, np.ones(count), 2)
    early = [{pair for step in range(WINDOW) for pair in order.batch(step)} for order in (grouped, shuffled)]
    assert early[0] == early[1]


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "workers", "step", "hint"),
    [
        (8, 1, 1, "8 captions", "--batch-size 7 or less"),
        (4, 3, 1, "12 captions (4 x --accumulate 3)", "--batch-size 2 or --accumulate 1 or less"),
        (8, 3, 1, "24 captions (8 x --accumulate 3)", "--batch-size 2 or less"),
        (2, 8, 1, "16 captions (2 x --accumulate 8)", "--accumulate 3 or less"),
        (8, 1, 4, "8 captions", "--batch-size 4 or less"),
        (8, 1, 8, "8 captions", "more captions, or fewer workers"),
    ],
)
def test_fewer_pairs_than_a_step_takes_are_told(
    batch_size: int, accumulate: int, workers: int, step: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Order(0, ALIKE[:7], batch_size, accumulate, workers)
    assert caught.value.message == f"one step needs {step}, but there are only 7"
    assert caught.value.hint == hint
