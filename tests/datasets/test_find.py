"""Data sets in every layout, made small and found."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cococli.datasets.dataset import Dataset, Example
from cococli.datasets.find import find_dataset
from cococli.errors import UsageError

LAYOUTS = (
    "it may hold annotations/captions_train2017.json with train2017/, dataset_coco.json, captions.jsonl, .csv or .txt, "
    ".parquet or WebDataset .tar files, or a .txt beside each picture"
)


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def annotations(pictures: dict[Any, str], captions: Sequence[tuple[Any, Any]]) -> dict[str, Any]:
    """What COCO's files hold of pictures, id to name, and of pairs of a picture's id and a caption."""
    return {
        "images": [{"id": image, "file_name": name} for image, name in pictures.items()],
        "annotations": [{"id": 1, "image_id": image, "caption": caption} for image, caption in captions],
    }


def karpathy(*pictures: tuple[int, str, str, str]) -> dict[str, Any]:
    """What Karpathy's files hold of pictures: id, folder, name and split."""
    return {
        "images": [
            {
                "cocoid": image,
                "filepath": folder,
                "filename": name,
                "split": split,
                "sentences": [{"raw": f"is {name}"}],
            }
            for image, folder, name, split in pictures
        ]
    }


def refused(data: Path, *arguments: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        find_dataset(data, *(arguments or ("val",)))
    assert "\n" not in caught.value.message
    return caught.value


def paths(dataset: Dataset) -> list[Path]:
    return [example.path for example in dataset.examples]


DOG = annotations({9: "a.jpg"}, [(9, "a dog")])


@pytest.mark.parametrize("year", ["2014", "2017", "2031", ""])
@pytest.mark.parametrize("inside", ["annotations", ""])
@pytest.mark.parametrize("pictures", ["{}", "images/{}", "images", ""])
def test_coco_of_any_year_is_found(tmp_path: Path, year: str, inside: str, pictures: str):
    source = write(tmp_path / inside / f"captions_val{year}.json", DOG)
    picture = tmp_path / pictures.format(f"val{year}") / "a.jpg"
    touch(picture)
    assert find_dataset(tmp_path, "val") == Dataset(source, "val", (Example(picture, ("a dog",), "9"),), {})


def test_captions_keep_their_order_and_pictures_theirs(tmp_path: Path):
    captions = [(2, "a cat"), (1, " a dog\n"), (2, "a cat"), (1, "Eine Dögge")]
    write(
        tmp_path / "captions_train2014.json", annotations({1: "COCO_train2014_000000000001.jpg", 2: "b.jpg"}, captions)
    )
    touch(tmp_path / "train2014/b.jpg")
    dataset = find_dataset(tmp_path, "train")
    assert [example.captions for example in dataset.examples] == [("a dog", "Eine Dögge"), ("a cat", "a cat")]
    assert paths(dataset)[0] == tmp_path / "train2014/COCO_train2014_000000000001.jpg"
    assert dataset.captions == 4


def test_skipped_entries_are_counted(tmp_path: Path):
    captions = [(1, "a dog"), (1, ""), (1, " \n"), (1, None), (1, 7), (1, "\ud800"), (2, []), (7, "who?"), (7, "what?")]
    content = annotations({1: "a.jpg", 2: "b.jpg", 3: "c.jpg"}, captions)
    content["images"].append({"id": 1, "file_name": "a.jpg"})
    write(tmp_path / "captions_val2017.json", content)
    touch(tmp_path / "val2017/a.jpg")
    dataset = find_dataset(tmp_path, "val")
    assert dataset.examples == (Example(tmp_path / "val2017/a.jpg", ("a dog",), "1"),)
    assert dataset.left_out == {
        "captions of unknown files": 2,
        "empty captions": 6,
        "files without a caption": 2,
        "files listed twice": 1,
    }


@pytest.mark.parametrize("one", [42, "42", "000000000042", 42.0, "42.0"])
@pytest.mark.parametrize("other", [42, "000000000042", 42.0])
def test_ids_are_compared_by_value(tmp_path: Path, one: Any, other: Any):
    write(tmp_path / "captions_val2017.json", annotations({one: "a.jpg"}, [(other, "a dog")]))
    content = annotations({}, [(other, "a dog")]) | {"images": [{"id": one, "file_name": "a.jpg"}]}
    write(tmp_path / "captions_val2017.json", content)
    touch(tmp_path / "val2017/a.jpg")
    assert find_dataset(tmp_path, "val").examples == (Example(tmp_path / "val2017/a.jpg", ("a dog",), "42"),)


def test_two_pictures_of_one_id_are_refused(tmp_path: Path):
    content = {"annotations": [], "images": [{"id": 7, "file_name": "a.jpg"}, {"id": "007", "file_name": "b.jpg"}]}
    source = write(tmp_path / "captions_val2017.json", content)
    assert refused(tmp_path).message == f"images[1] of {source}: 'b.jpg' has the id of 'a.jpg': 7"


def test_pictures_may_lie_in_several_folders(tmp_path: Path):
    names = {1: "a.jpg", 2: "b.jpg", 3: "c.jpg", 4: "d.jpg", 5: "sub\\e.jpg"}
    write(tmp_path / "captions_val2017.json", annotations(names, [(image, "x") for image in names]))
    places = ["val2017/a.jpg", "images/b.jpg", "train2017/c.jpg", "images/test2014/d.jpg", "val2017/sub/e.jpg"]
    touch(*(tmp_path / place for place in places))
    assert paths(find_dataset(tmp_path, "val")) == [tmp_path / place for place in places]
    assert paths(find_dataset(tmp_path, "val", images=tmp_path)) == [tmp_path / place for place in places]


def test_same_names_in_another_split_are_ignored(tmp_path: Path):
    write(tmp_path / "captions_val.json", annotations({1: "1.jpg", 2: "2.jpg"}, [(1, "x"), (2, "y")]))
    touch(tmp_path / "val/1.jpg", tmp_path / "train/1.jpg", tmp_path / "train/2.jpg")
    assert paths(find_dataset(tmp_path, "val")) == [tmp_path / "val/1.jpg", tmp_path / "val/2.jpg"]


def test_backslashes_are_read_as_windows_writes_them(tmp_path: Path):
    literal, nested = "odd\\name.jpg", "val2017\\a.jpg"
    write(tmp_path / "captions_val2017.json", annotations({1: literal, 2: nested}, [(1, "x"), (2, "y")]))
    touch(tmp_path / "val2017" / literal, tmp_path / "val2017/a.jpg")
    assert paths(find_dataset(tmp_path, "val")) == [tmp_path / "val2017" / literal, tmp_path / "val2017/a.jpg"]


def test_texts_beside_pictures_are_a_data_set(tmp_path: Path):
    for split in ("train", "val"):
        touch(tmp_path / split / "0/1.jpg", tmp_path / split / "0/2.jpg")
        write(tmp_path / split / "0/1.txt", f"a {split} dog")
    val = find_dataset(tmp_path, "val")
    assert val.examples == (Example(tmp_path / "val/0/1.jpg", ("a val dog",), "val/0/1.jpg"),)
    assert (val.source, val.split, val.left_out) == (tmp_path, "val", {"files without a caption": 1})
    assert find_dataset(tmp_path / "train", "val").split is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("captions.txt", "image,caption\na.jpg,a dog\n"),
        ("captions.tsv", "filepath\ttitle\na.jpg\ta dog\n"),
        ("results.csv", "image_name| comment_number| comment\na.jpg| 0| a dog\n"),
        ("Flickr8k.token.txt", "a.jpg#0\ta dog\n"),
    ],
)
def test_lists_are_found_by_their_usual_names(tmp_path: Path, name: str, content: str):
    source = write(tmp_path / name, content)
    touch(tmp_path / "Images/a.jpg")
    assert find_dataset(tmp_path, "val").examples == (Example(tmp_path / "Images/a.jpg", ("a dog",), "a.jpg"),)
    assert find_dataset(source, "val") == find_dataset(tmp_path, "val")


