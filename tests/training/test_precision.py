"""Half precision: close to float32, and overflows are skipped. CPUs compute in float16, if slowly."""

import math
from itertools import islice

import numpy as np
import pytest
from training.conftest import Golden

from cococli.training.adamw import AdamWOptions
from cococli.training.network import Batch, Objective, losses_and_gradients, trained
from cococli.training.precision import FIRST_SCALE, PATIENCE, LossScale
from cococli.training.step import Step, Trainer


@pytest.fixture
def batch(tiny: Golden) -> Batch:
    return Batch(tiny.oracle["text_ids"].astype(np.int32), tiny.oracle["pixels"][:3, None])


def test_half_precision_is_close_to_float32(tiny: Golden, batch: Batch) -> None:
    objective, weights = Objective(), tiny.weights()
    names = trained(tiny.config, objective)
    exact, gradients = losses_and_gradients(tiny.config, weights, names, batch, objective)
    near, scaled = losses_and_gradients(tiny.config, weights, names, batch, objective, precision="fp16", scale=8.0)
    assert near.caption == pytest.approx(exact.caption, rel=1e-2)
    assert near.caption != exact.caption
    assert near.contrastive == pytest.approx(exact.contrastive, rel=2e-2)
    one = np.concatenate([gradient.asnumpy().ravel() for gradient in gradients])
    other = np.concatenate([gradient.asnumpy().ravel() for gradient in scaled]) / 8
    assert one @ other / np.linalg.norm(one) / np.linalg.norm(other) > 0.999
    assert np.linalg.norm(other) == pytest.approx(np.linalg.norm(one), rel=1e-2)


def steps(trainer: Trainer, batch: Batch, count: int) -> list[Step]:
    """Steps, but those that are skipped."""
    found = (trainer.step([batch], 1e-3, 1.0) for _ in range(100))
    return list(islice((step for step in found if not step.skipped), count))


def test_training_in_half_precision_goes_the_same_way(tiny: Golden, batch: Batch) -> None:
    runs = {
        precision: steps(Trainer(tiny.config, tiny.arrays, Objective(), AdamWOptions(), precision=precision), batch, 4)
        for precision in ("fp32", "fp16")
    }
    for exact, near in zip(runs["fp32"], runs["fp16"], strict=True):
        assert near.losses.total == pytest.approx(exact.losses.total, rel=2e-2)
        assert near.norm == pytest.approx(exact.norm, rel=5e-2)
        assert near.applied


def test_an_overflow_is_skipped_and_the_scale_halved(tiny: Golden, batch: Batch) -> None:
    trainer = Trainer(tiny.config, tiny.arrays, Objective(), AdamWOptions(), precision="fp16")
    trainer.load(trainer.state() | {"loss_scale": np.array([2.0**60, 0], np.float32)})
    before = trainer.weights()["visual.proj"].copy()
    step = trainer.step([batch], 1e-3)
    assert (step.applied, step.skipped) == (False, True)
    assert math.isfinite(step.losses.total) and not math.isfinite(step.norm)
    assert (trainer.weights()["visual.proj"] == before).all()
    assert trainer.state()["loss_scale"].tolist() == [2.0**59, 0]


def test_the_scale_grows_when_nothing_overflows_for_long() -> None:
    scale = LossScale("fp16")
    for _ in range(PATIENCE):
        scale.succeeded()
    assert scale.value == 2 * FIRST_SCALE
    assert LossScale("bf16").value == LossScale("fp32").value == 1
    assert not LossScale("bf16").overflowed()
