"""Models in the cache: small, real, and made without torch."""

import io
import math
from pathlib import Path

import numpy as np

from cococli.checkpoints import architecture, cache, ckpt, manifest
from cococli.checkpoints.manifest import Source

_CONFIG = Path(__file__).parents[1] / "data" / "goldens" / "tiny" / "config.json"
CONFIG = architecture.load_config(_CONFIG)
PARAMETERS = sum(map(math.prod, architecture.parameters(CONFIG).values()))
COMMIT = "0123456789" * 4
HUB = Source("org/repo", COMMIT, "open_clip_pytorch_model.bin", "ab" * 32, 2_554)
LOCAL = Source("", "", "/data/my model.bin", "cd" * 32, 12)


def weights(seed: int = 0) -> bytes:
    """A `.ckpt` of random weights."""
    file, random = io.BytesIO(), np.random.default_rng(seed)
    for name, shape in architecture.parameters(CONFIG).items():
        ckpt.write(file, name, shape, [random.standard_normal(shape, dtype=np.float32)])
    return file.getvalue()


def fill(folder: Path, source: Source = HUB, content: bytes | None = None) -> None:
    """Put a model together in a folder."""
    (folder / "model.ckpt").write_bytes(weights() if content is None else content)
    (folder / "config.json").write_bytes(_CONFIG.read_bytes())
    manifest.record(folder, source, "float32", PARAMETERS)


def add(name: str = "mine", source: Source = HUB, content: bytes | None = None) -> Path:
    """Add a model to the cache; its folder."""
    with cache.adding(name) as folder:
        fill(folder, source, content)
    return cache.find(name).folder
