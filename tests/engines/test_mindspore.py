"""The MindSpore engine against the oracle's numbers, and its cache against computing everything anew."""

import json
from pathlib import Path

import numpy as np
import pytest
from golden_shapes import golden_shapes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy_engine import NumpyEngine, from_open_clip

from cococli.catalog import CocaConfig
from cococli.checkpoints.architecture import parameters
from cococli.engines import mindspore as engines
from cococli.engines.mindspore import MindSporeEngine, chunks
from cococli.errors import ModelError

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"
FEATURES, LOGITS = 2e-4, 2e-3  # stated tolerances, max absolute difference in float32


def load(name: str) -> tuple[CocaConfig, dict[str, np.ndarray]]:
    if name == "shapes":
        return golden_shapes()
    import torch

    state = torch.load(GOLDENS / name / "open_clip_pytorch_model.bin", weights_only=True)
    config = CocaConfig.from_open_clip(json.loads((GOLDENS / name / "config.json").read_text()))
    return config, from_open_clip({key: value.numpy() for key, value in state.items() if "attn_mask" not in key})


@pytest.fixture(scope="module", params=["tiny", "flat", "shapes"])
def golden(request: pytest.FixtureRequest) -> tuple[MindSporeEngine, dict[str, np.ndarray]]:
    config, weights = load(request.param)
    return MindSporeEngine(config, weights), dict(np.load(GOLDENS / request.param / "activations.npz"))


@pytest.fixture(scope="module")
def tiny() -> MindSporeEngine:
    return MindSporeEngine(*load("tiny"))


def assert_close(actual: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance)


def test_single_frames_equal_the_oracle(golden):
    engine, oracle = golden
    features = engine.encode_clips(oracle["pixels"][:, None])
    assert_close(features.embedding, oracle["image_latent"], FEATURES)
    assert_close(features.tokens, oracle["image_tokens"], FEATURES)


def test_clips_of_several_frames_equal_the_oracle(golden):
    engine, oracle = golden
    pixels = oracle["pixels"]
    features = engine.encode_clips(pixels.reshape(2, 3, *pixels.shape[1:]))
    assert_close(features.embedding, oracle["clip_latent"], FEATURES)
    assert_close(features.tokens, oracle["clip_tokens"], FEATURES)


def test_mean_pooling_averages_what_each_frame_gives(golden):
    engine, oracle = golden
    pixels = oracle["pixels"]
    features = engine.encode_clips(pixels.reshape(2, 3, *pixels.shape[1:]), pool="mean")
    assert_close(features.tokens, oracle["image_tokens"].reshape(2, 3, *features.tokens.shape[1:]).mean(1), FEATURES)
    latent = oracle["image_latent_raw"].reshape(2, 3, -1).mean(1)
    assert_close(features.embedding, latent / np.linalg.norm(latent, axis=1, keepdims=True), FEATURES)


def test_texts_equal_the_oracle(golden):
    engine, oracle = golden
    ids = oracle["text_ids"].astype(np.int32)
    assert_close(engine.encode_texts(ids), oracle["text_latent"], FEATURES)
    assert_close(engine.text_rows(ids)[:, :-1], oracle["text_tokens"], FEATURES)


@pytest.mark.parametrize(("image", "logits"), [("image_tokens", "logits"), ("clip_tokens", "clip_logits")])
def test_steps_equal_the_teacher_forced_logits(golden, image, logits):
    engine, oracle = golden
    count = len(oracle[logits])
    ids = oracle["text_ids"][:count].astype(np.int32)
    state = engine.begin(oracle[image][:count], beams=1, max_length=ids.shape[1])
    steps = [engine.step(state, ids[:, t], np.arange(count)) for t in range(ids.shape[1])]
    assert_close(np.stack(steps, 1), oracle[logits], LOGITS)


@pytest.mark.parametrize("length", [1, 2, 10, 19, 20])
def test_texts_of_every_length_equal_the_reference(tiny, length):
    reference = NumpyEngine(*load("tiny"))
    ids = np.zeros((1, 20), np.int32)
    ids[0, :length] = [298, *range(40, 40 + length - 2), 299][:length]
    assert_close(tiny.encode_texts(ids), reference.encode_texts(ids), FEATURES)


