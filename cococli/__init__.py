"""Captions, vectors and search for videos, with CoCa.

import cococli

coca = cococli.load("shapes")
print(coca.caption("clip.mp4").text)
"""

from __future__ import annotations

from .errors import CocaError, ModelError, UsageError, VideoError

TYPE_CHECKING = False  # typing takes 10 ms to import, in which Ctrl-C would end `coca` with a traceback
if TYPE_CHECKING:
    from os import PathLike
    from typing import Any, Literal

    from .captioning.coca import Coca

__all__ = ["CocaError", "ModelError", "UsageError", "VideoError", "__version__", "load"]
__version__ = "0.1.0"


def load(
    model: str | PathLike[str] = "shapes",
    *,
    frames: Literal["middle", "multi"] = "middle",
    num_frames: int = 8,
    pool: Literal["joint", "mean"] = "joint",
    prompt: str = "",
    engine: Literal["auto", "mindspore", "torch", "openvino"] = "auto",
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16", "fp16", "int8"] = "auto",
    threads: int = 0,
    **search: Any,
) -> Coca:
    """Load a model that captions and embeds videos and pictures.

    Args:
        model: A name that `coca models` knows, or the path of a converted checkpoint.
        frames: `middle` looks at one frame of a video, `multi` at several, spread evenly.
        num_frames: How many frames `multi` looks at.
        pool: `joint` lets the model look at all frames at once, `mean` averages what it sees in each.
        prompt: Words that every caption begins with.
        engine: What computes. `auto` takes the best that this machine has.
        device: Where torch computes: `cpu`, `cuda`, `cuda:1`, `mps`.
        precision: What it computes in. `auto` takes 16 bits where the machine is quick at them.
        threads: How many compute; 0: one a core.
        **search: The fields of `cococli.decoding.options.SearchOptions`, as in `method="top-p", seed=1`.

    Raises:
        UsageError: an option that cannot be right; nothing was loaded.
        ModelError: no such model, or a damaged one.
    """
    from .captioning.coca import Coca

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
