"""The MindSpore engine: what every engine must give, and what is its own."""

import numpy as np
import pytest
from engines.cases import FEATURES, EngineCases, assert_close, load, oracle_of

from cococli.engines.mindspore import MindSporeEngine, chunks


class TestMindSpore(EngineCases):
    make = MindSporeEngine


@pytest.mark.parametrize("name", ["tiny", "flat", "shapes"])
def test_tokens_that_leave_the_text_tower_equal_the_oracle(name):
    ids = oracle_of(name)["text_ids"].astype(np.int32)
    rows = MindSporeEngine(*load(name)).text_rows(ids)
    assert_close(rows[:, :-1], oracle_of(name)["text_tokens"], FEATURES)


@pytest.mark.parametrize("count", [1, 3, 4, 5, 7, 8, 13])
def test_chunks_cover_every_frame_once_with_two_shapes(count):
    frames = np.arange(count, dtype=np.float32).reshape(count, 1)
    parts = list(chunks(frames, 4))
    np.testing.assert_array_equal(np.concatenate([part[:wanted] for part, wanted in parts]), frames)
    assert {len(part) for part, _ in parts} <= {1, 4}


def test_loading_copies_no_weights():
    config, weights = load("tiny")
    engine = MindSporeEngine(config, weights)
    engine.encode_clips(np.zeros((1, 1, 3, 32, 32), np.float32))
    for name, tensor in engine._tensors.items():
        assert np.shares_memory(tensor.asnumpy(), weights[name]) or name == "logit_scale"
