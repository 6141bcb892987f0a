"""A map of embeddings: positions in two dimensions, and clusters that are labeled by the captions in them."""

import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..retrieval.index import Index
from ..retrieval.vector_files import open_vectors

_CLUSTERS = 12  # at most
_LABEL = 3  # words
_NEIGHBORS = 15  # of UMAP; it needs more points than that
# Words that say nothing about what a picture shows.
_COMMON = re.compile(
    "an?|the|of|on|in|at|to|with|and|or|is|are|was|were|be|by|for|from|as|its?|this|that|there|some|up|down|out|over|"
    "under|near|next|beside|into|onto|has|have|having|very"
)


def place(records: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """Place the records that an index holds on a map.

    Args:
        records: Fields of JSONL, each with an `id`.
        folder: Index that `coca caption --embed` or `coca embed` wrote for the same videos and segments.

    Returns:
        Points, clusters and the method; see the comment in `assets/page.js`.

    Raises:
        UsageError: There is no index, it is damaged, or it holds none of the records.
    """
    index = open_vectors(folder)
    rows = _rows_of(index)
    found = [(record, rows[key]) for record in records if "caption" in record and (key := _key(record)) in rows]
    if not found:
        raise UsageError(f"{folder} holds none of these records", "coca caption --embed writes one that does")
    vectors = np.asarray(index.vectors[[row for _, row in found]], np.float32)  # [N, D]
    method, positions = project(vectors)
    groups = group(vectors)
    names = label(
        [
            [record["caption"] for (record, _), own in zip(found, groups, strict=True) if own == number]
            for number in range(groups.max() + 1)
        ]
    )
    clusters = [
        {"label": name, "count": int((groups == number).sum()), "x": x, "y": y}
        for number, name in enumerate(names)
        for x, y in [np.median(positions[groups == number], axis=0).round(4).tolist()]
    ]
    points = [
        [record["id"], *position, cluster]
        for (record, _), position, cluster in zip(found, positions.round(4).tolist(), groups.tolist(), strict=True)
    ]
    return {"method": method, "points": points, "clusters": clusters}


def project(vectors: np.ndarray) -> tuple[str, np.ndarray]:
    """Project vectors [N, D] to positions [N, 2] from 0 to 1: by UMAP if umap-learn is installed, else by PCA.

    Returns:
        The name of the method, and the positions.
    """
    positions, method = None, "PCA"
    if len(vectors) > _NEIGHBORS:
        try:
            from umap import UMAP
        except ImportError:
            pass
        else:
            positions = UMAP(n_neighbors=_NEIGHBORS, metric="cosine", random_state=0, n_jobs=1).fit_transform(vectors)
            method = "UMAP"
    if positions is None:
        from scipy.linalg import eigh

        centered = vectors - vectors.mean(axis=0)
        dimension = vectors.shape[1]
        _, axes = eigh(centered.T @ centered, subset_by_index=[max(0, dimension - 2), dimension - 1])
        positions = centered @ axes[:, ::-1]
        if dimension == 1:
            positions = np.repeat(positions, 2, axis=1)
    low, high = positions.min(axis=0), positions.max(axis=0)
    return method, np.where(high > low, (positions - low) / np.maximum(high - low, 1e-12), 0.5)


def group(vectors: np.ndarray) -> np.ndarray:
    """Return a cluster for each of N vectors: [N] int64, the largest cluster is 0."""
    from scipy.cluster.vq import kmeans2

    # Equal vectors cannot be split, and nearly equal ones may leave a cluster empty, of which SciPy warns.
    count = min(_CLUSTERS, math.isqrt(len(vectors)), len(np.unique(vectors, axis=0)))
    with warnings.catch_warnings(action="ignore"):
        _, found = kmeans2(vectors, count, minit="++", seed=0)
    order = [number for number, _ in Counter(found.tolist()).most_common()]
    ranks = np.empty(count, np.int64)
    ranks[order] = np.arange(len(order))
    return ranks[found]


def label(clusters: Sequence[Sequence[str]]) -> list[str]:
    """Name each cluster of captions by the words that set it apart from the others, in their usual order."""
    shares = [_shares(captions) for captions in clusters]
    labels = []
    for number, own in enumerate(shares):
        others = [share for other, share in enumerate(shares) if other != number]
        elsewhere = {word: sum(share.get(word, 0.0) for share in others) / max(1, len(others)) for word in own}
        best = sorted(own, key=lambda word: own[word] - elsewhere[word], reverse=True)[:_LABEL]
        model = max(clusters[number], key=lambda caption: sum(word in _words(caption) for word in best))
        order = {word: place for place, word in reversed(list(enumerate(_words(model))))}
        labels.append(" ".join(sorted(best, key=lambda word: order.get(word, len(order)))) or "no words")
    return labels


def _shares(captions: Sequence[str]) -> dict[str, float]:
    """Return the share of captions that hold each word."""
    counts = Counter(word for caption in captions for word in set(_words(caption)))
    return {word: count / len(captions) for word, count in counts.items()}


def _words(caption: str) -> list[str]:
    return [word for word in re.findall(r"\w+", caption.lower()) if not _COMMON.fullmatch(word)]


def _rows_of(index: Index) -> dict[tuple[str, float], int]:
    """Return the row of each video and start."""
    entries: Iterable[Any] = (index.entry(row) for row in index.rows[~index.is_text].tolist())
    return {(os.path.abspath(entry.video), round(entry.start, 3)): entry.row for entry in entries}  # noqa: PTH100


def _key(record: Mapping[str, Any]) -> tuple[str, float]:
    return os.path.abspath(record["video"]), round(record["start"], 3)  # noqa: PTH100
