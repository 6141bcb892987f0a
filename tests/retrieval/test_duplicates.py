"""Near-identical videos, compared with a naive implementation."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.retrieval import duplicates as module
from cococli.retrieval.duplicates import Group, duplicates

WIDTH = 32


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, WIDTH)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def near(vectors: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    moved = vectors + noise * unit(rng, len(vectors))
    return (moved / np.linalg.norm(moved, axis=1, keepdims=True)).astype(np.float32)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    cosines = one @ other.T
    return min(cosines.max(axis=1).mean(), cosines.max(axis=0).mean())


def naive(vectors: np.ndarray, videos: list[list[int]], threshold: float) -> list[Group]:
    """Join the pairs one by one, the most similar first."""
    groups = {(i,): np.inf for i in range(len(videos))}
    filled = [i for i, rows in enumerate(videos) if rows]
    pairs = ((similarity(vectors[videos[a]], vectors[videos[b]]), a, b) for a, b in combinations(filled, 2))
    for similar, a, b in sorted(pairs, reverse=True):
        first, second = (next(group for group in groups if i in group) for i in (a, b))
        if similar >= threshold - 1e-6 and first != second:
            del groups[first], groups[second]
            groups[tuple(sorted(first + second))] = similar
    found = [Group(members, score) for members, score in groups.items() if len(members) > 1]
    return sorted(found, key=lambda group: -group.score)


@given(st.integers(0, 2**32), st.integers(0, 30), st.integers(1, 4), st.floats(0.5, 0.99), st.integers(3, 60))
def test_groups_match_joining_pair_by_pair(seed: int, count: int, longest: int, threshold: float, block: int) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(longest > 1, longest + 1, count) if longest > 1 else np.ones(count, int)
    videos = [rows.tolist() for rows in np.split(np.arange(lengths.sum()), np.cumsum(lengths)[:-1])] if count else []
    seen = unit(rng, 4)[rng.integers(0, 4, lengths.sum())]
    vectors = near(seen, rng.uniform(0.1, 0.8), rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_BLOCK", block)  # so that a few videos fill several blocks
        found = duplicates(vectors, videos, threshold)
    expected = naive(vectors, videos, threshold)
    assert [group.members for group in found] == [group.members for group in expected]
    np.testing.assert_allclose([group.score for group in found], [group.score for group in expected], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_copies_are_found_among_strangers(dtype: str) -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng, 5000)
    vectors[[4000, 70]] = near(vectors[[3, 3]], 0.1, rng)
    vectors[4999] = near(vectors[[4998]], 0.2, rng)[0]
    groups = duplicates(vectors.astype(dtype), [[row] for row in range(5000)], 0.95)
    assert [group.members for group in groups] == [(3, 70, 4000), (4998, 4999)]
    links = sorted([vectors[3] @ vectors[70], vectors[3] @ vectors[4000], vectors[70] @ vectors[4000]])
    assert groups[0].score == pytest.approx(links[1], abs=1e-3)  # the weakest of the three is not needed
    assert groups[1].score == pytest.approx(vectors[4998] @ vectors[4999], abs=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_copies_reach_a_threshold_of_one(dtype: str) -> None:
    vectors = np.tile(unit(np.random.default_rng(0), 50), (2, 1)).astype(dtype)
    groups = duplicates(vectors, [[row] for row in range(100)], 1.0)
    assert sorted(group.members for group in groups) == [(row, row + 50) for row in range(50)]


def test_chain_is_one_group() -> None:
    angles = np.radians([0, 10, 20, 30, 90])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    (group,) = duplicates(vectors, [[row] for row in range(5)], 0.98)
    assert group.members == (0, 1, 2, 3)
    assert group.score == pytest.approx(np.cos(np.radians(10)))


def test_clip_is_not_grouped_with_its_film() -> None:
    film = np.eye(8, dtype=np.float32)
    vectors = np.concatenate([film, film[:2], film[::-1]])
    videos = [list(range(8)), [8, 9], list(range(10, 18))]  # the film, a clip, the film in another order
    assert duplicates(vectors, videos, 0.9) == [Group((0, 2), 1.0)]


def test_many_copies_are_one_group() -> None:
    vectors = np.repeat(np.eye(1, WIDTH, dtype=np.float32), 3000, axis=0)
    assert duplicates(vectors, [[row] for row in range(3000)], 0.99) == [Group(tuple(range(3000)), 1.0)]


def test_videos_without_vectors_are_in_no_group() -> None:
    vectors = np.eye(1, WIDTH, dtype=np.float32)
    assert duplicates(vectors, [[], [0], []], 0.5) == []
    assert duplicates(vectors, [[], [0], [], [0]], 0.5) == [Group((1, 3), 1.0)]
    assert duplicates(vectors, [], 0.5) == []
