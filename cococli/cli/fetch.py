"""`coca fetch`: a checkpoint from the hub, or from a file, into the cache."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from .. import console
from ..files import format_size
from . import options
from .command import warn_of_flags
from .completion import complete_architecture, complete_fetchable
from .models import waiting


def fetch(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            show_default=False,
            help="A name, as vit-l-14 (coca models available shows all); ORG/REPO, ORG/REPO@REVISION or ORG/REPO:FILE "
            "of the Hugging Face hub, or a pasted address; or a checkpoint file, or a folder with one.",
            autocompletion=complete_fetchable,
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="What to call it; by default as it is called."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", show_default=False, help="Take this file, which you got by hand."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            show_default=False,
            help="The architecture, where no config comes with the weights: a model's name or open_clip's file.",
            autocompletion=complete_architecture,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", metavar="", help="Round weights to float16, which takes half the disk.")
    ] = False,
    keep_download: Annotated[
        bool,
        typer.Option(
            "--keep-download/--no-keep-download",
            help="Download into the hub's shared cache (HF_HOME), where other programs find it, and leave it there.",
        ),
    ] = False,
    force: Annotated[bool, typer.Option("--force", metavar="", help="Fetch it although it is here.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Download a model, convert it, verify it, and keep it in the cache. Prints its name.

    An interrupted download goes on where it stopped. HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are heeded.
    """
    from ..checkpoints.architecture import load_config
    from ..checkpoints.fetch import fetch as fetch_model
    from ..checkpoints.fetch import read_request

    console.be_quiet(quiet)
    warn_of_flags(context)
    request = read_request(model, name, source, load_config(config) if config else None)
    with console.transfer() as progress:
        fetched = fetch_model(
            request,
            "float16" if half else "float32",
            keep_download,
            force,
            progress,
            waiting(request.name),
        )
    for line in fetched.notes:
        console.note(line)
    size = format_size(fetched.manifest.files["model.ckpt"].size)
    console.note(f"{fetched.name} {'is ready' if fetched.added else 'was here already'}: {size}")
    if as_json:
        facts = {"name": fetched.name, "path": str(fetched.folder), "added": fetched.added}
        console.result(json.dumps(facts | asdict(fetched.manifest)))
    elif not console.stdout_is_terminal():  # a person was told already
        console.result(fetched.name)
