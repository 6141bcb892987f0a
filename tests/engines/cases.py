"""Tests that every engine passes: it agrees with open_clip, and its cache with uncached computation.

A test module defines `class TestTorch(EngineCases)` with its own `make`, next to the tests of one engine only.
"""

from abc import abstractmethod
from typing import Any

import numpy as np
import pytest
from goldens import captions_of, golden_arrays, golden_runs, golden_weights, options_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy_engine import NumpyEngine
from searches import search

from cococli.catalog import CocaConfig
from cococli.checkpoints.architecture import parameters
from cococli.engines.base import Engine
from cococli.errors import ModelError
from cococli.model.arrays import normalize

FEATURES, LOGITS = 2e-4, 2e-3  # largest absolute differences in float32

Weights = dict[str, np.ndarray]


def assert_close(actual: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance)


def array(tokens: Any) -> np.ndarray:
    """Return tokens of `ClipFeatures`, wherever they are."""
    return np.asarray(tokens.cpu() if hasattr(tokens, "cpu") else tokens)


class EngineCases:
    """An engine in float32 against open_clip, or against the numpy engine where open_clip has no numbers."""

    @staticmethod
    @abstractmethod
    def make(config: CocaConfig, weights: Weights) -> Engine:
        """Return the engine under test, in float32."""

    @pytest.fixture(scope="class", params=["tiny", "flat", "shapes"])
    @classmethod
    def golden(cls, request: pytest.FixtureRequest) -> tuple[str, Engine, dict[str, np.ndarray]]:
        return request.param, cls.make(*golden_weights(request.param)), golden_arrays(request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls) -> Engine:
        return cls.make(*golden_weights("tiny"))

    def test_single_frames_equal_open_clip(self, golden):
        _, engine, oracle = golden
        features = engine.encode_clips(oracle["pixels"][:, None])
        assert_close(features.embedding, oracle["image_latent"], FEATURES)
        assert_close(array(features.tokens), oracle["image_tokens"], FEATURES)

    def test_frames_equal_normalized_pixels(self, tiny):
        frames = np.random.default_rng(0).integers(0, 256, (2, 3, *2 * [tiny.config.vision.image_size], 3), np.uint8)
        ours, theirs = (tiny.encode_clips(pixels) for pixels in (frames, normalize(frames, tiny.config.preprocess)))
        assert_close(ours.embedding, theirs.embedding, 1e-6)

    def test_joint_pooling_equals_open_clip(self, golden):
        _, engine, oracle = golden
        pixels = oracle["pixels"]
        features = engine.encode_clips(pixels.reshape(2, 3, *pixels.shape[1:]))
        assert_close(features.embedding, oracle["clip_latent"], FEATURES)
        assert_close(array(features.tokens), oracle["clip_tokens"], FEATURES)

    def test_mean_pooling_averages_frames(self, golden):
        _, engine, oracle = golden
        pixels = oracle["pixels"]
        features = engine.encode_clips(pixels.reshape(2, 3, *pixels.shape[1:]), pool="mean")
        of_frames = oracle["image_tokens"].reshape(2, 3, *features.tokens.shape[1:])
        assert_close(array(features.tokens), of_frames.mean(1), FEATURES)
        latent = oracle["image_latent_raw"].reshape(2, 3, -1).mean(1)
        assert_close(features.embedding, latent / np.linalg.norm(latent, axis=1, keepdims=True), FEATURES)

    def test_texts_equal_open_clip(self, golden):
        _, engine, oracle = golden
        assert_close(engine.encode_texts(oracle["text_ids"].astype(np.int32)), oracle["text_latent"], FEATURES)

    @pytest.mark.parametrize(("image", "logits"), [("image_tokens", "logits"), ("clip_tokens", "clip_logits")])
    def test_steps_equal_teacher_forcing(self, golden, image, logits):
        _, engine, oracle = golden
        count = len(oracle[logits])
        ids = oracle["text_ids"][:count].astype(np.int32)
        slots, same = np.arange(count), np.zeros((count, 1), np.int32)
        state = engine.begin(count, beams=1, max_length=ids.shape[1])
        for slot in slots:
            engine.admit(state, slot, oracle[image][slot])
        steps = [all_logits(engine.step(state, slots, ids[:, t, None], same)) for t in range(ids.shape[1])]
        assert_close(np.stack(steps, 1), oracle[logits], LOGITS)

    def test_captions_equal_open_clip(self, golden):
        name, engine, oracle = golden
        for run in golden_runs(name, "beam"):
            found = search(engine, oracle["image_tokens"], options_of("beam", run["args"]))
            assert [list(caption.ids) for caption in found] == captions_of(run, engine.config), run["name"]

    @pytest.mark.parametrize("length", [1, 2, 10, 19, 20])
    def test_texts_of_any_length_equal_the_reference(self, tiny, length):
        ids = np.zeros((1, 20), np.int32)
        ids[0, :length] = [298, *range(40, 40 + length - 2), 299][:length]
        assert_close(tiny.encode_texts(ids), NumpyEngine(*golden_weights("tiny")).encode_texts(ids), FEATURES)

    def test_texts_of_mixed_lengths_keep_their_order(self):
        lengths = [3, 40, 15, 16, 76, 31, 32, 5, 75]
        ids = np.zeros((len(lengths), 76), np.int32)
        for row, length in zip(ids, lengths, strict=True):
            row[:length] = [49406, *range(1000, 998 + length), 49407]
        wanted = NumpyEngine(*golden_weights("shapes")).encode_texts(ids)
        assert_close(self.make(*golden_weights("shapes")).encode_texts(ids), wanted, FEATURES)

    def test_short_texts_need_no_padding(self, tiny):
        ids = np.array([[298, 7, 9, 299]], np.int32)
        assert_close(tiny.encode_texts(ids), tiny.encode_texts(np.pad(ids, ((0, 0), (0, 16)))), 1e-6)

    @pytest.mark.parametrize(("width", "heads", "quick"), [(48, 2, True), (64, 4, True), (64, 2, False)])
    def test_other_architectures_equal_the_reference(self, width, heads, quick):
        """Quick GELU, and a pooler as wide as the ViT."""
        config = other_config(width, heads, quick)
        weights = random_weights(config)
        engine, reference = self.make(config, weights), NumpyEngine(config, weights)
        pixels = np.random.default_rng(1).standard_normal((2, 2, 3, 16, 16)).astype(np.float32)
        ours, theirs = engine.encode_clips(pixels), reference.encode_clips(pixels)
        assert_close(ours.embedding, theirs.embedding, FEATURES)
        assert_close(array(ours.tokens), theirs.tokens, FEATURES)
        ids = np.array([[38, 5, 0, 7, 39, *[0] * 7]], np.int32)
        assert_close(engine.encode_texts(ids), reference.encode_texts(ids), FEATURES)

    @settings(
        max_examples=12,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    def test_cached_steps_equal_uncached_ones(self, tiny, data):
        """Draw tokens, pads included, parents, clips that come and go, and numbers of slots."""
        reference = NumpyEngine(*golden_weights("tiny"))
        beams = data.draw(st.sampled_from([1, 3]))
        slots = data.draw(st.sampled_from([1, 4]))
        ours, theirs = tiny.begin(slots, beams, 8, 5), reference.begin(slots, beams, 8, 5)
        tokens = np.random.default_rng(0).standard_normal((9, 8, 48)).astype(np.float32)
        read: dict[int, int] = {}  # tokens so far, by slot
        for clip in tokens[: data.draw(st.integers(1, 9))]:
            slot = data.draw(st.integers(0, slots - 1))
            tiny.admit(ours, slot, clip)
            reference.admit(theirs, slot, clip)
            read[slot] = 0
            for _ in range(data.draw(st.integers(1, 3))):
                busy = np.array(sorted(slot for slot in read if read[slot] < 8))
                if not len(busy):
                    break
                ids = np.array(data.draw(rows_of(len(busy), beams, st.sampled_from([0, 5, 17, 299]))), np.int32)
                parents = np.array(data.draw(rows_of(len(busy), beams, st.integers(0, beams - 1))), np.int32)
                mine, wanted = tiny.step(ours, busy, ids, parents), reference.step(theirs, busy, ids, parents)
                assert_close(all_logits(mine), all_logits(wanted), LOGITS)
                assert_close(mine.logprobs_of(mine.logits), wanted.logprobs_of(wanted.logits), LOGITS)
                read |= {slot: read[slot] + 1 for slot in busy.tolist()}
            if data.draw(st.booleans()):
                kept = np.array(sorted(data.draw(st.sets(st.sampled_from(sorted(read)), min_size=1))))
                slots = data.draw(st.sampled_from([count for count in (1, 4) if count >= len(kept)]))
                ours, theirs = tiny.resize(ours, kept, slots), reference.resize(theirs, kept, slots)
                read = {at: read[slot] for at, slot in enumerate(kept.tolist())}

    def test_two_states_are_independent(self, tiny):
        tokens = np.random.default_rng(0).standard_normal((2, 8, 48)).astype(np.float32)
        alone = [first_step(tiny, begun(tiny, clip)) for clip in tokens]
        for state, wanted in zip([begun(tiny, clip) for clip in tokens], alone, strict=True):
            np.testing.assert_array_equal(first_step(tiny, state), wanted)

    def test_weights_of_another_network_are_rejected(self):
        config, weights = golden_weights("tiny")
        with pytest.raises(ModelError, match="logit_scale"):
            self.make(config, {name: value for name, value in weights.items() if name != "logit_scale"})
        with pytest.raises(ModelError, match=r"cls_emb has the shape \(47,\)"):
            self.make(config, {**weights, "text.cls_emb": np.zeros(47, np.float32)})

    def test_scores_that_are_not_numbers_are_rejected(self):
        config, weights = golden_weights("tiny")
        damaged = weights["text_decoder.text_projection"].copy()
        damaged[0, 7] = np.nan
        engine = self.make(config, {**weights, "text_decoder.text_projection": damaged})
        with pytest.raises(ModelError, match="not numbers"):
            first_step(engine, begun(engine, np.ones((8, 48), np.float32)))

    def test_half_precision_weights_are_computed_in_single(self):
        config, weights = golden_weights("tiny")
        half = {name: array.astype(np.float16) for name, array in weights.items()}
        single = {name: array.astype(np.float32) for name, array in half.items()}
        pixels = np.ones((1, 1, 3, 32, 32), np.float32)
        ours, theirs = (self.make(config, weights).encode_clips(pixels) for weights in (half, single))
        np.testing.assert_array_equal(array(ours.tokens), array(theirs.tokens))


def other_config(width: int, heads: int, quick: bool) -> CocaConfig:
    vision = {"image_size": 16, "patch_size": 8, "width": 64, "layers": 1, "head_width": 16}
    text = {"context_length": 12, "vocab_size": 40, "width": width, "heads": heads, "layers": 1}
    return CocaConfig.from_open_clip(
        {
            "embed_dim": width,
            "quick_gelu": quick,
            "vision_cfg": {**vision, "attentional_pool": True, "attn_pooler_queries": 5, "attn_pooler_heads": 4},
            "text_cfg": {**text, "embed_cls": True},
            "multimodal_cfg": {**text, "layers": 2},
        }
    )


def random_weights(config: CocaConfig) -> Weights:
    rng = np.random.default_rng(0)
    return {
        name: np.asarray(rng.normal(name.endswith("gamma"), 0.1, shape), np.float32)
        for name, shape in parameters(config).items()
    }


def rows_of(slots, beams, values):
    return st.lists(st.lists(values, min_size=beams, max_size=beams), min_size=slots, max_size=slots)


def begun(engine, clip):
    state = engine.begin(1, 2, 6)
    engine.admit(state, 0, clip)
    return state


def first_step(engine, state):
    ids = np.array([[298, 298]], np.int32)
    return all_logits(engine.step(state, np.array([0]), ids, np.array([[0, 1]], np.int32)))


def all_logits(scores):
    return scores.lookup(slice(None), slice(None)).copy()  # the next step may write there
