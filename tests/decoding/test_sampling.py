"""Greedy search and sampling."""

import math
from collections import Counter
from itertools import product

import pytest
from decoding.fake_engine import FakeEngine, chance, clips, script
from searches import search, search_all

from cococli.decoding.search_options import SearchOptions

# A vocabulary of eight: words 1 to 5, SOT 6, EOT 7.
V, SOT, EOT = 8, 6, 7
ONE_WORD = {"min_length": 0, "max_length": 2}


def drawn(engine: FakeEngine, clip_count: int = 2000, **options: object) -> Counter:
    """Return how often each word was drawn as the only one of a clip."""
    found = search(engine, clips(*[0] * clip_count), SearchOptions(**ONE_WORD, **options))
    return Counter(hypothesis.ids[1] for hypothesis in found)


def test_greedy_takes_the_most_likely_tokens() -> None:
    engine = FakeEngine(script(V, {1: 0.5, 2: 0.4}, {3: 0.9}, {4: 0.6, EOT: 0.3}, {EOT: 0.9}), V)
    [found] = search(engine, clips(0), SearchOptions(method="greedy", min_length=0))
    assert found.ids == (SOT, 1, 3, 4, EOT)
    assert found.finished


def test_one_beam_equals_greedy_search() -> None:
    engine = FakeEngine(chance(V), V)
    numbers = clips(*range(10))
    one_beam, greedy = (
        SearchOptions(beams=1, repetition_penalty=2),
        SearchOptions(method="greedy", repetition_penalty=2),
    )
    assert search(engine, numbers, one_beam) == search(engine, numbers, greedy)


@pytest.mark.parametrize("method", ["greedy", "top-k", "top-p"])
def test_force_eot_ends_captions_of_maximum_length(method: str) -> None:
    engine = FakeEngine(script(V, {1: 1.0}), V)
    [free] = search(engine, clips(0), SearchOptions(method=method, max_length=6))
    [forced] = search(engine, clips(0), SearchOptions(method=method, max_length=6, force_eot=True))
    assert (free.ids, free.finished) == ((SOT, 1, 1, 1, 1, 1), False)
    assert (forced.ids, forced.finished) == ((SOT, 1, 1, 1, 1, EOT), True)


def test_samples_follow_the_probabilities() -> None:
    counts = drawn(FakeEngine(script(V, {1: 0.6, 2: 0.3, 3: 0.1}), V), method="top-p", top_p=1.0)
    assert [counts[word] / 2000 for word in (1, 2, 3)] == pytest.approx([0.6, 0.3, 0.1], abs=0.04)


def test_top_k_and_top_p_exclude_unlikely_tokens() -> None:
    engine = FakeEngine(script(V, {1: 0.5, 2: 0.3, 3: 0.2}), V)
    assert drawn(engine, method="top-k", top_k=2).keys() == {1, 2}
    assert drawn(engine, method="top-p", top_p=0.5).keys() == {1}
    assert drawn(engine, method="top-p", top_p=0.81).keys() == {1, 2, 3}


def test_temperature_is_applied_before_top_p() -> None:
    engine = FakeEngine(script(V, {1: 0.6, 2: 0.4}), V)
    assert drawn(engine, method="top-p", top_p=0.9).keys() == {1, 2}
    assert drawn(engine, method="top-p", top_p=0.9, temperature=0.1).keys() == {1}


def test_same_seed_repeats_captions() -> None:
    engine = FakeEngine(chance(V), V)
    numbers = clips(*range(10))
    first, again, other = (search(engine, numbers, SearchOptions(method="top-k", seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_samples_do_not_depend_on_the_batch() -> None:
    engine = FakeEngine(chance(V), V)
    options = SearchOptions(method="top-p")
    together = search(engine, clips(4, 5, 6), options, seeds=[40, 50, 60])
    assert together[1:] == search(engine, clips(5, 6), options, seeds=[50, 60])
    assert together[0].ids != search(engine, clips(4), options, seeds=[41])[0].ids


@pytest.mark.parametrize("method", ["top-k", "top-p"])
def test_more_samples_keep_the_first_ones(method: str) -> None:
    engine = FakeEngine(chance(V, end=1), V)
    one, three = (
        search_all(engine, clips(*range(20)), SearchOptions(method, candidates=count, seed=3)) for count in (1, 3)
    )
    assert [found[:1] for found in three] == one
    assert {len(found) for found in three} == {3}


def test_samples_are_independent() -> None:
    engine = FakeEngine(script(V, {1: 0.5, 2: 0.5}), V)
    options = SearchOptions("top-p", top_p=1.0, candidates=3, **ONE_WORD)
    counts = Counter(tuple(h.ids[1] for h in found) for found in search_all(engine, clips(*[0] * 2000), options))
    assert [counts[drawn] / 2000 for drawn in product((1, 2), repeat=3)] == pytest.approx([1 / 8] * 8, abs=0.03)


def test_finished_samples_wait_for_others() -> None:
    engine = FakeEngine(script(V, {1: 0.5, EOT: 0.5}, {2: 0.9}), V)
    options = SearchOptions("top-k", top_k=2, candidates=8, min_length=0, max_length=4)
    [found] = search_all(engine, clips(0), options)
    assert {hypothesis.ids for hypothesis in found} == {(SOT, EOT), (SOT, 1, 2, 2)}
    ended = [hypothesis.logprob for hypothesis in found if hypothesis.finished]
    assert ended == pytest.approx([math.log(0.5)] * len(ended))


def test_caption_ends_when_every_token_is_forbidden() -> None:
    options = SearchOptions(method="top-p", no_repeat_ngram=1, min_length=8, max_length=10)
    [found] = search(FakeEngine(chance(4), 4), clips(0), options)
    assert sorted(found.ids) == [0, 1, 2, 3]
    assert found.ids[-1] == 3
