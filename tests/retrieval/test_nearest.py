"""Exact search, compared with a naive implementation."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.errors import UsageError
from cococli.retrieval.nearest import Hit, Limits, combined, nearest, scores

WIDTH = 6


def whole_numbers(seed: int, count: int, dtype: str = "float32") -> np.ndarray:
    """Return vectors with exact products and many equal scores."""
    return np.random.default_rng(seed).integers(-2, 3, (count, WIDTH)).astype(dtype)


def unit(seed: int, count: int, width: int = WIDTH) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def naive(vectors, query, count, rows, excluded, min_score, groups, per_group) -> list[Hit]:
    def score(row: int, query: np.ndarray) -> float:
        return sum(float(a) * float(b) for a, b in zip(vectors[row], query, strict=True))

    def standardized(row: int, query: np.ndarray) -> float:
        everyone = [score(other, query) for other in rows]
        return (score(row, query) - np.mean(everyone)) / max(np.std(everyone), 1e-6)

    hits, taken = [], Counter()
    for row in sorted(rows, key=lambda row: -score(row, query)):
        if min_score is not None and score(row, query) < min_score:
            continue
        if any(standardized(row, query) < standardized(row, other) - 1e-6 for other in excluded):
            continue
        taken[groups[row]] += 1
        if taken[groups[row]] <= per_group and len(hits) < count:
            hits.append(Hit(row, score(row, query)))
    return hits


seeds = st.integers(0, 2**32)
dtypes = st.sampled_from(["float32", "float16"])


@given(seeds, st.integers(0, 80), st.integers(1, 100), dtypes)
def test_nearest_matches_sorting(seed: int, size: int, count: int, dtype: str) -> None:
    vectors, (query,) = whole_numbers(seed, size, dtype), whole_numbers(seed + 1, 1)
    everyone, alone = range(size), np.arange(size)
    assert nearest(vectors, query, count) == naive(vectors, query, count, everyone, (), None, alone, 1)


@given(
    seed=seeds,
    size=st.integers(1, 60),
    count=st.integers(1, 70),
    live=st.floats(0, 1),
    excluded=st.integers(0, 2),
    min_score=st.none() | st.integers(-6, 6),
    per_group=st.integers(1, 3),
    dtype=dtypes,
)
def test_limits_match_the_naive_search(
    seed: int, size: int, count: int, live: float, excluded: int, min_score: int | None, per_group: int, dtype: str
) -> None:
    vectors, (query, *others) = whole_numbers(seed, size, dtype), whole_numbers(seed + 1, 1 + excluded)
    rng = np.random.default_rng(seed)
    rows, groups = np.flatnonzero(rng.random(size) < live), rng.integers(0, 8, size)
    expected = naive(vectors, query, count, rows.tolist(), others, min_score, groups, per_group)
    assert nearest(vectors, query, count, Limits(rows, others, min_score, groups, per_group)) == expected


def test_exclusions_compare_standardized_scores() -> None:
    wanted, unwanted = np.eye(4, dtype=np.float32)[:2]
    # All have a higher cosine to the unwanted query, but row 0 stands out for the wanted one.
    vectors = np.array([[0.3, 0.6, 0, 0], [0.1, 0.6, 0, 0], [0.1, 0.7, 0, 0], [0.1, 0.9, 0, 0]], np.float32)
    assert [hit.row for hit in nearest(vectors, wanted, 4, Limits(excluded=[unwanted]))] == [0, 1]


def test_scores_may_be_standardized_over_other_rows() -> None:
    wanted, unwanted = np.eye(2, dtype=np.float32)
    vectors = np.array([[0.5, 0.4], [0.4, 0.5], [0, 0.9], [0, 0.8]], np.float32)
    two, everyone = np.arange(2), np.arange(4)
    assert [hit.row for hit in nearest(vectors, wanted, 2, Limits(two, [unwanted]))] == [0]
    limits = Limits(two, [unwanted], measured=everyone)
    assert [hit.row for hit in nearest(vectors, wanted, 2, limits)] == [0, 1]


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 3000])
def test_float16_scores_match_float32(size: int) -> None:
    halves = unit(0, size, 96).astype(np.float16)
    query = unit(1, 1, 96)[0]
    np.testing.assert_allclose(scores(halves, query), halves.astype(np.float32) @ query, atol=3e-7)


def test_every_float16_is_converted_exactly() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)][:, None]  # signed zeros and subnormal numbers too
    np.testing.assert_array_equal(scores(finite, np.ones(1, np.float32)), finite[:, 0].astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("some", [[5, 3, 299], [*range(0, 300, 2)], []], ids=["few", "many", "none"])
def test_scores_of_selected_rows_match(some: list[int], dtype: str) -> None:
    vectors, (query,) = whole_numbers(0, 300, dtype), whole_numbers(1, 1)
    rows = np.array(some, np.int64)
    np.testing.assert_array_equal(scores(vectors, query, rows), scores(vectors, query)[rows])


def test_mapped_files_are_searched(tmp_path) -> None:
    np.save(tmp_path / "vectors.npy", unit(0, 50))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    query = unit(1, 1)[0]
    assert type(scores(mapped, query)) is np.ndarray
    assert nearest(mapped, query, 5) == nearest(np.array(mapped), query, 5)


def test_queries_are_weighted() -> None:
    query = combined(np.eye(3, dtype=np.float32), np.array([3, -4, 0]))
    assert query.dtype == np.float32
    np.testing.assert_allclose(query, [0.6, -0.8, 0], atol=1e-7)
    huge = combined(np.eye(3, dtype=np.float32), np.array([3e300, -4e300, 0]))
    np.testing.assert_allclose(huge, [0.6, -0.8, 0], atol=1e-7)


@pytest.mark.parametrize("weights", [[0, 0], [1, -1]])
def test_queries_that_cancel_out_are_refused(weights: list[float]) -> None:
    with pytest.raises(UsageError) as refused:
        combined(np.repeat(unit(0, 1), 2, axis=0), np.array(weights))
    assert (refused.value.message, refused.value.hint) == (
        "these queries cancel each other out",
        "change their weights",
    )
