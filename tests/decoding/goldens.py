"""The oracle's numbers, and its weights in the numpy engine."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from golden_shapes import golden_shapes
from numpy_engine import NumpyEngine, from_open_clip

from cococli.catalog import CocaConfig

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"


@cache
def golden_engine(name: str) -> NumpyEngine:
    """A golden's weights, `tiny` and `flat` as open_clip saved them."""
    if name == "shapes":
        return NumpyEngine(*golden_shapes())
    import torch

    state = torch.load(GOLDENS / name / "open_clip_pytorch_model.bin", weights_only=True)
    config = CocaConfig.from_open_clip(json.loads((GOLDENS / name / "config.json").read_text()))
    return NumpyEngine(config, from_open_clip({key: value.numpy() for key, value in state.items()}))


@cache
def golden_arrays(name: str) -> dict[str, np.ndarray]:
    """What the oracle computed (activations.npz), but for the full vocabulary's logits of `shapes`, 45 MB."""
    with np.load(GOLDENS / name / "activations.npz") as arrays:
        return {key: arrays[key] for key in arrays.files if name != "shapes" or "logits" not in key}


@cache
def golden_tokens(name: str) -> np.ndarray:
    """[6, N, D]: what the decoder reads of the golden's six pictures."""
    return golden_engine(name).encode_clips(golden_arrays(name)["pixels"][:, None]).tokens


def golden_runs(name: str, kind: str) -> list[dict]:
    """Runs of the oracle's `generate`: name, args, tokens. `kind` is beam or legacy."""
    return json.loads((GOLDENS / name / f"generate_{kind}.json").read_text())["runs"]
