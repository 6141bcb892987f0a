"""Search and duplicates on synthetic vectors in clusters, like embeddings: see README.md in this folder.

    python benchmarks/search.py [--folder /tmp/coca-search] [--rows 1000000] [--graph-rows 100000]

The vectors of a million rows take 4.6 GB of disk, float32 and float16; they are kept for the next run.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cococli.retrieval.duplicates import duplicates
from cococli.retrieval.nearest import GRAPH, Limits, nearest, nearest_in_graph, open_graph

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


def evict(path: Path) -> None:
    """Drop a file from the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(act: Callable[[], object]) -> float:
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def search_exactly(folder: Path, rows: int, dtype: str, world: World) -> None:
    path = folder / f"{rows}.{dtype}.npy"
    mapped(path, rows, dtype, world)
    evict(path)
    vectors = np.load(path, mmap_mode="r")
    query, other = world.texts(np.random.default_rng(2), 2)
    files = np.arange(rows) // 20
    jobs: dict[str, Callable[[], object]] = {
        "top 10": lambda: nearest(vectors, query, 10),
        "one of a file": lambda: nearest(vectors, query, 10, Limits(groups=files)),
        "one excluded": lambda: nearest(vectors, query, 10, Limits(excluded=[other])),
    }
    print(f"exact, {rows} rows of {dtype}: first query from disk {seconds(jobs['top 10']):.2f} s")
    for name, job in jobs.items():
        times = [seconds(job) for _ in range(9)]
        print(f"    {name}: median {statistics.median(times):.3f} s, slowest {max(times):.3f} s")


def search_by_graph(folder: Path, rows: int, world: World) -> None:
    vectors = mapped(folder / f"{rows}.float32.npy", rows, "float32", world)
    path = folder / GRAPH
    path.unlink(missing_ok=True)
    built, opened = (seconds(lambda: open_graph(folder, vectors, "")) for _ in range(2))
    size = path.stat().st_size / 1e6
    print(f"graph of {rows} rows: built in {built:.0f} s, {size:.0f} MB, opened in {opened:.3f} s")
    graph = open_graph(folder, vectors, "")
    rng = np.random.default_rng(3)
    for kind, queries in (("pictures", world.pictures(rng, QUERIES)), ("texts", world.texts(rng, QUERIES))):
        expected = [{hit.row for hit in nearest(vectors, query, 10)} for query in queries]
        start = time.perf_counter()
        found = [{hit.row for hit in nearest_in_graph(graph, vectors, query, 10)} for query in queries]
        each = (time.perf_counter() - start) / QUERIES
        recall = sum(len(a & b) for a, b in zip(found, expected, strict=True)) / (10 * QUERIES)
        print(f"    {kind}: recall@10 {recall:.4f}, {1000 * each:.2f} ms a query")


def find_duplicates(videos: int, segments: int, world: World) -> None:
    vectors = world.pictures(np.random.default_rng(4), videos * segments)
    vectors[-segments:] = vectors[:segments]
    rows = np.arange(videos * segments).reshape(videos, segments).tolist()
    found: list[object] = []
    took = seconds(lambda: found.extend(duplicates(vectors, rows, 0.95)))
    print(f"duplicates among {videos} videos of {segments} vectors: {took:.1f} s, {len(found)} groups")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("/tmp/coca-search"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--graph-rows", type=int, default=100_000)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    world = World(np.random.default_rng(0))
    for dtype in ("float32", "float16"):
        search_exactly(options.folder, options.rows, dtype, world)
    search_by_graph(options.folder, options.graph_rows, world)
    find_duplicates(20_000, 1, world)
    find_duplicates(2_000, 10, world)


if __name__ == "__main__":
    main()
