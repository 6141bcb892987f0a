"""Search and duplicates on synthetic vectors in clusters, like embeddings: `make bench ONLY=search`.

The vectors of a million rows take 3.1 GB of disk for as long as it runs.
"""

import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from words import gigabytes
from words import seconds as text

WIDTH, INNER = 768, 64  # embeddings vary in few of their dimensions
TOPICS, THEMES = 60, 3000  # a topic has many themes
BLOCK = 10_000
QUERIES = 100

Random = np.random.Generator


class World:
    """Distribution of pictures and texts: themes within topics, and a gap between pictures and texts."""

    def __init__(self, rng: Random) -> None:
        self.basis = rng.standard_normal((INNER, WIDTH), np.float32)
        topics = rng.standard_normal((TOPICS, INNER), np.float32)
        self.themes = topics[rng.integers(TOPICS, size=THEMES)] + 0.8 * rng.standard_normal((THEMES, INNER), np.float32)
        self.gap = 8 * rng.standard_normal(WIDTH, np.float32)

    def pictures(self, rng: Random, count: int) -> np.ndarray:
        return unit(self._means(rng, count, 0.5) + 2.4 * rng.standard_normal((count, WIDTH), np.float32) + self.gap)

    def texts(self, rng: Random, count: int) -> np.ndarray:
        return unit(self._means(rng, count, 1.0) + 9.6 * rng.standard_normal((count, WIDTH), np.float32) - self.gap)

    def _means(self, rng: Random, count: int, spread: float) -> np.ndarray:
        theme = self.themes[rng.integers(THEMES, size=count)]
        return (theme + spread * rng.standard_normal((count, INNER), np.float32)) @ self.basis


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def mapped(path: Path, rows: int, dtype: str, world: World) -> np.ndarray:
    """Map the vectors in a file, which is created if it is missing."""
    if not path.exists():
        rng = np.random.default_rng(1)
        file = np.lib.format.open_memmap(path, "w+", dtype, (rows, WIDTH))
        for start in range(0, rows, BLOCK):
            file[start : start + BLOCK] = world.pictures(rng, min(BLOCK, rows - start))
        file.flush()
    return np.load(path, mmap_mode="r")


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def measure(work: Path, quick: bool) -> dict[str, Any]:
    from cococli.retrieval.duplicates import duplicates
    from cococli.retrieval.nearest import GRAPH, Limits, nearest, nearest_in_graph, open_graph

    rows, graph_rows, videos = (20_000, 2_000, 2_000) if quick else (1_000_000, 100_000, 20_000)
    world = World(np.random.default_rng(0))
    folder = work / "search"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        vectors = mapped(folder / "exact.npy", rows, "float32", world)
        query, other = world.texts(np.random.default_rng(2), 2)
        files = np.arange(rows) // 20
        jobs: dict[str, Callable[[], object]] = {
            "plain": lambda: nearest(vectors, query, 10),
            "grouped": lambda: nearest(vectors, query, 10, Limits(groups=files)),
            "excluded": lambda: nearest(vectors, query, 10, Limits(excluded=[other])),
        }
        found: dict[str, Any] = {name: [seconds(job) for _ in range(10)][1:] for name, job in jobs.items()}
        print(f"  exact: {found}", flush=True)
        vectors = mapped(folder / "graph.npy", graph_rows, "float32", world)
        found["built"] = seconds(lambda: open_graph(folder, vectors, ""))
        found["size"] = (folder / GRAPH).stat().st_size
        graph = open_graph(folder, vectors, "")
        rng = np.random.default_rng(3)
        for kind, queries in (("pictures", world.pictures(rng, QUERIES)), ("texts", world.texts(rng, QUERIES))):
            expected = [{hit.row for hit in nearest(vectors, query, 10)} for query in queries]
            start = time.perf_counter()
            hits = [{hit.row for hit in nearest_in_graph(graph, vectors, query, 10)} for query in queries]
            each = (time.perf_counter() - start) / QUERIES
            recall = sum(len(a & b) for a, b in zip(hits, expected, strict=True)) / (10 * QUERIES)
            found[f"graph {kind}"] = [recall, each]
            print(f"  graph, {kind}: recall {recall}, {each:.5f} s", flush=True)
        groups = world.pictures(np.random.default_rng(4), videos)
        groups[-1] = groups[0]
        found["duplicates"] = seconds(lambda: duplicates(groups, [[row] for row in range(videos)], 0.95))
        return found
    finally:
        shutil.rmtree(folder)


def render(values: dict[str, Any]) -> dict[str, str]:
    exact = {name: text(statistics.median(values[name])) for name in ("plain", "grouped", "excluded")}
    graph = {}
    for kind in ("pictures", "texts"):
        recall, each = values[f"graph {kind}"]
        graph |= {f"{kind}.recall": f"{100 * recall:.1f}%", f"{kind}.time": text(each)}
    once = {"built": text(values["built"]), "size": gigabytes(values["size"]), "duplicates": text(values["duplicates"])}
    return exact | graph | once
