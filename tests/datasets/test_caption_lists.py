"""Lists of files with captions, each kind written and read back."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.captioning.records import Failure, Record
from cococli.datasets.caption_lists import read_caption_list, read_sidecars
from cococli.datasets.dataset import RawExample
from cococli.errors import UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, where lists are written."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(name: str, content: str) -> list[RawExample]:
    Path(name).write_text(content)
    return read_caption_list(Path(name))


def refused(name: str, content: str) -> str:
    with pytest.raises(UsageError) as caught:
        listed(name, content)
    return caught.value.message


def captions(entries: list[RawExample]) -> dict[str, list[str]]:
    return {entry.id: entry.captions for entry in entries}


@pytest.mark.parametrize("path", ["path", "video", "image", "file_name", "file", "filename", "Image"])
@pytest.mark.parametrize("caption", ["caption", "captions", "text", "Caption"])
def test_fields_go_by_their_usual_names(path: str, caption: str):
    expected = [RawExample("a b.jpg", Path("a b.jpg"), None, ["one, two"])]
    assert listed("list.jsonl", json.dumps({"id": 1, caption: "one, two", path: "a b.jpg"})) == expected
    assert listed("list.csv", f'id, {path},{caption}\n1,a b.jpg,"one, two"\n') == expected


def test_captions_are_joined_from_all_lines():
    records = [("a", ["1", "2"]), ("b", "x"), ("a", "3")]
    text = "\n\n".join(json.dumps({"path": path, "captions": said}) for path, said in records)
    assert captions(listed("list.jsonl", text)) == {"a": ["1", "2", "3"], "b": ["x"]}
    assert captions(listed("list.csv", "path,caption\na,1\n\nb,x\na,2\n")) == {"a": ["1", "2"], "b": ["x"]}


CAPTIONS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@given(st.dictionaries(NAMES, st.lists(CAPTIONS, min_size=1)))
def test_every_text_survives_either_kind_of_list(said: dict[str, list[str]]):
    table = io.StringIO(newline="")
    pairs = [(path, caption) for path, texts in said.items() for caption in texts]
    csv.writer(table).writerows([("path", "caption"), *pairs])
    Path("list.csv").write_text(table.getvalue(), newline="")
    assert captions(read_caption_list(Path("list.csv"))) == said
    records = (json.dumps({"path": path, "captions": texts}, ensure_ascii=False) for path, texts in said.items())
    assert captions(listed("list.jsonl", "\n".join(records))) == said


@given(st.binary(max_size=200), st.sampled_from(["any.jsonl", "any.csv"]))
def test_any_content_is_list_or_usage_error(content: bytes, name: str):
    Path(name).write_bytes(content)
    try:
        read_caption_list(Path(name))
    except UsageError as error:
        assert name in error.message
        assert "\n" not in error.message


def test_paths_are_relative_to_the_list(folder: Path):
    for name in ("here.mp4", "both.mp4", "sub/both.mp4"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    names = ["here.mp4", "both.mp4", "nowhere.mp4", f"{folder}/here.mp4"]
    entries = listed("sub/list.csv", "\n".join(["path,caption", *(f"{name},x" for name in names)]))
    expected = [Path("here.mp4"), Path("sub/both.mp4"), Path("sub/nowhere.mp4"), folder / "here.mp4"]
    assert [entry.path for entry in entries] == expected


def test_records_of_earlier_run_are_a_list():
    outcomes = [Record("a.mp4", 0, 4, "a dog", -1, 0.3, (2.0,), "shapes"), Failure("b.mp4", "no video stream")]
    text = "".join(outcome.to_json() + "\n" for outcome in outcomes)
    assert captions(listed("out.jsonl", text)) == {"a.mp4": ["a dog"], "b.mp4": []}


def test_captions_of_parts_of_a_video_are_refused():
    outcomes = [Record("a.mp4", start, start + 2, "a dog", -1, 0.3, (1.0,), "shapes") for start in (0, 2)]
    text = "".join(outcome.to_json() + "\n" for outcome in outcomes)
    assert refused("out.jsonl", text) == "line 2 of out.jsonl describes a part of a.mp4"
    assert refused("out.csv", "video,start,caption\na,0.0,x\na,2.5,y\n") == "line 3 of out.csv describes a part of a"
    assert captions(listed("own.csv", "video,start,caption\na,0.0,x\nb,early,y\n")) == {"a": ["x"], "b": ["y"]}


def test_a_file_of_two_splits_is_refused():
    text = "path,caption,split\na,x,train\nb,x,val\na,y,dev\n"
    assert refused("list.csv", text) == "line 4 of list.csv puts a into another split than an earlier line"


@pytest.mark.parametrize("bad", ['{"path": "b', "[1]", '"b"', "[" * 100_000, '{"path": NaN}'])
def test_a_damaged_record_is_named_by_its_line(bad: str):
    text = '{"path": "a", "caption": "x"}\n' + bad
    assert refused("list.jsonl", text).startswith("line 2 of list.jsonl is not ")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "id,caption\n1,x\n", "line 2 of list.csv has no column of paths, but 'id', 'caption'"),
        ("list.jsonl", '{"path": "a"}', "line 1 of list.jsonl has no column of captions, but 'path'"),
        ("list.csv", "path,caption\n,x\n", "line 2 of list.csv has '' instead of a path"),
        ("list.jsonl", '{"path": 7, "caption": "x"}', "line 1 of list.jsonl has 7 instead of a path"),
        ("list.jsonl", '{"path": "a", "split": 7}', "line 1 of list.jsonl has 7 instead of a split"),
        ("list.csv", 'path,caption\na,x\n"b,y\n', "line 3 of list.csv is damaged: unexpected end of data"),
        ("list.csv", "path,caption\na,caf\udce9\n", "line 2 of list.csv is not UTF-8 text"),
    ],
)
def test_unusable_lines_are_named(name: str, text: str, message: str):
    Path(name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError) as caught:
        read_caption_list(Path(name))
    assert caught.value.message == message


def test_columns_of_captions_can_be_named():
    Path("list.csv").write_text("file,alt,caption\na.jpg,a dog,x\n")
    assert captions(read_caption_list(Path("list.csv"), column="alt")) == {"a.jpg": ["a dog"]}
    Path("list.csv").write_text("clip;Alt Text\na.mp4;a dog\n")
    assert captions(read_caption_list(Path("list.csv"), column="alt text")) == {"a.mp4": ["a dog"]}


def test_lists_in_cells_are_several_captions():
    Path("list.csv").write_text('filename,raw\na.jpg,"[""a dog"", ""one, dog""]"\nb.jpg,"[""a"" dog]"\n')
    assert captions(read_caption_list(Path("list.csv"))) == {"a.jpg": ["a dog", "one, dog"], "b.jpg": ['["a" dog]']}


def test_files_are_found_in_usual_folders(folder: Path):
    for name in ("sub/images/a.jpg", "sub/flickr30k_images/b.jpg", "sub/c/d.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    entries = listed("sub/list.csv", "image,caption\na.jpg,x\nb.jpg,y\nc\\d.jpg,z\n")
    assert [str(entry.path) for entry in entries] == ["sub/images/a.jpg", "sub/flickr30k_images/b.jpg", "sub/c/d.jpg"]


def test_texts_beside_files_are_captions(folder: Path):
    for name, text in {"d/0/1.jpg": "a dog", "d/0/2.mp4": "\ufeffa cat\n\none cat\n", "d/val/3.png": "a cow"}.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
        Path(name).with_suffix(".txt").write_text(text)
    Path("d/0/none.jpg").touch()
    assert [(entry.id, entry.split, entry.captions) for entry in read_sidecars(Path("d"))[0]] == [
        ("0/1.jpg", None, ["a dog"]),
        ("0/2.mp4", None, ["a cat", "one cat"]),
        ("0/none.jpg", None, []),
        ("val/3.png", "val", ["a cow"]),
    ]
    Path("d/0/1.txt").write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match=r"^d/0/1\.txt is not UTF-8 text$"):
        read_sidecars(Path("d"))
    (folder / "empty").mkdir()
    assert read_sidecars(folder / "empty") == ([], {})
