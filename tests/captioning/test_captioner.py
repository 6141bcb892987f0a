"""Captions of batches, by the bundled model in the numpy engine."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from goldens import golden_engine
from numpy_engine import NumpyEngine

from cococli.captioning.captioner import Captioner, check_request, distinct
from cococli.catalog import VIT_B_32, CocaConfig, TextConfig
from cococli.decoding.caption_search import Hypothesis
from cococli.decoding.search_options import SearchOptions
from cococli.errors import ModelError, UsageError
from cococli.media.clips import Sampling, read_clip
from cococli.tokenizer import EOT_ID, SOT_ID, tokenize

EXAMPLES = Path(__file__).parents[2] / "examples"
GREEDY = SearchOptions("greedy", max_length=12)


@cache
def engine() -> NumpyEngine:
    return golden_engine("shapes")


@cache
def clips() -> np.ndarray:
    """[2, 2, 3, S, S]: two frames each of two example clips."""
    size = engine().config.vision.image_size
    return np.stack([read_clip(EXAMPLES / name, Sampling("multi", 2), size)[1] for name in ("grows.mp4", "moves.mp4")])


def test_captions_have_embedding_and_similarity() -> None:
    captions = Captioner(engine(), "shapes", GREEDY).caption_batch(clips(), [0, 1])
    embeddings = engine().encode_clips(clips()).embedding
    for caption, embedding in zip(captions, embeddings, strict=True):
        assert caption.text.startswith("a ")
        assert caption.logprob < 0
        np.testing.assert_array_equal(caption.embedding, embedding)
        text = engine().encode_texts(tokenize([caption.text], engine().config.context_length))[0]
        assert caption.similarity == pytest.approx(float(embedding @ text), abs=1e-5)


def test_every_caption_continues_the_prompt() -> None:
    captions = Captioner(engine(), "shapes", GREEDY, prompt="Two small").caption_batch(clips(), [0, 1])
    assert all(caption.text.startswith("two small ") for caption in captions)


def test_candidates_start_with_the_single_best_caption() -> None:
    beam = {"beams": 4, "max_length": 12}
    one = Captioner(engine(), "shapes", SearchOptions(**beam)).caption_batch(clips(), [0, 1])
    three = Captioner(engine(), "shapes", SearchOptions(**beam, candidates=3)).caption_batch(clips(), [0, 1])
    for single, several in zip(one, three, strict=True):
        assert [candidate.text for candidate in single.candidates] == [single.text]
        assert several.text == single.text
        assert len({candidate.text for candidate in several.candidates}) == 3
        first = several.candidates[0]
        assert (first.text, first.logprob, first.similarity) == (several.text, several.logprob, several.similarity)
        text = engine().encode_texts(tokenize([several.candidates[2].text], engine().config.context_length))[0]
        assert several.candidates[2].similarity == pytest.approx(float(several.embedding @ text), abs=1e-5)


def test_equal_samples_are_one_candidate() -> None:
    sure = SearchOptions("top-p", temperature=0.01, candidates=5, max_length=12)
    captions = Captioner(engine(), "shapes", sure).caption_batch(clips(), [0, 1])
    assert [len(caption.candidates) for caption in captions] == [1, 1]


def test_equal_texts_are_one_candidate() -> None:
    cat, c_at, dog = (
        Hypothesis((SOT_ID, *ids, EOT_ID), logprob, True)
        for ids, logprob in (((2368,), -1), ((66, 536), -2), ((1929,), -3))
    )
    assert distinct([cat, c_at, dog], 2) == {"cat": cat, "dog": dog}


def test_reranking_puts_the_most_similar_candidate_first() -> None:
    options = SearchOptions(beams=4, max_length=12, candidates=3)
    found = Captioner(engine(), "shapes", options).caption_batch(clips(), [0, 1])
    reranked = Captioner(engine(), "shapes", options, rerank=True).caption_batch(clips(), [0, 1])
    for before, after in zip(found, reranked, strict=True):
        assert after.candidates == tuple(sorted(before.candidates, key=lambda candidate: -candidate.similarity))
        assert (after.text, after.similarity) == (after.candidates[0].text, after.candidates[0].similarity)
    assert found[0].text == "a large white triangle on a black background"
    assert reranked[0].text == "a large white circle on a black background"  # which it is


@pytest.mark.parametrize("candidates", [1, 4])
def test_texts_are_embedded_in_one_pass(candidates: int, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    encode_texts = engine().encode_texts
    monkeypatch.setattr(engine(), "encode_texts", lambda ids: passes.append(len(ids)) or encode_texts(ids))
    options = SearchOptions(beams=4, max_length=12, candidates=candidates)
    Captioner(engine(), "shapes", options).caption_batch(clips(), [0, 1])
    assert passes == [2 * candidates]


def test_a_banned_word_is_in_no_candidate() -> None:
    options = SearchOptions(beams=4, max_length=12, candidates=4, ban=("circle", "a small"))
    captions = Captioner(engine(), "shapes", options).caption_batch(clips(), [0, 1])
    texts = [f" {candidate.text} " for caption in captions for candidate in caption.candidates]
    assert not [text for text in texts if " circle " in text or " a small " in text]
    assert any(" square " in text or " triangle " in text for text in texts)


def test_sampling_depends_on_seeds_not_batches() -> None:
    bold = SearchOptions("top-k", temperature=3.0, seed=4, max_length=12)
    captioner = Captioner(engine(), "shapes", bold)
    together = [caption.text for caption in captioner.caption_batch(clips(), [0, 1])]
    alone = [captioner.caption_batch(clips()[i : i + 1], [i])[0].text for i in (0, 1)]
    elsewhere = [captioner.caption_batch(clips()[i : i + 1], [i + 7])[0].text for i in (0, 1)]
    assert together == alone
    assert together != elsewhere


def test_pooling_the_mean_is_another_embedding() -> None:
    joint, mean = (Captioner(engine(), "shapes", GREEDY, pool).embed_batch(clips()) for pool in ("joint", "mean"))
    assert joint.shape == mean.shape == (2, engine().config.embed_dim)
    assert np.abs(joint - mean).max() > 1e-3


@pytest.mark.parametrize(
    ("search", "pool", "prompt", "message"),
    [
        (SearchOptions(), "max", "", "pool is joint or mean"),
        (SearchOptions(), "joint", "word " * 40, "--prompt has 40 tokens"),
        (SearchOptions(), "joint", "<end_of_text>", "a start or end token"),
        (SearchOptions(max_length=77), "joint", "", "--max-length 77"),
        (SearchOptions(ban=("dog",)), "joint", "A dog and", "--prompt contains 'dog', which --ban forbids"),
    ],
)
def test_requests_that_do_not_fit_are_refused(search, pool, prompt, message) -> None:
    with pytest.raises(UsageError, match=message):
        check_request(VIT_B_32, search, pool, prompt)


def test_one_candidate_cannot_be_reranked() -> None:
    with pytest.raises(UsageError) as caught:
        check_request(VIT_B_32, SearchOptions(), "joint", "", rerank=True)
    assert caught.value.message == "--rerank needs --candidates 2 or more"


def test_a_model_of_another_vocabulary_is_refused() -> None:
    text = TextConfig(vocab_size=300)
    with pytest.raises(ModelError, match="300 tokens"):
        check_request(CocaConfig(text=text, decoder=text), SearchOptions(), "joint", "")


def test_stream_starts_again_with_fewer_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.concatenate([clips(), clips()[::-1]])
    captioner = Captioner(engine(), "shapes", SearchOptions("top-p", max_length=12))
    expected = captioner.caption_batch(pixels, [0, 1, 2, 3])
    whole = NumpyEngine.step

    def step(self, state, slots, *arguments):
        if len(slots) > 1 and len(state.ids[slots[0]][0]) == 3:  # some tokens later
            raise MemoryError
        return whole(self, state, slots, *arguments)

    monkeypatch.setattr(NumpyEngine, "step", step)
    stream = captioner.stream(4)
    stream.submit(range(4), pixels, [0, 1, 2, 3])
    sizes, captions = [], {}
    while stream.busy:
        try:
            captions |= stream.step()
        except MemoryError:
            sizes.append(stream.shrink())
    assert sizes == [2, 1]
    assert [captions[index].text for index in range(4)] == [caption.text for caption in expected]
    assert stream.shrink() == 0


def test_texts_of_several_captions_are_embedded_together() -> None:
    batches: list[int] = []

    class Counting(NumpyEngine):
        def encode_texts(self, ids: np.ndarray) -> np.ndarray:
            batches.append(len(ids))
            return super().encode_texts(ids)

    alone = [Captioner(engine(), "shapes", GREEDY).caption_batch(clips()[i : i + 1], [i])[0] for i in (0, 1)]
    together = Captioner(Counting(engine().config, engine().parameters), "shapes", GREEDY)
    pixels = np.concatenate([clips()] * 8)
    captions = together.caption_batch(pixels, range(len(pixels)))
    assert [caption.text for caption in captions] == [caption.text for caption in alone] * 8
    assert sum(batches) == len(pixels)
    assert min(batches) >= 4
