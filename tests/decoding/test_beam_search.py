"""Beam search on an engine without a network."""

from itertools import pairwise, product

import numpy as np
import pytest
from decoding.fake_engine import FakeEngine, chance, clips, script
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from searches import search, search_all

from cococli.decoding.search_options import SearchOptions

# A vocabulary of eight: words 1 to 5, SOT 6, EOT 7.
V, SOT, EOT = 8, 6, 7


def captions(engine: FakeEngine, options: SearchOptions, prompt: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    return [hypothesis.ids for hypothesis in search(engine, clips(0), options, prompt)]


def test_best_caption_may_start_with_unlikely_word() -> None:
    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        row = np.full(V, 1e-6)
        if len(ids) == 1:
            row[1], row[2] = 0.6, 0.4
        elif len(ids) == 2:
            row[[3, 4] if ids[1] == 1 else [5]] = 0.5 if ids[1] == 1 else 1.0
        else:
            row[EOT] = 1
        return np.log(row)

    engine = FakeEngine(logits, V)
    assert captions(engine, SearchOptions(beams=2, min_length=0)) == [(SOT, 2, 5, EOT)]


def test_captions_reach_the_minimum_length() -> None:
    engine = FakeEngine(script(V, {EOT: 0.9, 1: 0.1}), V)
    assert len(captions(engine, SearchOptions(min_length=0))[0]) == 2
    assert len(captions(engine, SearchOptions(min_length=6))[0]) == 7  # six tokens, then EOT


def test_caption_of_maximum_length_has_no_eot() -> None:
    [caption] = search(FakeEngine(script(V, {1: 0.9}), V), clips(0), SearchOptions(max_length=9))
    assert caption.ids == (SOT, *[1] * 8)
    assert not caption.finished


def test_search_stops_when_no_beam_can_improve() -> None:
    engine = FakeEngine(script(V, {1: 0.5, 2: 0.4}, {EOT: 0.999}), V)
    captions(engine, SearchOptions(beams=2, min_length=0, max_length=30))
    assert len(engine.rows_fed) == 2


def test_higher_length_penalty_favors_longer_captions() -> None:
    engine = FakeEngine(chance(V, scale=0.5, end=1.0), V)
    lengths = [
        np.mean([len(found.ids) for found in search(engine, clips(*range(20)), options)])
        for options in (SearchOptions(min_length=0, max_length=14, length_penalty=penalty) for penalty in (0, 1, 3))
    ]
    assert lengths[0] < lengths[1] < lengths[2]


def test_repetition_penalty_and_no_repeat_ngram() -> None:
    engine = FakeEngine(script(V, {1: 0.6, 2: 0.3}), V)
    options = {"beams": 3, "max_length": 6, "min_length": 5}
    assert captions(engine, SearchOptions(**options)) == [(SOT, 1, 1, 1, 1, 1)]
    assert 1 in captions(engine, SearchOptions(**options, repetition_penalty=50))[0]
    assert captions(engine, SearchOptions(**options, repetition_penalty=50)) != [(SOT, 1, 1, 1, 1, 1)]
    pairs = captions(engine, SearchOptions(**options, no_repeat_ngram=2))[0]
    assert len(set(pairwise(pairs))) == 5


def test_captions_include_the_prompt_in_their_length() -> None:
    engine = FakeEngine(chance(V, end=-5), V)
    [caption] = search(engine, clips(0), SearchOptions(max_length=8), prompt=(3, 0, 2))
    assert caption.ids[:4] == (SOT, 3, 0, 2)
    assert len(caption.ids) == 8


def test_length_penalty_ignores_the_prompt() -> None:
    # "1 EOT" scores -1.8 / 2, EOT alone -1 / 1. Were the prompt counted, it would be -1.8 / 3 against -1 / 2.
    spread = dict.fromkeys(range(6), 0.123)
    engine = FakeEngine(script(V, {}, {EOT: 0.368, 1: 0.63}, {EOT: 0.262, **spread}), V)
    assert captions(engine, SearchOptions(beams=2, min_length=0, max_length=4), (3,)) == [(SOT, 3, 1, EOT)]


def test_eot_outside_the_best_beams_is_ignored() -> None:
    spread = dict.fromkeys(range(6), 0.16)
    engine = FakeEngine(script(V, {1: 0.5, 2: 0.3, EOT: 0.2}, spread), V)
    [caption] = captions(engine, SearchOptions(beams=2, min_length=0, max_length=3, length_penalty=0))
    assert len(caption) == 3


def test_ngrams_of_the_prompt_are_not_repeated() -> None:
    engine = FakeEngine(script(V, {1: 0.9}), V)
    assert captions(engine, SearchOptions(max_length=4, min_length=3, no_repeat_ngram=1), (1,))[0][2:].count(1) == 0


def test_logprob_is_the_mean_of_unfiltered_logprobs() -> None:
    engine = FakeEngine(chance(V, end=1), V)
    options = SearchOptions(repetition_penalty=1.5, no_repeat_ngram=2, min_length=4, max_length=9)
    for number, found in enumerate(search(engine, clips(*range(8)), options, prompt=(3,))):
        logprobs = [
            log_softmax(engine.logits(number, found.ids[:at]))[found.ids[at]] for at in range(2, len(found.ids))
        ]
        assert found.logprob == pytest.approx(np.mean(logprobs), abs=1e-5)


@pytest.mark.parametrize("method", ["beam", "legacy"])
def test_caption_ends_when_every_token_is_forbidden(method: str) -> None:
    engine = FakeEngine(chance(4), 4)
    options = SearchOptions(method=method, beams=6, no_repeat_ngram=1, min_length=8, max_length=10)
    [caption] = search(engine, clips(0), options)
    assert sorted(caption.ids) == [0, 1, 2, 3]
    assert caption.finished


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**20), st.integers(2, 5))
def test_wide_search_finds_the_best_captions(seed: int, max_length: int) -> None:
    """With length penalty 0 a score can only fall, so stopping early cannot miss anything."""
    engine = FakeEngine(chance(4, scale=2), 4)  # words 0 and 1, SOT 2, EOT 3
    options = SearchOptions(beams=100, length_penalty=0, min_length=0, max_length=max_length)
    [found] = search_all(engine, clips(seed), options)
    best = sorted(everything(engine, seed, max_length), reverse=True)[:10]
    assert [h.logprob * (len(h.ids) - 1) for h in found[:10]] == pytest.approx([t for t, _ in best], abs=1e-4)
    assert {h.ids for h in found[:10]} == {ids for _, ids in best}


