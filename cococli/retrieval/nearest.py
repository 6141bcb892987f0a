"""Exact search: the vectors that lie closest to a query."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import UsageError
from ..model.arrays import top_k

_BLOCK = 1024  # rows of float16 that are made float32 at a time; fewer do not keep two cores busy
_ROUNDING = 1e-6  # what differs by less is equal


class Hit(NamedTuple):
    """A vector that was found."""

    row: int
    score: float  # cosine to the query


def combined(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """One query of several: their weighted sum, L2-normalized.

    Args:
        vectors: [Q, D] float32, L2-normalized.
        weights: [Q], negative where a query is to be avoided.

    Raises:
        UsageError: nothing is left of the sum.
    """
    scale = np.abs(weights).max()  # a weight may be of any size
    total = np.asarray(weights / scale if scale else weights, np.float64) @ vectors
    length = np.linalg.norm(total)
    if length < 1e-5:
        raise UsageError("these queries cancel each other out", "give them other weights")
    return (total / length).astype(np.float32)


def scores(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Cosines of L2-normalized vectors [N, D], float32 or float16, to a query [D] -> float32, of all or of some rows.

    They may be mapped from a file larger than memory: each row is read once.
    """
    vectors, query = np.asarray(vectors), query.astype(np.float32)
    if rows is None:
        return _scores_of_halves(vectors, query) if vectors.dtype == np.float16 else vectors @ query
    if 8 * len(rows) < len(vectors):  # else it is faster to read all than to pick
        return scores(vectors[rows], query)
    return scores(vectors, query)[rows]


def nearest(
    vectors: np.ndarray,
    query: np.ndarray,
    count: int,
    rows: np.ndarray | None = None,
    excluded: Sequence[np.ndarray] = (),
    min_score: float | None = None,
    groups: np.ndarray | None = None,
    per_group: int = 1,
    measured: np.ndarray | None = None,
) -> list[Hit]:
    """Find the vectors with the highest cosine to a query.

    Args:
        vectors: [N, D] float32 or float16, L2-normalized.
        query: [D], L2-normalized.
        count: How many to find at most.
        rows: [R] int64, the rows to look at; None for all.
        excluded: Queries [D] to stay away from: a row drops out that matches one of them better than `query`. Cosines
            to a text and to a picture live on different scales, so each is first standardised over all of `rows`.
        min_score: Cosine that a hit must reach.
        groups: [N] integers: the group of each row, as in the file that it is of.
        per_group: Hits of one group at most, where there are groups.
        measured: Standardise over these rows instead, where `rows` are but a choice.

    Returns:
        Hits, best first; of equal scores the first in `rows` first.
    """
    rows = np.arange(len(vectors)) if rows is None else rows
    if not len(rows):
        return []
    found = scores(vectors, query, rows)
    kept = np.ones(len(rows), bool) if min_score is None else found >= min_score
    if len(excluded):
        wanted = _standing(vectors, query, found, measured)
        for other in excluded:
            kept &= wanted >= _standing(vectors, other, scores(vectors, other, rows), measured) - _ROUNDING
    rows, found = rows[kept], found[kept]
    order = _best_first(found, count) if groups is None else _few_of_each(groups[rows], found, per_group, count)
    return [Hit(int(rows[i]), float(found[i])) for i in order]


def _scores_of_halves(halves: np.ndarray, query: np.ndarray) -> np.ndarray:
    """[N, D] float16 @ [D] float32, multiplied and summed in float32.

    numpy turns halves to floats one at a time, and torch takes over a second to import. But the bits of a half, moved
    to where a float has them, are the same number times 2 ** -112 (subnormal ones too), which the query makes good.
    """
    bits, raised = halves.view(np.int16), np.ldexp(query, 112)
    found = np.empty(len(halves), np.float32)
    block = np.empty((min(_BLOCK, len(halves)), len(query)), np.int32)
    for start in range(0, len(halves), _BLOCK):
        end = min(start + _BLOCK, len(halves))
        part = block[: end - start]
        part[:] = bits[start:end]
        part <<= 13
        part &= -0x70002000  # the sign stands at the top, and copies of it above the exponent: those are cleared
        np.dot(part.view(np.float32), raised, out=found[start:end])
    return found


def _standing(vectors: np.ndarray, query: np.ndarray, found: np.ndarray, measured: np.ndarray | None) -> np.ndarray:
    """Scores in standard deviations from the mean: their own, or that of the rows which are measured."""
    scale = found if measured is None else scores(vectors, query, measured)
    return (found - scale.mean(dtype=np.float64)) / max(scale.std(dtype=np.float64), _ROUNDING)


def _best_first(found: np.ndarray, count: int) -> np.ndarray:
    """Where the highest of some scores stand, however few there are."""
    count = min(count, len(found))
    return top_k(found[None], count)[0] if count else np.arange(0)


def _few_of_each(groups: np.ndarray, found: np.ndarray, per_group: int, count: int) -> list[int]:
    """Where the highest scores stand, passing over groups that have had their share."""
    taken: Counter[int] = Counter()
    order: list[int] = []
    for i in np.argsort(-found, kind="stable").tolist():
        if len(order) == count:
            break
        taken[group := int(groups[i])] += 1
        if taken[group] <= per_group:
            order.append(i)
    return order
