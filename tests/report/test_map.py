"""Maps place similar vectors together and name clusters by their captions."""

import numpy as np
import pytest

from cococli.report.map import group, label, project

DIMENSION = 64


def blobs(count: int, size: int) -> np.ndarray:
    """Vectors around `count` orthogonal centers, `size` of each, L2-normalized."""
    random = np.random.default_rng(0)
    centers = np.repeat(np.eye(count, DIMENSION), size, axis=0)
    vectors = centers + random.normal(0, 0.02, centers.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_projection_keeps_groups_apart() -> None:
    method, positions = project(blobs(3, 5))
    assert method == "PCA"
    assert (positions.min(), positions.max()) == (0, 1)
    centers = positions.reshape(3, 5, 2).mean(axis=1, keepdims=True)
    spread = np.abs(positions.reshape(3, 5, 2) - centers).max()
    assert spread < 0.2 < min(np.abs(centers[one] - centers[other]).max() for one, other in ((0, 1), (0, 2), (1, 2)))


def test_umap_is_used_where_installed() -> None:
    pytest.importorskip("umap", reason="needs umap-learn")
    method, positions = project(blobs(3, 20))
    assert (method, positions.shape) == ("UMAP", (60, 2))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("vectors", [np.ones((1, DIMENSION)), np.ones((9, DIMENSION)), np.ones((2, 1))], ids=str)
def test_equal_vectors_lie_in_the_middle(vectors: np.ndarray) -> None:
    assert (project(vectors)[1] == 0.5).all()
    assert (group(vectors) >= 0).all()


def test_groups_are_clusters_of_similar_vectors() -> None:
    found = group(blobs(4, 4))
    assert all(len(set(found[start : start + 4].tolist())) == 1 for start in range(0, 16, 4))
    assert sorted(set(found.tolist())) == list(range(found.max() + 1))


def test_labels_are_words_that_set_captions_apart() -> None:
    dogs = ["a brown dog on the grass", "a brown dog jumps on grass"]
    boats = ["a boat on the sea", "the boat at sea with a dog"]
    assert label([dogs, boats]) == ["brown grass dog", "boat sea dog"] or label([dogs, boats])[0] == "brown dog grass"
    assert label([["ein Boot"], ["..."]]) == ["ein boot", "no words"]
