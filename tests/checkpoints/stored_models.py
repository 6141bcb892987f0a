"""Models in the cache: small, real, and made without torch."""

import io
import math
from pathlib import Path

import numpy as np

from cococli.checkpoints import architecture, cache, ckpt, manifest
from cococli.checkpoints.manifest import Origin
from cococli.checkpoints.store import run_folder

_CONFIG = Path(__file__).parents[1] / "data" / "goldens" / "tiny" / "config.json"
CONFIG = architecture.load_config(_CONFIG)
PARAMETERS = sum(map(math.prod, architecture.parameters(CONFIG).values()))
COMMIT = "0123456789" * 4
HUB = Origin("org/repo", COMMIT, "open_clip_pytorch_model.bin", "ab" * 32, 2_554)
LOCAL = Origin("", "", "/data/my model.bin", "cd" * 32, 12)


def weights(seed: int = 0) -> bytes:
    """A `.ckpt` of random weights."""
    file, random = io.BytesIO(), np.random.default_rng(seed)
    for name, shape in architecture.parameters(CONFIG).items():
        ckpt.write(file, name, shape, [random.standard_normal(shape, dtype=np.float32)])
    return file.getvalue()


def fill(folder: Path, source: Origin = HUB, content: bytes | None = None) -> None:
    """Put a model together in a folder."""
    (folder / "model.ckpt").write_bytes(weights() if content is None else content)
    (folder / "config.json").write_bytes(_CONFIG.read_bytes())
    manifest.record(folder, source, "float32", PARAMETERS)


def add(name: str = "mine", source: Origin = HUB, content: bytes | None = None) -> Path:
    """Add a model to the cache; its folder."""
    with cache.adding(name) as folder:
        fill(folder, source, content)
    return cache.find(name).folder


def add_run(name: str, *steps: int) -> Path:
    """Add a training run with models of these steps; its folder."""
    folder = run_folder(name)
    folder.mkdir(parents=True)
    for step in steps:
        place = folder / "checkpoints" / str(step)
        place.mkdir(parents=True)
        (place / "model.ckpt").write_bytes(weights(step))
        (place / "config.json").write_bytes(_CONFIG.read_bytes())
    return folder