def test_latest_year_with_pictures_is_used(tmp_path: Path):
    for year in ("2014", "2017"):
        write(tmp_path / f"annotations/captions_val{year}.json", DOG)
    touch(tmp_path / "val2014/a.jpg")
    assert find_dataset(tmp_path, "val").source.name == "captions_val2014.json"
    touch(tmp_path / "val2017/a.jpg")
    assert find_dataset(tmp_path, "val").source.name == "captions_val2017.json"


def test_pictures_may_be_elsewhere(tmp_path: Path):
    write(tmp_path / "data/captions_val2017.json", DOG)
    split = write(tmp_path / "split.json", karpathy((1, "val2014", "a.jpg", "val")))
    for inside in ("", "val2017"):
        touch(tmp_path / "flat" / inside / "a.jpg")
        assert paths(find_dataset(tmp_path / "data", "val", images=tmp_path / "flat")) == [
            tmp_path / "flat" / inside / "a.jpg"
        ]
    assert paths(find_dataset(tmp_path / "data", "val", split, tmp_path / "flat")) == [tmp_path / "flat/a.jpg"]
    table = write(tmp_path / "lists/captions.csv", "path,caption\na.jpg,a dog\n")
    for data in (table, table.parent):
        assert paths(find_dataset(data, "val", images=tmp_path / "flat")) == [tmp_path / "flat/a.jpg"]


