"""`coca demo`: captions of the example clips that come with the program."""

import os
import shlex
from pathlib import Path
from typing import Literal

from .. import console
from ..catalog import BUNDLED
from ..options import Engine, ModelOptions, Precision
from ..requests import CaptionRequest
from .caption import caption_request
from .command import command

_FLAGS: dict[Literal["middle", "multi"], str] = {"middle": "", "multi": " --frames multi"}


@command("coca demo", "coca demo --engine torch", "coca demo --engine openvino --precision int8")
def demo(reporter: console.ConsoleReporter, engine: Engine = "auto", precision: Precision = "auto") -> None:
    """Caption the example clips with the bundled model, and show the commands that do so.

    The second command uses eight frames of each clip, so it also describes what appears and disappears.
    """
    clips = _clips()
    console.be_quiet()
    for frames, flag in _FLAGS.items():
        console.result(f"$ coca caption {shlex.quote(clips)} --model {BUNDLED}{flag}")
        model = ModelOptions(engine=engine, precision=precision, model=BUNDLED)
        caption_request(CaptionRequest((clips,), frames=frames, model=model), reporter)


def _clips() -> str:
    """Return the folder of the example clips: next to the package in a clone, inside it where it is installed."""
    package = Path(__file__).parents[1]
    is_clone = (package.parent / "examples" / "draw.py").exists()
    clips = package.parent / "examples" if is_clone else package / "assets" / "examples"
    return f"{clips.relative_to(Path.cwd()) if clips.is_relative_to(Path.cwd()) else clips}{os.sep}"
