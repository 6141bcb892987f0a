"""Tables as people and other programs write them."""

import os
from pathlib import Path

import pytest

from cococli.errors import UsageError
from cococli.tables import PATHS, choose_column, read_table, split_column

ROWS = [("a.jpg", "a dog"), ("b c.jpg", "a cat")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(name: str, content: str, column: str | None = None) -> tuple[list[list[object]], list[str]]:
    """The values of each record, and the notes."""
    Path(name).write_text(content, encoding="utf-8", newline="")
    notes: list[str] = []
    return [list(record.values()) for _, record in read_table(Path(name), column, notes)], notes


def refused(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UsageError) as caught:
        list(read_table(Path(name)))
    return caught.value.message


@pytest.mark.parametrize("separator", [",", "\t", ";", "|"])
@pytest.mark.parametrize("name", ["list.csv", "list.tsv", "list.txt", "LIST.CSV"])
@pytest.mark.parametrize("names", [("filepath", "title"), ("image", "caption"), (" Image Path", "Caption ")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_separators_are_detected(separator: str, name: str, names: tuple[str, str], end: str) -> None:
    text = "\ufeff" + end + end.join(map(separator.join, [names, *ROWS])) + end
    assert read(name, text) == ([list(row) for row in ROWS], [])


def test_quoted_fields_may_hold_special_characters() -> None:
    text = 'image,caption\n"a,1.jpg","a ""big"" dog,\nbrown"\n'
    assert read("list.csv", text) == ([["a,1.jpg", 'a "big" dog,\nbrown']], [])


def test_unquoted_commas_are_joined_with_a_note() -> None:
    rows, notes = read("captions.txt", "image,caption\na.jpg,a dog\nb.jpg,a cat, two , cows\nc.jpg,x,\n")
    assert rows == [["a.jpg", "a dog"], ["b.jpg", "a cat, two , cows"], ["c.jpg", "x"]]
    assert notes == ["captions.txt: 1 rows with unquoted ',' were joined to captions (first: line 3)"]
    assert read("list.csv", "title,filepath\na dog, brown,a.jpg\n")[0] == [["a dog, brown", "a.jpg"]]
    assert read("list.csv", "path\na, b.mp4\n")[0] == [["a, b.mp4"]]


@pytest.mark.parametrize("names", ["image,caption,split", "id,path", "a,b"])
def test_rows_with_too_many_fields_are_named(names: str) -> None:
    width = len(names.split(","))
    message = refused("list.csv", f"{names}\n{names}\n" + "a.jpg,a dog, brown, large\n")
    assert message == f"line 3 of list.csv has 4 fields, but the first line names {width}"


def test_rows_with_too_few_fields_are_noted() -> None:
    rows, notes = read("results.csv", "image_name| comment_number| comment\na.jpg| 0| a dog\nb.jpg| 4   a cat\n")
    assert rows == [["a.jpg", " 0", " a dog"], ["b.jpg", " 4   a cat", None]]
    assert notes == ["results.csv: 1 rows have fewer fields than the first line (first: line 3)"]


@pytest.mark.parametrize("name", ["Flickr8k.token.txt", "results_20130124.token"])
def test_tokens_of_flickr_are_read(name: str) -> None:
    text = 'a.jpg#0\tA dog , brown .\na.jpg#1\tA "big" dog .\r\n'
    assert read(name, text)[0] == [["a.jpg", "A dog , brown ."], ["a.jpg", 'A "big" dog .']]
    assert refused(name, text + "b.jpg\n").startswith(f"line 3 of {name} is not a name, a tab and a caption")


def test_plain_texts_list_paths() -> None:
    assert read("list.txt", "a, b.mp4\n\nimage.png\n")[0] == [["a, b.mp4"], ["image.png"]]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_utf_16_is_refused(name: str, encoding: str) -> None:
    assert refused(name, "image,caption\na.jpg,a dog\n".encode(encoding)) in (
        f"{name} is UTF-16 text",
        f"{name} is not UTF-8 text",
    )


def test_fifos_are_refused() -> None:
    os.mkfifo("list.csv")
    with pytest.raises(UsageError, match=r"^cannot read list\.csv: not a regular file$"):
        next(read_table(Path("list.csv")))


def test_columns_are_named_after_the_file() -> None:
    assert split_column("a/list.csv:my column") == (Path("a/list.csv"), "my column")
    Path("list.csv:1").touch()
    assert split_column("list.csv:1") == (Path("list.csv:1"), None)
    assert choose_column(["id", "File-Name", "file"], PATHS) == "File-Name"
    assert choose_column(["id", "Clip"], PATHS, "clip") == "Clip"
    assert choose_column(["id", "Clip"], PATHS) is None