def everything(engine: FakeEngine, clip: int, max_length: int) -> set[tuple[float, tuple[int, ...]]]:
    """Return log-probability and ids of every caption."""
    captions = set()
    for words in product(range(4), repeat=max_length - 1):
        total, ids = 0.0, (2,)
        for token in words:
            total += log_softmax(engine.logits(clip, ids))[token]
            ids += (token,)
            if token == 3:
                break
        captions.add((total, ids))
    return captions


def test_candidates_equal_hugging_face() -> None:
    """Expect what transformers 4.57.1 returns with num_return_sequences=3 for these logits."""
    options = SearchOptions(beams=4, min_length=3, max_length=8, candidates=3)
    found = search_all(FakeEngine(chance(V, end=1), V), clips(0, 1, 2, 3), options)
    assert [[hypothesis.ids for hypothesis in best[:3]] for best in found] == [
        [(6, 2, 1, 7), (6, 2, 1, 3, 7), (6, 2, 1, 0, 6, 1, 3, 1)],
        [(6, 3, 3, 0, 4, 7), (6, 3, 3, 0, 4, 0, 6, 6), (6, 3, 3, 0, 1, 6, 5, 4)],
        [(6, 5, 5, 5, 7), (6, 5, 5, 5, 3, 2, 6, 5), (6, 5, 5, 5, 2, 4, 3, 6)],
        [(6, 4, 5, 3, 5, 1, 7), (6, 4, 5, 3, 5, 5, 0, 1), (6, 4, 5, 3, 5, 1, 6, 1)],
    ]


def test_legacy_candidates_come_from_one_group() -> None:
    engine = FakeEngine(chance(V, end=1), V)
    grouped, alone = SearchOptions("legacy", beams=6, beam_groups=2), SearchOptions("legacy", beams=3, beam_groups=1)
    assert search_all(engine, clips(0, 1), grouped) == search_all(engine, clips(0, 1), alone)
    for found in search_all(engine, clips(*range(10)), SearchOptions("legacy", candidates=2)):
        assert len({hypothesis.ids for hypothesis in found}) == 2


def test_earlier_of_equal_captions_ranks_higher() -> None:
    engine = FakeEngine(script(V, {2: 0.4, 1: 0.4, EOT: 0.2}, {EOT: 0.9}), V)
    [found] = search_all(engine, clips(0), SearchOptions(beams=3, min_length=0, length_penalty=0))
    assert [hypothesis.ids for hypothesis in found] == [(SOT, 1, EOT), (SOT, 2, EOT), (SOT, EOT)]
