"""The loop of training: step after step, now and then a look at how good the model is, and a checkpoint."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..errors import CocaError
from .feeding import StepBatch
from .network import Batch
from .schedule import warmup_cosine
from .step import Step, Trainer
from .validation import Validation


@dataclass(frozen=True)
class Plan:
    """How a run goes.

    Attributes:
        steps: Of the whole run.
        rate: The highest learning rate.
        warmup: Steps in which the rate rises to it.
        accumulate: Micro-batches that make one step.
        max_norm: Gradients are clipped to it.
        validate_every: Steps between two looks at the held-out examples; 0: none is looked at.
        save_every: Steps between two checkpoints.
        patience: Looks without a better score after which the run ends; None: it goes to its end.
    """

    steps: int
    rate: float
    warmup: int
    accumulate: int = 1
    max_norm: float = 1.0
    validate_every: int = 0
    save_every: int = 1000
    patience: int | None = None

    def looks_after(self, step: int) -> bool:
        """Whether to look at the held-out examples after so many steps."""
        return bool(self.validate_every) and step > 0 and (step % self.validate_every == 0 or step == self.steps)


class Recorder(Protocol):
    """What keeps a run: `folder.RunFolder`."""

    def log(self, record: dict[str, Any]) -> None:
        """Keep what a step or a look at the held-out examples found."""

    def save(self, step: int) -> None:
        """Keep the model as it is after so many steps."""

    def keep_best(self, step: int) -> None:
        """Take the model that was saved last for the best."""


@dataclass
class Course:
    """How a run went so far."""

    step: int = 0  # steps done
    best_score: float = -np.inf
    best_loss: float = np.inf  # on the held-out examples, of the best model
    best_step: int = 0
    looks_since: int = 0  # without a better score
    looked: int = 0  # the step of the last look

    def look(self, step: int, score: float | None, loss: float | None) -> bool:
        """Take note of a validation and return whether its model is the best so far.

        The higher score wins; where scores are equal, as CIDEr's often are at 0, the lower held-out loss, then the
        later step.

        Args:
            score: None or NaN counts as worse than any number.
            loss: Likewise. Runs of earlier versions have none.
        """
        self.looked = step
        score = -np.inf if score is None or np.isnan(score) else score
        loss = np.inf if loss is None or np.isnan(loss) else loss
        rank, best = (score, -loss), (self.best_score, -self.best_loss)
        self.looks_since = 0 if rank > best else self.looks_since + 1
        if rank < best:
            return False
        self.best_score, self.best_loss, self.best_step = score, loss, step
        return True

    def over(self, plan: Plan) -> bool:
        """Whether all steps are done, or enough looks found nothing better."""
        return self.step >= plan.steps or (plan.patience is not None and self.looks_since >= plan.patience)


def course_of(records: Iterable[dict[str, Any]]) -> Course:
    """How a run went, by the records that were kept of it."""
    course = Course()
    for record in records:
        course.step = record["step"]
        if "score" in record:
            course.look(record["step"], record["score"], record.get("held_out_loss"))
    return course


def train(
    trainer: Trainer,
    batches: Iterator[StepBatch],
    plan: Plan,
    course: Course,
    recorder: Recorder,
    validate: Callable[[], Validation],
    told: Callable[[int, Step, float], None],
    told_validation: Callable[[int, Validation, bool], None],
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Train from where a run stands to its end, or until it is to stop; a checkpoint is kept then, too.

    Args:
        batches: From the next step on.
        course: Is kept up to date.
        validate: Looks at the held-out examples.
        told: Called after each step with its number, what it found, and the learning rate.
        told_validation: Called after each look, with whether it was the best.
        stopping: Asked after each step.

    Raises:
        CocaError: the loss is no number any more; the model before it is kept.
    """
    saved = course.step

    def look() -> None:
        found = validate()
        best = course.look(course.step, found.score, found.loss)
        if best:
            recorder.keep_best(course.step)
        recorder.log(_told(course.step, found))  # last: killed before it, the look is taken again
        told_validation(course.step, found, best)

    if plan.looks_after(course.step) and course.looked < course.step:  # it was stopped before
        look()
    while not course.over(plan) and not stopping():
        batch, started = next(batches), time.perf_counter()
        rate = warmup_cosine(course.step, plan.steps, plan.warmup, plan.rate)
        step = trainer.step(_parts(batch, plan.accumulate), rate, plan.max_norm)
        if not (step.applied or step.skipped):
            if saved < course.step:
                recorder.save(course.step)
            raise Diverged(course.step + 1, batch.pairs, step)
        course.step += 1
        recorder.log(_record(course.step, step, rate, time.perf_counter() - started))
        told(course.step, step, rate)
        looking = plan.looks_after(course.step)
        if looking or course.step % plan.save_every == 0:
            recorder.save(course.step)
            saved = course.step
        if looking and not stopping():
            look()
    if saved < course.step:
        recorder.save(course.step)


class Diverged(CocaError):
    """The loss or its gradients are no numbers any more."""

    def __init__(self, step: int, pairs: np.ndarray, found: Step) -> None:
        numbers = f"the loss is {found.losses.total:g}, its gradient {found.norm:g}"
        hint = "a lower --rate, a longer --warmup or a smaller --clip may help"
        super().__init__(f"step {step}: {numbers}; the model before it is kept", hint)
        self.step, self.pairs = step, pairs  # pairs of the batch that did it


def _parts(batch: StepBatch, count: int) -> list[Batch]:
    """The batches that a step accumulates."""

    def cut(array: np.ndarray | None) -> list[Any]:
        return [None] * count if array is None else np.split(array, count)

    return [Batch(*part) for part in zip(cut(batch.ids), cut(batch.pixels), cut(batch.images), strict=True)]


def _record(step: int, found: Step, rate: float, seconds: float) -> dict[str, Any]:
    losses = found.losses
    return {
        "step": step,
        "loss": losses.total,
        "caption": losses.caption,
        "contrastive": losses.contrastive,
        "rate": rate,
        "norm": found.norm,
        "seconds": round(seconds, 4),
    }


def _told(step: int, found: Validation) -> dict[str, Any]:
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
