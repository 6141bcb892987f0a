"""A run of training: from what is asked to a model that is better."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..catalog import CocaConfig
from ..checkpoints import ckpt
from ..checkpoints.architecture import load_config
from ..checkpoints.cache import slug
from ..checkpoints.manifest import humanized
from ..checkpoints.runs import run_folder
from ..checkpoints.store import find_model, with_preprocess
from ..errors import UsageError
from ..evaluation.captions import check_installed
from ..media.clips import ReadRequest
from ..media.flow import Reading
from ..media.sampling import Sampling
from ..media.segments import Segments
from .adamw import AdamWOptions
from .card import write_card
from .data import Data, Source, find_data
from .features import Tower, cached_feed, identity_of, prepare
from .feeding import Feeding, StepBatch, feed, stop
from .folder import EVENTS, METRICS, PLOT, RunFolder, asked_before, open_run
from .initial import initial
from .lengths import padded_lengths
from .loop import Course, Diverged, Plan, Recorder, course_of, train
from .network import Frozen, Objective, encode_images
from .order import Order
from .pairs import Pairs, pairs_of
from .parallel import ALONE, Workers
from .plot import draw
from .precision import Precision
from .step import Step, Trainer
from .validation import ENOUGH, Validation, validate

WARMUP = 0.1  # a share of the steps
LOOKS, OFTEN = 10, 50  # looks at the held-out examples in a run, and steps between two of them at least
SHOWN = 3  # files that a message names


@dataclass(frozen=True)
class Asked:
    """What a user asks for. None: what suits the rest."""

    source: Source
    model: str | None = None  # to start from; None: from scratch
    config: str | None = None  # the architecture, from scratch
    name: str | None = None
    epochs: float = 1.0
    steps: int | None = None  # in place of epochs
    batch_size: int = 32
    accumulate: int = 1
    rate: float | None = None
    warmup: int | None = None
    decay: float = 0.1
    clip: float = 1.0
    caption: float = 2.0
    contrastive: float = 1.0
    frozen: Frozen = "none"
    lora: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    hold_out: int = 100
    validate_every: int | None = None
    patience: int | None = None
    save_every: int = 500
    keep: int = 2
    precision: Precision = "fp32"
    strict: bool = False
    overwrite: bool = False
    tensorboard: bool = False


class Teller(Protocol):
    """Who shows how a run goes."""

    def note(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def features(self, done: int, total: int) -> None:
        """What the frozen tower sees is computed, so far."""

    def step(self, step: int, steps: int, found: Step, rate: float) -> None: ...

    def look(self, step: int, found: Validation, best: bool) -> None: ...


@dataclass(frozen=True)
class Base:
    """What a run starts from."""

    name: str  # empty: from scratch
    identity: str
    config: CocaConfig
    weights: Callable[[], Mapping[str, np.ndarray]]  # read, or drawn, when they are needed
    file: Path | None = None  # that holds them
    note: str = ""  # what its user should know


def finetune(
    asked: Asked, teller: Teller, stopping: Callable[[], bool] = lambda: False, workers: Workers = ALONE
) -> str:
    """Train, or go on with a run that was stopped; returns its name.

    Args:
        workers: Who train it together, and all call this. The batches are shared out among them.

    Raises:
        UsageError: what is asked for does not fit together, or the data is not there.
        ModelError: the model to start from is not there.
        CocaError: the loss is no number any more, or the disk is full; the last checkpoint is kept.
    """
    base = open_base(asked)
    name = asked.name or slug(f"{asked.source.folder.resolve().name}--{base.name or 'scratch'}")
    if asked.overwrite and base.file and base.file.resolve().is_relative_to(run_folder(name).resolve()):
        raise UsageError(f"--overwrite would remove the run {name}, whose model this one starts from", "another --name")
    if base.note:
        teller.note(base.note)
    before = {} if asked.overwrite else asked_before(name)
    context = base.config.context_length
    data = find_data(asked.source, asked.hold_out, context, asked.strict, teller.note, before.get("data.held_out", 0))
    pairs = pairs_of(data.train, context)
    lengths = padded_lengths(pairs.ids, base.config.pad_id)
    order = Order(asked.seed, lengths, asked.batch_size, asked.accumulate, workers.count)
    if asked.batch_size % workers.count:
        raise UsageError(f"a batch of {asked.batch_size} cannot be shared out among {workers.count} workers evenly")
    plan = planned(asked, order, data)
    _check_validation(asked, plan, data, teller)
    facts = must_stay(asked, base, data, plan)
    with workers.ending_together(Diverged), ExitStack() as stack:
        with workers.first_alone():
            folder = RunFolder(name, run_folder(name))
            if not workers.rank:
                stack.enter_context(open_run(name, facts, asked.overwrite))
            trainer, course = _resumed(folder, asked, base, teller, workers)
        recorder: Recorder = _Onlooker()
        if not workers.rank:
            log_event = _events(folder, course, stack) if asked.tensorboard else lambda record: None
            recorder = _Keeper(folder, trainer, asked.keep, log_event)
        batches = _batches(asked, trainer, pairs, order, range(course.step, plan.steps), teller, workers, stopping)
        size, preprocess = base.config.vision.image_size, base.config.preprocess
        reading = Reading(ReadRequest(asked.sampling, Segments("none"), size, preprocess=preprocess))
        if not workers.rank:
            stack.callback(_describe, folder, base, facts, teller)
        try:
            train(
                trainer,
                batches,
                plan,
                course,
                recorder,
                lambda: _validate(trainer, data, reading, asked, workers),
                lambda step, found, rate: teller.step(step, plan.steps, found, rate),
                teller.look,
                lambda: workers.stop(stopping()),
            )
        except Diverged as error:
            bad = np.concatenate(workers.exchange(error.pairs))
            files = sorted({str(pairs.files[pairs.file[pair]]) for pair in bad})
            recorder.log({"step": error.step, "diverged": files})
            some = ", ".join(files[:SHOWN])
            teller.warning(f"step {error.step} was of {some}; {folder.path / METRICS} names all its files")
            raise
        if course.step < plan.steps and course.over(plan):
            teller.note(f"no better score in {plan.patience} looks: it ends after step {course.step}")
        if course.best_step and course.over(plan):
            teller.note(f"the best model is that of step {course.best_step}: {course.best_score:.3f}")
    return name


def open_base(asked: Asked) -> Base:
    """The model that a run starts from, or the noise.

    Raises:
        ModelError: there is none of this name.
    """
    if asked.model is None:
        config = load_config(asked.config or "")
        identity = with_preprocess(f"noise {asked.seed}", config)
        return Base("", identity, config, lambda: initial(config, asked.seed))
    files = find_model(asked.model)
    return Base(files.name, files.identity, files.config, lambda: ckpt.read(files.weights), files.weights, files.note)


def planned(asked: Asked, order: Order, data: Data) -> Plan:
    """The plan of a run, where a user left something open.

    Raises:
        UsageError: the learning rate would rise to the end.
    """
    steps = asked.steps or max(1, round(asked.epochs * order.steps))
    usual = 1e-4 if asked.lora else 1e-5 if asked.model else 1e-3
    every = asked.validate_every or max(OFTEN, -(-steps // LOOKS))
    if asked.warmup is not None and asked.warmup >= steps:
        raise UsageError(
            f"--warmup {asked.warmup} must be less than the {steps} step{'s' * (steps > 1)} of the run",
            f"leave it out for a tenth of them, or ask for more {'steps' if asked.steps else 'epochs'}",
        )
    return Plan(
        steps=steps,
        rate=usual if asked.rate is None else asked.rate,
        warmup=round(WARMUP * steps) if asked.warmup is None else asked.warmup,
        accumulate=asked.accumulate,
        max_norm=asked.clip or np.inf,
        validate_every=every if data.held_out else 0,
        save_every=asked.save_every,
        patience=asked.patience,
    )


def _check_validation(asked: Asked, plan: Plan, data: Data, teller: Teller) -> None:
    """Find out before the first step whether validation will work and tell something.

    Raises:
        UsageError: pycocoevalcap is missing.
    """
    if not data.held_out:
        return
    if asked.caption:
        check_installed()
    if (count := len(data.held_out.examples)) < ENOUGH:
        ask = "a larger --hold-out" if asked.hold_out < ENOUGH else "more data"
        teller.warning(f"scores of {count} held-out examples are not reliable; {ask} helps ({ENOUGH} or more)")
    looks = plan.steps // plan.validate_every + bool(plan.steps % plan.validate_every)
    if asked.validate_every and asked.validate_every > plan.steps:
        teller.warning(f"--validate-every {asked.validate_every} has no effect: the run has {plan.steps} steps")
    if plan.patience and plan.patience >= looks:
        told = f"--patience {plan.patience} has no effect: there are {looks} validations in {plan.steps} steps"
        teller.warning(f"{told}; --validate-every makes more")


def must_stay(asked: Asked, base: Base, data: Data, plan: Plan) -> dict[str, Any]:
    """All that decides what each step does: it must be the same when a run goes on."""
    held_out = data.held_out.examples if data.held_out else ()
    return {
        "data": {
            "source": str(data.train.source),
            "files": len(data.train.examples),
            "captions": data.train.captions,
            "held_out": len(held_out),
            "digest": hashlib.sha256(repr([data.train.examples, held_out]).encode()).hexdigest()[:16],
        },
        "base": {"model": base.name, "identity": base.identity, "config": base.config.to_open_clip()},
        "steps": plan.steps,
        "batch_size": asked.batch_size,
        "accumulate": asked.accumulate,
        "rate": plan.rate,
        "warmup": plan.warmup,
        "decay": asked.decay,
        "clip": asked.clip,
        "loss": {"caption": asked.caption, "contrastive": asked.contrastive},
        "frozen": asked.frozen,
        "precision": asked.precision,
        "lora": asked.lora,
        "sampling": asdict(asked.sampling),
        "seed": asked.seed,
    }


def _resumed(folder: RunFolder, asked: Asked, base: Base, teller: Teller, workers: Workers) -> tuple[Trainer, Course]:
    """The model as the last checkpoint left it, or as it starts."""
    checkpoint, damaged = folder.last()
    if not workers.rank:
        aside = folder.rewind(checkpoint.step if checkpoint else -1)
        for step, why in damaged.items():
            teller.warning(f"the checkpoint of step {step} is damaged and set aside as {aside[step]}: {why}")
    objective = Objective(asked.caption, asked.contrastive, asked.frozen)
    weights = checkpoint.weights if checkpoint else base.weights()
    adamw = AdamWOptions(decay=asked.decay)
    trainer = Trainer(base.config, weights, objective, adamw, asked.lora, asked.seed, workers, asked.precision)
    if not checkpoint:
        return trainer, Course()
    trainer.load(checkpoint.state)
    teller.note(f"run {folder.name} stands at step {checkpoint.step}, and goes on from there")
    course = course_of(folder.records())
    return trainer, replace(course, step=checkpoint.step, best_step=folder.best_step() or course.best_step)


def _batches(
    asked: Asked,
    trainer: Trainer,
    pairs: Pairs,
    order: Order,
    steps: range,
    teller: Teller,
    workers: Workers,
    stopping: Callable[[], bool],
) -> Iterator[StepBatch]:
    """What the steps train on: pixels or, where the vision tower is frozen, what it made of them."""
    config = trainer.config

    def failed(path: Path, why: str) -> None:
        teller.warning(f"{path}: {why}")

    told = stop if asked.strict else failed
    if asked.frozen != "vision" or not steps:
        feeding = Feeding(asked.sampling, config.vision.image_size, preprocess=config.preprocess)
        return feed(pairs, order, steps, feeding, told, workers.part)
    weights = trainer.weights()
    vision = config.vision
    tower = Tower(
        identity_of(config, weights),
        asked.sampling,
        vision.image_size,
        vision.pooler_queries,
        config.embed_dim,
        preprocess=config.preprocess,
    )

    def progress(done: int, total: int) -> None:
        if total and not done:
            size = humanized(total * tower.row_bytes)
            teller.note(f"the frozen vision tower looks at {total} files once, and keeps {size} in {tower.folder}")
        teller.features(done, total)

    with workers.first_alone():
        features = prepare(
            pairs.files,
            tower,
            lambda pixels: encode_images(config, trainer.tensors, pixels),
            progress,
            told,
            lambda: teller.note("waiting for another run that looks at files with this tower"),
            stopping=stopping,
        )
    return cached_feed(pairs, order, steps, features, workers.part)


def _events(folder: RunFolder, course: Course, stack: ExitStack) -> Callable[[dict[str, Any]], object]:
    from .events import open_events

    return stack.enter_context(open_events(folder.path / EVENTS, course.step))


def _describe(folder: RunFolder, base: Base, facts: Mapping[str, Any], teller: Teller) -> None:
    """Draw and describe a run as it stands, however it ended."""
    if not folder.records():
        return
    if undrawn := draw(folder.records(), folder.path / PLOT, folder.best_step()):
        teller.note(undrawn)
    settings = {key: value for key, value in facts.items() if key not in ("data", "base")}
    data = facts["data"] | {"source": Path(facts["data"]["source"]).name}  # its folder is nobody else's business
    write_card(folder, base.name, data, settings)


def _validate(trainer: Trainer, data: Data, reading: Reading, asked: Asked, workers: Workers) -> Validation:
    """The first worker looks at the held-out examples, and tells the others."""
    assert data.held_out
    found = None
    if not workers.rank:
        found = validate(trainer, data.held_out, reading, captions=asked.caption > 0, retrieval=asked.contrastive > 0)
    told: Validation = workers.exchange(found)[0]
    return told


class _Keeper:
    """Keeps a run in its folder. Implements `loop.Recorder`."""

    def __init__(self, folder: RunFolder, trainer: Trainer, keep: int, log_event: Callable[[dict[str, Any]], object]):
        self._folder, self._trainer, self._keep, self._log_event = folder, trainer, keep, log_event

    def log(self, record: dict[str, Any]) -> None:
        self._folder.log(record)
        self._log_event(record)

    def save(self, step: int) -> None:
        trainer = self._trainer
        self._folder.save(step, trainer.weights(), trainer.state(), trainer.config, {}, self._keep)

    def keep_best(self, step: int) -> None:
        self._folder.keep_best(step)


class _Onlooker:
    """Keeps nothing, as another worker does. Implements `loop.Recorder`."""

    def log(self, record: dict[str, Any]) -> None: ...

    def save(self, step: int) -> None: ...

    def keep_best(self, step: int) -> None: ...
