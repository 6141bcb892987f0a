"""`coca convert`: open_clip's weights to MindSpore's, and back."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .. import console
from . import options
from .completion import complete_architecture


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            show_default=False,
            help="A CoCa of open_clip: a .bin, .pt or .safetensors file, the index of a sharded one, or a folder with "
            "one of these; or a .ckpt. "
            "With --to open_clip a .ckpt or a model's name.",
        ),
    ],
    destination: Annotated[
        Path | None,
        typer.Argument(
            metavar="DST",
            show_default=False,
            help="The .ckpt file to write, or the .safetensors file. By default it stands beside SRC, "
            "or in the current folder if SRC is a model's name.",
        ),
    ] = None,
    to: Annotated[
        Literal["mindspore", "open_clip"],
        typer.Option(help="mindspore writes a .ckpt, open_clip a .safetensors and its open_clip_config.json."),
    ] = "mindspore",
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            show_default=False,
            help="The architecture: a model's name, as vit-l-14, or a config file in open_clip's form. "
            "By default the file beside SRC, else what the weights tell.",
            autocompletion=complete_architecture,
        ),
    ] = None,
    half: Annotated[
        bool, typer.Option("--half", metavar="", help="Round weights to float16, which takes half the disk.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", metavar="", help="Read what was written and compare every tensor.")
    ] = False,
    overwrite: options.Replace = False,
    quiet: options.Quiet = False,
) -> None:
    """Convert weights of open_clip to MindSpore, or back. Prints the path of what it wrote."""
    from ..checkpoints.architecture import load_config
    from ..checkpoints.convert import convert as convert_weights
    from ..checkpoints.convert import default_destination
    from ..checkpoints.export import export
    from ..checkpoints.source import find_checkpoint

    console.be_quiet(quiet)
    architecture = load_config(config) if config else None
    dtype: Literal["float16"] | None = "float16" if half else None
    with console.transfer() as progress:
        if to == "open_clip":
            made = export(str(source), destination, architecture, verify, progress, dtype, overwrite)
        else:
            source = find_checkpoint(source, "coca convert")
            place = destination or default_destination(source)
            made = convert_weights(source, place, architecture, verify, progress, dtype or "float32", overwrite)
    for line in made.notes:
        console.note(line)
    verified = ", verified" if verify else ""
    console.note(f"{made.parameters / 1e6:.1f} million parameters, {made.size / 1e9:.2f} GB{verified}")
    console.result(str(made.path))
