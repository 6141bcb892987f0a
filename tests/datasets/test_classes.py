"""Folders that are classes."""

import json
from pathlib import Path
from typing import Any

import pytest

from cococli.datasets.classes import class_folders
from cococli.errors import UsageError


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Three classes, of pictures, videos and both."""
    for name in ("golden_retriever/b.jpg", "golden_retriever/sub/a.png", "n0212/c.mp4", "cat/d.webp", "cat/e.mov"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "cat/notes.txt").touch()
    (tmp_path / "README.jpg").touch()
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def refused(data: Path, names: Any = None) -> str:
    if names is not None:
        (data / "classes.json").write_text(names if isinstance(names, str) else json.dumps(names))
    with pytest.raises(UsageError) as caught:
        class_folders(data)
    return caught.value.message


def test_each_folder_is_a_class_of_the_pictures_and_videos_in_it(pets: Path):
    assert class_folders(pets) == {
        "cat": [pets / "cat/d.webp", pets / "cat/e.mov"],
        "golden retriever": [pets / "golden_retriever/b.jpg", pets / "golden_retriever/sub/a.png"],
        "n0212": [pets / "n0212/c.mp4"],
    }


def test_classes_json_names_the_classes_that_it_lists(pets: Path):
    (pets / "classes.json").write_text('{"n0212": "tabby, cat"}')
    assert list(class_folders(pets)) == ["cat", "golden retriever", "tabby, cat"]


def test_classes_that_cannot_be_are_refused(pets: Path, tmp_path: Path):
    file = pets / "classes.json"
    assert refused(pets, {"dog": "dog"}) == f"{file} names 'dog', which is no folder beside it"
    assert refused(pets, {"n0212": "cat"}) == f"two folders in {pets} are the class 'cat': one is n0212"
    for names in ([], {"cat": 7}, {"cat": " "}, "7"):
        assert refused(pets, names) == f"{file} is no object of names"
    assert refused(pets, "{") == (
        f"{file} is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )


def test_folders_that_are_no_classes_are_refused(pets: Path):
    assert refused(pets / "gone") == f"{pets / 'gone'} is no folder"
    assert refused(pets / "golden_retriever") == (
        f"{pets / 'golden_retriever'} has no two folders, which would be classes to tell apart"
    )
    (pets / "empty").mkdir()
    assert refused(pets) == f"{pets / 'empty'} holds no picture and no video"
