"""The loop: what it trains on, when it validations and saves, and that a stop anywhere changes nothing."""

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cococli.datasets.feeding import StepBatch
from cococli.reporting import Reporter
from cococli.training.loop import Diverged, TrainingPlan, TrainingState, state_of, train
from cococli.training.objective import AdamWOptions, Batch, Objective
from cococli.training.torch_trainer import Trainer
from cococli.training.validation import Sample, Validation

PLAN = TrainingPlan(steps=6, learning_rate=1e-3, warmup=2, accumulate=2, save_every=100)


@dataclass
class Kept:
    """A run in memory. Implements `loop.Recorder`."""

    trainer: Trainer
    records: list[dict[str, Any]] = field(default_factory=list)
    saved: dict[int, tuple[dict[str, np.ndarray], ...]] = field(default_factory=dict)
    best: int | None = None
    did: list[str] = field(default_factory=list)

    def log(self, record: dict[str, Any]) -> None:
        self.records.append({key: value for key, value in record.items() if key != "seconds"})
        self.did.append(f"{'validation' if 'score' in record else 'step'} {record['step']}")

    def save(self, step: int) -> None:
        self.saved[step] = copy.deepcopy((self.trainer.weights(), self.trainer.state()))
        self.did.append(f"save {step}")

    def keep_best(self, step: int) -> None:
        assert step in self.saved
        self.best = step
        self.did.append(f"best {step}")


def trainer(golden, weights=None) -> Trainer:
    return Trainer(golden.config, weights or golden.arrays, Objective(), AdamWOptions())


def batches(golden, steps: range, bad: int | None = None) -> Iterator[StepBatch]:
    """Two batches of two of the six pictures for every step, in turn; the pixels of one step may be no numbers."""
    for step in steps:
        rows = (np.arange(4) + step) % 6
        pixels = golden.oracle["pixels"][rows][:, None]
        ids = golden.oracle["text_ids"][rows % 3]
        yield StepBatch(step, rows, ids, pixels * np.nan if step == bad else pixels)


def run(
    golden, kept: Kept, plan: TrainingPlan = PLAN, scores: Sequence[float] = (), stop_after: int = -1, bad=None
) -> TrainingState:
    """Go on with a run from where its records say it stands; the held-out examples find these scores."""
    state = state_of(kept.records)
    found = iter(scores)

    class Stopping(Reporter):
        @property
        def stop_requested(self) -> bool:
            return state.step == stop_after

    train(
        kept.trainer,
        batches(golden, range(state.step, plan.steps), bad),
        plan,
        state,
        kept,
        lambda: Validation({"CIDEr": 0.0}, next(found), 1.0, [Sample(Path("a.jpg"), "a dog", "a cat")]),
        Stopping(),
    )
    return state


def test_each_step_logs_its_learning_rate(tiny) -> None:
    kept = Kept(trainer(tiny))
    run(tiny, kept)
    assert [record["step"] for record in kept.records] == [1, 2, 3, 4, 5, 6]
    assert [record["rate"] for record in kept.records] == [PLAN.learning_rate_of(step) for step in range(6)]
    assert {*kept.records[0]} == {"step", "loss", "caption", "contrastive", "rate", "norm"}
    assert [*kept.saved] == [6]


def test_a_step_takes_its_batches_apart(tiny) -> None:
    whole, halves = Kept(trainer(tiny)), trainer(tiny)
    run(tiny, whole, TrainingPlan(1, 1e-3, 0, accumulate=2, max_norm=9.0))
    (batch,) = batches(tiny, range(1))
    parts = [Batch(batch.ids[half], batch.pixels[half]) for half in (slice(2), slice(2, 4))]
    found = halves.step(parts, 1e-3, 9.0)
    assert whole.records[0]["loss"] == found.losses.total
    for name, array in halves.weights().items():
        np.testing.assert_array_equal(whole.trainer.weights()[name], array)


def test_validation_follows_its_checkpoint(tiny) -> None:
    kept = Kept(trainer(tiny))
    run(tiny, kept, TrainingPlan(5, 1e-3, 0, validate_every=2, save_every=3), scores=[0.5, 0.7, 0.6])
    assert kept.did == [
        "step 1", "step 2", "save 2", "best 2", "validation 2",
        "step 3", "save 3",
        "step 4", "save 4", "best 4", "validation 4",
        "step 5", "save 5", "validation 5",
    ]  # fmt: skip
    assert kept.records[2] == {
        "step": 2,
        "score": 0.5,
        "held_out_loss": 1.0,
        "scores": {"CIDEr": 0.0},
        "samples": [{"path": "a.jpg", "caption": "a dog", "reference": "a cat"}],
    }


def test_of_equal_scores_the_last_is_the_best(tiny) -> None:
    kept = Kept(trainer(tiny))
    run(tiny, kept, TrainingPlan(4, 1e-3, 0, validate_every=1), scores=[0.1, 0.4, 0.4, 0.3])
    assert kept.best == 3


