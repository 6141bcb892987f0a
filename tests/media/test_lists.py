"""Lists of paths, each kind written and read back."""

import csv
import io
import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.captioning.records import Record
from cococli.errors import UsageError
from cococli.journal import Failure
from cococli.media.discover import discover
from cococli.media.lists import read_list, read_stdin

ODD = [
    "new\nline.mp4",
    "caf\udce9.mp4",
    "日本 🎬.mp4",
    " ends in blanks  ",
    '"quoted", with; signs.mp4',
    "@a",
    "-",
    "[x]*",
]
KINDS = "a list is a .txt, .csv, .tsv, .jsonl or .parquet file, or one without suffix; @list.csv:path names a column"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, where lists are written."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def listed(name: str, content: str | bytes, column: str = "") -> list[str]:
    """What a file of this name and content lists."""
    Path(name).write_bytes(content if isinstance(content, bytes) else os.fsencode(content))
    return list(read_list(name + column))


def refused(name: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        list(read_list(name))
    return caught.value


@pytest.mark.parametrize("name", ["list.txt", "LIST.TXT", "list"])
def test_a_text_lists_a_path_a_line(name: str):
    text = "a.mp4\nb c/d.mp4 \r\n\n   \n# x\n@y\n-\ncaf\udce9.mp4"
    assert listed(name, text) == ["a.mp4", "b c/d.mp4 ", "# x", "@y", "-", "caf\udce9.mp4"]


@pytest.mark.parametrize("end", ["", "\0"])
def test_between_nuls_stand_paths_with_new_lines(end: str):
    assert listed("list.txt", "\0".join(ODD) + end) == ODD
    assert list(read_stdin(io.BytesIO(os.fsencode("\0".join(ODD) + end)))) == ODD


def test_byte_order_mark_is_ignored():
    assert listed("list.txt", "\ufeffa.mp4\nb.mp4") == ["a.mp4", "b.mp4"]
    assert listed("list.csv", "\ufeffpath,n\na.mp4,1") == ["a.mp4"]
    assert listed("list.jsonl", '\ufeff{"video": "a.mp4"}') == ["a.mp4"]


PATHS = st.lists(
    st.binary(min_size=1, max_size=30)
    .filter(lambda path: b"\0" not in path and path[:2] not in (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb"))
    .map(os.fsdecode)
    .filter(lambda path: not path.isspace()),
    min_size=1,
)


@given(PATHS)
def test_any_path_survives_every_list_format(paths: list[str]):
    assert listed("list.txt", "\0".join([*paths, ""])) == paths
    assert listed("list.csv", table(paths, ",")) == paths
    assert listed("list.tsv", table(paths, "\t")) == paths
    assert listed("list.jsonl", "".join(json.dumps({"video": path}) + "\n" for path in paths)) == paths


def table(paths: Sequence[str], delimiter: str) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([("n", "path"), *enumerate(paths)])
    return text.getvalue()


@given(st.binary(max_size=200), st.sampled_from(["", ".txt", ".csv", ".tsv", ".jsonl"]))
def test_any_content_is_list_or_usage_error(content: bytes, suffix: str):
    try:
        paths = listed(f"any{suffix}", content)
    except UsageError as error:
        assert f"any{suffix}" in error.message
        assert "\n" not in error.message
    else:
        assert paths


@pytest.mark.parametrize("column", ["path", "Video", "FILE", "filename"])
def test_usual_column_names_hold_paths(column: str):
    assert listed("list.csv", f"n,{column}\n1,a.mp4\n2,\n3\n4,b.mp4\n") == ["a.mp4", "b.mp4"]


def test_path_comes_before_other_usual_names():
    assert listed("list.csv", "filename,file,video,path\n1,2,3,a.mp4\n") == ["a.mp4"]
    assert listed("list.csv", "filename,file,video\n1,2,a.mp4\n") == ["a.mp4"]


def test_a_column_is_named_after_the_list():
    table = "path,my clip: best\na.mp4,b.mp4\n"
    assert listed("list.csv", table, ":my clip: best") == ["b.mp4"]
    assert listed("list.csv", table, ":path") == ["a.mp4"]
    assert refused("list.csv:clip").message == "list.csv has no column 'clip'"
    assert refused("list.csv:clip").hint == "name one as in @list.csv:column: path, my clip: best"


def test_ambiguous_columns_must_be_named():
    Path("list.csv").write_text("id,clip\n1,a.mp4\n")
    assert refused("list.csv").message == "list.csv has no column of paths"
    assert refused("list.csv").hint == "name one as in @list.csv:column: id, clip"


def test_an_only_column_needs_no_title():
    assert listed("list.csv", "\nclips\na.mp4\n") == ["a.mp4"]
    assert listed("list.csv", "a.mp4\nb.mp4\n") == ["a.mp4", "b.mp4"]
    assert listed("list.csv", "a.b\nb.mp4\n", ":a.b") == ["b.mp4"]


def test_tabs_and_semicolons_part_columns_too():
    assert listed("list.tsv", "n\tpath\n1\ta, b; c.mp4\n") == ["a, b; c.mp4"]
    assert listed("list.csv", 'n;path\n0,5;a.mp4\n1;"b;c.mp4"\n') == ["a.mp4", "b;c.mp4"]


def test_file_name_like_a_column_is_list():
    Path("day:1").mkdir()
    assert listed("day:1/list.csv", "path,x\na.mp4,b.mp4\n") == ["a.mp4"]
    assert listed("day:1/list.csv", "path,x\na.mp4,b.mp4\n", ":x") == ["b.mp4"]
    assert listed("0.csv:1.txt", "c.mp4") == ["c.mp4"]


def test_an_earlier_output_is_a_list():
    outcomes = [
        Record("caf\udce9.mp4", 0, 1, "a dog", -1, 0.3, (0.5,), "tiny"),
        Record("caf\udce9.mp4", 1, 2, "a cat", -1, 0.3, (1.5,), "tiny"),
        Failure("b.mp4", "no such file"),
    ]
    Path("out.jsonl").write_text("\n\n".join(outcome.to_json() for outcome in outcomes))
    assert [str(path) for path in discover(["@out.jsonl"])[0]] == ["caf\udce9.mp4", "b.mp4"]


def test_records_may_name_their_files_in_another_field():
    records = '{"id": 1, "file": "a.mp4"}\n{"file": null}\n{"file": "b.mp4"}\n'
    assert listed("list.jsonl", records) == ["a.mp4", "b.mp4"]
    assert listed("list.jsonl", '{"id": "c.mp4", "file": "a.mp4"}\n', ":id") == ["c.mp4"]


def test_invalid_records_are_named_by_line():
    good = '{"video": "a.mp4"}\n'
    for bad in ('{"video": "b.mp', "[1]", '"b.mp4"', "[" * 100_000, "7", '{"video": NaN}'):
        Path("list.jsonl").write_text(good + bad)
        assert refused("list.jsonl").message.startswith("line 2 of list.jsonl is not ")
    Path("list.jsonl").write_text(good + '{"id": 1}')
    assert refused("list.jsonl").message == "line 2 of list.jsonl has no column 'video'"
    Path("list.jsonl").write_text(good + '{"video": 1}')
    assert refused("list.jsonl").message == "line 2 of list.jsonl has 1 instead of a path"


def test_a_damaged_table_is_named_by_its_line():
    Path("list.csv").write_text('path\na.mp4\n"b.mp4\nc.mp4\n')
    assert refused("list.csv").message == "line 4 of list.csv is damaged: unexpected end of data"
    csv.field_size_limit(131072)  # Python's own, which is one for the whole process
    Path("list.csv").write_text(f"path\n{'x' * 200_000}\n")
    assert refused("list.csv").message == "line 2 of list.csv is damaged: field larger than field limit (131072)"


@pytest.mark.parametrize("content", ["", "\n \n\r\n", "\ufeff"])
@pytest.mark.parametrize("name", ["list.txt", "list", "list.csv", "list.jsonl"])
def test_a_list_of_nothing_is_a_usage_error(name: str, content: str):
    Path(name).write_text(content)
    assert refused(name).message == f"{name} lists no path"


def test_empty_tables_and_closed_stdin_list_nothing(monkeypatch: pytest.MonkeyPatch):
    Path("list.csv").write_text("path,n\n")
    assert refused("list.csv").message == "list.csv lists no path"
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match=r"^stdin lists no path$"):
        list(read_stdin())


@pytest.mark.parametrize("name", ["list.txt", "list", "list.csv", "list.tsv"])
@pytest.mark.parametrize("content", [b"\0\0\0\x20ftypisom\0\0\2\0", "path\na.mp4\n".encode("utf-16")])
def test_binary_lists_are_usage_errors(name: str, content: bytes):
    Path(name).write_bytes(content)
    assert refused(name).message in (f"{name} is not UTF-8 text", f"{name} is UTF-16 text")
    assert refused(name).hint == "save it as UTF-8"


def test_video_as_list_is_a_usage_error():
    Path("@a.mp4").touch()
    assert refused("b.mp4").message == "b.mp4 is not a list of paths"
    assert refused("b.mp4").hint == KINDS
    assert refused("a.mp4").hint == "./@a.mp4 is the file itself"
    assert discover(["./@a.mp4"]) == ([Path("@a.mp4")], [])


def test_a_list_that_cannot_be_read_says_why(folder: Path, as_nobody: None):
    Path("sub.txt").mkdir()
    Path("closed.txt").touch(mode=0)
    assert refused("gone.csv").message == "cannot read gone.csv: No such file or directory"
    assert refused("gone.csv:path").message == "cannot read gone.csv: No such file or directory"
    assert refused("sub.txt").message == "cannot read sub.txt: Is a directory"
    assert refused("closed.txt").message == "cannot read closed.txt: Permission denied"
    assert refused("x" * 300).message == f"cannot read {'x' * 300}: File name too long"


def test_paths_may_be_relative_to_the_list():
    for name in ("here.mp4", "sub/here.mp4", "sub/there.mp4"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    paths = ["here.mp4", "there.mp4", "nowhere.mp4", "/nowhere.mp4"]
    expected = ["here.mp4", "sub/there.mp4", "nowhere.mp4", "/nowhere.mp4"]
    assert listed("sub/list.txt", "\n".join(paths)) == expected


def test_a_list_in_the_home_folder_is_found(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(folder))
    Path("list.txt").write_text("a.mp4")
    assert list(read_list("~/list.txt")) == ["a.mp4"]


def write_parquet(**columns: Sequence[object]) -> None:
    pyarrow = pytest.importorskip("pyarrow", exc_type=ImportError)
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), "list.parquet")


def test_a_column_of_a_parquet_file_lists_paths():
    write_parquet(n=[1, 2, 3, 4], path=["new\nline.mp4", None, "", "日本.mp4"], raw=[b"caf\xe9.mp4", None, b"", b"-"])
    assert list(read_list("list.parquet")) == ["new\nline.mp4", "日本.mp4"]
    assert list(read_list("list.parquet:raw")) == ["caf\udce9.mp4", "-"]
    assert refused("list.parquet:n").message == "row 1 of list.parquet has 1 instead of a path"
    assert refused("list.parquet:m").message == "list.parquet has no column 'm'"
    assert refused("list.parquet:m").hint == "name one as in @list.csv:column: n, path, raw"


def test_a_parquet_file_without_rows_lists_nothing():
    write_parquet(path=[])
    assert refused("list.parquet").message == "list.parquet lists no path"


@pytest.mark.parametrize("keep", [0, 4, -9])
def test_a_damaged_parquet_file_is_a_usage_error(keep: int):
    write_parquet(path=["a.mp4"] * 100)
    Path("list.parquet").write_bytes(Path("list.parquet").read_bytes()[:keep])
    assert re.fullmatch(r"(list\.parquet is damaged|cannot read list\.parquet): .+", refused("list.parquet").message)


def test_a_parquet_file_needs_its_extra(monkeypatch: pytest.MonkeyPatch):
    write_parquet(path=["a.mp4"])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert refused("list.parquet").message == "Parquet needs pyarrow"
    assert refused("list.parquet").hint == "pip install 'cococli[parquet]'"
