"""What a run trains on and holds out, and what it says of data that is not whole."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.tiny_run import RecordingReporter, captioned, write_list
from training.training_fixtures import pictures

from cococli.datasets.dataset import Dataset, Example
from cococli.errors import UsageError
from cococli.requests import FinetuneRequest
from cococli.tokenizer import encode
from cococli.training.data import TrainingData, find_data, is_truncated, split_off, spread

CONTEXT = 12


def find(folder: Path, **options: Any) -> tuple[TrainingData, list[str]]:
    """Return the data, and the notes about it."""
    reporter = RecordingReporter()
    return find_data(FinetuneRequest(folder, **options), CONTEXT, reporter), reporter.notes


def dataset(count: int) -> Dataset:
    examples = tuple(Example(Path(f"{number}.png"), ("a",), str(number)) for number in range(count))
    return Dataset(Path("x.json"), "val", examples, {})


def names(dataset: Any) -> list[str]:
    return [example.path.name for example in dataset.examples]


def unsplit(folder: Path, count: int, caption: str = "a thing") -> Path:
    folder.mkdir()
    write_list(folder, [{"path": path.name, "caption": caption} for path in pictures(folder, count)])
    return folder


def coco(folder: Path, split: str, count: int, first: int = 0) -> None:
    """A split in COCO's layout."""
    place, notes = folder / f"{split}2017", folder / "annotations"
    place.mkdir(parents=True)
    notes.mkdir(exist_ok=True)
    images = [
        {"id": first + number, "file_name": path.name}
        for number, path in enumerate(pictures(place, count))
    ]  # fmt: skip
    captions = [{"image_id": image["id"], "caption": f"thing {image['id']}"} for image in images]
    (notes / f"captions_{split}2017.json").write_text(json.dumps({"images": images, "annotations": captions}))


def test_the_val_split_is_held_out(tmp_path: Path) -> None:
    data, notes = find(captioned(tmp_path / "data", train=3, val=2))
    assert names(data.train) == ["0.png", "1.png", "2.png"]
    assert data.held_out and names(data.held_out) == ["3.png", "4.png"]
    assert notes == ["train: 3 files, 6 captions", "val: 2 files, 4 captions"]


def test_held_out_examples_are_spread_evenly(tmp_path: Path) -> None:
    data, _ = find(captioned(tmp_path / "data", train=2, val=6), hold_out=3)
    assert data.held_out and names(data.held_out) == ["2.png", "4.png", "6.png"]
    assert names(data.train) == ["0.png", "1.png"]


def test_nothing_is_held_out_where_nothing_is_wanted(tmp_path: Path) -> None:
    data, notes = find(unsplit(tmp_path / "data", 3), hold_out=0)
    assert (len(data.train.examples), data.held_out) == (3, None)
    assert notes == ["all: 3 files, 3 captions"]


def test_held_out_examples_are_not_trained_on(tmp_path: Path) -> None:
    folder = unsplit(tmp_path / "data", 40)
    data, notes = find(folder)
    assert data.held_out
    assert {*names(data.train)}.isdisjoint(names(data.held_out))
    assert (len(data.train.examples), len(data.held_out.examples)) == (32, 8)
    assert notes[1:] == [f"{folder / 'captions.jsonl'} has no splits: 8 of 40 files are held out"]
    assert find(folder)[0] == data


def test_hold_out_limits_the_split_off_share(tmp_path: Path) -> None:
    data, _ = find(unsplit(tmp_path / "data", 60), hold_out=1)
    assert data.held_out
    assert (len(data.train.examples), len(data.held_out.examples)) == (59, 1)


def test_annotations_of_train_alone_are_split(tmp_path: Path) -> None:
    coco(tmp_path / "coco", "train", 20)
    data, notes = find(tmp_path / "coco")
    assert (len(data.train.examples), len(data.held_out.examples if data.held_out else ())) == (15, 5)
    assert notes[1:] == [f"{tmp_path / 'coco'} has no val split, only train: 5 of 20 files are held out"]


def test_a_damaged_val_split_is_notes_of(tmp_path: Path) -> None:
    for split in ("train", "val"):
        coco(tmp_path / "coco", split, 2)
    damaged = tmp_path / "coco" / "annotations" / "captions_val2017.json"
    damaged.write_text("{")
    _, notes = find(tmp_path / "coco")
    assert notes[1].startswith(f"{damaged} ")
    assert notes[1].endswith(": 1 of 2 files are held out")