@pytest.mark.parametrize(
    ("validations", "best", "since"),
    [
        ([(0.0, 5.5), (0.0, 2.3), (0.0, 2.6)], 2, 1),  # as of one picture, whose CIDEr is always 0
        ([(0.2, 1.0), (0.3, 2.0), (0.1, 0.5)], 2, 1),
        ([(0.0, 2.0), (0.0, 2.0), (0.0, 2.0)], 3, 2),
        ([(0.1, None), (0.1, None)], 2, 1),  # of earlier versions
        ([(0.1, None), (0.1, 9.0)], 2, 0),
        ([(0.1, 1.0), (None, 0.5), (math.nan, 0.5), (0.1, math.nan)], 1, 3),
    ],
)
def test_scores_rank_then_loss_then_step(validations: list[tuple[float, float]], best: int, since: int) -> None:
    state = TrainingState()
    for step, (score, loss) in enumerate(validations, start=1):
        assert state.add_validation(step, score, loss) == (state.best_step == step)
    assert (state.best_step, state.validations_since) == (best, since)


def test_patience_ends_the_run(tiny) -> None:
    kept, plan = Kept(trainer(tiny)), TrainingPlan(9, 1e-3, 0, validate_every=1, patience=2)
    state = run(tiny, kept, plan, scores=[0.4, 0.3, 0.5, 0.5, 0.1, 0.9])
    assert (state.step, state.best_step, kept.best) == (5, 4, 4)
    assert 5 in kept.saved
    before = list(kept.did)
    run(tiny, kept, plan, scores=[0.9])
    assert kept.did == before


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4])
def test_resumed_loop_equals_uninterrupted_one(tiny, stop_after: int) -> None:
    plan, scores = TrainingPlan(4, 1e-3, 1, accumulate=2, validate_every=2), [0.5, 0.4]
    whole = Kept(trainer(tiny))
    run(tiny, whole, plan, scores)
    kept = Kept(trainer(tiny))
    run(tiny, kept, plan, scores, stop_after)
    assert kept.did[-1] == f"save {stop_after}"  # without validation, which may take minutes
    weights, state = kept.saved[stop_after]
    kept.trainer = trainer(tiny, weights)
    kept.trainer.load(state)
    run(tiny, kept, plan, scores[stop_after > 2 :])
    assert kept.records == whole.records
    assert kept.best == whole.best == 2
    for name, array in whole.saved[4][0].items():
        np.testing.assert_array_equal(kept.saved[4][0][name], array)


def test_divergence_stops_before_the_update(tiny) -> None:
    kept = Kept(trainer(tiny))
    with pytest.raises(Diverged) as caught:
        run(tiny, kept, bad=3)
    assert caught.value.message == "step 4: the loss is nan, its gradient nan; the model before it is saved"
    assert caught.value.hint == "try a lower --lr, a longer --warmup or a smaller --grad-clip-norm"
    assert (caught.value.step, caught.value.pairs.tolist()) == (4, [3, 4, 5, 0])
    assert kept.did == ["step 1", "step 2", "step 3", "save 3"]
    assert all(np.isfinite(array).all() for array in kept.saved[3][0].values())


def test_state_is_restored_from_records() -> None:
    scores = ((2, 0.1), (4, 0.3), (6, 0.3), (8, 0.2))
    validations = [{"step": step, "score": score, "held_out_loss": 2.0} for step, score in scores]
    state = state_of([{"step": 1, "loss": 2.0}, *validations, {"step": 9, "loss": 1.0}])
    assert state == TrainingState(step=9, best_score=0.3, best_loss=2.0, best_step=6, validations_since=2, validated=8)


@pytest.mark.parametrize(
    ("scheduler", "step", "rate"),
    [
        *(("cosine", step, rate) for step, rate in [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0)]),
        *(("cosine", step, rate) for step, rate in [(5, 0.9755282581475768), (9, 0.5), (13, 0.02447174185242323)]),
        *(("const", step, rate) for step, rate in [(0, 0.25), (4, 1.0), (13, 1.0)]),
        *(("const-cooldown", step, rate) for step, rate in [(0, 0.25), (11, 1.0), (12, 2 / 3), (13, 1 / 3)]),
    ],
)
def test_learning_rate_follows_its_schedule(scheduler: str, step: int, rate: float) -> None:
    plan = TrainingPlan(steps=14, learning_rate=2.0, warmup=4, scheduler=scheduler)
    assert plan.learning_rate_of(step) == pytest.approx(2 * rate)


def test_a_run_without_warmup_starts_at_its_peak() -> None:
    assert TrainingPlan(steps=10, learning_rate=1e-5, warmup=0).learning_rate_of(0) == 1e-5
