"""Steps of training: averages, clipping, bounds, and what must not happen."""

import math
from typing import ClassVar

import numpy as np
import pytest

from cococli.errors import ModelError
from cococli.training.adamw import AdamWOptions
from cococli.training.network import Batch, Objective, losses_and_gradients, token_count, trained
from cococli.training.parallel import ALONE, Workers
from cococli.training.step import Trainer

RATE = 1e-3
BOTH = Objective()


def trainer(golden, objective=BOTH, workers=ALONE, **changed):
    return Trainer(golden.config, {**golden.arrays, **changed}, objective, AdamWOptions(), workers=workers)


def batch(golden, *rows):
    """Three of the six pictures, with all three captions."""
    return Batch(golden.oracle["text_ids"], golden.oracle["pixels"][list(rows or (0, 1, 2))][:, None])


class Watched(Workers):
    """Alone, keeps copies of what a step sums over workers."""

    seen: ClassVar[list[np.ndarray]]

    def sum(self, tensors):
        type(self).seen = [tensor.asnumpy().copy() for tensor in tensors]
        return list(tensors)


def copied(weights):
    return {name: array.copy() for name, array in weights.items()}


def test_training_on_one_batch_learns_it(tiny):
    pupil = trainer(tiny)
    losses = [pupil.step([batch(tiny)], RATE).losses for _ in range(12)]
    assert losses[-1].caption < 0.6 * losses[0].caption
    assert losses[-1].total < losses[0].total


def test_weights_that_were_given_stay_as_they_are(tiny):
    before = copied(tiny.arrays)
    pupil = trainer(tiny, Objective(frozen="vision"))
    pupil.step([batch(tiny)], RATE)
    for name, array in pupil.weights().items():
        np.testing.assert_array_equal(tiny.arrays[name], before[name])
        assert np.array_equal(array, before[name]) == name.startswith("visual."), name
        assert np.shares_memory(array, tiny.arrays[name]) == name.startswith("visual."), name


def test_contrastive_gradients_of_several_batches_are_averaged(tiny):
    objective = Objective(caption=0)
    names = trained(tiny.config, objective)
    batches = [batch(tiny, 0, 1, 2), batch(tiny, 2, 3, 0), batch(tiny, 5, 4, 3)]
    alone = [losses_and_gradients(tiny.config, tiny.weights(), names, each, objective) for each in batches]
    step = trainer(tiny, objective, workers=Watched()).step(batches, RATE)
    assert step.losses.contrastive == pytest.approx(np.mean([losses.contrastive for losses, _ in alone]), rel=1e-6)
    assert step.losses.total == pytest.approx(np.mean([losses.total for losses, _ in alone]), rel=1e-6)
    for array, *parts in zip(Watched.seen, *(gradients for _, gradients in alone), strict=True):
        np.testing.assert_allclose(array, np.mean([part.asnumpy() for part in parts], axis=0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (2, 1), (1, 2)])
def test_micro_batches_weigh_every_token_as_one_batch(tiny, sizes):
    objective = Objective(contrastive=0)
    names = trained(tiny.config, objective)
    ids, pixels = tiny.oracle["text_ids"].copy(), tiny.oracle["pixels"][:3][:, None]
    ids[0, 2:] = 0  # much shorter than the others
    large, wanted = losses_and_gradients(tiny.config, tiny.weights(), names, Batch(ids, pixels), objective)
    ends = np.cumsum(sizes)[:-1]
    parts = [Batch(*part) for part in zip(np.split(ids, ends), np.split(pixels, ends), strict=True)]
    counts = [token_count(tiny.config, part) for part in parts]
    assert len({count / size for count, size in zip(counts, sizes, strict=True)}) > 1
    step = trainer(tiny, objective, workers=Watched()).step(parts, RATE)
    assert step.losses.caption == pytest.approx(large.caption, rel=1e-5)
    assert step.losses.total == pytest.approx(large.total, rel=1e-5)
    for array, whole in zip(Watched.seen, wanted, strict=True):
        np.testing.assert_allclose(array, whole.asnumpy(), rtol=1e-3, atol=2e-6)


def test_long_gradients_are_shortened_all_together(tiny):
    clipped = trainer(tiny, workers=Watched())
    step = clipped.step([batch(tiny)], RATE, max_norm=0.5)
    assert step.norm == pytest.approx(
        math.sqrt(sum(np.sum(array.astype(np.float64) ** 2) for array in Watched.seen)), rel=1e-5
    )
    moments = clipped.state()
    for name, array in zip(trained(tiny.config, BOTH), Watched.seen, strict=True):
        np.testing.assert_allclose(moments[f"{name}.m"], 0.1 * array * 0.5 / step.norm, rtol=1e-4, atol=1e-8)


def test_short_gradients_are_left_alone(tiny):
    free, bound = trainer(tiny), trainer(tiny)
    free.step([batch(tiny)], RATE)
    bound.step([batch(tiny)], RATE, max_norm=1e6)
    for name, array in free.weights().items():
        np.testing.assert_array_equal(bound.weights()[name], array)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_no_number_changes_nothing(tiny, value):
    pupil, bad = trainer(tiny), batch(tiny)
    pupil.step([batch(tiny)], RATE)
    weights, moments = copied(pupil.weights()), copied(pupil.state())
    bad.pixels[1] = value
    step = pupil.step([bad], RATE)
    assert not step.applied
    assert not math.isfinite(step.losses.total + step.norm)
    for name, array in pupil.weights().items():
        np.testing.assert_array_equal(array, weights[name])
    for name, array in pupil.state().items():
        np.testing.assert_array_equal(array, moments[name])


@pytest.mark.parametrize(("start", "end"), [(9.0, math.log(100)), (-3.0, 0.0), (2.0, 2.0)])
def test_the_logit_scale_stays_within_bounds(tiny, start, end):
    pupil = trainer(tiny, logit_scale=np.array(start, np.float32))
    pupil.step([batch(tiny)], 1e-9)
    assert pupil.weights()["logit_scale"] == pytest.approx(end, abs=1e-6)


def test_trainer_resumes_bit_for_bit(tiny):
    whole = trainer(tiny)
    for _ in range(2):
        whole.step([batch(tiny)], RATE)
    state = copied(whole.state())
    again = trainer(tiny, **copied(whole.weights()))
    again.load(state)
    assert whole.step([batch(tiny)], RATE) == again.step([batch(tiny)], RATE)
    for name, array in whole.weights().items():
        np.testing.assert_array_equal(again.weights()[name], array)


def test_weights_of_another_network_are_refused(tiny):
    with pytest.raises(ModelError, match="logit_scale has the shape"):
        trainer(tiny, logit_scale=np.zeros(1, np.float32))
