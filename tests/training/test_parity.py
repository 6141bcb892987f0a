"""Thirty steps from open_clip's checkpoint, with the batches of a recorded run of its own training loop."""

import numpy as np
import pytest
from training import thirty_steps as recipe
from training.conftest import GOLDENS, Golden

from cococli.checkpoints.tensors import parameters_of
from cococli.training.loop import TrainingPlan
from cococli.training.objective import AdamWOptions, Batch, Objective
from cococli.training.torch_trainer import Trainer


@pytest.mark.parametrize("accumulate", [1, 2])
def test_thirty_steps_equal_open_clip(tiny: Golden, accumulate: int) -> None:
    objective = Objective(recipe.CAPTION_LOSS, recipe.CONTRASTIVE_LOSS)
    trainer = Trainer(tiny.config, tiny.arrays, objective, AdamWOptions(weight_decay=recipe.WEIGHT_DECAY))
    plan = TrainingPlan(recipe.STEPS, recipe.LEARNING_RATE, recipe.WARMUP)
    vision, text = tiny.config.vision, tiny.config.text
    steps = recipe.batches(vision.image_size, text.context_length, text.vocab_size)
    for step, (ids, pixels) in enumerate(steps):
        parts = zip(np.split(ids, accumulate), np.split(pixels[:, None], accumulate), strict=True)
        found = trainer.step([Batch(*part) for part in parts], plan.learning_rate_of(step), recipe.MAX_NORM)
        assert found.applied
    weights = trainer.weights()
    distances, moves = [], []
    for tensor, expected in np.load(GOLDENS / "tiny" / "thirty_steps.npz").items():
        ours, first = (
            recipe.recorded(np.concatenate([np.atleast_1d(arrays[name]) for name in parameters_of(tensor)]))
            for arrays in (weights, tiny.arrays)
        )
        distances.append(np.linalg.norm(ours - expected))
        moves.append(np.linalg.norm(expected - first))
    assert np.linalg.norm(distances) <= 1e-4 * np.linalg.norm(moves)
    # The gradient of a key's bias, a part of in_proj_bias, is rounding alone, of which AdamW makes steps.
    assert (np.array(distances) <= 1e-3 * np.array(moves)).all()
