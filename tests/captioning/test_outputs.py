"""What -o names is refused early when it cannot be written."""

import os
from pathlib import Path

import pytest

from cococli.captioning.outputs import check_outputs, is_folder
from cococli.errors import UsageError

A, B, PICTURE = Path("a.mp4"), Path("b.mp4"), Path("a.png")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a file and a folder."""
    (tmp_path / "there").mkdir()
    (tmp_path / "old.csv").write_text("old")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(*outputs: str, videos: tuple[Path, ...] = (A,)) -> str:
    with pytest.raises(UsageError) as caught:
        check_outputs(outputs, videos)
    return caught.value.message


def test_several_outputs_of_several_kinds_are_fine_and_stay_as_they_are(folder: Path) -> None:
    outputs = ["-", "out.jsonl", "old.csv", "out.TXT", "out.parquet", "there", "new/deep/"]
    check_outputs(outputs, [A, B, PICTURE])
    check_outputs(["a.srt", "a.vtt"], [A])
    assert (folder / "old.csv").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["old.csv", "there"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.mp4", "cannot tell the format of out.mp4"),
        ("out", "cannot tell the format of out"),
        ("missing/out.csv", "there is no folder missing to write out.csv in"),
        ("old.csv/", "old.csv is not a folder"),
        ("old.csv/below/", "old.csv is not a folder"),
        ("a" * 300 + ".csv", f"cannot write {'a' * 300}.csv: File name too long"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(output: str, message: str) -> None:
    assert refusal("fine.jsonl", output) == message


def test_the_hint_names_the_formats() -> None:
    with pytest.raises(UsageError) as caught:
        check_outputs(["out"], [A])
    assert caught.value.hint == (
        "end its name in .jsonl, .csv, .txt, .parquet, .srt, .vtt, or in / for a folder of subtitles"
    )


def test_a_device_is_not_replaced_by_a_file(folder: Path) -> None:
    (folder / "out.csv").symlink_to("/dev/null")
    assert refusal("out.csv") == "out.csv is not a file"


def test_nothing_is_written_where_it_is_not_permitted(folder: Path, as_nobody: None) -> None:
    (folder / "old.csv").chmod(0o444)
    assert refusal("old.csv") == "cannot write old.csv: Permission denied"
    (folder / "there").chmod(0o555)
    assert refusal("there/out.csv") == "cannot write there/out.csv: Permission denied"
    assert refusal("there/new/") == "cannot write there/new/: Permission denied"


def test_no_file_is_written_twice() -> None:
    assert refusal("out.csv", "there/../out.csv") == "-o there/../out.csv is given twice"
    assert refusal("-", "-") == "-o - is given twice"
    assert refusal("subs/", "subs//") == "-o subs// is given twice"


def test_subtitles_are_of_one_video_or_in_a_folder() -> None:
    assert refusal("a.srt", videos=(A, B)) == "a.srt holds the subtitles of one video, but 2 were given"
    assert refusal("a.srt", videos=(PICTURE,)) == "pictures have no subtitles"
    assert refusal("subs/", videos=(PICTURE, PICTURE)) == "pictures have no subtitles"


def test_a_folder_is_there_or_ends_in_a_slash() -> None:
    assert [is_folder(name) for name in ("there", "new/", "new", "old.csv", os.curdir)] == [
        True,
        True,
        False,
        False,
        True,
    ]
