"""Where a video is cut into the spans that are captioned one by one."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ..errors import UsageError
from .reading import Reader

Kind = Literal["none", "scene", "seconds"]
Span = tuple[float, float]  # seconds on the clock of the file: from, to

_LEAST = 0.1  # seconds of a piece


@dataclass(frozen=True)
class Segments:
    """How a video is cut: not at all, where its scenes change, or into pieces of equal length."""

    kind: Kind = "none"
    seconds: float = 0.0  # of a piece


def parse(text: str) -> Segments:
    """What a user asks for: `none`, `scene`, or a number of seconds.

    Raises:
        UsageError: it is none of these.
    """
    if text in ("none", "scene"):
        return Segments("scene" if text == "scene" else "none")
    try:
        seconds = float(text.removesuffix("s"))
    except ValueError:
        seconds = 0.0
    if not _LEAST <= seconds < float("inf"):
        raise UsageError(f"--segments cannot be {text!r}", f"none, scene, or seconds, at least {_LEAST}")
    return Segments("seconds", seconds)


def spans(reader: Reader, segments: Segments) -> list[Span]:
    """The spans of a video in order, without gaps but for blank scenes; of a still picture one of no length."""
    start, end = float(reader.starts[0]), float(reader.end)
    if end <= start or segments.kind == "none":
        return [(start, max(start, end))]
    if segments.kind == "scene":
        from .scenes import scene_spans

        return scene_spans(reader)
    # A last piece of less than half the length belongs to the one before.
    pieces = max(1, int((end - start) / segments.seconds + 0.5))
    return list(pairwise([*(start + i * segments.seconds for i in range(pieces)), end]))
