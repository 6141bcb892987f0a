"""Folders that are classes."""

import json
from pathlib import Path
from typing import Any

import pytest
from media.tar_fixtures import write_tar

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


def test_each_folder_is_a_class(pets: Path):
    assert class_folders(pets) == {
        "cat": [pets / "cat/d.webp", pets / "cat/e.mov"],
        "golden retriever": [pets / "golden_retriever/b.jpg", pets / "golden_retriever/sub/a.png"],
        "n0212": [pets / "n0212/c.mp4"],
    }


def test_classes_json_names_the_classes_that_it_lists(pets: Path):
    (pets / "classes.json").write_text('{"n0212": "tabby, cat"}')
    assert list(class_folders(pets)) == ["cat", "golden retriever", "tabby, cat"]


def test_invalid_classes_are_refused(pets: Path, tmp_path: Path):
    file = pets / "classes.json"
    assert refused(pets, {"dog": "dog"}) == f"{file} names 'dog', but there is no such folder"
    assert refused(pets, {"n0212": "cat"}) == f"two folders in {pets} are the class 'cat': one is n0212"
    for names in ([], {"cat": 7}, {"cat": " "}, "7"):
        assert refused(pets, names) == f"{file} is not a JSON object of names"
    assert refused(pets, "{") == (
        f"{file} is not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    )


def test_folders_without_classes_are_refused(pets: Path):
    assert refused(pets / "gone") == f"{pets / 'gone'} is not a folder"
    assert refused(pets / "golden_retriever") == (f"{pets / 'golden_retriever'} has fewer than two folders")
    (pets / "empty").mkdir()
    assert refused(pets) == f"{pets / 'empty'} holds no picture and no video"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n"),
        ("words.txt", "n01440764\ttench, Tinca tinca\nn02012849\tcrane\nn03126707\tcrane\nn00001740\tentity\n"),
        ("imagenet_class_index.json", {"0": ["n01440764", "tench"], "1": ["n02012849", "crane"],
                                       "2": ["n03126707", "crane"]}),
        ("classnames.txt", "n01440764 tench\nn02012849 crane\nn03126707 crane\n"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("beside", [".", ".."])
def test_imagenet_folders_are_named_by_its_lists(tmp_path: Path, name: str, content: Any, beside: str) -> None:
    folder = tmp_path / "val"
    for wnid in ("n01440764", "n02012849", "n03126707"):
        (folder / wnid).mkdir(parents=True)
        (folder / wnid / "a.jpg").touch()
    assert refused(folder) == f"3 of 3 folders in {folder} are numbers, not names of classes: n01440764"
    (folder / beside / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert list(class_folders(folder)) == ["tench", "crane bird", "construction crane"]


@pytest.mark.parametrize("content", ["", "n0212", "{", "[]", '{"n0212": 1}', '{"0": ["n0212"]}'])
def test_invalid_class_names_are_refused(pets: Path, tmp_path: Path, content: str) -> None:
    for suffix in (".txt", ".json"):
        path = tmp_path / f"names{suffix}"
        path.write_text(content)
        if suffix == ".json" or " " not in content:
            with pytest.raises(UsageError, match=str(path)):
                class_folders(pets, path)


def test_class_names_can_be_given(pets: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"n0212": "tabby, cat", "other": "x"}')
    assert list(class_folders(pets, names)) == ["cat", "golden retriever", "tabby, cat"]


def test_endless_numbers_are_not_classes(tmp_path: Path) -> None:
    """Python refuses to convert more than 4,300 digits."""
    digits = b"9" * 5000
    tar = write_tar(tmp_path / "a.tar", [("0.png", b"x"), ("0.cls", digits), ("1.png", b"x"), ("1.cls", b"0")])
    assert list(class_folders(tar)) == ["0", digits.decode()]
    (tmp_path / "names.json").write_text(json.dumps({digits.decode(): "a", "0": "b"}))
    write_tar(tar, [("0.png", b"x"), ("0.cls", b"0"), ("1.png", b"x"), ("1.cls", b"1")])
    with pytest.raises(UsageError, match="does not hold a different name for each class"):
        class_folders(tar, tmp_path / "names.json")
