"""Captions, vectors and search for videos and pictures, with CoCa.

import cococli

with cococli.load("shapes") as coca:
    print(coca.caption("clip.mp4").text)
    coca.run("videos/", "captions.jsonl", segments="scene")
"""

from __future__ import annotations

from importlib import import_module

from .errors import CocaError, ModelError, UsageError, VideoError

TYPE_CHECKING = False  # typing takes a while to import, in which Ctrl-C would end `coca` with a traceback
if TYPE_CHECKING:
    from os import PathLike
    from typing import Any, Literal

    from .api import Coca
    from .captioning.captioner import Caption
    from .captioning.records import Candidate, Record
    from .decoding.search_options import SearchOptions
    from .jobs import Summary
    from .journal import Failure
    from .reporting import Reporter
    from .requests import CaptionRequest
    from .retrieval.index import Entry
    from .retrieval.search import Found

__all__ = [
    "Candidate",
    "Caption",
    "CaptionRequest",
    "Coca",
    "CocaError",
    "Entry",
    "Failure",
    "Found",
    "ModelError",
    "Record",
    "Reporter",
    "SearchOptions",
    "Summary",
    "UsageError",
    "VideoError",
    "__version__",
    "load",
]
__version__ = "0.1.0"

# Modules that load when one of their names is used: they import numpy.
_MODULES = {
    "Candidate": "captioning.records",
    "Caption": "captioning.captioner",
    "CaptionRequest": "requests",
    "Coca": "api",
    "Entry": "retrieval.index",
    "Failure": "journal",
    "Found": "retrieval.search",
    "Record": "captioning.records",
    "Reporter": "reporting",
    "SearchOptions": "decoding.search_options",
    "Summary": "jobs",
}


def __getattr__(name: str) -> Any:
    if module := _MODULES.get(name):
        return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(
    model: str | PathLike[str] = "shapes",
    *,
    frames: Literal["middle", "multi"] = "middle",
    num_frames: int = 8,
    pool: Literal["joint", "mean"] = "joint",
    prompt: str = "",
    engine: Literal["auto", "mindspore", "torch", "openvino"] = "auto",
    device: str = "auto",
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"] = "auto",
    threads: int = 0,
    **search: Any,
) -> Coca:
    """Load a model that captions, embeds and searches videos and pictures.

    Args:
        model: Name of a fetched model, or path of a converted checkpoint.
        frames: `middle` uses the middle frame of a video, `multi` several frames spread evenly over it.
        num_frames: Number of frames that `multi` uses.
        pool: `joint` attends to all frames at once, `mean` averages frame by frame.
        prompt: Text that every caption begins with.
        engine: Inference engine. `auto` selects the fastest one that is installed.
        device: Device of the torch engine: `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: `auto` selects 16 bits where the hardware supports them well, else fp32.
        threads: Number of CPU threads; 0 uses one per core.
        **search: Fields of `cococli.SearchOptions`, as in `method="top-p", seed=1`.

    Raises:
        UsageError: An option is invalid; nothing was loaded.
        ModelError: The model does not exist or is damaged.
    """
    from .api import Coca

    return Coca.load(
        search,
        model=model,
        frames=frames,
        num_frames=num_frames,
        pool=pool,
        prompt=prompt,
        engine=engine,
        device=device,
        precision=precision,
        threads=threads,
    )