def test_missing_pictures_remain_examples_unless_all_are(tmp_path: Path):
    source = write(tmp_path / "captions_val2017.json", annotations({1: "a.jpg", 2: "b.jpg"}, [(1, "x"), (2, "y")]))
    error = refused(tmp_path)
    assert error.message.startswith(f"no pictures found for 2 images of {source} (first: a.jpg; searched: {tmp_path}/")
    assert error.hint == "pass the picture folder with --images"
    touch(tmp_path / "val2017/b.jpg")
    assert paths(find_dataset(tmp_path, "val")) == [tmp_path / "val2017/a.jpg", tmp_path / "val2017/b.jpg"]


def test_missing_split_error_lists_the_others(tmp_path: Path):
    write(tmp_path / "annotations/captions_train2017.json", DOG)
    write(tmp_path / "annotations/captions_test2017.json", DOG)
    write(tmp_path / "annotations/instances_val2017.json", DOG)
    error = refused(tmp_path)
    assert error.message == f"{tmp_path} has no val split, only test, train"
    assert error.hint == "a val split is captions_val2017.json with val2017/, or the entries whose split is 'val'"


@pytest.mark.parametrize("place", ["dataset_coco.json", "annotations/dataset_flickr30k.json", "named"])
def test_karpathy_split_precedes_coco_splits(tmp_path: Path, place: str):
    content = karpathy(
        (4, "val2014", "v.jpg", "val"),
        (3, "val2014", "r.jpg", "restval"),
        (2, "train2014", "t.jpg", "train"),
        (1, "val2014", "s.jpg", "test"),
    )
    source = write(tmp_path / place, content)
    write(tmp_path / "captions_val2017.json", DOG)
    touch(tmp_path / "val2014/v.jpg")
    given = source if place == "named" else None
    train = find_dataset(tmp_path, "train", given)
    assert train.examples == (
        Example(tmp_path / "val2014/r.jpg", ("is r.jpg",), "3"),
        Example(tmp_path / "train2014/t.jpg", ("is t.jpg",), "2"),
    )
    assert (train.source, train.split) == (source, "train")
    assert paths(find_dataset(tmp_path, "val", given)) == [tmp_path / "val2014/v.jpg"]
    assert paths(find_dataset(tmp_path, "test", given)) == [tmp_path / "val2014/s.jpg"]


def test_karpathy_split_without_folders_is_read(tmp_path: Path):
    sentences = [{"raw": "one"}, "no sentence", {}, {"raw": "two"}]
    image = {"imgid": 5, "filename": "a.jpg", "split": "test", "sentences": sentences}
    write(tmp_path / "dataset_flickr8k.json", {"images": [image]})
    touch(tmp_path / "images/a.jpg")
    example = Example(tmp_path / "images/a.jpg", ("one", "two"), "5")
    assert find_dataset(tmp_path, "test").examples == (example,)
    assert find_dataset(tmp_path, "test").left_out == {"empty captions": 2}
    assert refused(tmp_path, "train").message == f"{tmp_path / 'dataset_flickr8k.json'} has no train split, only test"


def test_karpathy_split_needs_a_folder(tmp_path: Path):
    (tmp_path / "a.csv").write_text("path,caption\na.jpg,a dog\n")
    with pytest.raises(UsageError, match=r"a\.csv is not a folder, which --karpathy needs"):
        find_dataset(tmp_path / "a.csv", "val", karpathy=tmp_path / "missing.json")


def test_ambiguous_karpathy_splits_are_refused(tmp_path: Path):
    files = [write(tmp_path / f"dataset_{name}.json", karpathy((1, "", "a.jpg", "val"))) for name in ("coco", "other")]
    assert refused(tmp_path).message == f"{tmp_path} has several splits: {files[0]}, {files[1]}"
    assert refused(tmp_path).hint == "--karpathy names one"


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        ("", " is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"images": NaN}', " is not valid JSON: it holds NaN"),
        ("[" * 100_000, " is not valid JSON: it is nested too deeply"),
        ("7" * 5000, " is not valid JSON: Exceeds the limit (4300 digits) for integer string conversion"),
        ("\x89PNG", " is not valid JSON: Expecting value: line 1 column 1 (char 0)"),
        ("[]", ": 'annotations' is missing or not a list"),
        ('{"annotations": {}}', ": 'annotations' is missing or not a list"),
        ('{"annotations": []}', ": 'images' is missing or not a list"),
    ],
)
def test_invalid_coco_fails_in_one_line(tmp_path: Path, content: str, wrong: str):
    source = write(tmp_path / "captions_val2017.json", content)
    message = refused(tmp_path).message
    assert message.startswith(f"{source}{wrong}")


