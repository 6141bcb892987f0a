"""The reference engine of the tests."""

import numpy as np
import pytest
from goldens import golden_arrays, golden_engine

NAMES = ("tiny", "flat")


def test_image_features_equal_open_clip(golden: str) -> None:
    engine, wanted = golden_engine(golden), golden_arrays(golden)
    pictures = engine.encode_clips(wanted["pixels"][:, None])
    clips = engine.encode_clips(wanted["pixels"].reshape(2, 3, *wanted["pixels"].shape[1:]))
    for ours, name in zip(
        (*pictures, *clips), ("image_latent", "image_tokens", "clip_latent", "clip_tokens"), strict=True
    ):
        np.testing.assert_allclose(ours, wanted[name], atol=1e-5)


def test_text_features_equal_open_clip_at_pads(golden: str) -> None:
    engine, wanted = golden_engine(golden), golden_arrays(golden)
    latent, tokens = engine.text(wanted["text_ids"])
    np.testing.assert_allclose(latent, wanted["text_latent"], atol=1e-5)
    np.testing.assert_allclose(tokens, wanted["text_tokens"], atol=1e-5)


def test_logits_equal_open_clip(golden: str) -> None:
    engine, wanted = golden_engine(golden), golden_arrays(golden)
    ids = wanted["text_ids"]
    np.testing.assert_allclose(engine.logits(wanted["image_tokens"][:3], ids), wanted["logits"], atol=1e-4)
    np.testing.assert_allclose(engine.logits(wanted["clip_tokens"], ids[:2]), wanted["clip_logits"], atol=1e-4)


def test_token_after_pad_is_hidden() -> None:
    engine = golden_engine("tiny")
    tokens = engine.text(np.array([[298, 5, 0, 7, 8, 9], [298, 5, 0, 123, 8, 9]]))[1]
    assert np.abs(tokens[0, 3] - tokens[1, 3]).max() > 0.1
    np.testing.assert_array_equal(tokens[0, 4:], tokens[1, 4:])


def test_mean_pooling_averages_frames() -> None:
    engine = golden_engine("tiny")
    frames = golden_arrays("tiny")["pixels"][None, :3]
    alone = [engine.encode_clips(frames[:, i : i + 1]).tokens for i in range(3)]
    np.testing.assert_allclose(engine.encode_clips(frames, "mean").tokens, np.mean(alone, axis=0), atol=1e-5)


@pytest.fixture(params=NAMES)
def golden(request: pytest.FixtureRequest) -> str:
    return request.param
