"""AdamW against torch's own."""

import numpy as np
import pytest
import torch
from mindspore import Tensor

from cococli.training import inplace
from cococli.training.adamw import AdamW, AdamWOptions

SHAPES = {"matrix": (5, 7), "vector": (6,), "scale": ()}
OPTIONS = AdamWOptions(weight_decay=0.3)


@pytest.fixture(params=["host", "device"], autouse=True)
def memory(request, monkeypatch):
    """Both ways to compute; that of devices works on CPU too."""
    monkeypatch.setattr(inplace, "in_host_memory", lambda: request.param == "host")


def some(rng):
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in SHAPES.items()}


def tensors(arrays):
    return {name: Tensor(array.copy()) for name, array in arrays.items()}


def train(optimizer, steps, rates):
    for gradients, rate in zip(steps, rates, strict=True):
        optimizer.update(list(tensors(gradients).values()), rate)


def test_ten_steps_equal_torch():
    rng = np.random.default_rng(0)
    start, steps, rates = some(rng), [some(rng) for _ in range(10)], np.linspace(1e-2, 1e-3, 10).tolist()
    weights = tensors(start)
    train(AdamW(weights, OPTIONS), steps, rates)
    theirs = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in start.items()}
    groups = [
        {"params": [theirs["matrix"]], "weight_decay": OPTIONS.weight_decay},
        {"params": [theirs["vector"], theirs["scale"]], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(OPTIONS.beta1, OPTIONS.beta2), eps=OPTIONS.epsilon)
    for gradients, rate in zip(steps, rates, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[name])
        optimizer.step()
    for name, parameter in theirs.items():
        np.testing.assert_allclose(weights[name].asnumpy(), parameter.detach().numpy(), rtol=0, atol=1e-6)


def test_optimizer_resumes_bit_for_bit():
    rng = np.random.default_rng(1)
    start, steps, rates = some(rng), [some(rng) for _ in range(4)], [1e-2] * 4
    whole, broken = tensors(start), tensors(start)
    train(AdamW(whole, OPTIONS), steps, rates)
    first = AdamW(broken, OPTIONS)
    train(first, steps[:2], rates[:2])
    state = {name: array.copy() for name, array in first.state().items()}
    second = AdamW(broken, OPTIONS)
    second.load(state)
    train(second, steps[2:], rates[2:])
    for name in SHAPES:
        np.testing.assert_array_equal(broken[name].asnumpy(), whole[name].asnumpy())


def test_state_holds_moments_and_step_count():
    optimizer = AdamW(tensors(some(np.random.default_rng(2))), OPTIONS)
    state = optimizer.state()
    moments = {f"{name}.{kind}": shape for name, shape in SHAPES.items() for kind in "mv"}
    assert {name: array.shape for name, array in state.items()} == {"steps": (), **moments}
