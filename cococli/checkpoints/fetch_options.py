"""Options of `coca fetch` and `coca convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ..options import Option

Half = Annotated[bool, Option("Round weights to float16, which takes half the disk space.")]


@dataclass(frozen=True)
class FetchRequest:
    """A model to fetch into the cache."""

    model: Annotated[
        str,
        Option(
            "Model name, as vit-l-14 (see coca models available); ORG/REPO, ORG/REPO@REVISION or ORG/REPO:FILE on the "
            "Hugging Face hub, or a pasted address; or a checkpoint file, or a folder that holds one.",
            metavar="MODEL",
            default_shown=False,
            complete="fetchable",
            argument=True,
        ),
    ]
    name: Annotated[
        str | None,
        Option("Name in the cache. Defaults to the model's own name.", metavar="NAME", default_shown=False),
    ] = None
    source: Annotated[
        Path | None,
        Option("Use this file, downloaded by other means.", flags=("--from",), metavar="FILE", default_shown=False),
    ] = None
    config: Annotated[
        str | None,
        Option(
            "Architecture of weights without a config: a model name, or a config file in open_clip's format.",
            metavar="NAME|FILE",
            default_shown=False,
            complete="architecture",
        ),
    ] = None
    half: Half = False
    keep_download: Annotated[
        bool,
        Option(
            "Download into the hub's shared cache (HF_HOME), where other programs find the file, and keep it there.",
            flags=("--keep-download/--no-keep-download",),
        ),
    ] = False
    force: Annotated[bool, Option("Fetch the model even if it is in the cache.")] = False


@dataclass(frozen=True)
class ConvertRequest:
    """A checkpoint to convert."""

    source: Annotated[
        Path,
        Option(
            "open_clip checkpoint of a CoCa: a .bin, .pt or .safetensors file, the index of a sharded one, or a folder "
            "that holds one; or a .ckpt. With --to open_clip: a .ckpt, or a model name.",
            metavar="SRC",
            default_shown=False,
            argument=True,
        ),
    ]
    destination: Annotated[
        Path | None,
        Option(
            "File to write: a .ckpt, or a .safetensors with --to open_clip. By default it is written next to SRC, or "
            "into the current folder if SRC is a model name.",
            metavar="DST",
            default_shown=False,
            argument=True,
        ),
    ] = None
    to: Annotated[
        Literal["mindspore", "open_clip"],
        Option(
            "Format to write: mindspore (.ckpt), or open_clip (.safetensors with its open_clip_config.json).",
            metavar="mindspore|open_clip",
        ),
    ] = "mindspore"
    config: Annotated[
        str | None,
        Option(
            "Architecture: a model name, as vit-l-14, or a config file in open_clip's format. Defaults to the config "
            "next to SRC, else to what the weights imply.",
            metavar="NAME|FILE",
            default_shown=False,
            complete="architecture",
        ),
    ] = None
    half: Half = False
    verify: Annotated[bool, Option("Read the new file back and compare every tensor.")] = False
    overwrite: Annotated[bool, Option("Replace existing files that coca did not write.")] = False
