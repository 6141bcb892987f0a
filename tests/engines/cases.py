"""What every engine must give: the oracle's numbers, from its cache what computing everything anew gives, its captions.

A test module says `class TestTorch(EngineCases)` with its own `make`; tests of one engine only stand beside it.
"""

import json
from abc import abstractmethod
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from decoding.goldens import golden_runs
from decoding.test_search_goldens import options_of, up_to_eot
from golden_shapes import golden_shapes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy_engine import NumpyEngine, from_open_clip

from cococli.catalog import CocaConfig
from cococli.checkpoints.architecture import parameters
from cococli.decoding.search import search
from cococli.engines.base import Engine
from cococli.errors import ModelError

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"
FEATURES, LOGITS = 2e-4, 2e-3  # stated tolerances, max absolute difference in float32

Weights = dict[str, np.ndarray]


@cache
def load(name: str) -> tuple[CocaConfig, Weights]:
    if name == "shapes":
        return golden_shapes()
    import torch

    state = torch.load(GOLDENS / name / "open_clip_pytorch_model.bin", weights_only=True)
    config = CocaConfig.from_open_clip(json.loads((GOLDENS / name / "config.json").read_text()))
    return config, from_open_clip({key: value.numpy() for key, value in state.items() if "attn_mask" not in key})


@cache
def oracle_of(name: str) -> dict[str, np.ndarray]:
    """What open_clip computed."""
    return dict(np.load(GOLDENS / name / "activations.npz"))


def assert_close(actual: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=tolerance)


