"""LoRA: one step by hand, and what a run with it leaves alone."""

import copy

import numpy as np
import pytest
from mindspore import Tensor

from cococli.engines.mindspore import as_tensor
from cococli.training.adamw import AdamWOptions
from cococli.training.lora import Adapters, adapted
from cococli.training.network import Batch, Objective, losses_and_gradients, trained
from cococli.training.step import Trainer

RATE, DECAY, RANK = 1e-2, 0.2, 2
BOTH = Objective()


def trainer(golden, rank: int = RANK) -> Trainer:
    return Trainer(golden.config, golden.arrays, BOTH, AdamWOptions(weight_decay=DECAY), rank, seed=3)


def batch(golden) -> Batch:
    return Batch(golden.oracle["text_ids"], golden.oracle["pixels"][:3, None])


def names(golden) -> list[str]:
    return adapted(trained(golden.config, BOTH))


def test_attention_matrices_are_adapted(tiny) -> None:
    config = tiny.config
    layers = config.vision.layers + 1 + config.text.layers + 2 * config.decoder.layers
    assert len(names(tiny)) == 4 * layers
    assert {name.split(".attn.")[1] for name in names(tiny)} == {
        "q_proj.weight", "k_proj.weight", "v_proj.weight", "out_proj.weight"
    }  # fmt: skip


def test_first_step_equals_manual_computation(tiny) -> None:
    name = "text_decoder.cross_attn.0.attn.v_proj.weight"
    _, gradients = losses_and_gradients(tiny.config, tiny.weights(), [name], batch(tiny), BOTH)
    gradient, base = gradients[0].asnumpy(), tiny.arrays[name]
    pupil = trainer(tiny)
    a = pupil.state()[f"{name}.a"].copy()
    assert a.shape == (RANK, base.shape[1])
    assert not pupil.state()[f"{name}.b"].any()
    pupil.step([batch(tiny)], RATE)

    of_b = gradient @ a.T  # that of A is 0, as B is
    b = -RATE * of_b / (np.abs(of_b) + 1e-6)  # AdamW's first step
    a = a * (1 - RATE * DECAY)
    np.testing.assert_allclose(pupil.state()[f"{name}.a"], a, rtol=1e-6)
    np.testing.assert_allclose(pupil.state()[f"{name}.b"], b, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(pupil.weights()[name], base + b @ a, rtol=1e-4, atol=1e-6)


def test_adapter_gradients_follow_from_the_sum() -> None:
    random = np.random.default_rng(0)
    base, total = random.standard_normal((2, 3, 5)).astype(np.float32)
    adapters = Adapters({"w": as_tensor(base.copy())}, RANK, seed=0)
    b = random.standard_normal((3, RANK)).astype(np.float32)
    adapters.tensors["w.b"].assign_value(Tensor(b))
    a = adapters.tensors["w.a"].asnumpy()
    of_a, of_b = (gradient.asnumpy() for gradient in adapters.gradients([as_tensor(total)]))
    np.testing.assert_allclose(of_a, b.T @ total, rtol=1e-5)
    np.testing.assert_allclose(of_b, total @ a.T, rtol=1e-5)


def test_only_attention_changes_by_low_rank(tiny) -> None:
    pupil = trainer(tiny)
    for _ in range(3):
        pupil.step([batch(tiny)], RATE)
    for name, array in pupil.weights().items():
        change = array - tiny.arrays[name]
        if name in names(tiny):
            assert np.linalg.matrix_rank(change, tol=1e-4) == RANK, name
        else:
            assert not change.any(), name


def test_optimizer_state_covers_only_adapters(tiny) -> None:
    sizes = sum(array.size for name, array in trainer(tiny).state().items() if name.endswith((".m", ".v")))
    assert sizes == 2 * RANK * sum(sum(tiny.arrays[name].shape) for name in names(tiny))


def test_it_goes_on_to_the_same_bits(tiny) -> None:
    whole = trainer(tiny)
    for _ in range(2):
        whole.step([batch(tiny)], RATE)
    weights, state = copy.deepcopy((whole.weights(), whole.state()))
    again = Trainer(tiny.config, weights, BOTH, AdamWOptions(weight_decay=DECAY), RANK, seed=3)
    again.load(state)
    assert whole.step([batch(tiny)], RATE) == again.step([batch(tiny)], RATE)
    for name, array in whole.weights().items():
        np.testing.assert_array_equal(again.weights()[name], array)


def test_another_seed_starts_from_other_thin_matrices(tiny) -> None:
    first, other = (
        Adapters({"w": as_tensor(np.zeros((3, 5), np.float32))}, RANK, seed).state()["w.a"] for seed in (0, 1)
    )
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("frozen", ["vision", "text"])
def test_a_frozen_tower_is_not_adapted(tiny, frozen: str) -> None:
    chosen = adapted(trained(tiny.config, Objective(frozen=frozen)))
    prefix = {"vision": "visual.", "text": "text."}[frozen]
    assert chosen == [name for name in names(tiny) if not name.startswith(prefix)]
