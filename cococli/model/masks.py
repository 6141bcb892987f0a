"""Which token sees which: the same in every framework."""

import numpy as np

HIDDEN = -1e9  # added to a score that must not be seen; exp of it is exactly 0 in float32


def causal_mask(length: int) -> np.ndarray:
    """[T, T] float32: 0 where a token may look, `HIDDEN` at what comes after it."""
    return np.triu(np.full((length, length), HIDDEN, np.float32), 1)


def text_mask(ids: np.ndarray, pad_id: int) -> np.ndarray:
    """Mask of the text tower as the released weights were trained with it.

    Pads are hidden one position too far to the right (open_clip's `correct_cls_mask=False`): the token after
    a pad is hidden, the first pad and the first token are not.

    Args:
        ids: [B, T] int32, zero-padded.

    Returns:
        [B, 1, T + 1, T + 1] float32, additive; row and column T are the CLS.
    """
    after_pad = np.pad(ids == pad_id, ((0, 0), (1, 0)))[:, None, None, :]  # [B, 1, 1, T + 1]
    return np.minimum(causal_mask(ids.shape[1] + 1), np.where(after_pad, np.float32(HIDDEN), np.float32(0)))
