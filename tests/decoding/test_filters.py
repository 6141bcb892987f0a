"""Filters of the next token."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.decoding import filters
from cococli.decoding.filters import Choices
from cococli.decoding.search_options import SearchOptions

NO = -np.inf
EOT = 5


def scores(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def filtered(past: np.ndarray, values: np.ndarray, **options: object) -> np.ndarray:
    """Filter the whole vocabulary of sequences, each of a clip of its own."""
    tokens = np.broadcast_to(np.arange(values.shape[1]), values.shape)
    choices = Choices(*(part[:, None] for part in (tokens, values, values)), np.full((len(values), 1), NO))
    length = np.full(len(past), past.shape[1])
    padded = np.pad(past, ((0, 0), (0, 3)))[:, None]  # room for more tokens, of any value
    options = SearchOptions(**{"min_length": 0, **options})
    return filters.apply(padded, length, choices, options, EOT).scores[:, 0]


def test_repetition_penalty_for_both_signs() -> None:
    values = scores([-1, 4, 3, 0, 0, 0], [-1, 4, 3, 0, 0, 0])
    result = filtered(ids([1, 0, 1], [2, 2, 2]), values, repetition_penalty=2.0)
    np.testing.assert_array_equal(result[:, :3], [[-2, 2, 3], [-1, 4, 1.5]])


def test_repeated_ngrams_are_forbidden() -> None:
    past = ids([1, 2, 3, 1, 2], [1, 1, 1, 1, 1], [0, 1, 2, 3, 0])
    result = filtered(past, np.zeros((3, 6), np.float32), no_repeat_ngram=3)
    np.testing.assert_array_equal(result[:, :4], [[0, 0, 0, NO], [0, NO, 0, 0], [0, 0, 0, 0]])


def test_unigrams_forbid_every_used_token() -> None:
    result = filtered(ids([1, 3]), np.zeros((1, 6), np.float32), no_repeat_ngram=1)
    np.testing.assert_array_equal(result, [[0, NO, 0, NO, 0, 0]])


@given(st.integers(1, 5), st.lists(st.integers(0, 3), min_size=1, max_size=14))
def test_repeated_ngrams_equal_hugging_face(size: int, tokens: list[int]) -> None:
    """As NoRepeatNGramLogitsProcessor: a table of the tokens that followed each prefix of an n-gram."""
    followed = defaultdict(set)
    for run in zip(*(tokens[at:] for at in range(size)), strict=False):
        followed[run[:-1]].add(run[-1])
    expected = followed[tuple(tokens[len(tokens) + 1 - size :])] if len(tokens) + 1 >= size else set()
    result = filtered(ids(tokens), np.zeros((1, 6), np.float32), no_repeat_ngram=size)
    assert set(np.flatnonzero(result[0] == NO)) == expected


@pytest.mark.parametrize("size", [3, 4, 30])
def test_captions_shorter_than_an_ngram_are_free(size: int) -> None:
    free = np.zeros((1, 6), np.float32)
    np.testing.assert_array_equal(filtered(ids([1, 1]), free, no_repeat_ngram=size), free)


def test_sequences_of_several_lengths() -> None:
    """Ids after the length of a sequence are not part of it."""
    past, values = ids([1, 2, 1, 2], [1, 2, 1, 2])[:, None], np.zeros((2, 1, 6), np.float32)
    tokens = np.broadcast_to(np.arange(6), values.shape)
    choices = Choices(tokens, values, values, np.full((2, 1), NO))
    options = SearchOptions(no_repeat_ngram=2, min_length=3)
    result = filters.apply(past, np.array([3, 2]), choices, options, EOT).scores[:, 0]
    np.testing.assert_array_equal(result, [[0, 0, NO, 0, 0, 0], [0, 0, 0, 0, 0, NO]])


def test_low_penalty_raises_the_bound() -> None:
    """A used token outside the choices may become more likely than they are."""
    values = scores([-1, -2], [3, 2])[:, None]
    choices = Choices(ids([0, 1], [0, 1])[:, None], values, values, values.min(axis=2))
    bounds = [
        filters.apply(ids([9], [9])[:, None], np.array([1, 1]), choices, options, EOT).bound[:, 0].tolist()
        for options in (SearchOptions(repetition_penalty=penalty) for penalty in (0.5, 2))
    ]
    assert bounds == [[-1, 4], [-2, 2]]


def test_top_k_keeps_equal_scores() -> None:
    result = filters.keep_top_k(scores([1, 4, 2, 2, 0], [5, 4, 3, 2, 1]), 2)
    np.testing.assert_array_equal(result, [[NO, 4, 2, 2, NO], [5, 4, NO, NO, NO]])


def test_top_k_beyond_the_vocabulary_keeps_all() -> None:
    row = scores([1, 2, 3])
    np.testing.assert_array_equal(filters.keep_top_k(row, 10), row)


@pytest.mark.parametrize(
    ("mass", "kept"), [(0.001, [2]), (0.5, [2]), (0.51, [0, 2]), (0.81, [0, 1, 2]), (1.0, [0, 1, 2, 3])]
)
def test_top_p_keeps_tokens_that_reach_the_mass(mass: float, kept: list[int]) -> None:
    row = np.log(scores([0.3, 0.15, 0.5, 0.05]))
    assert np.flatnonzero(np.isfinite(filters.keep_top_p(row, mass)[0])).tolist() == kept


def test_top_p_of_a_flat_distribution() -> None:
    flat = np.random.default_rng(0).normal(size=(1, 5000)).astype(np.float32) * 1e-3
    assert np.isfinite(filters.keep_top_p(flat, 0.9)[0]).sum() == pytest.approx(4500, abs=5)


def test_top_p_knows_when_tokens_are_missing() -> None:
    row = np.log(scores([0.5, 0.3, 0.1]))  # of a vocabulary that has a tenth more
    for mass, kept, enough in ((0.7, 2, True), (0.85, 3, True), (0.95, 3, False), (0.800001, 3, False)):
        result, is_enough = filters.keep_top_p(row, mass, np.zeros(1))
        assert (np.isfinite(result).sum(), is_enough.tolist()) == (kept, [enough])


def test_eot_waits_for_the_minimum_length() -> None:
    free = np.zeros((1, 6), np.float32)
    assert filtered(ids([1, 1]), free, min_length=3)[0, EOT] == NO
    assert filtered(ids([1, 1, 1]), free, min_length=3)[0, EOT] == 0


def test_filters_do_not_change_their_input() -> None:
    given = scores([1, -2, 3, -4, 5, 6])
    kept = given.copy()
    filtered(ids([0, 1]), given, repetition_penalty=1.5, no_repeat_ngram=1, min_length=5, ban=("a",))
    filters.keep_top_k(given, 1)
    filters.keep_top_p(given, 0.1)
    np.testing.assert_array_equal(given, kept)
