"""How long captions are computed: each length is compiled, so there are few, and batches are made of like ones."""

import numpy as np

from ..engines import texts

LENGTHS = (12, 16, 20, 28, 44)  # that captions are padded to, or else to the whole context


def padded_lengths(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """[P, T] captions -> [P] int64: the length that each is computed at, if none beside it is longer.

    No token sees what comes after it, the caption loss leaves pads out, and the CLS sees the first pad alone (see
    `masks.text_mask`), so one pad must stay.
    """
    return texts.padded_lengths(ids, pad_id, LENGTHS, ids.shape[1])


def trimmed(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """[B, T] captions without most of the pads that all end in: they change neither losses nor gradients."""
    return ids[:, : padded_lengths(ids, pad_id).max()]
