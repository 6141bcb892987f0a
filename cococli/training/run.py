"""A training run: from a checked request to a better model, with one folder for everything it writes."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..catalog import CocaConfig
from ..checkpoints import ckpt
from ..checkpoints.architecture import load_config
from ..checkpoints.cache import slug
from ..checkpoints.initial import initial
from ..checkpoints.store import find_model, run_folder, with_preprocess
from ..datasets.dataset import Example
from ..datasets.feeding import Feeding, StepBatch, feed
from ..datasets.pairs import Order, Pairs, bucket_lengths, pairs_of
from ..engines.choice import Choice, resolve
from ..errors import UsageError
from ..evaluation.captions import check_installed
from ..files import digest, find_member, member_path
from ..media.clips import ReadRequest, Sampling, Segments
from ..reporting import SILENT, Reporter
from ..requests import FinetuneRequest
from ..runs.card import write_card
from ..runs.features import Tower, cached_feed, identity_of, prepare
from ..runs.folder import EVENTS, METRICS, PLOT, RunFolder, open_run_folder, stored_settings
from ..runs.plot import draw
from ..tokenizer import check_vocabulary
from .data import ENOUGH, TrainingData, find_data
from .loop import Diverged, Recorder, TrainingPlan, TrainingState, state_of, train
from .objective import AdamWOptions, Objective
from .parallel import ALONE, Workers
from .validation import Trainer, Validation, validate

WARMUP = 0.1  # share of the steps
VALIDATIONS, LEAST_BETWEEN = 10, 50  # validations of a run, and the fewest steps between two
MOST_READERS = 8  # processes, by default
SHOWN = 3  # files in a message


@dataclass(frozen=True)
class Base:
    """The model that a run starts from, or random weights."""

    name: str  # empty if from scratch
    identity: str
    config: CocaConfig
    weights: Callable[[], Mapping[str, np.ndarray]]  # read or drawn on demand
    file: Path | None = None  # of the weights
    note: str = ""  # for the user


def train_run(request: FinetuneRequest, reporter: Reporter = SILENT, workers: Workers = ALONE) -> str:
    """Train, or resume an interrupted run, and return its name. `finetune.finetune` checks the request first."""
    base = open_base(request)
    name = request.name or slug(f"{Path(os.path.realpath(request.data)).name}--{base.name or 'scratch'}")
    if request.overwrite and base.file and base.file.resolve().is_relative_to(run_folder(name).resolve()):
        raise UsageError(
            f"--overwrite would remove the run {name}, which this run starts from", "choose another --name"
        )
    if base.note:
        reporter.note(base.note)
    before = {} if request.overwrite else stored_settings(name)
    request = settled(request, before)
    choice = _device(request)
    if choice.device != "cpu":
        reporter.note(f"training in {choice.precision} on {choice.device}")
    readers = 2 if choice.device == "cpu" else max(1, min(MOST_READERS, choice.threads // workers.count))
    request = replace(request, precision=choice.precision, workers=request.workers or readers)  # type: ignore[arg-type]
    context = base.config.context_length
    data = find_data(request, context, reporter, before.get("data.held_out", 0))
    pairs = pairs_of(data.train, context)
    lengths = bucket_lengths(pairs.ids, base.config.pad_id)
    order = Order(request.seed, lengths, request.batch_size, request.accumulate, workers.count)
    if request.batch_size % workers.count:
        raise UsageError(f"a batch of {request.batch_size} cannot be shared evenly among {workers.count} workers")
    plan = make_plan(request, order, data)
    _check_validation(request, plan, data, reporter)
    facts = run_facts(request, base, data, plan)
    with workers.ending_together(Diverged), ExitStack() as stack:
        with workers.first_alone():
            folder = RunFolder(name, run_folder(name))
            if not workers.rank:
                stack.enter_context(open_run_folder(name, facts, request.overwrite))
            trainer, state = _resumed(folder, request, base, choice, reporter, workers)
        recorder: Recorder = _NoRecorder()
        if not workers.rank:
            log_event = _events(request.report_to, folder, facts, state, stack)
            recorder = _FolderRecorder(folder, trainer, request.keep, log_event)
        batches = _batches(request, trainer, pairs, order, range(state.step, plan.steps), reporter, workers)
        size, preprocess = base.config.vision.image_size, base.config.preprocess
        read = ReadRequest(_sampling(request), Segments("none"), size, preprocess=preprocess)
        if not workers.rank:
            stack.callback(_describe, folder, base, facts, reporter)
        try:
            validate_now = partial(_validate, trainer, data, read, request, workers)
            train(trainer, batches, plan, state, recorder, validate_now, reporter, workers)
        except Diverged as error:
            bad = np.concatenate(workers.exchange(error.pairs))
            files = sorted({str(pairs.files[pairs.file[pair]]) for pair in bad})
            recorder.log({"step": error.step, "diverged": files})
            first = ", ".join(files[:SHOWN])
            reporter.warning(f"step {error.step} trained on {first}; {folder.path / METRICS} lists all its files")
            raise
        if state.step < plan.steps and state.over(plan):
            reporter.note(f"stopped early at step {state.step}: no better score in {plan.patience} validations")
        if state.best_step and state.over(plan):
            reporter.note(f"the best model is that of step {state.best_step}: {state.best_score:.3f}")
    return name


def open_base(request: FinetuneRequest) -> Base:
    """Find the model that a run starts from, or the architecture of a new one.

    Raises:
        ModelError: There is no model of this name, or its vocabulary is not CLIP's.
    """
    if request.model is None:
        config = load_config(request.config or "")
        check_vocabulary(config.vocab_size)
        identity = with_preprocess(f"noise {request.seed}", config)
        return Base("", identity, config, lambda: initial(config, request.seed))
    files = find_model(request.model)
    check_vocabulary(files.config.vocab_size)
    return Base(files.name, files.identity, files.config, lambda: ckpt.read(files.weights), files.weights, files.note)


def settled(request: FinetuneRequest, stored: Mapping[str, Any]) -> FinetuneRequest:
    """Return a request whose defaults are resolved: as the run was started, or else as open_clip's recipes have them.

    Args:
        stored: Settings of the run, if it exists.
    """
    caption, contrastive = (2.0, 1.0) if request.from_scratch else (1.0, 0.0)
    return replace(
        request,
        caption_loss=_first(request.caption_loss, stored.get("loss.caption"), caption),
        contrastive_loss=_first(request.contrastive_loss, stored.get("loss.contrastive"), contrastive),
        precision=stored.get("precision", "auto") if request.precision == "auto" else request.precision,
        lock_image=request.lock_image or request.freeze == "vision",
        lock_text=request.lock_text or request.freeze == "text",
        report_to=request.report_to or ("tensorboard" if request.tensorboard else None),
    )


def _first(*values: float | None) -> float:
    return next(value for value in values if value is not None)


def _device(request: FinetuneRequest) -> Choice:
    """Return the device and precision to train with, and limit the threads."""
    if request.engine == "mindspore":
        return Choice("mindspore", "cpu", "fp32" if request.precision == "auto" else request.precision)
    choice = resolve("torch", request.device, request.precision, request.threads)
    if choice.device == "cpu" and request.precision == "auto":
        choice = replace(choice, precision="fp32")
    import torch

    torch.set_num_threads(choice.threads)
    return choice


def _objective(request: FinetuneRequest) -> Objective:
    assert request.caption_loss is not None and request.contrastive_loss is not None
    locks = request.lock_image, request.unlocked_groups, request.lock_text
    return Objective(request.caption_loss, request.contrastive_loss, *locks)


def make_plan(request: FinetuneRequest, order: Order, data: TrainingData) -> TrainingPlan:
    """Plan a run, with defaults that fit the data.

    Raises:
        UsageError: The warmup is not shorter than the run.
    """
    steps = request.steps or max(1, round((1.0 if request.epochs is None else request.epochs) * order.steps))
    usual = 1e-4 if request.lora else 1e-5 if request.model else 1e-3
    every = request.validate_every or max(LEAST_BETWEEN, -(-steps // VALIDATIONS))
    if request.warmup is not None and request.warmup >= steps:
        raise UsageError(
            f"--warmup {request.warmup} must be less than the {steps} step{'s' * (steps > 1)} of the run",
            f"leave it out for a tenth of them, or choose more {'steps' if request.steps else 'epochs'}",
        )
    return TrainingPlan(
        steps=steps,
        learning_rate=usual if request.learning_rate is None else request.learning_rate,
        warmup=round(WARMUP * steps) if request.warmup is None else request.warmup,
        accumulate=request.accumulate,
        max_norm=request.clip_grad_norm or np.inf,
        validate_every=every if data.held_out else 0,
        save_every=request.save_every,
        patience=request.patience,
        scheduler=request.scheduler,
    )


def _check_validation(request: FinetuneRequest, plan: TrainingPlan, data: TrainingData, reporter: Reporter) -> None:
    """Check before the first step that validation can run, and warn if it is of little use.

    Raises:
        UsageError: pycocoevalcap is not installed.
    """
    if not data.held_out:
        return
    if request.caption_loss:
        check_installed()
    if (count := len(data.held_out.examples)) < ENOUGH:
        remedy = "a larger --hold-out" if request.hold_out < ENOUGH else "more data"
        reporter.warning(f"scores of {count} held-out examples are not reliable; {remedy} helps ({ENOUGH} or more)")
    validations = plan.steps // plan.validate_every + bool(plan.steps % plan.validate_every)
    if request.validate_every and request.validate_every > plan.steps:
        reporter.warning(f"--val-frequency {request.validate_every} has no effect: the run has {plan.steps} steps")
    if plan.patience and plan.patience >= validations:
        why = f"there are {validations} validations in {plan.steps} steps"
        reporter.warning(f"--patience {plan.patience} has no effect: {why}; for more, use --val-frequency")


def _identified(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Return examples without the folders that files have in tars, as runs of earlier versions left them out."""
    members = ((example, find_member(example.path)) for example in examples)
    return tuple(
        replace(example, path=member_path(*member, example.path.name)) if member else example
        for example, member in members
    )


