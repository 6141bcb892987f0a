"""The MindSpore engine."""

import numpy as np
import pytest
from engines.cases import FEATURES, EngineCases, assert_close
from goldens import golden_arrays, golden_weights

from cococli.engines.mindspore import MindSporeEngine, fixed_chunks


class TestMindSpore(EngineCases):
    make = MindSporeEngine


@pytest.mark.parametrize("name", ["tiny", "flat", "shapes"])
def test_text_outputs_equal_open_clip(name):
    ids = golden_arrays(name)["text_ids"].astype(np.int32)
    outputs = MindSporeEngine(*golden_weights(name)).text_outputs(ids)
    assert_close(outputs[:, :-1], golden_arrays(name)["text_tokens"], FEATURES)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 7, 8, 13])
def test_chunks_cover_all_frames_with_two_shapes(count):
    frames = np.arange(count, dtype=np.float32).reshape(count, 1)
    parts = list(fixed_chunks(frames, 4))
    np.testing.assert_array_equal(np.concatenate([part[:wanted] for part, wanted in parts]), frames)
    assert {len(part) for part, _ in parts} <= {1, 4}


def test_loading_copies_no_weights():
    config, weights = golden_weights("tiny")
    engine = MindSporeEngine(config, weights)
    engine.encode_clips(np.zeros((1, 1, 3, 32, 32), np.float32))
    for name, tensor in engine._tensors.items():
        assert np.shares_memory(tensor.asnumpy(), weights[name]) or name == "logit_scale"
