"""Continuous batching, and rules that hold for every search method."""

from itertools import chain

import numpy as np
import pytest
from decoding.fake_engine import FakeEngine, chance, clips
from goldens import captions_of, golden_arrays, golden_engine, golden_runs, options_of
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import search, search_all

from cococli.decoding import decoder as decoders
from cococli.decoding.decoder import Decoder
from cococli.decoding.search_options import METHODS, SearchOptions
from cococli.errors import ModelError, UsageError

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
def test_captions_do_not_depend_on_arrival(
    options: SearchOptions, slots: int, steps_between: list[int], shrinks: bool
) -> None:
    engine, found = FakeEngine(chance(V, end=1), V), {}
    decoder: Decoder[int] = Decoder(engine, options, (3,), slots)
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
    """Clip i has this number of words."""

    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        row = np.zeros(V)
        row[11 if len(ids) > words[clip] else 1] = 20
        return row

    return FakeEngine(logits, V)


def test_finished_clip_makes_room_for_waiting_one() -> None:
    engine = lengths(8, 2, 3, 1)
    options = SearchOptions(method="greedy", min_length=0, max_length=12)
    decoder: Decoder[int] = Decoder(engine, options, slots=2)
    for number in range(4):
        decoder.add(number, clips(number)[0], number)
    done = []
    while decoder.busy:
        done += decoder.step()
    assert done == [1, 2, 0, 3]
    assert engine.rows_fed == [2] * 9  # the three short ones share a slot
    assert engine.slots_made == [2]


def test_single_clip_uses_a_single_slot() -> None:
    engine = lengths(2, 2, 2)
    decoder: Decoder[int] = Decoder(engine, SearchOptions(method="greedy"), slots=8)
    decoder.add(0, clips(0)[0], 0)
    decoder.step()
    assert engine.slots_made == [1]
    for number in (1, 2):
        decoder.add(number, clips(number)[0], number)
    decoder.step()
    assert engine.slots_made == [1, 4]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(("beam", "legacy", "greedy", "top-k")), st.integers(0, 10**6), st.integers(2, 30))
def test_top_tokens_suffice_for_the_search(method: str, seed: int, levels: int) -> None:
    """Logits of few levels are often equal, so that the top tokens may not decide."""

    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        drawn = np.random.default_rng((clip, *ids)).integers(0, levels, 200) / levels * 9
        drawn[-1] += 2
        return drawn

    engine = FakeEngine(logits, 200)
    options = SearchOptions(method=method, beams=3, beam_groups=1, max_length=8, top_k=4)
    by_top_tokens = search_all(engine, clips(seed), options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SearchOptions, "top_tokens", 200)  # the vocabulary
        assert by_top_tokens == search_all(engine, clips(seed), options)


ANY = {
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
SAMPLES = st.builds(SearchOptions, method=st.sampled_from(("top-k", "top-p")), candidates=st.integers(1, 4), **ANY)
REQUESTS = st.builds(SearchOptions, method=st.sampled_from(METHODS), **ANY) | SAMPLES
NUMBERS = st.lists(st.integers(0, 1000), min_size=1, max_size=5)
PROMPTS = st.lists(st.integers(0, 9), max_size=3)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, NUMBERS, PROMPTS)
def test_captions_do_not_depend_on_the_batch(options: SearchOptions, numbers: list[int], prompt: list[int]) -> None:
    engine = FakeEngine(chance(V, end=1), V)
    together = search_all(engine, clips(*numbers), options, prompt, seeds=numbers)
    alone = [search_all(engine, clips(number), options, prompt, seeds=[number])[0] for number in numbers]
    assert together == alone


@settings(max_examples=60, deadline=None)
@given(REQUESTS, NUMBERS, PROMPTS)
def test_captions_keep_prompt_and_lengths(options: SearchOptions, numbers: list[int], prompt: list[int]) -> None:
    for found in chain(*search_all(FakeEngine(chance(V, end=1), V), clips(*numbers), options, prompt)):
        assert found.ids[: 1 + len(prompt)] == (10, *prompt)
        assert len(found.ids) <= options.max_length
        assert found.finished == (found.ids[-1] == 11)
        assert 11 not in found.ids[:-1]
        assert not found.finished or len(found.ids) > options.min_length
        assert found.finished or len(found.ids) == options.max_length


@settings(max_examples=30, deadline=None)
@given(REQUESTS, NUMBERS)
def test_search_returns_at_most_one_caption_per_row(options: SearchOptions, numbers: list[int]) -> None:
    engine = FakeEngine(chance(V, end=1), V)
    assert all(1 <= len(found) <= options.rows for found in search_all(engine, clips(*numbers), options))


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
def test_prompt_with_special_or_unknown_token_is_rejected(mark: int) -> None:
    with pytest.raises(UsageError, match="--prompt contains a start or end token"):
        search(FakeEngine(chance(V), V), clips(0), SearchOptions(), prompt=[1, mark])


def test_length_beyond_the_context_is_rejected() -> None:
    with pytest.raises(UsageError, match="--max-length 30 exceeds the 20"):
        search(FakeEngine(chance(V), V, context_length=20), clips(0), SearchOptions())


@pytest.mark.parametrize("method", METHODS)
def test_damaged_weights_are_reported(method: str) -> None:
    engine = FakeEngine(lambda clip, ids: np.full(V, np.nan), V)
    with pytest.raises(ModelError, match="weights are damaged"):
        search(engine, clips(0), SearchOptions(method=method))


RUNS = [
    pytest.param(name, kind, run, id=f"{name}-{kind}-{run['name']}")
    for name in ("tiny", "flat", "shapes")
    for kind in ("beam", "legacy")
    for run in golden_runs(name, kind)
]


@pytest.mark.parametrize(("name", "kind", "run"), RUNS)
def test_captions_equal_open_clip_and_hugging_face(name: str, kind: str, run: dict) -> None:
    engine = golden_engine(name)
    tokens = engine.encode_clips(golden_arrays(name)["pixels"][:, None]).tokens
    found = search(engine, tokens, options_of(kind, run["args"]))
    assert [list(caption.ids) for caption in found] == captions_of(run, engine.config)
