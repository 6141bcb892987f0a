"""Captions from the decoder: one entry for every method."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from ..catalog import CocaConfig
from ..engines.base import Engine
from ..errors import UsageError
from . import bans
from .beam import beam_search
from .options import SearchOptions
from .rows import Hypothesis
from .sample import sample


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
    options.check(engine.config, len(prompt))
    check_prompt(engine.config, prompt, options.ban)
    if not len(tokens):
        return []
    if options.method == "beam" and options.beams == 1:
        # As `generate` does. They differ in what repetition is penalised: here logits, in a beam log-probabilities.
        options = dataclasses.replace(options, method="greedy")
    if options.method in ("beam", "legacy"):
        return beam_search(engine, tokens, options, prompt)
    return sample(engine, tokens, options, prompt, range(len(tokens)) if seeds is None else seeds)


def check_prompt(config: CocaConfig, prompt: Sequence[int], ban: Sequence[str] = ()) -> None:
    """Refuse a prompt that no caption can start with.

    Raises:
        UsageError: a mark that starts or ends a text is inside, an id that the model does not have, or a banned word.
    """
    if any(not 0 <= token < config.sot_id for token in prompt):
        raise UsageError("--prompt holds a mark that starts or ends a text, or a token that this model does not have")
    if ban and (word := bans.first_said(prompt, ban)):
        raise UsageError(f"--prompt says {word!r}, which --ban forbids")
