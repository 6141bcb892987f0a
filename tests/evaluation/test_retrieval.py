"""Recall, by hand and against a count of sorted lists."""

import numpy as np
import pytest

from cococli.errors import ModelError, UsageError
from cococli.evaluation import retrieval
from cococli.evaluation.retrieval import recall

# Two texts per image; by angle. Images stand at 0, 30 and 90 degrees.
IMAGES = np.radians([0, 30, 90])
TEXTS = np.radians([2, 17, 40, 5, 80, 50])
OWNERS = np.array([0, 0, 1, 1, 2, 2])


def at(angles: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_a_made_set_counts_as_by_hand() -> None:
    found = recall(at(IMAGES), at(TEXTS), OWNERS, ks=(1, 2))
    assert found.text_ranks.tolist() == [1, 2, 1, 2, 1, 2]
    assert found.image_ranks.tolist() == [1, 1, 1]  # of an image's texts the nearest counts
    assert found.text_to_image == {1: 0.5, 2: 1.0}
    assert found.image_to_text == {1: 1.0, 2: 1.0}


def test_nearer_texts_of_others_count_as_misses() -> None:
    texts = np.radians([60, 70, 1, 2, 80, 85])  # the first image is nearest to both texts of the second
    found = recall(at(IMAGES), at(texts), OWNERS, ks=(1, 2, 3), grouped=True)
    assert found.image_ranks.tolist() == [3, 1, 1]
    assert found.group_ranks is not None and found.group_ranks.tolist() == [2, 1, 1]  # texts of the second count as one
    mixed = np.array([5, 0, 3, 1, 4, 2])
    again = recall(at(IMAGES), at(texts[mixed]), OWNERS[mixed], grouped=True)
    assert again.group_ranks is not None and again.group_ranks.tolist() == [2, 1, 1]
    assert found.image_to_text == {1: pytest.approx(2 / 3), 2: pytest.approx(2 / 3), 3: 1.0}


def test_lengths_of_vectors_do_not_matter() -> None:
    scaled = recall(at(IMAGES) * [[3], [0.1], [7]], at(TEXTS) * np.arange(1, 7)[:, None], OWNERS, ks=(1, 2))
    np.testing.assert_array_equal(scaled.text_ranks, recall(at(IMAGES), at(TEXTS), OWNERS).text_ranks)


def test_blocks_count_as_sorted_lists_do(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    images, owners = random.normal(size=(40, 8)), random.permutation(np.r_[np.arange(40), random.integers(0, 40, 75)])
    texts = images[owners] + random.normal(size=(115, 8))
    similarities = retrieval.normalized(texts) @ retrieval.normalized(images).T
    monkeypatch.setattr(retrieval, "_BLOCK", 300)  # a few rows
    found = recall(images, texts, owners, ks=(1, 5, 10))
    nearest_images = np.argsort(-similarities, axis=1)
    nearest_texts = np.argsort(-similarities.T, axis=1)
    for k in (1, 5, 10):
        hits = [owner in nearest[:k] for owner, nearest in zip(owners, nearest_images, strict=True)]
        assert found.text_to_image[k] == pytest.approx(np.mean(hits))
        hits = [image in owners[nearest[:k]] for image, nearest in enumerate(nearest_texts)]
        assert found.image_to_text[k] == pytest.approx(np.mean(hits))


@pytest.mark.parametrize("noise", [0, 1e-8])
def test_constant_embeddings_find_nothing(noise: float) -> None:
    random = np.random.default_rng(0)
    point = random.normal(size=64)
    images = point + noise * random.normal(size=(30, 64))
    texts = point + noise * random.normal(size=(60, 64))
    found = recall(images, texts, np.repeat(np.arange(30), 2))
    assert set(found.text_to_image.values()) == set(found.image_to_text.values()) == {0.0}
    assert set(found.text_ranks) == {30} and set(found.image_ranks) == {59}


@pytest.mark.parametrize("owners", [[0, 1, 3], [0, 0, 1], [0, 1, -1]])
def test_texts_and_images_must_belong_together(owners: list[int]) -> None:
    with pytest.raises(UsageError, match=r"^each text needs an image, and each image a text$"):
        recall(np.eye(3), np.eye(3), np.array(owners))


def test_there_must_be_an_image() -> None:
    with pytest.raises(UsageError, match=r"^each text needs an image, and each image a text$"):
        recall(np.empty((0, 3)), np.empty((0, 3)), np.empty(0, int))


def test_each_text_needs_an_owner() -> None:
    with pytest.raises(UsageError, match=r"^there are 3 texts, but image_of_text has the shape \(2,\)$"):
        recall(np.eye(3), np.eye(3), np.array([0, 1]))


@pytest.mark.parametrize("damage", [0.0, np.nan, np.inf])
def test_invalid_vectors_are_a_model_error(damage: float) -> None:
    texts = np.eye(3)
    texts[2] = damage
    with pytest.raises(ModelError, match=r"^this model's vectors are not numbers: its weights are damaged\n"):
        recall(np.eye(3), texts, np.arange(3))