def run_facts(request: FinetuneRequest, base: Base, data: TrainingData, plan: TrainingPlan) -> dict[str, Any]:
    """Return everything that determines the steps of a run, which must not change when it resumes."""
    held_out = data.held_out.examples if data.held_out else ()
    added = {"scheduler": plan.scheduler, "unlocked_groups": request.unlocked_groups, "ema": request.ema}
    usual = {"scheduler": "cosine", "unlocked_groups": 0, "ema": 0}  # left out, as in runs of earlier versions
    return {
        "data": {
            "source": str(data.train.source),
            "files": len(data.train.examples),
            "captions": data.train.captions,
            "held_out": len(held_out),
            "digest": digest(repr([_identified(data.train.examples), _identified(held_out)])),
        },
        "base": {"model": base.name, "identity": base.identity, "config": base.config.to_open_clip()},
        "steps": plan.steps,
        "batch_size": request.batch_size,
        "accumulate": request.accumulate,
        "rate": plan.learning_rate,
        "warmup": plan.warmup,
        "decay": request.weight_decay,
        "clip": request.clip_grad_norm,
        "loss": {"caption": request.caption_loss, "contrastive": request.contrastive_loss},
        "frozen": "+".join(["vision"] * request.lock_image + ["text"] * request.lock_text) or "none",
        "precision": request.precision,
        "lora": request.lora,
        "sampling": asdict(_sampling(request)),
        "seed": request.seed,
        **{name: value for name, value in added.items() if value != usual[name]},
    }


