"""Recall@k from pictures to texts and from texts to pictures, as in CLIP_benchmark."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..errors import ModelError, UsageError

KS = (1, 5, 10)
_BLOCK = 1 << 23  # similarities that are held at once: 32 MB
_TIE = 1e-6  # cosines in float32 that are nearer than this are equal


@dataclass(frozen=True)
class Recall:
    """Recall@k in both directions, and ranks, of which 1 is the nearest."""

    text_to_image: dict[int, float]  # k -> share of texts whose image is among the first k, 0..1
    image_to_text: dict[int, float]  # k -> share of images with one of their texts among the first k, 0..1
    text_ranks: np.ndarray  # [M] int64: of each text's image
    image_ranks: np.ndarray  # [N] int64: of each image's nearest own text
    group_ranks: np.ndarray | None = None  # [N] int64: of each image's texts, if the texts of an image count as one


def recall(
    images: np.ndarray, texts: np.ndarray, image_of_text: np.ndarray, ks: Iterable[int] = KS, grouped: bool = False
) -> Recall:
    """Measure recall in both directions, with any number of texts per image.

    Args:
        images: [N, D], of any length.
        texts: [M, D], of any length.
        image_of_text: [M] int: index of each text's image.
        grouped: Also rank the texts of an image as one, by the nearest of them, as in CLIP4Clip.

    Raises:
        UsageError: A text has no image, or an image no text.
        ModelError: A vector is zero or not finite.
    """
    image_of_text, every_image = np.asarray(image_of_text), np.arange(len(images))
    if image_of_text.shape != (len(texts),):
        raise UsageError(f"there are {len(texts)} texts, but image_of_text has the shape {image_of_text.shape}")
    if not len(images) or not np.array_equal(np.unique(image_of_text), every_image):
        raise UsageError("each text needs an image, and each image a text")
    images, texts = normalized(images), normalized(texts)
    text_ranks = ranks(texts, images, image_of_text, every_image)
    image_ranks = ranks(images, texts, every_image, image_of_text)
    group_ranks = None
    if grouped:
        order = np.argsort(image_of_text, kind="stable")
        group_ranks = ranks(images, texts[order], every_image, image_of_text[order], grouped=True)
    return Recall(
        text_to_image={k: share_within(text_ranks, k) for k in ks},
        image_to_text={k: share_within(image_ranks, k) for k in ks},
        text_ranks=text_ranks,
        image_ranks=image_ranks,
        group_ranks=group_ranks,
    )


def ranks(
    queries: np.ndarray,
    targets: np.ndarray,
    query_groups: np.ndarray,
    target_groups: np.ndarray,
    grouped: bool = False,
) -> np.ndarray:
    """Return the rank at which each query finds the first target of its group.

    Equally near targets of other groups rank first, so a model that maps everything to one point finds nothing.

    Args:
        queries: [Q, D] float32, L2-normalized.
        targets: [T, D] float32, L2-normalized.
        query_groups: [Q] int.
        target_groups: [T] int, sorted if `grouped`.
        grouped: Count other groups, not their targets.

    Returns:
        [Q] int64, 1 for the nearest.
    """
    rows = max(1, _BLOCK // len(targets))
    firsts = np.unique(target_groups, return_index=True)[1] if grouped else None
    found = [
        _ranks_of(queries[start : start + rows] @ targets.T, query_groups[start : start + rows], target_groups, firsts)
        for start in range(0, len(queries), rows)
    ]
    return np.concatenate(found)


def share_within(ranks: np.ndarray, k: int) -> float:
    """Return the share of ranks that are at most k."""
    return float(np.mean(ranks <= k))


def normalized(vectors: np.ndarray) -> np.ndarray:
    """L2-normalize vectors: [N, D] -> [N, D] float32.

    Raises:
        ModelError: A vector is zero or not finite.
    """
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise ModelError("this model's vectors are not numbers: its weights are damaged", "fetch or convert it again")
    return vectors / lengths


def _ranks_of(
    similarities: np.ndarray, query_groups: np.ndarray, target_groups: np.ndarray, firsts: np.ndarray | None
) -> np.ndarray:
    """Return `ranks` for a block of queries [B] with similarities [B, T]; `firsts` are the first targets of groups."""
    own = query_groups[:, None] == target_groups  # [B, T]
    nearest = np.where(own, similarities, -np.inf).max(axis=1, keepdims=True)
    ahead = (similarities >= nearest - _TIE) & ~own
    if firsts is not None:
        ahead = np.logical_or.reduceat(ahead, firsts, axis=1)
    return 1 + np.count_nonzero(ahead, axis=1)
