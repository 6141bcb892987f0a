"""Classes by their descriptions, by hand."""

from pathlib import Path

import numpy as np
import pytest

from cococli.errors import UsageError
from cococli.evaluation.zeroshot import SETS, Confusion, accuracy, classifier, read_templates

CLASSES = np.eye(3, dtype=np.float32)


def test_the_sets_of_clip_are_whole() -> None:
    sets = [read_templates(name) for name in SETS]
    assert [len(templates) for templates in sets] == [80, 7, 28]
    assert all(template.count("{}") == 1 for templates in sets for template in templates)
    assert sets[0][:2] == ["a bad photo of a {}.", "a photo of many {}."]
    assert set(sets[1]) < set(sets[0])


def test_templates_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("\ufeffa drawing of a {}\n\n  {} in {braces}\n", encoding="utf-8")
    assert read_templates(str(tmp_path / "mine.txt")) == ["a drawing of a {}", "{} in {braces}"]


def test_templates_that_cannot_be_say_why(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    for content, message in (
        (b"a {}\na cat\n", f"line 2 of {path} has no {{}} for the class"),
        (b"\n \n", f"{path} holds no template"),
        (b"\xff{}", f"{path} is not UTF-8 text"),
    ):
        path.write_bytes(content)
        with pytest.raises(UsageError) as caught:
            read_templates(str(path))
        assert caught.value.message == message


def test_unknown_template_set_lists_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        read_templates("imagenet")
    assert caught.value.message == "cannot read templates from imagenet: No such file or directory"
    assert caught.value.hint == "the sets that come with coca are openai, simple, actions"


def test_classes_are_mean_normalized_descriptions() -> None:
    embedded: list[list[str]] = []

    def embed(texts: list[str]) -> np.ndarray:
        embedded.append(texts)
        return np.array([[3.0, 0.0], [0.0, 0.5]])  # of different lengths, but each counts the same

    vectors = classifier(embed, ["cat", "{}"], ["a {}", "{} {}"])
    assert embedded == [["a cat", "cat cat"], ["a {}", "{} {}"]]
    np.testing.assert_allclose(vectors, np.full((2, 2), 0.5**0.5), atol=1e-6)


def test_a_made_set_counts_as_by_hand() -> None:
    images = np.array([[9, 1, 0], [3, 2, 1], [3, 1, 2], [0, 9, 1], [9, 5, 0]], np.float32)
    found = accuracy(images, np.array([0, 0, 2, 1, 1]), CLASSES, ks=(1, 2))
    assert found.ranks.tolist() == [1, 1, 2, 1, 2]
    assert found.top == {1: pytest.approx(3 / 5), 2: 1.0}
    assert found.per_class == {0: 1.0, 1: 0.5, 2: 0.0}
    assert found.mean_per_class == pytest.approx(0.5)
    assert found.confusions == [Confusion(2, 0, 1), Confusion(1, 0, 1)]


def test_a_class_without_pictures_does_not_count() -> None:
    assert accuracy(CLASSES[:2], np.array([0, 1]), CLASSES).per_class == {0: 1.0, 1: 1.0}


def test_the_most_frequent_confusion_comes_first() -> None:
    found = accuracy(CLASSES[[1, 2, 2]], np.zeros(3, int), CLASSES)
    assert found.confusions == [Confusion(0, 2, 2), Confusion(0, 1, 1)]


def test_classes_that_are_all_the_same_recognize_nothing() -> None:
    found = accuracy(CLASSES, np.arange(3), np.ones((3, 3), np.float32) / 3**0.5, ks=(1, 2))
    assert found.top == {1: 0.0, 2: 0.0}


def test_there_must_be_a_picture() -> None:
    with pytest.raises(UsageError, match=r"^there are no pictures to classify$"):
        accuracy(np.empty((0, 3)), np.empty(0, int), CLASSES)
