"""Captions of batches, by the bundled model in the numpy engine."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy_engine import NumpyEngine

from cococli.captioning.captioner import Captioner, check_request
from cococli.catalog import VIT_B_32, CocaConfig, TextConfig
from cococli.checkpoints import ckpt, store
from cococli.decoding.options import SearchOptions
from cococli.errors import ModelError, UsageError
from cococli.tokenizer import tokenize
from cococli.video.clips import read_clip
from cococli.video.sampling import Sampling

EXAMPLES = Path(__file__).parents[2] / "examples"
GREEDY = SearchOptions("greedy", max_length=12)


@cache
def engine() -> NumpyEngine:
    files = store.find_model("shapes")
    return NumpyEngine(files.config, ckpt.read(files.weights))


@cache
def clips() -> np.ndarray:
    """[2, 2, 3, S, S]: two frames each of two example clips."""
    size = engine().config.vision.image_size
    return np.stack([read_clip(EXAMPLES / name, Sampling("multi", 2), size)[1] for name in ("grows.mp4", "moves.mp4")])


def test_a_caption_comes_with_its_embedding_and_their_cosine() -> None:
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


def test_what_is_drawn_depends_on_the_place_and_not_on_the_batch() -> None:
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
        (SearchOptions(), "joint", "<end_of_text>", "starts or ends a text"),
        (SearchOptions(max_length=77), "joint", "", "--max-length 77"),
    ],
)
def test_a_request_that_does_not_fit_the_model_is_refused(search, pool, prompt, message) -> None:
    with pytest.raises(UsageError, match=message):
        check_request(VIT_B_32, search, pool, prompt)


def test_a_model_of_another_vocabulary_is_refused() -> None:
    text = TextConfig(vocab_size=300)
    with pytest.raises(ModelError, match="300 tokens"):
        check_request(CocaConfig(text=text, decoder=text), SearchOptions(), "joint", "")