def _sampling(request: FinetuneRequest) -> Sampling:
    return Sampling(request.frames, request.num_frames)


def _resumed(
    folder: RunFolder, request: FinetuneRequest, base: Base, choice: Choice, reporter: Reporter, workers: Workers
) -> tuple[Trainer, TrainingState]:
    """Load the last checkpoint, or the base if there is none."""
    checkpoint, damaged = folder.last()
    if not workers.rank:
        renamed = folder.rewind(checkpoint.step if checkpoint else -1)
        for step, why in damaged.items():
            reporter.warning(f"the checkpoint of step {step} is damaged and was renamed to {renamed[step]}: {why}")
    weights = checkpoint.weights if checkpoint else base.weights()
    common = base.config, weights, _objective(request), AdamWOptions(weight_decay=request.weight_decay)
    trainer: Trainer
    if request.engine == "mindspore":
        from .mindspore_trainer import Trainer as MindSporeTrainer

        trainer = MindSporeTrainer(*common, workers, choice.precision)
    else:
        from .torch_trainer import Trainer as TorchTrainer

        trainer = TorchTrainer(
            *common,
            lora=request.lora,
            seed=request.seed,
            workers=workers,
            precision=choice.precision,
            device=choice.device,
            checkpointing=request.grad_checkpointing,
            ema=request.ema,
        )
    if not checkpoint:
        return trainer, TrainingState()
    trainer.load(checkpoint.state)
    reporter.note(f"resuming run {folder.name} at step {checkpoint.step}")
    state = state_of(folder.records())
    return trainer, replace(state, step=checkpoint.step, best_step=folder.best_step() or state.best_step)


