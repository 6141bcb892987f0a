"""What holds for every method of search."""

from itertools import chain

import numpy as np
import pytest
from decoding.fake_engine import FakeEngine, chance, clips
from hypothesis import given, settings
from hypothesis import strategies as st

from cococli.decoding.options import METHODS, SearchOptions
from cococli.decoding.search import search, search_all
from cococli.errors import ModelError, UsageError

V = 12  # SOT 10, EOT 11

ASKED = {
    "beams": st.sampled_from((1, 2, 3, 6)),
    "beam_groups": st.just(1),
    "max_length": st.integers(6, 12),
    "min_length": st.integers(0, 5),
    "length_penalty": st.sampled_from((-1.0, 0.0, 1.0, 2.0)),
    "repetition_penalty": st.sampled_from((0.8, 1.0, 1.3)),
    "no_repeat_ngram": st.integers(0, 3),
    "top_k": st.integers(1, 20),
    "seed": st.integers(0, 9),
}
DRAWS = st.builds(SearchOptions, method=st.sampled_from(("top-k", "top-p")), candidates=st.integers(1, 4), **ASKED)
REQUESTS = st.builds(SearchOptions, method=st.sampled_from(METHODS), **ASKED) | DRAWS
NUMBERS = st.lists(st.integers(0, 1000), min_size=1, max_size=5)
PROMPTS = st.lists(st.integers(0, 9), max_size=3)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, NUMBERS, PROMPTS)
def test_clips_searched_together_find_what_each_finds_alone(
    options: SearchOptions, numbers: list[int], prompt: list[int]
) -> None:
    engine = FakeEngine(chance(V, end=1), V)
    together = search_all(engine, clips(*numbers), options, prompt, seeds=numbers)
    alone = [search_all(engine, clips(number), options, prompt, seeds=[number])[0] for number in numbers]
    assert together == alone


@settings(max_examples=60, deadline=None)
@given(REQUESTS, NUMBERS, PROMPTS)
def test_captions_keep_the_rules_they_were_asked_to_keep(
    options: SearchOptions, numbers: list[int], prompt: list[int]
) -> None:
    for found in chain(*search_all(FakeEngine(chance(V, end=1), V), clips(*numbers), options, prompt)):
        assert found.ids[: 1 + len(prompt)] == (10, *prompt)
        assert len(found.ids) <= options.max_length
        assert found.finished == (found.ids[-1] == 11)
        assert 11 not in found.ids[:-1]
        assert not found.finished or len(found.ids) > options.min_length
        assert found.finished or len(found.ids) == options.max_length


@settings(max_examples=30, deadline=None)
@given(REQUESTS, NUMBERS)
def test_the_best_caption_is_the_first_of_all(options: SearchOptions, numbers: list[int]) -> None:
    engine = FakeEngine(chance(V, end=1), V)
    everything = search_all(engine, clips(*numbers), options)
    assert search(engine, clips(*numbers), options) == [found[0] for found in everything]
    assert all(len(found) <= options.rows for found in everything)


def test_finished_clips_are_not_fed() -> None:
    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        row = np.zeros(V)
        row[11 if clip < 3 and len(ids) > 1 else 1] = 20  # clips 0 to 2 end at once, clip 3 never
        return row

    engine = FakeEngine(logits, V)
    search(engine, clips(0, 1, 2, 3), SearchOptions(method="greedy", min_length=0, max_length=6))
    assert engine.rows_fed == [4, 4, 1, 1, 1]


@pytest.mark.parametrize("method", METHODS)
def test_no_clips_have_no_captions(method: str) -> None:
    assert search(FakeEngine(chance(V), V), np.zeros((0, 3, 4), np.float32), SearchOptions(method=method)) == []


@pytest.mark.parametrize("mark", [10, 11, -1, 12])
def test_a_prompt_with_a_mark_or_a_foreign_id_is_refused(mark: int) -> None:
    with pytest.raises(UsageError, match="--prompt holds a mark"):
        search(FakeEngine(chance(V), V), clips(0), SearchOptions(), prompt=[1, mark])


def test_a_length_that_the_model_cannot_read_is_refused() -> None:
    with pytest.raises(UsageError, match="--max-length 30 is more than the 20"):
        search(FakeEngine(chance(V), V, context_length=20), clips(0), SearchOptions())


@pytest.mark.parametrize("method", METHODS)
def test_a_damaged_model_is_told_from_a_bad_caption(method: str) -> None:
    engine = FakeEngine(lambda clip, ids: np.full(V, np.nan), V)
    with pytest.raises(ModelError, match="weights are damaged"):
        search(engine, clips(0), SearchOptions(method=method))
