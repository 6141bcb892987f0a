"""What engines do with arrays, whatever computes."""

import numpy as np


def normalized(vectors: np.ndarray) -> np.ndarray:
    """[B, D] scaled to length 1, as torch's F.normalize does."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def chunks(items: np.ndarray, rows: int, each: int) -> list[np.ndarray]:
    """Items of `each` rows, cut into parts of about `rows`."""
    size = max(1, rows // each)
    return [items[at : at + size] for at in range(0, len(items), size)]
