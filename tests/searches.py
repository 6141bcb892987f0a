"""The search of a few clips at once, through the decoder."""

from collections.abc import Sequence

import numpy as np

from cococli.decoding.caption_search import Hypothesis
from cococli.decoding.decoder import Decoder
from cococli.decoding.search_options import SearchOptions
from cococli.engines.base import Engine


def search(
    engine: Engine,
    tokens: np.ndarray,
    options: SearchOptions,
    prompt: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
) -> list[Hypothesis]:
    """Return the first caption of each clip."""
    return [found[0] for found in search_all(engine, tokens, options, prompt, seeds)]


def search_all(
    engine: Engine,
    tokens: np.ndarray,
    options: SearchOptions,
    prompt: Sequence[int] = (),
    seeds: Sequence[int] | None = None,
) -> list[list[Hypothesis]]:
    """Return all captions of each clip [B, N, D]; by default its index is its seed."""
    decoder: Decoder[int] = Decoder(engine, options, prompt, max(1, len(tokens)))
    for index, clip in enumerate(tokens):
        decoder.add(index, clip, index if seeds is None else seeds[index])
    found: dict[int, list[Hypothesis]] = {}
    while decoder.busy:
        found |= decoder.step()
    return [found[index] for index in range(len(tokens))]
