"""`coca demo`: captions of the example clips that come with the program."""

import os
import shlex
from pathlib import Path
from typing import Literal

import typer

from .. import console
from . import options
from .caption import caption
from .defaults import DEMO

_FRAMES: dict[Literal["middle", "multi"], str] = {"middle": "", "multi": " --frames multi"}


def demo(context: typer.Context, engine: options.Engine = "auto", precision: options.Precision = "auto") -> None:
    """Caption the example clips with the bundled model, and show the commands that do so.

    The second command looks at eight frames of each clip, so it also sees what comes and goes.
    """
    clips = _clips()
    for frames, flag in _FRAMES.items():
        console.result(f"$ coca caption {shlex.quote(clips)} --model {DEMO}{flag}")
        caption(context, [clips], quiet=True, model=DEMO, engine=engine, precision=precision, frames=frames)


def _clips() -> str:
    """The folder of the example clips: beside the package in a clone, in the package where it is installed."""
    package = Path(__file__).parents[1]
    is_clone = (package.parent / "examples" / "draw.py").exists()
    clips = package.parent / "examples" if is_clone else package / "assets" / "examples"
    return f"{clips.relative_to(Path.cwd()) if clips.is_relative_to(Path.cwd()) else clips}{os.sep}"
