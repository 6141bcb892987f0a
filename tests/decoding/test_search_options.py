"""Validation of search options."""

import dataclasses
from collections.abc import Callable

import pytest

from cococli.catalog import VIT_L_14
from cococli.decoding.search_options import SearchOptions
from cococli.errors import UsageError


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_length": 40}, "--min-length 40 must be less than --max-length 30"),
        ({"min_length": 30}, "--min-length 30 must be less than --max-length 30"),
        ({"min_length": -1}, "--min-length -1 must be at least 0"),
        ({"max_length": 1, "min_length": 0}, "--max-length 1 must be at least 2"),
        ({"beams": 0}, "--beams 0 must be from 1 to 100"),
        ({"beams": 100_000}, "--beams 100000 must be from 1 to 100"),
        ({"method": "legacy", "beams": 4}, "--beams 4 is not a multiple of 3, the groups of --search legacy"),
        ({"method": "beams"}, "--search cannot be 'beams'; choose beam, legacy, greedy, top-k, top-p"),
        ({"no_repeat_ngram": -1}, "--no-repeat-ngram -1 must be from 0 to 1000"),
        ({"length_penalty": float("nan")}, "--length-penalty nan must be from -10 to 10"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty 0.0 must be from 0.01 to 100"),
        ({"temperature": 0.0}, "--temperature 0.0 must be from 0.01 to 100"),
        ({"top_k": 0}, "--top-k 0 must be from 1 to 100000"),
        ({"top_p": 0.0}, "--top-p 0.0 must be above 0 and at most 1"),
        ({"top_p": float("nan")}, "--top-p nan must be above 0 and at most 1"),
        ({"seed": -1}, "--seed -1 must be at least 0"),
        ({"force_eot": True}, "force_eot is for greedy, top-k and top-p, not for beam"),
        ({"candidates": 0}, "--candidates 0 must be from 1 to 100"),
        ({"candidates": 101, "method": "top-k"}, "--candidates 101 must be from 1 to 100"),
        ({"candidates": 7}, "--candidates 7 must be at most 6 with --search beam"),
        ({"candidates": 3, "method": "legacy"}, "--candidates 3 must be at most 2 with --search legacy"),
        ({"candidates": 2, "method": "greedy"}, "--candidates 2 must be at most 1 with --search greedy"),
        ({"candidates": 2, "beams": 1}, "--candidates 2 must be at most 1 with --search beam"),
        ({"ban": ("cat", "")}, "--ban '' contains no word"),
        ({"ban": (" \n",)}, "--ban ' \\n' contains no word"),
        ({"ban": ("cat<end_of_text>",)}, "--ban 'cat<end_of_text>' contains a start or end token"),
        ({"ban": ("a " * 30,)}, "--ban has a phrase of 30 tokens, which do not fit within --max-length 30"),
        ({"ban": "cat"}, "ban must be a tuple of words, not 'cat'"),
    ],
)
def test_invalid_options_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        SearchOptions(**wrong)
    assert caught.value.message == message


def test_model_limits_the_length() -> None:
    SearchOptions(max_length=76).check(VIT_L_14)
    with pytest.raises(UsageError, match="--max-length 77 exceeds the 76 tokens of this model"):
        SearchOptions(max_length=77).check(VIT_L_14)


def test_prompt_must_leave_room_for_a_token() -> None:
    options = SearchOptions(max_length=10)
    options.check(VIT_L_14, prompt_tokens=8)
    with pytest.raises(UsageError, match="--prompt has 9 tokens"):
        options.check(VIT_L_14, prompt_tokens=9)


def test_only_one_legacy_group_is_searched() -> None:
    assert SearchOptions(method="legacy").rows == 2
    assert SearchOptions().rows == 6
    assert SearchOptions(method="greedy").rows == 1


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (SearchOptions, "try --beams 9"),
        (lambda **options: SearchOptions("legacy", **options), "try --beams 27"),
        (lambda **options: SearchOptions("greedy", **options), "try --search beam"),
    ],
)
def test_too_many_candidates_get_a_hint(options: Callable[..., SearchOptions], hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        options(candidates=9)
    assert caught.value.hint == hint


def test_sampling_has_a_row_per_candidate() -> None:
    assert SearchOptions(method="top-p", candidates=9).rows == 9
    assert SearchOptions(candidates=3).rows == 6


def test_longest_phrase_may_be_banned() -> None:
    assert SearchOptions(ban=("a " * 29,)).ban


def test_options_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SearchOptions().beams = 0  # type: ignore[misc]
