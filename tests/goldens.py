"""Weights that open_clip saved, and what it computed and generated with them.

`tiny` and `flat` have random weights. `shapes` is trained, and lossless, unlike the bundled model.
"""

import atexit
import json
import lzma
import shutil
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy_engine import NumpyEngine, from_open_clip

from cococli.catalog import CocaConfig
from cococli.checkpoints import ckpt
from cococli.decoding.search_options import SearchOptions

GOLDENS = Path(__file__).parent / "data" / "goldens"
# Arguments of open_clip and Hugging Face, which name lengths differently.
_ARGUMENTS = {
    "seq_len": "max_length",
    "max_length": "max_length",
    "min_seq_len": "min_length",
    "min_length": "min_length",
    "num_beams": "beams",
    "num_beam_groups": "beam_groups",
    "repetition_penalty": "repetition_penalty",
    "length_penalty": "length_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
}


@cache
def golden_weights(name: str) -> tuple[CocaConfig, dict[str, np.ndarray]]:
    """Return the config and weights of `tiny`, `flat` or `shapes`."""
    config = CocaConfig.from_open_clip(json.loads((GOLDENS / name / "config.json").read_text()))
    if name == "shapes":
        folder = Path(tempfile.mkdtemp(prefix="coca-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        weights = folder / "shapes.ckpt"
        weights.write_bytes(lzma.decompress((GOLDENS / name / "shapes.ckpt.xz").read_bytes()))
        return config, ckpt.read(weights)
    import torch

    state = torch.load(GOLDENS / name / "open_clip_pytorch_model.bin", weights_only=True)
    return config, from_open_clip({key: value.numpy() for key, value in state.items() if "attn_mask" not in key})


@cache
def golden_engine(name: str) -> NumpyEngine:
    """Return the reference engine with these weights."""
    return NumpyEngine(*golden_weights(name))


@cache
def golden_arrays(name: str) -> Mapping[str, np.ndarray]:
    """Return the activations of open_clip, which are decompressed on access."""
    return np.load(GOLDENS / name / "activations.npz")


def golden_runs(name: str, kind: str) -> list[dict]:
    """Return runs of `generate`: name, args, tokens. `kind` is beam or legacy."""
    return json.loads((GOLDENS / name / f"generate_{kind}.json").read_text())["runs"]


def options_of(kind: str, arguments: dict) -> SearchOptions:
    """Return the options of a run from its arguments."""
    options = {_ARGUMENTS[key]: value for key, value in arguments.items() if key in _ARGUMENTS}
    if arguments.get("generation_type") == "top_k":
        assert arguments["top_k"] == 1
        return SearchOptions(method="greedy", force_eot=kind == "legacy", **options)
    return SearchOptions(method=kind, **options)


def captions_of(run: dict, config: CocaConfig) -> list[list[int]]:
    """Return the tokens of a run, each caption up to its EOT."""
    eot = config.eot_id
    return [tokens[: tokens.index(eot) + 1] if eot in tokens else tokens for tokens in run["tokens"]]
