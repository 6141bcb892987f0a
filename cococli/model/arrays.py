"""Numpy helpers shared by all engines: pixels, attention masks, text batches, L2 normalization, top k."""

from collections.abc import Iterator, Sequence

import numpy as np

from ..catalog import CocaConfig, Preprocess

HIDDEN = -1e9  # added to an attention score to mask it; exp of it is exactly 0 in float32
_BLOCKS = 64  # rows are split into this many blocks, compared side by side, to find a lower bound of the top k
TEXT_LENGTHS = (16, 32)  # tokens that short texts are padded to; longer ones to the whole context


def normalize(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Normalize by the model's mean and standard deviation: [..., S, S, 3] uint8 -> [..., 3, S, S] float32.

    Pixels that are not uint8 are returned unchanged: they are normalized already.
    """
    if pixels.dtype != np.uint8:
        return pixels
    mean, std = np.array(preprocess.mean, np.float32), np.array(preprocess.std, np.float32)
    return np.ascontiguousarray(np.moveaxis((pixels.astype(np.float32) / 255 - mean) / std, -1, -3))


def l2_normalize(vectors: np.ndarray) -> np.ndarray:
    """Scale vectors [..., D] to length 1, as torch's `normalize` does."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def top_k(scores: np.ndarray, k: int) -> np.ndarray:
    """Find the highest scores of each row without sorting the rest.

    Args:
        scores: [B, N], N at least `k`.

    Returns:
        [B, k] int64 indices, highest score first; of equal scores the lower index first.
    """
    width = scores.shape[1] // _BLOCKS
    if width < k:
        return np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.stack([_top_k_of_row(row, k, width) for row in scores])


def _top_k_of_row(row: np.ndarray, k: int, width: int) -> np.ndarray:
    """Return `top_k` of one row [N], after discarding what is below the k-th highest of some of its scores."""
    peaks = row[: width * _BLOCKS].reshape(_BLOCKS, width).max(axis=0)
    candidates = np.flatnonzero(row >= np.partition(peaks, -k)[-k])
    return candidates[np.argsort(-row[candidates], kind="stable")[:k]]


def split_rows(items: np.ndarray, rows: int, rows_per_item: int) -> list[np.ndarray]:
    """Split a batch into parts of about `rows` rows of a matrix product."""
    size = max(1, rows // rows_per_item)
    return [items[start : start + size] for start in range(0, len(items), size)]


def causal_mask(length: int) -> np.ndarray:
    """Return a causal mask [T, T] float32: 0 for a token and those before it, `HIDDEN` for those after it."""
    return np.triu(np.full((length, length), HIDDEN, np.float32), 1)


def text_mask(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """Return the mask of the text tower as the released weights were trained with it.

    Pads are masked one position too far to the right (open_clip's `correct_cls_mask=False`): the token after
    a pad is masked, the first pad is not.

    Args:
        ids: [B, T] int32, zero-padded.

    Returns:
        [B, 1, T + 1, T + 1] float32, additive; row and column T belong to the CLS.
    """
    after_pad = np.pad(ids == pad_id, ((0, 0), (1, 0)))[:, None, None, :]  # [B, 1, 1, T + 1]
    return np.minimum(causal_mask(ids.shape[1] + 1), np.where(after_pad, np.float32(HIDDEN), np.float32(0)))


def group_by_length(ids: np.ndarray, config: CocaConfig) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Group texts by padded length. One pad is kept, which the CLS attends to; it does not see any later ones.

    Args:
        ids: [B, T] int32, zero-padded.

    Yields:
        Indices of texts, [K], and their ids, [K, L], for each length L that occurs.
    """
    length_of_text = padded_lengths(ids, config.pad_id, TEXT_LENGTHS, config.context_length)
    for length in np.unique(length_of_text).tolist():
        indices = np.flatnonzero(length_of_text == length)
        yield indices, np.pad(ids[indices], ((0, 0), (0, max(0, length - ids.shape[1]))))[:, :length]


def padded_lengths(ids: np.ndarray, pad_id: int, lengths: Sequence[int], context: int) -> np.ndarray:
    """Return the smallest length that fits each text and one pad, else the context: [B, T] ids -> [B] int64."""
    known = np.array([*(length for length in lengths if length < context), context])
    ends = ((ids != pad_id) * np.arange(1, ids.shape[1] + 1)).max(axis=1)  # an id 0 inside a text is not a pad
    return known[np.searchsorted(known, np.minimum(ends + 1, context))]
