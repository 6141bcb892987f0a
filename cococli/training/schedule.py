"""The learning rate over a run."""

import math


def warmup_cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """The rate of a step, counted from 0: up a line over `warmup` steps, then down half a cosine, as in open_clip."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
