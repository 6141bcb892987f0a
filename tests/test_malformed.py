"""Malformed inputs are refused in one line, whatever is wrong with them: a sample of what `make fuzz` runs."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cococli.errors import CocaError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# Those that take least time, and how many cases of each.
KINDS = {
    5: ("torch", "safetensors", "ckpt", "shards", "bundles", "cached", "results", "config"),
    3: ("configs", "csv lists", "classes", "reviews"),
}


@pytest.fixture(scope="module")
def path() -> Iterator[None]:
    """Import the programs as they import each other."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        yield


@pytest.mark.parametrize("cases", KINDS)
def test_malformed_files_are_refused_in_one_line(path: None, cases: int, tmp_path: Path) -> None:
    from fuzz import fuzz

    reported: list[str] = []
    assert not fuzz(tmp_path, cases=cases, only=KINDS[cases], report=reported.append), "\n".join(reported)


@pytest.fixture(scope="module")
def parsers(
    path: None, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Callable[[bytes], Any], list[bytes]]]:
    from fuzz_parsers import parsers

    return parsers(tmp_path_factory.mktemp("parsers"))


@settings(max_examples=150, derandomize=True)
@given(st.integers(0, 2**64))
def test_parsers_raise_nothing_but_errors_of_coca(parsers, seed: int) -> None:
    from mutations import mutate_bytes, mutate_json, mutate_text

    random = Random(seed)
    parse, seeds = random.choice(list(parsers.values()))
    content = random.choice(seeds)
    for _ in range(random.choice((1, 1, 4))):
        try:
            content = random.choice((mutate_bytes, mutate_json, mutate_text))(content, random)
        except ValueError:  # neither JSON nor text
            content = mutate_bytes(content, random)
    try:
        parse(content)
    except CocaError as error:
        assert "\n" not in error.message
