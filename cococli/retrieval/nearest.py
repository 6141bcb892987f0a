"""Nearest vectors of a query: exactly, or approximately in a graph of usearch."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..errors import UsageError
from ..files import write_atomically
from ..model.arrays import top_k
from ..reporting import SILENT, Reporter

if TYPE_CHECKING:
    from usearch.index import Index as Graph

GRAPH = "nearest.usearch"  # in the folder of an index, next to a note of what it holds

_HALVES = 1024  # rows of float16 that are converted at a time; fewer do not keep two cores busy
_ROUNDING = 1e-6  # smaller differences do not count

# Texts lie far from every picture: the defaults of usearch (16, 128, 64) miss many of their neighbors. float16 finds as
# much as float32, in half the memory. benchmarks/search.py measures it.
_DTYPE = "f16"
_SETTINGS = {"connectivity": 32, "expansion_add": 128, "expansion_search": 512}
_ADDED = 4096  # rows added to a graph at a time: Ctrl-C waits for them
_SAMPLE = 10_000  # rows whose scores stand for those of all rows


class Hit(NamedTuple):
    """A row that matches, and its score."""

    row: int
    score: float  # cosine to the query


@dataclass(frozen=True)
class Limits:
    """Limits of a search, by default none.

    Attributes:
        rows: [R] int64 rows to search; None for all.
        excluded: Queries [D] to avoid: rows that match one of them better than the query are left out. Cosines to texts
            and to pictures differ in scale, so each is standardized over `rows` first.
        min_score: Least cosine of a hit.
        groups: [N] integers: the group of each row, such as its file.
        per_group: Maximum number of hits of one group.
        measured: Rows to standardize over instead, if `rows` is a selection.
    """

    rows: np.ndarray | None = None
    excluded: Sequence[np.ndarray] = ()
    min_score: float | None = None
    groups: np.ndarray | None = None
    per_group: int = 1
    measured: np.ndarray | None = None


NO_LIMITS = Limits()


def combined(vectors: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Combine several queries into one: their weighted sum, L2-normalized.

    Args:
        vectors: [Q, D] float32, L2-normalized.
        weights: [Q]; negative ones push away.

    Raises:
        UsageError: The sum is zero.
    """
    # Squares of huge weights would overflow.
    scale = np.abs(weights).max()
    total = np.asarray(weights / scale if scale else weights, np.float64) @ vectors
    length = np.linalg.norm(total)
    if length < 1e-5:
        raise UsageError("these queries cancel each other out", "change their weights")
    return (total / length).astype(np.float32)