def test_texts_of_many_lengths_come_back_in_their_order():
    config, weights = load("shapes")
    lengths = [3, 40, 15, 16, 76, 31, 32, 5, 75]
    ids = np.zeros((len(lengths), 76), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [49406, *range(1000, 998 + length), 49407]
    wanted = NumpyEngine(config, weights).encode_texts(ids)
    assert_close(MindSporeEngine(config, weights).encode_texts(ids), wanted, FEATURES)


def test_short_texts_need_no_padding(tiny):
    ids = np.array([[298, 7, 9, 299]], np.int32)
    assert_close(tiny.encode_texts(ids), tiny.encode_texts(np.pad(ids, ((0, 0), (0, 16)))), 1e-6)


@pytest.mark.parametrize(("width", "heads", "quick"), [(48, 2, True), (64, 4, True), (64, 2, False)])
def test_other_architectures_equal_the_reference(width, heads, quick):
    """Quick GELU, and a pooler as wide as the ViT."""
    vision = {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1, "head_width": 16}
    text = {"context_length": 12, "vocab_size": 40, "width": width, "heads": heads, "layers": 1}
    config = CocaConfig.from_open_clip(
        {
            "embed_dim": width,
            "quick_gelu": quick,
            "vision_cfg": {**vision, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4},
            "text_cfg": {**text, "embed_cls": True},
            "multimodal_cfg": {**text, "layers": 2},
        }
    )
    weights = random_weights(config)
    engine, reference = MindSporeEngine(config, weights), NumpyEngine(config, weights)
    pixels = np.random.default_rng(1).standard_normal((2, 2, 3, 16, 16)).astype(np.float32)
    ours, theirs = engine.encode_clips(pixels), reference.encode_clips(pixels)
    assert_close(ours.embedding, theirs.embedding, FEATURES)
    assert_close(ours.tokens, theirs.tokens, FEATURES)
    ids = np.array([[38, 5, 0, 7, 39, *[0] * 7]], np.int32)
    assert_close(engine.encode_texts(ids), reference.encode_texts(ids), FEATURES)


def random_weights(config: CocaConfig) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        name: np.asarray(rng.normal(name.endswith("gamma"), 0.1, shape), np.float32)
        for name, shape in parameters(config).items()
    }


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cached_steps_equal_computing_the_whole_prefix(tiny, data):
    """Any tokens (pads too), any parents, any clips leaving, whether their rows are given up or not."""
    reference = NumpyEngine(tiny.config, load("tiny")[1])
    clips, beams = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([1, 3]))
    tokens = np.random.default_rng(clips).standard_normal((clips, 8, 48)).astype(np.float32)
    ours, theirs = tiny.begin(tokens, beams, 8), reference.begin(tokens, beams, 8)
    for _ in range(data.draw(st.integers(1, 8))):
        rows = ours.clips * beams
        ids = np.array(data.draw(st.lists(st.sampled_from([0, 5, 17, 299]), min_size=rows, max_size=rows)), np.int32)
        beam = data.draw(st.lists(st.integers(0, beams - 1), min_size=rows, max_size=rows))
        parents = np.arange(rows) // beams * beams + np.array(beam)
        assert_close(tiny.step(ours, ids, parents), reference.step(theirs, ids, parents), LOGITS)
        if ours.clips > 1 and data.draw(st.booleans()):
            kept = np.array(sorted(data.draw(st.sets(st.integers(0, ours.clips - 1), min_size=1))))
            ours.idle_seconds = data.draw(st.sampled_from([0.0, 1e9]))  # move to fewer rows, or idle
            ours, theirs = tiny.keep(ours, kept), reference.keep(theirs, kept)
            assert ours.clips == theirs.clips == len(kept)


def test_two_batches_of_captions_may_be_under_way_at_once(tiny):
    tokens = np.random.default_rng(0).standard_normal((2, 1, 8, 48)).astype(np.float32)
    alone = [tiny.step(tiny.begin(clip, 2, 6), np.array([298, 298]), np.arange(2)) for clip in tokens]
    states = [tiny.begin(clip, 2, 6) for clip in tokens]
    for state, wanted in zip(states, alone, strict=True):
        np.testing.assert_array_equal(tiny.step(state, np.array([298, 298]), np.arange(2)), wanted)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 7, 8, 13])
def test_chunks_cover_every_frame_once_with_two_shapes(count):
    frames = np.arange(count, dtype=np.float32).reshape(count, 1)
    parts = list(chunks(frames, 4))
    np.testing.assert_array_equal(np.concatenate([part[:wanted] for part, wanted in parts]), frames)
    assert {len(part) for part, _ in parts} <= {1, 4}


def test_weights_of_another_network_are_refused():
    config, weights = load("tiny")
    with pytest.raises(ModelError, match="logit_scale"):
        MindSporeEngine(config, {name: value for name, value in weights.items() if name != "logit_scale"})
    with pytest.raises(ModelError, match=r"cls_emb has the shape \(47,\)"):
        MindSporeEngine(config, {**weights, "text.cls_emb": np.zeros(47, np.float32)})


def test_loading_copies_no_weights():
    config, weights = load("tiny")
    engine = MindSporeEngine(config, weights)
    engine.encode_clips(np.zeros((1, 1, 3, 32, 32), np.float32))
    for name, tensor in engine._tensors.items():
        assert np.shares_memory(tensor.asnumpy(), weights[name]) or name == "logit_scale"
    assert engines.power_of_two(5) == 8


def test_weights_in_half_precision_are_computed_in_single(tiny):
    half = {name: array.astype(np.float16) for name, array in load("tiny")[1].items()}
    single = {name: array.astype(np.float32) for name, array in half.items()}
    pixels = np.ones((1, 1, 3, 32, 32), np.float32)
    ours, theirs = (MindSporeEngine(tiny.config, weights).encode_clips(pixels) for weights in (half, single))
    np.testing.assert_array_equal(ours.tokens, theirs.tokens)
