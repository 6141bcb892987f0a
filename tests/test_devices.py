"""How many devices a run uses, and what happens when one of them runs out of memory."""

from functools import partial

import numpy as np
import pytest
import torch

from cococli.checkpoints.store import find_model
from cococli.devices import open_devices, spread
from cococli.engines.choice import Choice
from cococli.engines.sizes import Sizes
from cococli.media.compute import FunctionComputer
from cococli.reporting import Reporter

GPU = Choice("torch", "cuda", "bf16", 16)


@pytest.mark.parametrize(
    ("choice", "clips", "devices"),
    [
        (GPU, float("inf"), ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (GPU, 130, ["cuda:0", "cuda:1"]),
        (GPU, 3, ["cuda"]),
        (Choice("torch", "cuda:1", "bf16"), 1000, ["cuda:1"]),
        (Choice("openvino", "cpu", "bf16"), 1000, ["cpu"]),
    ],
    ids=str,
)
def test_all_gpus_are_used(choice: Choice, clips: float, devices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [one.device for one in spread(choice, clips)] == devices


class Notes(Reporter):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def note(self, text: str) -> None:
        self.texts.append(text)


def tight_computer(limit: int, engine: object) -> FunctionComputer[int]:
    """Return the seeds of clips, of at most `limit` at once."""

    def compute(pixels: np.ndarray, seeds: list[int]) -> list[int]:
        if len(pixels) > limit:
            raise MemoryError
        return seeds

    return FunctionComputer(compute)


def test_device_without_memory_computes_smaller_batches() -> None:
    notes = Notes()
    with open_devices(find_model("shapes"), [Choice("torch", "cpu", "fp32")] * 2, notes) as devices:
        assert devices.memory > 0
        devices.prepare(partial(tight_computer, 3), Sizes(8, 8))
        pixels = np.zeros((40, 1, 8, 8, 3), np.uint8)
        devices.submit(range(100, 140), pixels, list(range(40)))
        values: dict[int, int] = {}
        while devices.busy:
            values |= devices.step()
    assert values == {100 + seed: seed for seed in range(40)}
    assert notes.texts == ["cpu: not enough memory: continuing with at most 4 clips at once"] * 2
