"""The reference network of the tests equals open_clip."""

import numpy as np
import pytest
from decoding.goldens import golden_arrays, golden_engine

NAMES = ("tiny", "flat")


def test_vision_of_one_and_of_several_frames_equals_the_oracle(golden: str) -> None:
    engine, oracle = golden_engine(golden), golden_arrays(golden)
    pictures = engine.encode_clips(oracle["pixels"][:, None])
    clips = engine.encode_clips(oracle["pixels"].reshape(2, 3, *oracle["pixels"].shape[1:]))
    for ours, name in zip(
        (*pictures, *clips), ("image_latent", "image_tokens", "clip_latent", "clip_tokens"), strict=True
    ):
        np.testing.assert_allclose(ours, oracle[name], atol=1e-5)


def test_text_equals_the_oracle_at_pad_rows_too(golden: str) -> None:
    engine, oracle = golden_engine(golden), golden_arrays(golden)
    latent, tokens = engine.text(oracle["text_ids"])
    np.testing.assert_allclose(latent, oracle["text_latent"], atol=1e-5)
    np.testing.assert_allclose(tokens, oracle["text_tokens"], atol=1e-5)


def test_logits_equal_the_oracle(golden: str) -> None:
    engine, oracle = golden_engine(golden), golden_arrays(golden)
    ids = oracle["text_ids"]
    np.testing.assert_allclose(engine.logits(oracle["image_tokens"][:3], ids), oracle["logits"], atol=1e-4)
    np.testing.assert_allclose(engine.logits(oracle["clip_tokens"], ids[:2]), oracle["clip_logits"], atol=1e-4)


def test_the_token_after_an_id_0_is_seen_by_no_later_token() -> None:
    engine = golden_engine("tiny")
    tokens = engine.text(np.array([[298, 5, 0, 7, 8, 9], [298, 5, 0, 123, 8, 9]]))[1]
    assert np.abs(tokens[0, 3] - tokens[1, 3]).max() > 0.1
    np.testing.assert_array_equal(tokens[0, 4:], tokens[1, 4:])


def test_mean_pooling_averages_the_frames() -> None:
    engine = golden_engine("tiny")
    frames = golden_arrays("tiny")["pixels"][None, :3]
    alone = [engine.encode_clips(frames[:, i : i + 1]).tokens for i in range(3)]
    np.testing.assert_allclose(engine.encode_clips(frames, "mean").tokens, np.mean(alone, axis=0), atol=1e-5)


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> str:
    return request.param