def test_invalid_entries_are_named_by_index(tmp_path: Path):
    source = tmp_path / "captions_val2017.json"
    for image in ({}, {"image_id": None}, {"image_id": True}, {"image_id": []}, "a dog", None):
        write(source, {"images": [], "annotations": [{"image_id": 1, "caption": "a dog"}, image]})
        wrong = f"annotations[1] of {source}: 'image_id' is missing or not a number or a text"
        assert refused(tmp_path).message == wrong
    for number in ("1.5", "1e999"):
        write(source, f'{{"images": [], "annotations": [{{"image_id": {number}}}]}}')
        wrong = f"annotations[0] of {source}: 'image_id': it is not a whole number or text"
        assert refused(tmp_path).message == wrong
    for name in (None, 7, ["a.jpg"]):
        write(source, {"images": [{"id": 1, "file_name": name}], "annotations": []})
        assert refused(tmp_path).message == f"images[0] of {source}: 'file_name' is missing or not a text"
    split = write(
        tmp_path / "dataset_coco.json", {"images": [{"filename": "a.jpg", "split": "val", "sentences": ["x"]}]}
    )
    assert refused(tmp_path).message.startswith(f"no pictures found for 1 images of {split} (first: a.jpg; ")
    write(split, {"images": [{"filename": "a.jpg", "split": "val", "sentences": {}}]})
    assert refused(tmp_path).message == f"images[0] of {split}: 'sentences' is missing or not a list"


def test_pictures_without_any_caption_are_no_data_set(tmp_path: Path):
    source = write(tmp_path / "captions_val2017.json", annotations({1: "a.jpg"}, [(1, " ")]))
    touch(tmp_path / "val2017/a.jpg")
    assert refused(tmp_path).message == f"{source} has no file with a caption"


def test_unreadable_and_binary_files_are_reported(tmp_path: Path, as_nobody: None):
    source = tmp_path / "captions_val2017.json"
    source.write_bytes(b'{"images": "\xff\xff\xff"}')
    assert refused(tmp_path).message == f"{source} is not UTF-8 text"
    source.chmod(0)
    assert refused(tmp_path).message == f"cannot read {source}: Permission denied"
    assert refused(tmp_path, "val", Path("gone.json")).message == "cannot read gone.json: No such file or directory"


def test_folder_without_captions_lists_supported_layouts(tmp_path: Path):
    touch(tmp_path / "train/a.jpg")
    assert (refused(tmp_path).message, refused(tmp_path).hint) == (f"no captions found in {tmp_path}", LAYOUTS)
    assert refused(tmp_path / "gone").message == f"{tmp_path / 'gone'} is not a folder or a list"
    assert refused(tmp_path / "gone").hint == LAYOUTS


@pytest.mark.parametrize("name", ["captions.jsonl", "metadata.jsonl"])
def test_list_without_splits_serves_any_split(tmp_path: Path, name: str):
    source = write(tmp_path / name, '{"image": "a.jpg", "caption": "a dog"}')
    expected = Dataset(source, None, (Example(tmp_path / "a.jpg", ("a dog",), "a.jpg"),), {})
    assert find_dataset(tmp_path, "train") == find_dataset(tmp_path, "val") == find_dataset(source, "val") == expected


def test_list_may_have_a_split_column(tmp_path: Path):
    source = write(tmp_path / "captions.csv", "path,caption,split\na,x,train\nb,y,Validation\nc,z,\nd,w,extra\n")
    assert paths(find_dataset(tmp_path, "train")) == [tmp_path / "a"]
    val = find_dataset(tmp_path, "val")
    assert paths(val) == [tmp_path / "b"]
    assert (val.split, val.left_out) == ("val", {"entries without a split": 1})
    assert refused(tmp_path, "test").message == f"{source} has no test split, only extra, train, val"


def test_each_split_may_have_its_list(tmp_path: Path):
    write(tmp_path / "train/metadata.csv", "file_name,text\na.jpg,a dog\n")
    source = write(tmp_path / "validation/metadata.jsonl", '{"file_name": "sub/b.jpg", "text": "a cat"}')
    write(tmp_path / "clips/captions.csv", "file_name,text\nc.mp4,a cow\n")
    example = Example(tmp_path / "validation/sub/b.jpg", ("a cat",), "sub/b.jpg")
    assert find_dataset(tmp_path, "val") == Dataset(source, "val", (example,), {})
    assert refused(tmp_path, "test").message == f"{tmp_path} has no test split, only train, val"


def test_examples_can_be_left_out(tmp_path: Path):
    write(tmp_path / "captions.csv", "path,caption\na,x\nb,y\nc,z\n")
    dataset = find_dataset(tmp_path, "train")
    assert paths(dataset.without([tmp_path / "a", tmp_path / "c", tmp_path / "unknown"])) == [tmp_path / "b"]
