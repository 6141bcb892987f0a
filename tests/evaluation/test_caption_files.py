"""Captions from files of each kind."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.captioning.records import Failure, Record
from cococli.errors import UsageError
from cococli.evaluation.caption_files import References, matched, read_predictions, read_references

COCO = {
    "info": {},
    "images": [{"id": 139, "file_name": "000139.jpg"}, {"id": 7, "file_name": "val/000007.jpg"}],
    "annotations": [
        {"id": 1, "image_id": 139, "caption": "a dog"},
        {"id": 2, "image_id": 7, "caption": "a cat"},
        {"id": 3, "image_id": 139, "caption": "one dog"},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filename": "a.jpg", "imgid": 0, "cocoid": 5, "split": "test", "sentences": [{"raw": "a", "tokens": ["a"]}]},
        {"filename": "b.jpg", "imgid": 1, "split": "val", "sentences": [{"raw": "b"}, {"raw": "c"}]},
    ],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(content: Any, name: str = "a.json") -> Path:
    Path(name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return Path(name)


def refused(read: Any, *arguments: Any) -> str:
    with pytest.raises(UsageError) as caught:
        read(*arguments)
    assert "\n" not in caught.value.message
    return caught.value.message


def record(video: str, caption: str) -> Record:
    return Record(video, 0, 1, caption, -1, 0.3, (0.5,), "tiny")


def test_failed_records_are_skipped() -> None:
    outcomes = [record("v/a.mp4", "a dog"), Failure("v/b.mp4", "no video stream"), record("v/c\udce9.mp4", "")]
    path = written("\n".join(outcome.to_json("key") for outcome in outcomes), "out.jsonl")
    assert read_predictions(path) == {"v/a.mp4": "a dog", "v/c\udce9.mp4": ""}


def test_captions_by_coca_are_scored_as_decoded() -> None:
    ours = written(record("a.mp4", "a man's t-shirt").to_json(), "ours.jsonl")
    theirs = written({"a.mp4": "a man's t-shirt"})
    assert read_predictions(ours) == {"a.mp4": "a man 's t - shirt"}
    assert read_predictions(theirs) == {"a.mp4": "a man's t-shirt"}


def test_segments_of_a_video_are_refused() -> None:
    path = written("\n".join(record("a.mp4", caption).to_json() for caption in "bc"), "out.jsonl")
    assert refused(read_predictions, path) == "out.jsonl has several captions for a.mp4"


@pytest.mark.parametrize(
    "content",
    [
        [{"image_id": 1, "id": 77, "caption": "a dog"}, {"image_id": 2, "id": 78, "caption": "a cat"}],
        [{"id": 1, "caption": "a dog"}, {"file_name": "2", "caption": "a cat"}],
        {"1": "a dog", "2": "a cat"},
        {"1": ["a dog"], "2": "a cat"},
    ],
)
def test_results_of_others_are_read(content: Any) -> None:
    assert read_predictions(written(content)) == {"1": "a dog", "2": "a cat"}


def test_blank_lines_between_records_are_skipped() -> None:
    path = written('\ufeff{"image": "1.jpg", "caption": "a\\u2028b"}\n\n{"video": "2", "caption": "c"}\r\n', "a.jsonl")
    assert read_predictions(path) == {"1.jpg": "a\u2028b", "2": "c"}


def test_coco_annotations_are_grouped_by_picture() -> None:
    found = read_references(written(COCO))
    assert found.captions == {"139": ["a dog", "one dog"], "7": ["a cat"]}
    assert found.files == {"139": "000139.jpg", "7": "val/000007.jpg"}


def test_a_karpathy_file_gives_one_split() -> None:
    path = written(KARPATHY)
    assert read_references(path) == References({"5": ["a"]}, {"5": "a.jpg"})
    assert read_references(path, split="val") == References({"1": ["b", "c"]}, {"1": "b.jpg"})
    assert refused(read_references, path, "train") == "a.json has no split train, only test, val"


def test_plain_references_are_lists_of_captions() -> None:
    expected = {"1": ["a", "b"], "2": ["c"]}
    assert read_references(written({"1": ["a", "b"], "2": "c"})).captions == expected
    lines = '{"id": 1, "captions": ["a", "b"]}\n{"id": 2, "caption": "c"}'
    assert read_references(written(lines, "a.jsonl")).captions == expected
    lines = '{"id": 1, "caption": "a"}\n{"id": 2, "caption": "c"}\n{"id": 1, "caption": "b"}'
    assert read_references(written(lines, "a.jsonl")).captions == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 1}], "entry 1 of a.json has no picture or no caption"),
        ([{"image_id": 1, "caption": "a"}, {"caption": "a"}], "entry 2 of a.json has no picture or no caption"),
        ([{"image_id": 1, "caption": "a"}, 7], "entry 2 of a.json has no picture or no caption"),
        ({"1": 7}, "entry 1 of a.json has 7 instead of a caption"),
        ({"1": ["a", ["b"]]}, "entry 1 of a.json has ['b'] instead of a caption"),
        ([{"image_id": [1], "caption": "a"}], "entry 1 of a.json has [1] instead of a picture"),
        ([{"image_id": 1.5, "caption": "a"}], "entry 1 of a.json has 1.5 instead of a picture"),
        ('[{"image_id": 1e999, "caption": "a"}]', "entry 1 of a.json has inf instead of a picture"),
        (7, "a.json holds no captions"),
        ("[1,\n2,\n", "a.json is not valid JSON: Expecting value: line 3 column 1 (char 7)"),
        ("[NaN]", "a.json is not valid JSON: it holds NaN"),
        ("[" * 100_000, "a.json is not valid JSON: it is nested too deeply"),
    ],
)
def test_a_file_that_holds_no_captions_says_where(content: Any, message: str) -> None:
    assert refused(read_predictions, written(content)) == message
    assert refused(read_references, written(content)) == message


def test_a_damaged_line_is_named() -> None:
    good = '{"id": 1, "caption": "a"}\n'
    assert refused(read_predictions, written(good + "\n{", "a.jsonl")) == (
        "line 3 of a.jsonl is not valid JSON: Expecting property name enclosed in double quotes"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": [{"image_id": 1}]}, "annotations[0] of a.json: 'caption' is missing or not a text"),
        ({"annotations": [7]}, "annotations[0] of a.json: 'image_id' is missing or not a number or a text"),
        ({"images": [{"id": 1}]}, "images[0] of a.json: 'split' is missing or not a text"),
        ({"images": 3, "annotations": []}, "a.json: 'images' is missing or not a list"),
        (
            {"images": [{"split": "test", "imgid": 1, "filename": "a", "sentences": [3]}]},
            "sentences of images[0] of a.json: 'raw' is missing or not a text",
        ),
        ({"annotations": []}, "a.json has no captions"),
        ({}, "a.json has no captions"),
    ],
)
def test_references_of_wrong_types_are_named(content: Any, message: str) -> None:
    assert refused(read_references, written(content)) == message


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_tables_are_read_like_other_lists(name: str) -> None:
    rows = [("image_id", "title", "alt"), ("007", "a dog, brown", "x"), ("b.jpg", "a cat", "y")]
    text = "\n".join("\t".join(row) for row in rows)
    if name == "a.jsonl":
        text = "\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:])
    assert read_predictions(written(text, name)) == {"007": "a dog, brown", "b.jpg": "a cat"}
    assert read_references(Path(f"{name}:alt")).captions == {"007": ["x"], "b.jpg": ["y"]}
    notes: list[str] = []
    read_predictions(written("image,caption\na.jpg,a dog, brown\n", "b.csv"), notes)
    assert len(notes) == 1
    Path("b.csv").write_bytes(b"image,caption\na.jpg,caf\xe9\n")
    assert refused(read_predictions, Path("b.csv")) == "line 2 of b.csv is not UTF-8 text"


def test_ids_are_matched_by_value() -> None:
    references = read_references(written({**COCO, "images": [{"id": 139.0, "file_name": "a.jpg"}]}))
    for picture in (139, 139.0, "139", "000000000139", "val2017/000000000139.jpg", "val2017\\a.jpg"):
        predictions = read_predictions(written([{"image_id": picture, "caption": "x"}]))
        assert matched(predictions, references) == {"139": "x"}


def test_a_file_that_cannot_be_read_says_why() -> None:
    Path("sub.json").mkdir()
    assert refused(read_predictions, Path("gone.json")) == "cannot read gone.json: No such file or directory"
    assert refused(read_references, Path("sub.json")) == "cannot read sub.json: Is a directory"


@given(st.binary(max_size=60), st.sampled_from(["a.json", "a.jsonl"]))
def test_any_content_is_captions_or_usage_error(content: bytes, name: str) -> None:
    Path(name).write_bytes(content)
    for read in (read_predictions, read_references):
        try:
            read(Path(name))
        except UsageError as error:
            assert name in error.message and "\n" not in error.message


def test_predictions_match_by_id_path_or_stem() -> None:
    references = read_references(written(COCO))
    for first, second in (("139", "7"), ("x/000139.jpg", "val/000007.jpg"), ("000139", "y/000007.mp4")):
        assert matched({first: "a", second: "b", "other.jpg": "c"}, references) == {
            "139": "a",
            "7": "b",
            "other.jpg": "c",
        }


def test_references_without_files_match_by_name() -> None:
    assert matched({"v/a.mp4": "x", "b": "y"}, References({"a": ["x"], "w/b.mp4": ["y"]}, {})) == {
        "a": "x",
        "w/b.mp4": "y",
    }


def test_an_id_comes_before_a_name() -> None:
    references = References({"7": ["a"], "1": ["b"]}, {"7": "1.jpg", "1": "7.jpg"})
    assert matched({"7": "x", "1": "y"}, references) == {"7": "x", "1": "y"}


def test_a_name_that_fits_several_pictures_is_refused() -> None:
    references = References({"1": ["a"], "2": ["b"]}, {"1": "x/a.jpg", "2": "y/a.jpg"})
    assert matched({"y/a.jpg": "c"}, references) == {"2": "c"}
    assert refused(matched, {"z/a.jpg": "c"}, references) == "z/a.jpg may be any of 1, 2"


def test_two_predictions_for_a_picture_are_refused() -> None:
    references = References({"a": ["x"]}, {})
    assert refused(matched, {"x/a.jpg": "b", "a": "c"}, references) == "x/a.jpg and a are both captions of a"