def test_one_example_alone_is_not_held_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        find(unsplit(tmp_path / "data", 1))
    assert caught.value.message == "only one file has captions, so none can be held out"
    assert caught.value.hint == "to train on it, use --hold-out 0"


def test_problems_of_the_data_are_noted(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "data", train=4, val=1)
    (folder / "0.png").unlink()
    (folder / "1.png").write_bytes(b"")
    with (folder / "captions.jsonl").open("a") as file:
        file.write(json.dumps({"path": "2.png", "captions": ["word " * 20, " "], "split": "train"}) + "\n")
    data, notes = find(folder)
    assert names(data.train) == ["2.png", "3.png"]
    missing = f"no pictures found for 4 of 9 captions (first: {folder / '0.png'})"
    assert notes[0] == f"train: 4 files, 9 captions; 1 empty captions; {missing}; 1 captions truncated to 12 tokens"


@given(st.text(max_size=40), st.integers(2, 30))
def test_captions_longer_than_the_context_are_truncated(caption: str, context: int) -> None:
    assert is_truncated(caption, context) == (len(encode(caption)) > context - 2)


def test_long_words_are_not_truncated() -> None:
    assert not is_truncated("photograph " * 5, 7)
    assert is_truncated("photograph " * 6, 7)


def test_strictly_that_ends_it(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "data", train=2, val=2)
    find(folder, strict=True)
    (folder / "3.png").unlink()
    with pytest.raises(UsageError) as caught:
        find(folder, strict=True)
    missing = f"no pictures found for 2 of 4 captions (first: {folder / '3.png'})"
    assert caught.value.message == f"val: 2 files, 4 captions; {missing}"
    assert caught.value.hint == "to train on the rest, leave out --strict"


def test_annotations_without_pictures_name_the_flag_that_helps(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "data", train=2, val=0)
    for path in folder.glob("*.png"):
        path.rename(tmp_path / path.name)
    with pytest.raises(UsageError) as caught:
        find(folder)
    assert caught.value.message == f"no pictures found for 4 of 4 captions (first: {folder / '0.png'})"
    assert caught.value.hint == "pass the picture folder with --images"
    data, _ = find(folder, images=tmp_path)
    assert len(data.train.examples) + len(data.held_out.examples if data.held_out else ()) == 2


def test_a_karpathy_split_may_be_elsewhere(tmp_path: Path) -> None:
    place = tmp_path / "data" / "val2014"
    place.mkdir(parents=True)
    split = {"images": [
        {"filename": path.name, "filepath": "val2014", "split": part, "cocoid": number,
         "sentences": [{"raw": f"thing {number}"}]}
        for number, (path, part) in enumerate(zip(pictures(place, 3), ("restval", "train", "val"), strict=True))
    ]}  # fmt: skip
    (tmp_path / "split.json").write_text(json.dumps(split))
    data, _ = find(tmp_path / "data", karpathy=tmp_path / "split.json")
    assert names(data.train) == ["0.png", "1.png"]
    assert data.held_out and names(data.held_out) == ["2.png"]


def test_split_does_not_depend_on_order() -> None:
    many = dataset(100)
    train, held_out = split_off(many, 1000)
    assert (len(train.examples), len(held_out.examples)) == (92, 8)
    assert {*train.examples} | {*held_out.examples} == {*many.examples}
    _, again = split_off(replace(many, examples=many.examples[::-1]), 1000)
    assert {*again.examples} == {*held_out.examples}
    assert [int(one.id) for one in held_out.examples] != [*range(5)]


@pytest.mark.parametrize(
    ("count", "most", "before", "out"),
    [(3, 100, 0, 1), (20, 100, 0, 5), (32, 100, 0, 8), (400, 100, 0, 20), (9000, 100, 0, 100), (100, 2, 0, 2),
     (40, 100, 2, 2)],
)  # fmt: skip
def test_eight_are_split_off_or_a_quarter(count: int, most: int, before: int, out: int) -> None:
    assert len(split_off(dataset(count), most, before)[1].examples) == out


@pytest.mark.parametrize(("count", "ids"), [(1, "0"), (3, "0 2 4"), (7, "0 1 2 3 4 5 6"), (9, "0 1 2 3 4 5 6")])
def test_examples_are_taken_at_equal_distances(count: int, ids: str) -> None:
    assert " ".join(example.id for example in spread(dataset(7).examples, count)) == ids
