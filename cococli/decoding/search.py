"""Captions of some clips at once: one entry for every method."""

from collections.abc import Sequence

import numpy as np

from ..engines.base import Engine
from .decoder import Decoder
from .options import SearchOptions
from .rows import Hypothesis


def search(
    engine: Engine,
    tokens: np.ndarray,
    options: SearchOptions,
    prompt: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
) -> list[Hypothesis]:
    """Find the best caption of each clip: the first that `search_all` finds."""
    return [found[0] for found in search_all(engine, tokens, options, prompt, seeds)]


def search_all(
    engine: Engine,
    tokens: np.ndarray,
    options: SearchOptions,
    prompt: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """Find captions of each clip.

    Args:
        tokens: [B, N, D] float32, what the vision tower says about B clips.
        prompt: Token ids that every caption continues, without SOT. They count as part of the caption.
        seeds: For each clip a number that is its own, such as its place among all clips: with options.seed it
            decides what the clip draws, whatever batch it is in. By default the clip's place in `tokens`.

    Returns:
        For each clip the captions that its search found, at most `options.rows`: those of beams best first, draws in
        the order in which they were drawn. They do not depend on the other clips, nor on `options.candidates`: more
        draws come after the first ones.

    Raises:
        UsageError: options or prompt do not fit the model or each other.
        ModelError: the model's scores are not numbers.
    """
    decoder: Decoder[int] = Decoder(engine, options, prompt, max(1, len(tokens)))
    for place, clip in enumerate(tokens):
        decoder.add(place, clip, place if seeds is None else seeds[place])
    found: dict[int, list[Hypothesis]] = {}
    while decoder.busy:
        found |= decoder.step()
    return [found[place] for place in range(len(tokens))]
