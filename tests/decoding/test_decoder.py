"""Clips that come and go while others are searched."""

import numpy as np
import pytest
from decoding.fake_engine import FakeEngine, chance, clips
from hypothesis import given, settings
from hypothesis import strategies as st

from cococli.decoding import decoder as decoders
from cococli.decoding.decoder import Decoder
from cococli.decoding.options import METHODS, SearchOptions
from cococli.decoding.rows import Rows
from cococli.decoding.search import search_all

V = 12  # SOT 10, EOT 11
OPTIONS = st.builds(
    SearchOptions,
    method=st.sampled_from(METHODS),
    beams=st.sampled_from((1, 3)),
    beam_groups=st.just(1),
    max_length=st.integers(6, 10),
    top_k=st.integers(1, 5),
)


@settings(max_examples=60, deadline=None)
@given(OPTIONS, st.integers(1, 4), st.lists(st.integers(0, 5), min_size=1, max_size=9), st.booleans())
def test_a_clip_finds_the_same_whenever_it_comes(
    options: SearchOptions, lanes: int, steps_between: list[int], shrinks: bool
) -> None:
    engine, found = FakeEngine(chance(V, end=1), V), {}
    decoder: Decoder[int] = Decoder(engine, options, (3,), lanes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoders, "RESIZE_SECONDS", -1.0 if shrinks else 1e9)
        for number, steps in enumerate(steps_between):
            decoder.add(number, clips(number)[0], number)
            for _ in range(steps if decoder.busy else 0):
                if decoder.busy:
                    found |= decoder.step()
        while decoder.busy:
            found |= decoder.step()
    numbers = range(len(steps_between))
    wanted = search_all(engine, clips(*numbers), options, (3,), seeds=[*numbers])
    assert [found[number] for number in numbers] == wanted


def lengths(*words: int) -> FakeEngine:
    """Clip i says so many words, whatever it is."""

    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        row = np.zeros(V)
        row[11 if len(ids) > words[clip] else 1] = 20
        return row

    return FakeEngine(logits, V)


def test_a_clip_that_is_done_makes_room_for_one_that_waits() -> None:
    engine = lengths(8, 2, 3, 1)
    options = SearchOptions(method="greedy", min_length=0, max_length=12)
    decoder: Decoder[int] = Decoder(engine, options, lanes=2)
    for number in range(4):
        decoder.add(number, clips(number)[0], number)
    done = []
    while decoder.busy:
        done += decoder.step()
    assert done == [1, 2, 0, 3]
    assert engine.rows_fed == [2] * 9  # the three short ones follow each other beside the long one
    assert engine.lanes_made == [2]


def test_a_single_clip_takes_a_single_lane() -> None:
    engine = lengths(2, 2, 2)
    decoder: Decoder[int] = Decoder(engine, SearchOptions(method="greedy"), lanes=8)
    decoder.add(0, clips(0)[0], 0)
    decoder.step()
    assert engine.lanes_made == [1]
    for number in (1, 2):
        decoder.add(number, clips(number)[0], number)
    decoder.step()
    assert engine.lanes_made == [1, 4]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(("beam", "legacy", "greedy", "top-k")), st.integers(0, 10**6), st.integers(2, 30))
def test_the_few_best_find_what_the_whole_vocabulary_finds(method: str, seed: int, levels: int) -> None:
    """Logits of few levels have many equals, where the few best may not tell which comes first."""

    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        drawn = np.random.default_rng((clip, *ids)).integers(0, levels, 200) / levels * 9
        drawn[-1] += 2
        return drawn

    engine = FakeEngine(logits, 200)
    options = SearchOptions(method=method, beams=3, beam_groups=1, max_length=8, top_k=4)
    by_few = search_all(engine, clips(seed), options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rows, "likeliest", Rows.all)
        assert by_few == search_all(engine, clips(seed), options)
