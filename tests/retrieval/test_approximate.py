"""Approximate search in a graph that is stored with the vectors."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("usearch")

from cococli.errors import UsageError
from cococli.reporting import Progress, Reporter
from cococli.retrieval.nearest import GRAPH, Limits, nearest, nearest_in_graph, open_graph

WIDTH = 32


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def clustered(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(100, WIDTH))
    return unit(centers[rng.integers(0, 100, count)] + 0.5 * rng.normal(size=(count, WIDTH)))


VECTORS = clustered(4000)
QUERIES = unit(VECTORS[:40] + 0.1 * np.random.default_rng(1).normal(size=(40, WIDTH)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index folder with the graph of `VECTORS`."""
    folder = tmp_path_factory.mktemp("index")
    open_graph(folder, VECTORS, "stamp")
    return folder


def both(folder: Path, count: int = 10, **options: Any) -> list[tuple[list[int], list[int]]]:
    """For each query the rows from the graph and from exact search."""
    graph = open_graph(folder, VECTORS, "stamp")
    pairs = []
    for query in QUERIES:
        found = nearest_in_graph(graph, VECTORS, query, count, Limits(**options))
        expected = nearest(VECTORS, query, count, Limits(**options))
        cosines = [VECTORS[hit.row] @ query for hit in found]
        np.testing.assert_allclose([hit.score for hit in found], cosines, atol=1e-6)
        pairs.append(([hit.row for hit in found], [hit.row for hit in expected]))
    return pairs


def recall(pairs: list[tuple[list[int], list[int]]]) -> float:
    return sum(len({*found} & {*expected}) for found, expected in pairs) / sum(len(exact) for _, exact in pairs)


class Building(Reporter):
    """Keeps the number of rows of a graph that is built, and warnings."""

    rows = 0
    warnings: tuple[str, ...] = ()

    def warning(self, text: str) -> None:
        self.warnings += (text,)

    @contextmanager
    def progress(self, description: str, total: int | None = None, **options: object) -> Iterator[Progress]:
        self.rows = total
        yield Progress()


def test_nearly_all_hits_have_exact_scores(folder: Path) -> None:
    assert recall(both(folder)) > 0.97


def test_only_selected_rows_are_found(folder: Path) -> None:
    rows = np.arange(0, 4000, 20)  # so few that more must be fetched
    pairs = both(folder, rows=rows)
    assert all(len(found) == 10 and {*found} <= {*rows.tolist()} for found, _ in pairs)
    assert recall(pairs) > 0.97


def test_groups_are_limited(folder: Path) -> None:
    groups = np.arange(4000) // 200
    pairs = both(folder, groups=groups, per_group=1)
    assert all(len({row // 200 for row in found}) == 10 for found, _ in pairs)
    assert recall(pairs) > 0.97


def test_exclusions_apply(folder: Path) -> None:
    everything, rest = both(folder), both(folder, excluded=[VECTORS[0]])
    assert everything != rest
    assert recall(rest) > 0.97


def test_minimum_score_ends_the_search(folder: Path) -> None:
    pairs = both(folder, min_score=0.75)
    assert any(len(found) < 10 for found, _ in pairs)
    assert recall(pairs) > 0.97


def test_many_hits_are_searched_exactly(folder: Path) -> None:
    assert all(found == expected for found, expected in both(folder, count=200))


def test_empty_index_has_no_hits(tmp_path: Path) -> None:
    graph = open_graph(tmp_path, VECTORS[:0], "stamp")
    assert nearest_in_graph(graph, VECTORS[:0], QUERIES[0], 10) == []


def test_graph_is_built_once_and_extended(tmp_path: Path) -> None:
    def opened(count: int, stamp: str = "stamp") -> int:
        reporter = Building()
        graph = open_graph(tmp_path, VECTORS[:count], stamp, reporter)
        assert (len(graph), reporter.warnings) == (count, ())
        found = nearest_in_graph(graph, VECTORS[:count], VECTORS[count - 1], 1)
        assert [hit.row for hit in found] == [count - 1]
        return reporter.rows

    assert opened(1000) == 1000
    assert opened(1000) == 0
    assert opened(1500) == 1500
    assert json.loads((tmp_path / f"{GRAPH}.json").read_text()) == {"stamp": "stamp", "rows": 1500, "width": WIDTH}
    assert opened(1500) == 0
    assert opened(1200) == 1200  # rows are gone: rebuilt
    assert opened(1200, "another") == 1200


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "no note", "broken note", "other note"])
def test_damaged_graph_is_reported_and_rebuilt(tmp_path: Path, damage: str) -> None:
    open_graph(tmp_path, VECTORS[:1000], "stamp")
    path, note = tmp_path / GRAPH, tmp_path / f"{GRAPH}.json"
    good = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(good[:-1000])
    elif damage == "foreign":
        path.write_bytes(b"x" * 1000)
    elif damage == "no note":
        note.unlink()
    elif damage == "broken note":
        note.write_text("[]")
    else:
        note.write_text(json.dumps({"stamp": "stamp", "rows": 900, "width": WIDTH}))
    reporter = Building()
    graph = open_graph(tmp_path, VECTORS[:1000], "stamp", reporter)
    assert (reporter.rows, len(graph), len(path.read_bytes())) == (1000, 1000, len(good))
    (warning,) = reporter.warnings
    assert warning.startswith(f"the graph {path} is damaged and is rebuilt: ")


def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("not one")
    with pytest.raises(UsageError) as refused:
        open_graph(tmp_path / "folder", VECTORS[:100], "stamp")
    path = tmp_path / "folder" / GRAPH
    assert refused.value.message == f"cannot write {path}: Not a directory"


def test_missing_usearch_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(UsageError) as refused:
        open_graph(tmp_path, VECTORS, "stamp")
    assert (refused.value.message, refused.value.hint) == (
        "approximate search needs usearch",
        "pip install 'cococli[usearch]'",
    )
