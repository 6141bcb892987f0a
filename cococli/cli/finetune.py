"""`coca finetune`: train a model on pictures or videos with captions."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .. import console, interrupts
from ..errors import UsageError
from . import options
from .command import typed, warn_of_flags
from .completion import complete_architecture
from .defaults import default_model
from .running import tell_as_wanted

if TYPE_CHECKING:
    from ..training.step import Step
    from ..training.validation import Validation

TRAINING, RUN = "Training", "Run"
MOST = 1_000_000_000  # steps and the like
SHOWN = ("CIDEr", "BLEU-4", "recall@1")  # scores; all are in the run's metrics.jsonl


def finetune(
    context: typer.Context,
    data: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER|LIST",
            show_default=False,
            help="Pictures or videos with captions: COCO's layout, a Karpathy split, a list such as captions.csv or "
            "list.tsv:column, or a .txt beside each file.",
            rich_help_panel=options.DATA,
        ),
    ],
    karpathy: options.Karpathy = None,
    images: options.Images = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", metavar="", help="Stop where files are missing or broken.", rich_help_panel=options.DATA
        ),
    ] = False,
    frames: options.Frames = "middle",
    num_frames: options.NumFrames = 8,
    model: options.Model = None,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            metavar="",
            help="Start from noise, of the architecture --config.",
            rich_help_panel=TRAINING,
        ),
    ] = False,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            show_default=False,
            help="The architecture to train from scratch: a model's name or open_clip's config file.",
            autocompletion=complete_architecture,
            rich_help_panel=TRAINING,
        ),
    ] = None,
    epochs: Annotated[
        float,
        typer.Option(metavar="N", min=0, max=MOST, help="Times that every caption is seen.", rich_help_panel=TRAINING),
    ] = 1.0,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST,
            show_default=False,
            help="Steps, in place of epochs.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, max=65_536, help="Captions in a batch.", rich_help_panel=TRAINING)
    ] = 32,
    accumulate: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=65_536,
            help="Batches that make one step: as one large batch for captions, in the memory of a small one.",
            rich_help_panel=TRAINING,
        ),
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0,
            max=1,
            show_default="1e-05; LoRA 1e-04; from scratch 1e-03",
            help="The highest learning rate.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    warmup: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=MOST,
            show_default="a tenth of the steps",
            help="Steps in which the learning rate rises.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    decay: Annotated[
        float, typer.Option(metavar="X", min=0, max=1000, help="Weight decay of matrices.", rich_help_panel=TRAINING)
    ] = 0.1,
    clip: Annotated[
        float,
        typer.Option(
            metavar="X", min=0, max=MOST, help="Shorten longer gradients to it; 0: none.", rich_help_panel=TRAINING
        ),
    ] = 1.0,
    caption: Annotated[
        float, typer.Option(metavar="X", min=0, max=1000, help="Weight of the caption loss.", rich_help_panel=TRAINING)
    ] = 2.0,
    contrastive: Annotated[
        float,
        typer.Option(
            metavar="X",
            min=0,
            max=1000,
            help="Weight of the contrastive loss; 0 trains captions alone and is quicker.",
            rich_help_panel=TRAINING,
        ),
    ] = 1.0,
    freeze: Annotated[
        Literal["none", "vision", "text"],
        typer.Option(
            help="Leave a tower as it is. What a frozen vision tower sees is computed once and kept on disk.",
            rich_help_panel=TRAINING,
        ),
    ] = "none",
    lora: Annotated[
        int,
        typer.Option(
            metavar="RANK",
            min=0,
            max=1024,
            help="Train thin matrices beside those of attention, and nothing else; they are folded in.",
            rich_help_panel=TRAINING,
        ),
    ] = 0,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Another seed, another order.", rich_help_panel=TRAINING)
    ] = 0,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        typer.Option(help="What to compute in. On CPU fp32 alone.", rich_help_panel=TRAINING),
    ] = "fp32",
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="What to call the run; the model is then run:NAME. By default after the data and the base model.",
            rich_help_panel=RUN,
        ),
    ] = None,
    hold_out: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=MOST,
            help="Held-out pictures at most, of the val split or else of all; 0: none.",
            rich_help_panel=RUN,
        ),
    ] = 100,
    validate_every: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST,
            show_default="a tenth of the steps",
            help="Steps between two looks at them.",
            rich_help_panel=RUN,
        ),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST,
            show_default=False,
            help="End after so many looks without a better score.",
            rich_help_panel=RUN,
        ),
    ] = None,
    save_every: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Steps between two checkpoints.", rich_help_panel=RUN)
    ] = 500,
    keep: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=MOST, help="Checkpoints to keep, besides the best.", rich_help_panel=RUN),
    ] = 2,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", metavar="", help="Write events for TensorBoard, too.", rich_help_panel=RUN),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", metavar="", help="Start a run of this name anew.", rich_help_panel=RUN)
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.JsonProgress = False,
    log_file: options.LogFile = None,
) -> None:
    """Train a model on pictures or videos with captions. Prints the name of the new one.

    An interrupted run resumes where it stopped when the same command is given again.
    """
    from ..engines.choice import no_mindspore

    if not find_spec("mindspore"):
        raise no_mindspore("coca finetune")
    from ..training.parallel import join

    workers = join()
    console.be_quiet(quiet or workers.rank > 0)
    tell_as_wanted(as_json, None if workers.rank else log_file)
    if from_scratch and not typed(context, "model"):
        model = None  # what the environment or config.toml says of models is not meant
    if precision != "fp32" and on_cpu() and not typed(context, "precision"):
        console.note(f"{precision}, as config.toml wants it, is for captions; training on CPU computes in fp32")
        precision = "fp32"
    warn_of_flags(context)
    _check(model, from_scratch, config, precision, freeze, lora, caption, contrastive)
    if rate == 0:
        raise UsageError("--rate 0 trains nothing")
    if typed(context, "epochs"):
        if typed(context, "steps"):
            raise UsageError("--steps and --epochs exclude each other")
        steps = None  # what config.toml says of steps is not meant
    if steps is None and epochs == 0:
        raise UsageError("--epochs 0 trains nothing", "coca caption takes the model as it is")
    if not hold_out and (patience or validate_every):
        raise UsageError("--patience and --validate-every need held-out pictures, but --hold-out is 0")
    if batch_size == 1 and contrastive:
        console.warning("--batch-size 1 leaves no other caption to compare with: the contrastive loss has no effect")
    from ..errors import CocaError
    from ..media.sampling import Sampling
    from ..training.data import Source
    from ..training.run import Asked, finetune

    if not from_scratch and not model:
        model = default_model()
        console.note(f"training goes on from {model}; --model takes another, --from-scratch none")
    asked = Asked(
        source=Source(data, karpathy, images),
        model=model,
        config=config,
        name=name,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        accumulate=accumulate,
        rate=rate,
        warmup=warmup,
        decay=decay,
        clip=clip,
        caption=caption,
        contrastive=contrastive,
        frozen=freeze,
        lora=lora,
        sampling=Sampling(frames, num_frames),
        seed=seed,
        hold_out=hold_out,
        validate_every=validate_every,
        patience=patience,
        save_every=save_every,
        keep=keep,
        precision=precision,
        strict=strict,
        overwrite=overwrite,
        tensorboard=tensorboard,
    )
    with (
        interrupts.patiently(lambda: console.note("saving; Ctrl-C again stops now")) as stopping,
        console.training() as shown,
    ):
        try:
            run = finetune(asked, _Teller(shown), stopping, workers)
        except (MemoryError, RuntimeError) as error:
            if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
                raise
            hint = "a smaller --batch-size with --accumulate, --freeze vision, --contrastive 0 or --lora 8 take less"
            raise CocaError("there is not enough memory for this", hint) from None
    if workers.stop(interrupts.came()):
        raise KeyboardInterrupt
    if workers.rank:
        return
    console.note(f"coca caption VIDEOS --model run:{run}")
    console.result(f"run:{run}")


def _check(
    model: str | None,
    from_scratch: bool,
    config: str | None,
    precision: str,
    freeze: str,
    lora: int,
    caption: float,
    contrastive: float,
) -> None:
    """Refuse what does not fit together, before anything is loaded."""
    if from_scratch and model:
        raise UsageError("--model and --from-scratch exclude each other")
    if config and not from_scratch:
        raise UsageError("--config is for --from-scratch: a model brings its own")
    if not caption and not contrastive:
        raise UsageError("with --caption 0 and --contrastive 0 there is nothing to train for")
    if from_scratch and (freeze != "none" or lora):
        raise UsageError("from scratch, nothing can be frozen or adapted: noise would stay noise")
    if from_scratch and not config:
        raise UsageError("--from-scratch needs an architecture", "--config vit-b-32, or open_clip's config file")
    if precision != "fp32" and on_cpu():
        why = "MindSpore has no bf16 matrix product on CPU, and its fp16 is no faster than fp32"
        raise UsageError(f"--precision {precision} needs an Ascend: {why}")


def on_cpu() -> bool:
    import mindspore

    return bool(mindspore.get_context("device_target") == "CPU")


class _Teller:
    """Shows how training goes. Implements `training.run.Teller`."""

    def __init__(self, shown: console.Training) -> None:
        self._shown = shown

    def note(self, text: str) -> None:
        console.note(text)

    def warning(self, text: str) -> None:
        console.warning(text)

    def features(self, done: int, total: int) -> None:
        self._shown.move("looking", done, total, "")

    def step(self, step: int, steps: int, found: "Step", rate: float) -> None:
        losses = found.losses
        told = f"loss {losses.total:.3f} = caption {losses.caption:.3f}, contrastive {losses.contrastive:.3f}"
        self._shown.move("training", step, steps, f"{told}; rate {rate:.1e}")

    def look(self, step: int, found: "Validation", best: bool) -> None:
        scores = ", ".join(f"{name} {value:.3f}" for name, value in found.scores.items() if name.endswith(SHOWN))
        loss = f"held-out loss {found.loss:.3f}"
        console.note(f"step {step}: {scores}, {loss}{'; the best so far' if best else ''}")
        for sample in found.samples:
            console.note(f"  {sample.path.name}: {sample.caption} (people say: {sample.reference})")