def scores(vectors: np.ndarray, query: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """Return the cosines of L2-normalized vectors [N, D], float32 or float16, to a query [D]: [N] or [R] float32.

    The vectors may be mapped from a file larger than memory: each row is read once.
    """
    vectors, query = np.asarray(vectors), query.astype(np.float32)
    if rows is None:
        return _scores_of_halves(vectors, query) if vectors.dtype == np.float16 else vectors @ query
    # Otherwise reading all rows is faster than picking some.
    if 8 * len(rows) < len(vectors):
        return scores(vectors[rows], query)
    return scores(vectors, query)[rows]


def nearest(vectors: np.ndarray, query: np.ndarray, count: int, limits: Limits = NO_LIMITS) -> list[Hit]:
    """Find the vectors with the highest cosine to a query.

    Args:
        vectors: [N, D] float32 or float16, L2-normalized.
        query: [D], L2-normalized.
        count: Maximum number of hits.

    Returns:
        Hits, best first; of equal scores the first in `limits.rows` first.
    """
    rows = np.arange(len(vectors)) if limits.rows is None else limits.rows
    if not len(rows):
        return []
    found = scores(vectors, query, rows)
    kept = np.ones(len(rows), bool) if limits.min_score is None else found >= limits.min_score
    if len(limits.excluded):
        wanted = _standardized(vectors, query, found, limits.measured)
        for other in limits.excluded:
            avoided = _standardized(vectors, other, scores(vectors, other, rows), limits.measured)
            kept &= wanted >= avoided - _ROUNDING
    rows, found = rows[kept], found[kept]
    if limits.groups is None:
        order = _best(found, count)
    else:
        order = _best_of_groups(limits.groups[rows], found, limits.per_group, count)
    return [Hit(int(rows[i]), float(found[i])) for i in order]


def _scores_of_halves(halves: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Multiply [N, D] float16 by [D] float32 in float32.

    numpy converts halves one at a time, and torch takes over a second to import. But the bits of a half, moved to their
    positions in a float, are the same number times 2 ** -112 (even subnormal ones); the query is scaled to compensate.
    """
    bits, raised = halves.view(np.int16), np.ldexp(query, 112)
    found = np.empty(len(halves), np.float32)
    block = np.empty((min(_HALVES, len(halves)), len(query)), np.int32)
    for start in range(0, len(halves), _HALVES):
        end = min(start + _HALVES, len(halves))
        part = block[: end - start]
        part[:] = bits[start:end]
        part <<= 13
        # This clears the copies of the sign bit above the exponent.
        part &= -0x70002000
        np.dot(part.view(np.float32), raised, out=found[start:end])
    return found


def _standardized(vectors: np.ndarray, query: np.ndarray, found: np.ndarray, measured: np.ndarray | None) -> np.ndarray:
    """Return scores in standard deviations from the mean, their own or that of the measured rows."""
    scale = found if measured is None else scores(vectors, query, measured)
    return (found - scale.mean(dtype=np.float64)) / max(scale.std(dtype=np.float64), _ROUNDING)


def _best(found: np.ndarray, count: int) -> list[int]:
    """Return the indices of the highest scores, at most `count`."""
    count = min(count, len(found))
    return top_k(found[None], count)[0].tolist() if count else []


def _best_of_groups(groups: np.ndarray, found: np.ndarray, per_group: int, count: int) -> list[int]:
    """Return the indices of the highest scores, at most `per_group` of each group."""
    taken: Counter[int] = Counter()
    order: list[int] = []
    for i in np.argsort(-found, kind="stable").tolist():
        if len(order) == count:
            break
        taken[group := int(groups[i])] += 1
        if taken[group] <= per_group:
            order.append(i)
    return order


def open_graph(folder: Path, vectors: np.ndarray, stamp: str, reporter: Reporter = SILENT) -> "Graph":
    """Open the graph of an index. It is built if there is none, and extended by rows that were added since.

    Args:
        folder: Folder of the index, where the graph is stored.
        vectors: [N, D] float32 or float16, L2-normalized.
        stamp: Identifies the vectors. A graph of another stamp, or of more rows, is replaced.

    Raises:
        UsageError: usearch is not installed, or the folder is not writable.
    """
    graph = _read(folder, vectors, stamp, reporter)
    if graph is None or len(graph) < len(vectors):
        graph = graph or _usearch()(ndim=vectors.shape[1], metric="ip", dtype=_DTYPE, **_SETTINGS)
        _extend(graph, vectors, reporter)
        _write(folder, graph, stamp)
    return graph


def nearest_in_graph(
    graph: "Graph", vectors: np.ndarray, query: np.ndarray, count: int, limits: Limits = NO_LIMITS
) -> list[Hit]:
    """Find most hits of `nearest`, with the same scores.

    More rows than needed are fetched from the graph, until enough of them pass the limits. If hardly any do, all
    vectors are searched. Exclusions standardize scores over a sample of the rows.
    """
    live = np.arange(len(vectors)) if limits.rows is None else limits.rows
    sample = live[:: max(1, len(live) // _SAMPLE)]
    fetched = max(64, 4 * count)
    while 8 * fetched < len(vectors):
        matches = graph.search(query.astype(np.float32), fetched)
        near = np.sort(matches.keys.astype(np.int64))
        near = near if limits.rows is None else near[np.isin(near, limits.rows)]
        hits = nearest(vectors, query, count, replace(limits, rows=near, measured=sample))
        if len(hits) == count or (limits.min_score is not None and 1 - matches.distances[-1] < limits.min_score):
            return hits
        fetched *= 8
    return nearest(vectors, query, count, limits)


def _usearch() -> "type[Graph]":
    try:
        from usearch.index import Index as Graph
    except ImportError:
        raise UsageError("approximate search needs usearch", "pip install 'cococli[usearch]'") from None
    return Graph


def graph_files(folder: Path) -> tuple[Path, Path]:
    """Return the file of a graph, and the note of what it holds."""
    return folder / GRAPH, folder / f"{GRAPH}.json"


def remove_graph(folder: Path) -> None:
    """Remove the graph of an index, whose vectors are replaced."""
    for path in graph_files(folder):
        path.unlink(missing_ok=True)


def _read(folder: Path, vectors: np.ndarray, stamp: str, reporter: Reporter) -> "Graph | None":
    """Read the graph of these vectors, or of the first of them; None if there is none that fits."""
    path, note_path = graph_files(folder)
    index = _usearch()
    if not path.exists() and not note_path.exists():
        return None
    try:
        note = json.loads(note_path.read_text("utf-8"))
        rows = note["rows"]
        if (note["stamp"], note["width"]) != (stamp, vectors.shape[1]) or rows > len(vectors):
            return None
        path.stat()
        # A mapped graph cannot be extended.
        graph = index.restore(path, view=rows == len(vectors), **_SETTINGS)
        if graph is not None and len(graph) == rows:
            return graph
        problem = "it is incomplete"
    except OSError as error:
        problem = f"{error.filename}: {error.strerror}"
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        problem = str(error)
    reporter.warning(f"the graph {path} is damaged and is rebuilt: {problem}")
    return None


def _extend(graph: "Graph", vectors: np.ndarray, reporter: Reporter) -> None:
    with reporter.progress("building the graph", len(vectors)) as progress:
        for start in range(len(graph), len(vectors), _ADDED):
            progress.update(start)
            block = np.asarray(vectors[start : start + _ADDED])
            graph.add(np.arange(start, start + len(block)), block)
        progress.update(len(vectors))


def _write(folder: Path, graph: "Graph", stamp: str) -> None:
    path, note_path = graph_files(folder)
    note = {"stamp": stamp, "rows": len(graph), "width": graph.ndim}
    try:
        with write_atomically(note_path, path) as (note_file, file):
            note_file.write(json.dumps(note).encode())
            graph.save(file.name)
    except (OSError, RuntimeError) as problem:
        # usearch raises a RuntimeError when the disk is full.
        raise UsageError(f"cannot write {path}: {getattr(problem, 'strerror', problem)}") from None
