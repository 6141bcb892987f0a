"""Make the bundled model: `python tests/checkpoints/pack_shapes.py open_clip_pytorch_model.bin FOLDER`.

As float32 the 1.4 million trained weights of `shapes` are 4.65 MB of xz, whose random last bits nothing can compress.
They are therefore rounded to a grid as fine as each part of the network needs to stay within a third of the stated
tolerances (2e-4 on embeddings and tokens, 2e-3 on logits), which takes 3.0 MB. Its 49,000 unused vocabulary rows are
equal and take nothing.
"""

import lzma
import sys
import tempfile
from pathlib import Path

import numpy as np

from cococli.checkpoints import ckpt
from cococli.checkpoints.convert import convert

GRID = {"visual": 2.0**-19, "text": 2.0**-20, "text_decoder": 2.0**-15}
# lp, pb: bytes are told apart by their place in a float32.
XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 0, "lp": 2, "pb": 2}]


def rounded(name: str, weights: np.ndarray) -> np.ndarray:
    step = GRID.get(name.split(".")[0])
    return weights if step is None else (np.round(weights / step) * step).astype(np.float32)


def pack(source: Path, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        exact = convert(source, Path(temporary) / "shapes.ckpt").path
        weights = ckpt.read(exact)
        with (Path(temporary) / "rounded.ckpt").open("w+b") as file:
            for name, array in weights.items():
                ckpt.write(file, name, array.shape, [rounded(name, array)])
            file.seek(0)
            (folder / "shapes.ckpt.xz").write_bytes(lzma.compress(file.read(), filters=XZ))
        (folder / "shapes.json").write_bytes(exact.with_suffix(".json").read_bytes())


if __name__ == "__main__":
    pack(Path(sys.argv[1]), Path(sys.argv[2]))
