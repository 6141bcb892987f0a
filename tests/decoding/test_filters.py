"""Filters of the next token."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.decoding import filters
from cococli.decoding.options import SearchOptions

NO = -np.inf
EOT = 5


def scores(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def test_repetition_penalty_for_both_signs() -> None:
    filtered = filters.penalize_repetition(ids([1, 0, 1], [2, 2, 2]), scores([-1, 4, 3], [-1, 4, 3]), 2.0)
    np.testing.assert_array_equal(filtered, [[-2, 2, 3], [-1, 4, 1.5]])


def test_repeated_ngrams_are_forbidden() -> None:
    past = ids([1, 2, 3, 1, 2], [1, 1, 1, 1, 1], [0, 1, 2, 3, 0])
    filtered = filters.forbid_repeated_ngrams(past, np.zeros((3, 4), np.float32), 3)
    np.testing.assert_array_equal(filtered, [[0, 0, 0, NO], [0, NO, 0, 0], [0, 0, 0, 0]])


def test_unigrams_forbid_every_used_token() -> None:
    filtered = filters.forbid_repeated_ngrams(ids([1, 3]), np.zeros((1, 4), np.float32), 1)
    np.testing.assert_array_equal(filtered, [[0, NO, 0, NO]])


@given(st.integers(1, 5), st.lists(st.integers(0, 3), min_size=1, max_size=14))
def test_repeated_ngrams_equal_hugging_face(size: int, tokens: list[int]) -> None:
    """As NoRepeatNGramLogitsProcessor: a table of the tokens that followed each prefix of an n-gram."""
    followed = defaultdict(set)
    for run in zip(*(tokens[at:] for at in range(size)), strict=False):
        followed[run[:-1]].add(run[-1])
    expected = followed[tuple(tokens[len(tokens) + 1 - size :])] if len(tokens) + 1 >= size else set()
    filtered = filters.forbid_repeated_ngrams(ids(tokens), np.zeros((1, 4), np.float32), size)
    assert set(np.flatnonzero(filtered[0] == NO)) == expected


@pytest.mark.parametrize("size", [3, 4, 30])
def test_captions_shorter_than_an_ngram_are_free(size: int) -> None:
    free = np.zeros((1, 4), np.float32)
    np.testing.assert_array_equal(filters.forbid_repeated_ngrams(ids([1, 1]), free, size), free)


def test_top_k_keeps_equal_scores() -> None:
    filtered = filters.keep_top_k(scores([1, 4, 2, 2, 0], [5, 4, 3, 2, 1]), 2)
    np.testing.assert_array_equal(filtered, [[NO, 4, 2, 2, NO], [5, 4, NO, NO, NO]])


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
    assert np.isfinite(filters.keep_top_p(flat, 0.9)).sum() == pytest.approx(4500, abs=5)


def test_eot_waits_for_the_minimum_length() -> None:
    options = SearchOptions(min_length=3)
    free = np.zeros((1, 6), np.float32)
    assert filters.apply(ids([1, 1]), free, options, EOT)[0, EOT] == NO
    assert filters.apply(ids([1, 1, 1]), free, options, EOT)[0, EOT] == 0


def test_filters_do_not_change_their_input() -> None:
    options = SearchOptions(repetition_penalty=1.5, no_repeat_ngram=1)
    given = scores([1, -2, 3, -4, 5, 6])
    kept = given.copy()
    filters.apply(ids([0, 1]), given, options, EOT)
    filters.keep_top_k(given, 1)
    filters.keep_top_p(given, 0.1)
    np.testing.assert_array_equal(given, kept)
