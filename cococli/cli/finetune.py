"""`coca finetune`: train a model on pictures or videos with captions."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import console
from . import options
from .command import typed, warn_of_flags
from .completion import complete_architecture
from .running import tell_as_wanted

TRAINING, RUN = "Training", "Run"
MOST = 1_000_000_000  # steps, for example


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
        typer.Option("--strict", metavar="", help="Stop if files are missing or broken.", rich_help_panel=options.DATA),
    ] = False,
    frames: options.Frames = "middle",
    num_frames: options.NumFrames = 8,
    model: options.Model = None,
    from_scratch: Annotated[
        bool,
        typer.Option(
            "--from-scratch",
            metavar="",
            help="Start from random weights; --config names the architecture.",
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
        float | None,
        typer.Option(
            metavar="N",
            min=0,
            max=MOST,
            show_default="1.0",
            help="Passes over all captions.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST,
            show_default=False,
            help="Number of steps instead of epochs.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, max=65_536, help="Captions per batch.", rich_help_panel=TRAINING)
    ] = 32,
    accumulate: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=65_536,
            help="Batches per step. The caption loss equals that of one large batch, in the memory of a small one.",
            rich_help_panel=TRAINING,
        ),
    ] = 1,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--lr",
            "--rate",
            metavar="X",
            min=0,
            max=1,
            show_default="1e-05; LoRA 1e-04; from scratch 1e-03",
            help="Peak learning rate.",
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
            help="Warmup steps, in which the learning rate rises.",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    weight_decay: Annotated[
        float,
        typer.Option(
            "--weight-decay",
            "--decay",
            metavar="X",
            min=0,
            max=1000,
            help="Weight decay of matrices.",
            rich_help_panel=TRAINING,
        ),
    ] = 0.1,
    clip_grad_norm: Annotated[
        float,
        typer.Option(
            "--clip-grad-norm",
            "--clip",
            metavar="X",
            min=0,
            max=MOST,
            help="Maximum norm of the gradients; 0 for no limit.",
            rich_help_panel=TRAINING,
        ),
    ] = 1.0,
    caption_loss: Annotated[
        float,
        typer.Option(
            "--caption",
            metavar="X",
            min=0,
            max=1000,
            help="Weight of the caption loss.",
            rich_help_panel=TRAINING,
        ),
    ] = 2.0,
    contrastive_loss: Annotated[
        float,
        typer.Option(
            "--contrastive",
            metavar="X",
            min=0,
            max=1000,
            help="Weight of the contrastive loss; 0 is faster and trains captioning alone.",
            rich_help_panel=TRAINING,
        ),
    ] = 1.0,
    freeze: Annotated[
        Literal["none", "vision", "text"],
        typer.Option(
            help="Freeze a tower. Image features of a frozen vision tower are computed once and stored on disk.",
            rich_help_panel=TRAINING,
        ),
    ] = "none",
    lora: Annotated[
        int,
        typer.Option(
            metavar="RANK",
            min=0,
            max=1024,
            help="Rank of LoRA adapters of the attention matrices, the only weights trained then; merged when saved.",
            rich_help_panel=TRAINING,
        ),
    ] = 0,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Seed of the order of the data and of random weights.", rich_help_panel=TRAINING
        ),
    ] = 0,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        typer.Option(help="Precision of the computation; CPUs support fp32 only.", rich_help_panel=TRAINING),
    ] = "fp32",
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="Name of the run; its model is run:NAME. Derived from the data and the base model by default.",
            rich_help_panel=RUN,
        ),
    ] = None,
    hold_out: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=MOST,
            help="Maximum number of held-out examples, of the val split or else of all; 0 for none.",
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
            help="Steps between validations on the held-out examples.",
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
            help="Stop early after this many validations without a better score.",
            rich_help_panel=RUN,
        ),
    ] = None,
    save_every: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Steps between checkpoints.", rich_help_panel=RUN)
    ] = 500,
    keep: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=1,
            max=MOST,
            help="Number of recent checkpoints to keep, besides the best.",
            rich_help_panel=RUN,
        ),
    ] = 2,
    tensorboard: Annotated[
        bool,
        typer.Option("--tensorboard", metavar="", help="Also write TensorBoard events.", rich_help_panel=RUN),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", metavar="", help="Delete an existing run of this name and start over.", rich_help_panel=RUN
        ),
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.JsonProgress = False,
    log_file: options.LogFile = None,
) -> None:
    """Train a model on pictures or videos with captions and print the name of the new one.

    An interrupted run resumes where it stopped when the same command is given again.
    """
    given = dict(locals())  # every option by the name of its field
    from ..checkpoints.store import default_model
    from ..training.finetune import FinetuneRequest, check, finetune, join_workers, on_cpu

    workers = join_workers()
    console.be_quiet(quiet or workers.rank > 0)
    tell_as_wanted(as_json, None if workers.rank else log_file)
    warn_of_flags(context)
    request = FinetuneRequest(**{field.name: given[field.name] for field in fields(FinetuneRequest)})
    # Settings of the environment and config.toml yield to flags that exclude them.
    if from_scratch and not typed(context, "model"):
        request = replace(request, model=None)
    if precision != "fp32" and not typed(context, "precision") and on_cpu():
        console.note(f"ignoring precision {precision} of config.toml: training on CPU uses fp32")
        request = replace(request, precision="fp32")
    if typed(context, "epochs") and not typed(context, "steps"):
        request = replace(request, steps=None)
    elif steps is not None and not typed(context, "epochs"):
        request = replace(request, epochs=None)
    if not from_scratch and not model:
        check(request)  # before errors about the cache
        request = replace(request, model=default_model())
        console.note(f"fine-tuning {request.model}; choose another with --model, or train with --from-scratch")
    reporter = console.ConsoleReporter()
    run = finetune(request, reporter, workers)
    if workers.stop(reporter.stop_requested):
        raise KeyboardInterrupt
    if not workers.rank:
        console.note(f"coca caption VIDEOS --model run:{run}")
        console.result(f"run:{run}")
