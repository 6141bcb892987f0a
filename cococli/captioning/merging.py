"""Neighboring segments of a video that say the same become one."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .records import Record


def merge(records: Sequence[Record], embeddings: np.ndarray, threshold: float) -> tuple[list[Record], np.ndarray]:
    """Join segments to the one before whose caption is the same, or whose embedding is close.

    Args:
        records: Of one video, in order.
        embeddings: [N, D] float32, L2-normalized, of their clips.
        threshold: Cosine of two embeddings from which their segments are one.

    Returns:
        Records that span what they were made of, with the caption of the segment whose similarity is the highest, and
        their embeddings: the mean of those joined, L2-normalized again.
    """
    merged: list[Record] = []
    starts: list[int] = []
    for i, record in enumerate(records):
        if merged and (_said(record) == _said(records[i - 1]) or embeddings[i] @ embeddings[i - 1] >= threshold):
            merged[-1] = _joined(merged[-1], record)
        else:
            merged.append(record)
            starts.append(i)
    if len(merged) == len(records):
        return merged, embeddings
    sums = np.add.reduceat(embeddings, starts)
    return merged, sums / np.linalg.norm(sums, axis=1, keepdims=True)


def _said(record: Record) -> str:
    """The caption, whatever its case and spaces."""
    return " ".join(record.caption.split()).casefold()


def _joined(one: Record, other: Record) -> Record:
    best = max(one, other, key=lambda record: record.similarity)
    return replace(best, start=one.start, end=other.end, frames=(*one.frames, *other.frames))
