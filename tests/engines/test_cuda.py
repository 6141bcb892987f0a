"""The engine of NVIDIA GPUs: `make test-card`. Its steps run on CPUs, too, where they are not recorded."""

from collections import Counter

import numpy as np
import pytest
import torch
from engines.cases import EngineCases
from goldens import captions_of, golden_arrays, golden_runs, golden_weights, options_of
from searches import search

from cococli.engines.cuda import CudaEngine

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")


class TestInPlaceStep(EngineCases):
    @staticmethod
    def make(config, weights):
        return CudaEngine(config, weights, device="cpu")


@on_gpu
class TestCuda(EngineCases):
    make = CudaEngine


@on_gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_lower_precision_is_close_to_float32(precision):
    config, weights = golden_weights("shapes")
    oracle, engine = golden_arrays("shapes"), CudaEngine(config, weights, precision=precision)
    features = engine.encode_clips(oracle["pixels"][:, None])
    texts = engine.encode_texts(oracle["text_ids"].astype(np.int32))
    for ours, theirs in ((features.embedding, oracle["image_latent"]), (texts, oracle["text_latent"])):
        assert (ours * theirs).sum(-1).min() >= 0.999
    run = golden_runs("shapes", "beam")[0]
    found = search(engine, features.tokens, options_of("beam", run["args"]))
    assert [list(caption.ids) for caption in found] == captions_of(run, config)


@on_gpu
def test_a_step_is_one_launch_and_one_synchronization():
    from torch.profiler import ProfilerActivity, profile

    engine = CudaEngine(*golden_weights("tiny"))
    state = engine.begin(2, 3, 8, 5)
    for slot in range(2):
        engine.admit(state, slot, np.zeros((8, 48), np.float32))
    given = np.arange(2), np.ones((2, 3), np.int32), np.zeros((2, 3), np.int32)
    engine.step(state, *given)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiler:
        engine.step(state, *given)
    calls = Counter(event.name for event in profiler.events())
    assert calls["cudaGraphLaunch"] == 1
    assert calls["cudaLaunchKernel"] == 0
    assert sum(count for name, count in calls.items() if "Synchronize" in name) <= 2  # one of them is the profiler's


def test_states_reuse_the_buffers_of_finished_ones():
    engine = CudaEngine(*golden_weights("tiny"), device="cpu")
    first, other = engine.begin(2, 3, 8, 5), engine.begin(2, 3, 8, 5)
    assert first.graph is not other.graph
    graph = first.graph
    del first
    assert engine.begin(2, 3, 8, 5).graph is graph