def _batches(
    request: FinetuneRequest,
    trainer: Trainer,
    pairs: Pairs,
    order: Order,
    steps: range,
    reporter: Reporter,
    workers: Workers,
) -> Iterator[StepBatch]:
    """Return the batches of the steps: pixels, or image features if the vision tower is frozen."""
    config, readers = trainer.config, request.workers or 1
    if not _objective(request).constant_images or not steps:
        size = config.vision.image_size
        feeding = Feeding(
            _sampling(request), size, processes=readers, preprocess=config.preprocess, strict=request.strict
        )
        return feed(pairs, order, steps, feeding, reporter, workers.part)
    weights = trainer.weights()
    vision = config.vision
    tower = Tower(
        identity_of(config, weights) + f" {request.precision}" * (request.precision != "fp32"),
        _sampling(request),
        vision.image_size,
        vision.pooler_queries,
        config.embed_dim,
        preprocess=config.preprocess,
    )
    with workers.first_alone():
        features = prepare(
            pairs.files,
            tower,
            trainer.encode_images,
            reporter,
            request.strict,
            batch_size=max(8, min(64, request.batch_size)),
            readers=readers,
        )
    return cached_feed(pairs, order, steps, features, workers.part)


def _events(
    report_to: str | None, folder: RunFolder, facts: Mapping[str, Any], state: TrainingState, stack: ExitStack
) -> Callable[[dict[str, Any]], object]:
    if report_to == "tensorboard":
        from ..runs.trackers import open_events

        return stack.enter_context(open_events(folder.path / EVENTS, state.step))
    if report_to == "wandb":
        from ..runs.trackers import open_wandb

        return stack.enter_context(open_wandb(folder.path, folder.name, facts))
    return lambda record: None


def _describe(folder: RunFolder, base: Base, facts: Mapping[str, Any], reporter: Reporter) -> None:
    """Draw the curves of a run and write its card, however it ended."""
    if not folder.records():
        return
    if undrawn := draw(folder.records(), folder.path / PLOT, folder.best_step()):
        reporter.note(undrawn)
    settings = {key: value for key, value in facts.items() if key not in ("data", "base")}
    data = facts["data"] | {"source": Path(facts["data"]["source"]).name}  # its folder is private
    write_card(folder, base.name, data, settings)


def _validate(
    trainer: Trainer, data: TrainingData, read: ReadRequest, request: FinetuneRequest, workers: Workers
) -> Validation:
    """Validate in the first worker and return its result in all."""
    assert data.held_out and request.caption_loss is not None and request.contrastive_loss is not None
    found = None
    if not workers.rank:
        found = validate(
            trainer, data.held_out, read, captions=request.caption_loss > 0, retrieval=request.contrastive_loss > 0
        )
    shared: Validation = workers.exchange(found)[0]
    return shared


class _FolderRecorder:
    """Stores a run in its folder. Implements `loop.Recorder`."""

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


class _NoRecorder:
    """Stores nothing, in workers other than the first. Implements `loop.Recorder`."""

    def log(self, record: dict[str, Any]) -> None: ...

    def save(self, step: int) -> None: ...

    def keep_best(self, step: int) -> None: ...