class EngineCases:
    """An engine in float32 against the oracle, and against numpy where the oracle has no numbers."""

    @staticmethod
    @abstractmethod
    def make(config: CocaConfig, weights: Weights) -> Engine:
        """The engine under test, in float32."""

    @pytest.fixture(scope="class", params=["tiny", "flat", "shapes"])
    @classmethod
    def golden(cls, request: pytest.FixtureRequest) -> tuple[str, Engine, dict[str, np.ndarray]]:
        return request.param, cls.make(*load(request.param)), oracle_of(request.param)

    @pytest.fixture(scope="class")
    @classmethod
    def tiny(cls) -> Engine:
        return cls.make(*load("tiny"))

    def test_single_frames_equal_the_oracle(self, golden):
        _, engine, oracle = golden
        features = engine.encode_clips(oracle["pixels"][:, None])
        assert_close(features.embedding, oracle["image_latent"], FEATURES)
        assert_close(features.tokens, oracle["image_tokens"], FEATURES)

    def test_clips_of_several_frames_equal_the_oracle(self, golden):
        _, engine, oracle = golden
        pixels = oracle["pixels"]
        features = engine.encode_clips(pixels.reshape(2, 3, *pixels.shape[1:]))
        assert_close(features.embedding, oracle["clip_latent"], FEATURES)
        assert_close(features.tokens, oracle["clip_tokens"], FEATURES)

    def test_mean_pooling_averages_what_each_frame_gives(self, golden):
        _, engine, oracle = golden
        pixels = oracle["pixels"]
        features = engine.encode_clips(pixels.reshape(2, 3, *pixels.shape[1:]), pool="mean")
        of_frames = oracle["image_tokens"].reshape(2, 3, *features.tokens.shape[1:])
        assert_close(features.tokens, of_frames.mean(1), FEATURES)
        latent = oracle["image_latent_raw"].reshape(2, 3, -1).mean(1)
        assert_close(features.embedding, latent / np.linalg.norm(latent, axis=1, keepdims=True), FEATURES)

    def test_texts_equal_the_oracle(self, golden):
        _, engine, oracle = golden
        assert_close(engine.encode_texts(oracle["text_ids"].astype(np.int32)), oracle["text_latent"], FEATURES)

    @pytest.mark.parametrize(("image", "logits"), [("image_tokens", "logits"), ("clip_tokens", "clip_logits")])
    def test_steps_equal_the_teacher_forced_logits(self, golden, image, logits):
        _, engine, oracle = golden
        count = len(oracle[logits])
        ids = oracle["text_ids"][:count].astype(np.int32)
        lanes, same = np.arange(count), np.zeros((count, 1), np.int32)
        state = engine.begin(count, beams=1, max_length=ids.shape[1])
        for lane in lanes:
            engine.admit(state, lane, oracle[image][lane])
        steps = [engine.step(state, lanes, ids[:, t, None], same).every() for t in range(ids.shape[1])]
        assert_close(np.stack(steps, 1), oracle[logits], LOGITS)

    def test_beam_search_finds_the_captions_of_the_oracle(self, golden):
        name, engine, oracle = golden
        for run in golden_runs(name, "beam"):
            found = search(engine, oracle["image_tokens"], options_of("beam", run["args"]))
            wanted = [up_to_eot(tokens, engine.config.eot_id) for tokens in run["tokens"]]
            assert [list(caption.ids) for caption in found] == wanted, run["name"]

    @pytest.mark.parametrize("length", [1, 2, 10, 19, 20])
    def test_texts_of_every_length_equal_the_reference(self, tiny, length):
        ids = np.zeros((1, 20), np.int32)
        ids[0, :length] = [298, *range(40, 40 + length - 2), 299][:length]
        assert_close(tiny.encode_texts(ids), NumpyEngine(*load("tiny")).encode_texts(ids), FEATURES)

    def test_texts_of_many_lengths_come_back_in_their_order(self):
        lengths = [3, 40, 15, 16, 76, 31, 32, 5, 75]
        ids = np.zeros((len(lengths), 76), np.int32)
        for row, length in zip(ids, lengths, strict=True):
            row[:length] = [49406, *range(1000, 998 + length), 49407]
        wanted = NumpyEngine(*load("shapes")).encode_texts(ids)
        assert_close(self.make(*load("shapes")).encode_texts(ids), wanted, FEATURES)

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
        assert_close(ours.tokens, theirs.tokens, FEATURES)
        ids = np.array([[38, 5, 0, 7, 39, *[0] * 7]], np.int32)
        assert_close(engine.encode_texts(ids), reference.encode_texts(ids), FEATURES)

    @settings(
        max_examples=12,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    @given(data=st.data())
    def test_cached_steps_equal_computing_the_whole_prefix(self, tiny, data):
        """Any tokens (pads too), any parents, clips that come and go, lanes that become more or fewer."""
        reference = NumpyEngine(*load("tiny"))
        beams = data.draw(st.sampled_from([1, 3]))
        lanes = data.draw(st.sampled_from([1, 2, 4]))
        ours, theirs = tiny.begin(lanes, beams, 8, 5), reference.begin(lanes, beams, 8, 5)
        tokens = np.random.default_rng(0).standard_normal((9, 8, 48)).astype(np.float32)
        read: dict[int, int] = {}  # tokens so far, by lane
        for clip in tokens[: data.draw(st.integers(1, 9))]:
            lane = data.draw(st.integers(0, lanes - 1))
            tiny.admit(ours, lane, clip)
            reference.admit(theirs, lane, clip)
            read[lane] = 0
            for _ in range(data.draw(st.integers(1, 3))):
                busy = np.array(sorted(lane for lane in read if read[lane] < 8))
                if not len(busy):
                    break
                ids = np.array(data.draw(rows_of(len(busy), beams, st.sampled_from([0, 5, 17, 299]))), np.int32)
                parents = np.array(data.draw(rows_of(len(busy), beams, st.integers(0, beams - 1))), np.int32)
                mine, wanted = tiny.step(ours, busy, ids, parents), reference.step(theirs, busy, ids, parents)
                assert_close(mine.every(), wanted.every(), LOGITS)
                assert_close(mine.logprobs, wanted.logprobs, LOGITS)
                read |= {lane: read[lane] + 1 for lane in busy.tolist()}
            if data.draw(st.booleans()):
                kept = np.array(sorted(data.draw(st.sets(st.sampled_from(sorted(read)), min_size=1))))
                lanes = data.draw(st.sampled_from([count for count in (1, 2, 4) if count >= len(kept)]))
                ours, theirs = tiny.resize(ours, kept, lanes), reference.resize(theirs, kept, lanes)
                read = {at: read[lane] for at, lane in enumerate(kept.tolist())}

    def test_two_batches_of_captions_may_be_under_way_at_once(self, tiny):
        tokens = np.random.default_rng(0).standard_normal((2, 8, 48)).astype(np.float32)
        alone = [first_step(tiny, begun(tiny, clip)) for clip in tokens]
        for state, wanted in zip([begun(tiny, clip) for clip in tokens], alone, strict=True):
            np.testing.assert_array_equal(first_step(tiny, state), wanted)

    def test_weights_of_another_network_are_refused(self):
        config, weights = load("tiny")
        with pytest.raises(ModelError, match="logit_scale"):
            self.make(config, {name: value for name, value in weights.items() if name != "logit_scale"})
        with pytest.raises(ModelError, match=r"cls_emb has the shape \(47,\)"):
            self.make(config, {**weights, "text.cls_emb": np.zeros(47, np.float32)})

    def test_scores_that_are_not_numbers_are_refused(self):
        config, weights = load("tiny")
        spoilt = weights["text_decoder.text_projection"].copy()
        spoilt[0, 7] = np.nan
        engine = self.make(config, {**weights, "text_decoder.text_projection": spoilt})
        with pytest.raises(ModelError, match="not numbers"):
            first_step(engine, begun(engine, np.ones((8, 48), np.float32)))

    def test_weights_in_half_precision_are_computed_in_single(self):
        config, weights = load("tiny")
        half = {name: array.astype(np.float16) for name, array in weights.items()}
        single = {name: array.astype(np.float32) for name, array in half.items()}
        pixels = np.ones((1, 1, 3, 32, 32), np.float32)
        ours, theirs = (self.make(config, weights).encode_clips(pixels) for weights in (half, single))
        np.testing.assert_array_equal(ours.tokens, theirs.tokens)


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


def rows_of(lanes, beams, values):
    return st.lists(st.lists(values, min_size=beams, max_size=beams), min_size=lanes, max_size=lanes)


def begun(engine, clip):
    state = engine.begin(1, 2, 6)
    engine.admit(state, 0, clip)
    return state


def first_step(engine, state):
    return engine.step(state, np.array([0]), np.array([[298, 298]], np.int32), np.array([[0, 1]], np.int32)).every()
