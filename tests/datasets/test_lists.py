"""Lists of files with captions, each kind written and read back."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.captioning.records import Failure, Record
from cococli.datasets.dataset import Entry
from cococli.datasets.lists import read_list
from cococli.errors import UsageError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, where lists are written."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(name: str, content: str) -> list[Entry]:
    Path(name).write_text(content)
    return read_list(Path(name))


def refused(name: str, content: str) -> str:
    with pytest.raises(UsageError) as caught:
        listed(name, content)
    return caught.value.message


def captions(entries: list[Entry]) -> dict[str, list[str]]:
    return {entry.id: entry.captions for entry in entries}


@pytest.mark.parametrize("path", ["path", "video", "image", "file_name", "file", "filename", "Image"])
@pytest.mark.parametrize("caption", ["caption", "captions", "text", "Caption"])
def test_fields_go_by_their_usual_names(path: str, caption: str):
    expected = [Entry("a b.jpg", Path("a b.jpg"), None, ["one, two"])]
    assert listed("list.jsonl", json.dumps({"id": 1, caption: "one, two", path: "a b.jpg"})) == expected
    assert listed("list.csv", f'id, {path},{caption}\n1,a b.jpg,"one, two"\n') == expected


def test_a_file_has_its_captions_from_all_lines_in_order():
    records = [("a", ["1", "2"]), ("b", "x"), ("a", "3")]
    text = "\n\n".join(json.dumps({"path": path, "captions": said}) for path, said in records)
    assert captions(listed("list.jsonl", text)) == {"a": ["1", "2", "3"], "b": ["x"]}
    assert captions(listed("list.csv", "path,caption\na,1\n\nb,x\na,2\n")) == {"a": ["1", "2"], "b": ["x"]}


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1).filter(str.strip)


@given(st.dictionaries(NAMES, st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1)))
def test_every_text_survives_either_kind_of_list(said: dict[str, list[str]]):
    table = io.StringIO(newline="")
    pairs = [(path, caption) for path, texts in said.items() for caption in texts]
    csv.writer(table).writerows([("path", "caption"), *pairs])
    Path("list.csv").write_text(table.getvalue(), newline="")
    assert captions(read_list(Path("list.csv"))) == said
    records = (json.dumps({"path": path, "captions": texts}, ensure_ascii=False) for path, texts in said.items())
    assert captions(listed("list.jsonl", "\n".join(records))) == said


@given(st.binary(max_size=200), st.sampled_from(["any.jsonl", "any.csv"]))
def test_whatever_a_file_holds_is_a_list_or_a_usage_error(content: bytes, name: str):
    Path(name).write_bytes(content)
    try:
        read_list(Path(name))
    except UsageError as error:
        assert error.message.startswith(f"{name} ")
        assert "\n" not in error.message


def test_a_path_is_relative_to_the_list_but_for_files_that_are_only_here(folder: Path):
    for name in ("here.mp4", "both.mp4", "sub/both.mp4"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    names = ["here.mp4", "both.mp4", "nowhere.mp4", f"{folder}/here.mp4"]
    entries = listed("sub/list.csv", "\n".join(["path,caption", *(f"{name},x" for name in names)]))
    expected = [Path("here.mp4"), Path("sub/both.mp4"), Path("sub/nowhere.mp4"), folder / "here.mp4"]
    assert [entry.path for entry in entries] == expected


def test_an_earlier_run_s_records_are_a_list():
    outcomes = [Record("a.mp4", 0, 4, "a dog", -1, 0.3, (2.0,), "shapes"), Failure("b.mp4", "no video stream")]
    text = "".join(outcome.to_json() + "\n" for outcome in outcomes)
    assert captions(listed("out.jsonl", text)) == {"a.mp4": ["a dog"], "b.mp4": []}


def test_captions_of_parts_of_a_video_are_refused():
    outcomes = [Record("a.mp4", start, start + 2, "a dog", -1, 0.3, (1.0,), "shapes") for start in (0, 2)]
    text = "".join(outcome.to_json() + "\n" for outcome in outcomes)
    assert refused("out.jsonl", text) == "out.jsonl in line 2 captions a part of a.mp4"
    assert refused("out.csv", "video,start,caption\na,0.0,x\na,2.5,y\n") == "out.csv in line 3 captions a part of a"
    assert captions(listed("own.csv", "video,start,caption\na,0.0,x\nb,early,y\n")) == {"a": ["x"], "b": ["y"]}


def test_a_file_of_two_splits_is_refused():
    text = "path,caption,split\na,x,train\nb,x,val\na,y,dev\n"
    assert refused("list.csv", text) == "list.csv in line 4 puts a into another split than a line before"


@pytest.mark.parametrize("bad", ['{"path": "b', "[1]", '"b"', "[" * 100_000, '{"path": NaN}'])
def test_a_damaged_record_is_named_by_its_line(bad: str):
    text = '{"path": "a", "caption": "x"}\n' + bad
    assert refused("list.jsonl", text) == "list.jsonl is damaged in line 2: no record in JSON"


def test_a_damaged_table_is_named_by_its_line():
    text = 'path,caption\na,x\n"b,y\n'
    assert refused("list.csv", text) == "list.csv is damaged in line 3: unexpected end of data"


def test_a_line_without_a_path_or_a_caption_is_named():
    paths, said = "path, video, image, file_name, file, filename", "captions, caption, text"
    assert (
        refused("list.csv", "id,caption\n1,x\n")
        == f"list.csv in line 2 has none of the fields {paths}, but 'id', 'caption'"
    )
    assert refused("list.jsonl", '{"path": "a"}') == f"list.jsonl in line 1 has none of the fields {said}, but 'path'"
    assert refused("list.csv", "path,caption\n,x\n") == "list.csv in line 2 holds '' in place of a path"
    assert refused("list.jsonl", '{"path": 7, "caption": "x"}') == "list.jsonl in line 1 holds 7 in place of a path"
