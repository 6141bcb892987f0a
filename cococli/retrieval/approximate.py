"""Approximate search by usearch, for more vectors than can be read for every query."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import UsageError
from ..files import write_atomically
from ..reporting import SILENT, Reporter
from . import nearest as exact
from .nearest import Hit

if TYPE_CHECKING:
    from usearch.index import Index

NAME = "nearest.usearch"  # in the index folder; beside it a note of what it holds

# Text queries lie far from every picture: with usearch's defaults (16, 128, 64) they lose their way. float16 finds as
# much as float32, in half the memory. benchmarks/search.py measures it.
_DTYPE = "f16"
_SETTINGS = {"connectivity": 32, "expansion_add": 128, "expansion_search": 512}
_BLOCK = 4096  # rows added at a time: Ctrl-C waits for them
_SAMPLE = 10_000  # rows that stand for all of them when scores are standardised


def open_graph(folder: Path, vectors: np.ndarray, stamp: str, reporter: Reporter = SILENT) -> "Index":
    """Open the graph of an index, once it is built, or extended by the rows that were added.

    Args:
        folder: Of the index, where the graph is kept.
        vectors: [N, D] float32 or float16, L2-normalized.
        stamp: Names the vectors: under another stamp, or with fewer rows than it holds, the graph is built anew.

    Raises:
        UsageError: usearch is not installed, or the folder cannot be written to.
    """
    graph = _read(folder / NAME, vectors, stamp)
    if graph is None or len(graph) < len(vectors):
        graph = graph or _usearch()(ndim=vectors.shape[1], metric="ip", dtype=_DTYPE, **_SETTINGS)
        _extend(graph, vectors, reporter)
        _write(folder / NAME, graph, stamp)
    return graph


def nearest(
    graph: "Index",
    vectors: np.ndarray,
    query: np.ndarray,
    count: int,
    rows: np.ndarray | None = None,
    excluded: Sequence[np.ndarray] = (),
    min_score: float | None = None,
    groups: np.ndarray | None = None,
    per_group: int = 1,
) -> list[Hit]:
    """Find most of what exact search finds, with the same scores; its arguments are the same.

    More rows than wanted are fetched from the graph, until enough of them pass. Where hardly any do, search is exact.
    What is excluded is judged by a sample of the rows.
    """
    live = np.arange(len(vectors)) if rows is None else rows
    sample = live[:: max(1, len(live) // _SAMPLE)]
    fetched = max(64, 4 * count)
    while 8 * fetched < len(vectors):
        matches = graph.search(query.astype(np.float32), fetched)
        near = np.sort(matches.keys.astype(np.int64))
        near = near if rows is None else near[np.isin(near, rows)]
        hits = exact.nearest(vectors, query, count, near, excluded, min_score, groups, per_group, measured=sample)
        if len(hits) == count or (min_score is not None and 1 - matches.distances[-1] < min_score):
            return hits
        fetched *= 8
    return exact.nearest(vectors, query, count, rows, excluded, min_score, groups, per_group)


def _usearch() -> "type[Index]":
    try:
        from usearch.index import Index
    except ImportError:
        raise UsageError("approximate search needs usearch", "pip install 'cococli[usearch]'") from None
    return Index


def _read(path: Path, vectors: np.ndarray, stamp: str) -> "Index | None":
    """The graph of these vectors, or of the first of them; None when there is none, or none that fits."""
    index = _usearch()
    try:
        note = json.loads(_note(path).read_text("utf-8"))
        held = note["rows"]
        if (note["stamp"], note["width"]) != (stamp, vectors.shape[1]) or held > len(vectors):
            return None
        whole = held == len(vectors)
        graph = index.restore(path, view=whole, **_SETTINGS)  # mapped; what is extended must be in memory
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # missing, or damaged: then it is built anew
        return None
    return graph if graph is not None and len(graph) == held else None


def _extend(graph: "Index", vectors: np.ndarray, reporter: Reporter) -> None:
    with reporter.progress("building the graph", len(vectors)) as progress:
        for start in range(len(graph), len(vectors), _BLOCK):
            progress.update(start)
            block = np.asarray(vectors[start : start + _BLOCK])
            graph.add(np.arange(start, start + len(block)), block)
        progress.update(len(vectors))


def _write(path: Path, graph: "Index", stamp: str) -> None:
    note = {"stamp": stamp, "rows": len(graph), "width": graph.ndim}
    try:
        with write_atomically(_note(path), path) as (note_file, file):
            note_file.write(json.dumps(note).encode())
            graph.save(file.name)
    except (OSError, RuntimeError) as problem:  # usearch raises the latter when the disk is full
        raise UsageError(f"cannot write {path}: {getattr(problem, 'strerror', problem)}") from None


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
