"""The torch engine."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engines.cases import FEATURES, EngineCases, assert_close
from goldens import captions_of, golden_arrays, golden_runs, golden_weights, options_of
from hypothesis import given, settings
from hypothesis import strategies as st
from searches import search

from cococli.checkpoints import ckpt
from cococli.engines.base import top_k_scores
from cococli.engines.torch import TorchEngine, top_k_scores_of
from cococli.errors import ModelError, UsageError
from cococli.model import onednn


class TestTorch(EngineCases):
    make = TorchEngine


def cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours * theirs).sum(-1)


def test_bf16_embeddings_are_close_to_float32():
    config, weights = golden_weights("shapes")
    oracle, engine = golden_arrays("shapes"), TorchEngine(config, weights, precision="bf16")
    pixels = oracle["pixels"]
    assert cosines(engine.encode_clips(pixels[:, None]).embedding, oracle["image_latent"]).min() >= 0.999
    clips = engine.encode_clips(pixels.reshape(2, 3, *pixels.shape[1:])).embedding
    assert cosines(clips, oracle["clip_latent"]).min() >= 0.999
    texts = engine.encode_texts(oracle["text_ids"].astype(np.int32))
    assert cosines(texts, oracle["text_latent"]).min() >= 0.999


def test_bf16_captions_equal_float32():
    config, weights = golden_weights("shapes")
    engine = TorchEngine(config, weights, precision="bf16")
    tokens = engine.encode_clips(golden_arrays("shapes")["pixels"][:, None]).tokens
    run = golden_runs("shapes", "beam")[0]
    found = search(engine, tokens, options_of("beam", run["args"]))
    assert [list(caption.ids) for caption in found] == captions_of(run, config)


@given(
    rows=st.integers(1, 20),
    k=st.integers(1, 40),
    vocabulary=st.sampled_from([5, 300, 4096, 49408]),
    levels=st.integers(1, 10**6),
    seed=st.integers(0, 99),
)
@settings(max_examples=60)
def test_top_k_scores_equal_numpy(rows, k, vocabulary, levels, seed):
    drawn = np.random.default_rng(seed).integers(0, levels, (rows, vocabulary))
    logits = np.float32(drawn / levels * 9)
    ours, wanted = top_k_scores_of(torch.from_numpy(logits), k), top_k_scores(logits, k)
    np.testing.assert_array_equal(ours.ids, wanted.ids)
    np.testing.assert_array_equal(ours.logits, wanted.logits)
    np.testing.assert_allclose(ours.log_sum, wanted.log_sum, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours.lookup(slice(None), slice(None)), logits)


def test_results_are_the_same_without_onednn(monkeypatch):
    config, weights = golden_weights("tiny")
    pixels = np.random.default_rng(0).standard_normal((2, 1, 3, 32, 32)).astype(np.float32)
    quick = TorchEngine(config, weights).encode_clips(pixels)
    monkeypatch.setattr(onednn, "AVAILABLE", False)
    plain = TorchEngine(config, weights).encode_clips(pixels)
    assert_close(quick.tokens, plain.tokens, FEATURES)
    assert_close(quick.embedding, plain.embedding, FEATURES)


def test_float32_uses_no_tf32_on_gpus(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    TorchEngine(*golden_weights("tiny"))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32


def test_frames_may_be_read_only_or_strided():
    config, weights = golden_weights("tiny")
    engine, frames = TorchEngine(config, weights), np.ones((1, 32, 32, 3), np.float32)
    views = [np.broadcast_to(frames[0].transpose(2, 0, 1), (2, 1, 3, 32, 32)), frames[None].transpose(1, 0, 4, 3, 2)]
    wanted = engine.encode_clips(np.ones((1, 1, 3, 32, 32), np.float32)).tokens[0]
    for view in views:
        assert_close(engine.encode_clips(view[..., ::-1, :]).tokens[-1], wanted, 1e-6)


def test_loading_copies_no_weights():
    config, weights = golden_weights("tiny")
    engine = TorchEngine(config, weights)
    engine.encode_clips(np.zeros((1, 1, 3, 32, 32), np.float32))
    for name, tensor in engine._weights.items():
        assert np.shares_memory(tensor.numpy(), weights[name])


def test_opening_loads_no_mindspore_without_warnings(tmp_path: Path):
    config, weights = golden_weights("tiny")
    with (tmp_path / "tiny.ckpt").open("wb") as file:
        for name, array in weights.items():
            ckpt.write(file, name, array.shape, [array])
    (tmp_path / "config.json").write_text(json.dumps(config.to_open_clip()))
    code = """
import json, sys
from pathlib import Path
from cococli.catalog import CocaConfig
from cococli.engines.torch import TorchEngine
engine = TorchEngine.open(Path("tiny.ckpt"), CocaConfig.from_open_clip(json.loads(Path("config.json").read_text())))
state = engine.begin(1, 1, 4)
print("mindspore" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (run.stdout, run.stderr) == ("False\n", "")


def test_missing_device_is_named():
    for device in ("cuda:77", "mps", "toaster"):
        with pytest.raises(ModelError) as raised:
            TorchEngine(*golden_weights("tiny"), device=device)
        assert raised.value.message == f"torch finds no device '{device}' here"
        assert raised.value.hint == "use --device cpu, or a build of torch for that device"


@pytest.mark.parametrize("precision", ["fp16", "int8", "tf32"])
def test_unsupported_precision_is_rejected(precision):
    with pytest.raises(UsageError) as raised:
        TorchEngine(*golden_weights("tiny"), precision=precision)
    assert raised.value.message == f"torch does not support {precision} on cpu"
    assert raised.value.hint == "use one of fp32, bf16"
