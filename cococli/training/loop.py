"""The training loop: steps, validations and checkpoints."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..datasets.feeding import StepBatch
from ..errors import CocaError
from ..reporting import SILENT, Reporter
from .objective import Batch, Step
from .parallel import ALONE, Workers
from .validation import Trainer, Validation

COOLDOWN = 0.2  # share of the steps


@dataclass(frozen=True)
class TrainingPlan:
    """The schedule of a run.

    Attributes:
        steps: Steps of the whole run.
        learning_rate: Peak learning rate.
        warmup: Steps in which the learning rate rises to its peak.
        accumulate: Micro-batches per step.
        max_norm: Norm to which gradients are clipped.
        validate_every: Steps between two validations; 0 for none.
        save_every: Steps between two checkpoints.
        patience: Validations without a better score after which the run ends; None for no limit.
        scheduler: How the learning rate goes on after the warmup: cosine, const or const-cooldown.
    """

    steps: int
    learning_rate: float
    warmup: int
    accumulate: int = 1
    max_norm: float = 1.0
    validate_every: int = 0
    save_every: int = 1000
    patience: int | None = None
    scheduler: str = "cosine"

    def learning_rate_of(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0, as in open_clip, after a linear warmup."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.scheduler == "cosine":
            part = (step - self.warmup) / (self.steps - self.warmup)
            return self.learning_rate * 0.5 * (1 + math.cos(math.pi * part))
        cooldown = round(COOLDOWN * self.steps) if self.scheduler == "const-cooldown" else 0
        return self.learning_rate * min(1.0, (self.steps - step) / max(1, cooldown))

    def validates_after(self, step: int) -> bool:
        """Return whether a validation follows a step."""
        return bool(self.validate_every) and step > 0 and (step % self.validate_every == 0 or step == self.steps)


class Recorder(Protocol):
    """Stores what a run produces."""

    def log(self, record: dict[str, Any]) -> None:
        """Store the metrics of a step or a validation."""

    def save(self, step: int) -> None:
        """Store a checkpoint of the model after this step."""

    def keep_best(self, step: int) -> None:
        """Store the checkpoint of this step, the last one, as the best model."""


@dataclass
class TrainingState:
    """Progress of a run, and its best validation."""

    step: int = 0  # steps done
    best_score: float = -np.inf
    best_loss: float = np.inf  # on the held-out examples, of the best model
    best_step: int = 0
    validations_since: int = 0  # without a better score
    validated: int = 0  # the step of the last validation

    def add_validation(self, step: int, score: float | None, loss: float | None) -> bool:
        """Count a validation and return whether its model is the best so far.

        The higher score wins; where scores are equal, as CIDEr's often are at 0, the lower held-out loss, then the
        later step.

        Args:
            score: None or NaN is worse than any number.
            loss: Likewise; runs of earlier versions have none.
        """
        self.validated = step
        score = -np.inf if score is None or np.isnan(score) else score
        loss = np.inf if loss is None or np.isnan(loss) else loss
        rank, best = (score, -loss), (self.best_score, -self.best_loss)
        self.validations_since = 0 if rank > best else self.validations_since + 1
        if rank < best:
            return False
        self.best_score, self.best_loss, self.best_step = score, loss, step
        return True

    def over(self, plan: TrainingPlan) -> bool:
        """Return whether all steps are done, or the patience is exhausted."""
        return self.step >= plan.steps or (plan.patience is not None and self.validations_since >= plan.patience)


def state_of(records: Iterable[dict[str, Any]]) -> TrainingState:
    """Restore the state of a run from its metrics."""
    state = TrainingState()
    for record in records:
        state.step = record["step"]
        if "score" in record:
            state.add_validation(record["step"], record["score"], record.get("held_out_loss"))
    return state


def train(
    trainer: Trainer,
    batches: Iterator[StepBatch],
    plan: TrainingPlan,
    state: TrainingState,
    recorder: Recorder,
    validate: Callable[[], Validation],
    reporter: Reporter = SILENT,
    workers: Workers = ALONE,
) -> None:
    """Train until the end of the run or a requested stop, which saves a checkpoint, too.

    Args:
        batches: Batches from the next step on.
        state: State of the run so far; updated.
        validate: Measures the model on the held-out examples.
        reporter: Receives progress, a note on each validation, and all metrics as records.
        workers: Processes that train together; a request to stop one of them stops all.

    Raises:
        Diverged: The loss is not finite; the last good model is saved.
    """
    saved = state.step

    def stopping() -> bool:
        return workers.stop(reporter.stop_requested)

    def log(record: dict[str, Any]) -> None:
        recorder.log(record)
        reporter.record(record)

    def run_validation() -> None:
        found = validate()
        best = state.add_validation(state.step, found.score, found.loss)
        if best:
            recorder.keep_best(state.step)
        log(_validation_record(state.step, found))  # last, so that a killed run validates again
        for line in found.lines(state.step, best):
            reporter.note(line)

    with reporter.progress("training", plan.steps, on_stop="saving") as progress:
        if plan.validates_after(state.step) and state.validated < state.step:  # stopped before its validation
            run_validation()
        while not state.over(plan) and not stopping():
            batch, started = next(batches), time.perf_counter()
            learning_rate = plan.learning_rate_of(state.step)
            step = trainer.step(_parts(batch, plan.accumulate), learning_rate, plan.max_norm)
            if not (step.applied or step.skipped):
                if saved < state.step:
                    recorder.save(state.step)
                raise Diverged(state.step + 1, batch.pairs, step)
            state.step += 1
            log(_step_record(state.step, step, learning_rate, time.perf_counter() - started))
            progress.update(state.step, plan.steps, _losses(step, learning_rate))
            validating = plan.validates_after(state.step)
            if validating or state.step % plan.save_every == 0:
                recorder.save(state.step)
                saved = state.step
            if validating and not stopping():
                run_validation()
        if saved < state.step:
            recorder.save(state.step)


def _losses(step: Step, learning_rate: float) -> str:
    losses = step.losses
    parts = f"caption {losses.caption:.3f}, contrastive {losses.contrastive:.3f}"
    return f"loss {losses.total:.3f} = {parts}; learning rate {learning_rate:.1e}"


class Diverged(CocaError):
    """The loss or a gradient is not finite."""

    def __init__(self, step: int, pairs: np.ndarray, found: Step) -> None:
        numbers = f"the loss is {found.losses.total:g}, its gradient {found.norm:g}"
        hint = "try a lower --lr, a longer --warmup or a smaller --grad-clip-norm"
        super().__init__(f"step {step}: {numbers}; the model before it is saved", hint)
        self.step, self.pairs = step, pairs


def _parts(batch: StepBatch, count: int) -> list[Batch]:
    """Split a batch into the micro-batches of its step."""

    def cut(array: np.ndarray | None) -> list[Any]:
        return [None] * count if array is None else np.split(array, count)

    return [Batch(*part) for part in zip(cut(batch.ids), cut(batch.pixels), cut(batch.images), strict=True)]


def _step_record(step: int, found: Step, learning_rate: float, seconds: float) -> dict[str, Any]:
    losses = found.losses
    return {
        "step": step,
        "loss": losses.total,
        "caption": losses.caption,
        "contrastive": losses.contrastive,
        "rate": learning_rate,
        "norm": found.norm,
        "seconds": round(seconds, 4),
    }


def _validation_record(step: int, found: Validation) -> dict[str, Any]:
    samples = [
        {"path": str(sample.path), "caption": sample.caption, "reference": sample.reference} for sample in found.samples
    ]
    return {
        "step": step,
        "score": found.score,
        "held_out_loss": found.loss,
        "scores": found.scores,
        "samples": samples,
    }
