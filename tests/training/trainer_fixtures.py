"""Trainers of both engines, and the gradients that their steps have."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from training.conftest import Golden

from cococli.catalog import CocaConfig
from cococli.training.objective import AdamWOptions, Batch, Objective
from cococli.training.torch_trainer import Trainer

BOTH = Objective()


def trainer(golden: Golden, objective: Objective = BOTH, **options: Any) -> Trainer:
    weights = golden.arrays | options.pop("weights", {})
    return Trainer(golden.config, weights, objective, AdamWOptions(), **options)


def batch(golden: Golden, *rows: int) -> Batch:
    """Three of the six pictures, by default the first three, with all three captions."""
    return Batch(golden.oracle["text_ids"], golden.oracle["pixels"][list(rows or (0, 1, 2))][:, None])


def split(whole: Batch, *sizes: int) -> list[Batch]:
    """Split a batch into micro-batches."""
    ends = np.cumsum(sizes)[:-1]
    return [Batch(*part) for part in zip(np.split(whole.ids, ends), np.split(whole.pixels, ends), strict=True)]


def gradients(pupil: Any, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
    """Return the gradients of a first step, by which the first moments move; the weights stay as they are."""
    assert pupil.step(batches, 0.0).applied
    return {name.removesuffix(".m"): 10 * array for name, array in pupil.state().items() if name.endswith(".m")}


def norm(arrays: Iterable[np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays)))


def assert_close(actual: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], tolerance: float = 1e-5) -> None:
    """Gradients equal within a share of each one's length. Those of a key's bias are 0 but for rounding."""
    assert actual.keys() == wanted.keys()
    rounding = 1e-7 * norm(wanted.values())
    for name, array in wanted.items():
        assert norm([actual[name] - array]) <= tolerance * norm([array]) + rounding, name


def captions(config: CocaConfig, *lengths: int) -> np.ndarray:
    """[B, T] captions of these lengths, SOT and EOT included."""
    ids = np.zeros((len(lengths), config.context_length), np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = [config.sot_id, *range(40, 38 + length), config.eot_id]
    return ids


def copied(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in arrays.items()}
