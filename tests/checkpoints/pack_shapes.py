"""Make the bundled model of a training run: `python tests/checkpoints/pack_shapes.py run:shapes FOLDER`.

As float32 its 1.4 million weights that matter are 4.65 MB of xz, whose random last bits nothing can compress: they are
rounded to a grid. The 49,000 tokens that no caption of the world of shapes has are made one: their rows are noise that
training never touched, and would take 35 MB.
"""

import json
import lzma
import sys
import tempfile
from pathlib import Path

import numpy as np

from cococli.checkpoints import ckpt
from cococli.checkpoints.store import find_model
from cococli.tokenizer import tokenize

GRID = {"visual": 2.0**-17, "text": 2.0**-17, "text_decoder": 2.0**-14}
# lp, pb: bytes are told apart by their place in a float32.
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 2, "pb": 2}]
WORDS = (
    "a small large on background beside above circle square triangle red yellow purple green blue white black gray pink"
)


def rounded(name: str, weights: np.ndarray) -> np.ndarray:
    step = GRID.get(name.split(".")[0])
    return weights if step is None else (np.round(weights / step) * step).astype(np.float32)


def with_one_unknown_token(name: str, weights: np.ndarray) -> np.ndarray:
    """The weights with one row, or column, for all tokens that are in no caption: the mean of theirs."""
    unknown = np.ones(49408, bool)
    unknown[np.unique(tokenize([WORDS], 76))] = False
    weights = weights.copy()
    if name == "text.token_embedding":
        weights[unknown] = weights[unknown].mean(axis=0)
    if name == "text_decoder.text_projection":
        weights[:, unknown] = weights[:, unknown].mean(axis=1, keepdims=True)
    return weights


def pack(run: str, folder: Path) -> None:
    model = find_model(run)
    with tempfile.TemporaryFile() as file:
        for name, array in ckpt.read(model.weights).items():
            ckpt.write(file, name, array.shape, [rounded(name, with_one_unknown_token(name, array))])
        file.seek(0)
        (folder / "shapes.ckpt.xz").write_bytes(lzma.compress(file.read(), filters=XZ))
    (folder / "shapes.json").write_text(json.dumps(model.config.to_open_clip(), indent=2) + "\n")


if __name__ == "__main__":
    pack(sys.argv[1], Path(sys.argv[2]))
