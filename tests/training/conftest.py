"""Networks of open_clip with random weights, what they compute, and the norms of their gradients."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy_engine import from_open_clip

from cococli.catalog import CocaConfig

GOLDENS = Path(__file__).parent.parent / "data" / "goldens"


@dataclass(frozen=True)
class Golden:
    config: CocaConfig
    arrays: dict[str, np.ndarray]  # weights
    oracle: dict[str, np.ndarray]
    gradient_norms: dict[str, float]  # by open_clip's names


def load(name: str) -> Golden:
    import torch

    folder = GOLDENS / name
    state = torch.load(folder / "open_clip_pytorch_model.bin", weights_only=True)
    return Golden(
        CocaConfig.from_open_clip(json.loads((folder / "config.json").read_text())),
        from_open_clip({key: value.numpy() for key, value in state.items() if "attn_mask" not in key}),
        dict(np.load(folder / "activations.npz")),
        json.loads((folder / "grad_norms.json").read_text()),
    )


@pytest.fixture(scope="session")
def tiny() -> Golden:
    return load("tiny")


@pytest.fixture(scope="session", params=["tiny", "flat"])
def golden(request: pytest.FixtureRequest) -> Golden:
    return load(request.param)
