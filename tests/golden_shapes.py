"""The `shapes` that open_clip trained, whose numbers are the goldens; its weights are rounded to pack into 3 MB."""

import atexit
import json
import lzma
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np

from cococli.catalog import CocaConfig
from cococli.checkpoints import ckpt

FOLDER = Path(__file__).parent / "data" / "goldens" / "shapes"


@cache
def golden_shapes() -> tuple[CocaConfig, dict[str, np.ndarray]]:
    """Its config and weights."""
    folder = Path(tempfile.mkdtemp(prefix="coca-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    weights = folder / "shapes.ckpt"
    weights.write_bytes(lzma.decompress((FOLDER / "shapes.ckpt.xz").read_bytes()))
    return CocaConfig.from_open_clip(json.loads((FOLDER / "config.json").read_text())), ckpt.read(weights)
