"""Outputs that cannot be written are refused early; a subtitle file belongs to one video only."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cococli.captioning.outputs import beside, check_outputs, is_folder, mirrored
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


def test_several_outputs_are_checked_without_changing_them(folder: Path) -> None:
    outputs = ["-", "out.jsonl", "old.csv", "out.TXT", "out.parquet", "there", "new/deep/"]
    check_outputs(outputs, [A, B, PICTURE])
    check_outputs(["a.srt", "a.vtt"], [A])
    assert (folder / "old.csv").read_text() == "old"
    assert sorted(path.name for path in folder.iterdir()) == ["old.csv", "there"]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.mp4", "unknown output format: out.mp4"),
        ("out", "unknown output format: out"),
        ("missing/out.csv", "cannot write missing/out.csv: there is no folder missing"),
        ("old.csv/", "old.csv is not a folder"),
        ("old.csv/below/", "old.csv is not a folder"),
        ("a" * 300 + ".csv", f"cannot write {'a' * 300}.csv: File name too long"),
    ],
)
def test_unwritable_outputs_are_refused(output: str, message: str) -> None:
    assert refusal("fine.jsonl", output) == message


def test_hint_lists_the_formats() -> None:
    with pytest.raises(UsageError) as caught:
        check_outputs(["out"], [A])
    assert caught.value.hint == (
        "use one of .jsonl, .json, .csv, .txt, .parquet, .tar, .html, .srt, .vtt, "
        "or a name that ends in / for a file of each video"
    )


def test_devices_are_not_replaced(folder: Path) -> None:
    (folder / "out.csv").symlink_to("/dev/null")
    assert refusal("out.csv") == "out.csv is not a file"


def test_missing_permissions_are_found_early(folder: Path, as_nobody: None) -> None:
    (folder / "old.csv").chmod(0o444)
    assert refusal("old.csv") == "cannot write old.csv: Permission denied"
    (folder / "there").chmod(0o555)
    assert refusal("there/out.csv") == "cannot write there/out.csv: Permission denied"
    assert refusal("there/new/") == "cannot write there/new/: Permission denied"


def test_duplicate_outputs_are_refused() -> None:
    assert refusal("out.csv", "there/../out.csv") == "-o there/../out.csv is given twice"
    assert refusal("-", "-") == "-o - is given twice"
    assert refusal("subs/", "subs//") == "-o subs// is given twice"


def test_subtitle_file_holds_one_video() -> None:
    assert refusal("a.srt", videos=(A, B)) == "a.srt can hold the subtitles of one video, not of 2"
    assert refusal("a.srt", videos=(PICTURE,)) == "pictures have no subtitles"
    assert refusal("subs/", videos=(PICTURE, PICTURE)) == "pictures have no subtitles"


def test_folders_exist_or_end_in_a_slash() -> None:
    assert [is_folder(name) for name in ("there", "new/", "new", "old.csv", os.curdir)] == [
        True,
        True,
        False,
        False,
        True,
    ]


def named_beside(*videos: str) -> list[str]:
    names = beside([Path(video) for video in videos], ".srt")
    return [str(names[Path(video)]) for video in videos]


def named_in_tree(*videos: str, folders: tuple[str, ...] = ()) -> list[str]:
    names = mirrored([Path(video) for video in videos], Path("subs"), ".srt", map(Path, folders))
    return [str(names[Path(video)]) for video in videos]


def test_subtitles_are_named_as_players_expect() -> None:
    assert named_beside("trip/a.mp4", "/b.x.mov", "../c") == ["trip/a.srt", "/b.x.srt", "../c.srt"]


def test_tree_starts_at_the_common_parent(folder: Path) -> None:
    assert named_in_tree("v/a.mp4", "v/x/b.mp4", "v/x/../y/z/c.mp4", str(folder / "v/d.mp4")) == [
        "subs/a.srt", "subs/x/b.srt", "subs/y/z/c.srt", "subs/d.srt",
    ]  # fmt: skip
    assert named_in_tree("v/x/b.mp4") == ["subs/b.srt"]
    assert named_in_tree("v/x/b.mp4", "../w/c.mp4") == [f"subs/{folder.name}/v/x/b.srt", "subs/w/c.srt"]


def test_tree_of_named_folders_is_stable() -> None:
    assert named_in_tree("v/x/b.mp4", folders=("v",)) == ["subs/x/b.srt"]
    assert named_in_tree("v/x/b.mp4", "v/y/c.mp4", folders=("v", "v/x")) == ["subs/x/b.srt", "subs/y/c.srt"]


def test_videos_with_one_stem_keep_their_suffix() -> None:
    assert named_beside("a.mp4", "a.mkv", "x/a.mp4") == ["a.mp4.srt", "a.mkv.srt", "x/a.srt"]
    assert named_in_tree("v/a.mp4", "v/a.mkv", "v/x/a.mp4") == ["subs/a.mp4.srt", "subs/a.mkv.srt", "subs/x/a.srt"]


def test_names_do_not_depend_on_the_request(folder: Path) -> None:
    (folder / "a.mp4").touch()
    assert named_beside("a.mp4") == ["a.srt"]
    (folder / "a.MKV").touch()
    assert named_beside("a.MKV") == ["a.MKV.srt"]  # and a.srt stays the subtitles of a.mp4
    assert named_in_tree("a.mp4") == ["subs/a.mp4.srt"]


def test_other_files_do_not_lengthen_names(folder: Path) -> None:
    for name in ("a.jpg", "a.nfo", "a.srt"):
        (folder / name).touch()
    assert named_beside("a.mp4") == ["a.srt"]
    assert beside([Path("a.jpg")], ".srt") == {}
    assert beside([Path("a.jpg")], ".txt") == {Path("a.jpg"): Path("a.txt")}
    assert mirrored([], Path("subs"), ".srt") == {}


def test_names_differ_on_case_insensitive_file_systems() -> None:
    decomposed = unicodedata.normalize("NFD", "é.mp4")
    names = named_in_tree("v/A.mp4", "v/a.mkv", "v/é.mp4", f"v/{decomposed}", "w/b.mp4", "W/b.mp4")
    assert names[:2] == ["subs/v/A.mp4.srt", "subs/v/a.mkv.srt"]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == 6


def test_names_that_collide_with_longer_names_differ() -> None:
    names = named_beside("a.mp4", "a.mkv", "a.mp4.avi")
    assert names[1:] == ["a.mkv.srt", "a.mp4.avi.srt"]
    assert names[0].startswith("a.mp4.") and len(names[0]) == len("a.mp4.12345678.srt")


def test_odd_names_survive_and_long_ones_are_shortened(folder: Path) -> None:
    odd = [
        "new\nline.mp4",
        os.fsdecode(b"caf\xe9.mp4"),
        " .mp4",
        "...",
        "-o.mp4",
        ".mp4",
        "猫" * 84,
        "y" * 250 + ".mp4",
    ]
    names = [Path(name) for name in named_beside(*odd)]
    assert [os.fsencode(name) for name in names[:6]] == [
        b"new\nline.srt", b"caf\xe9.srt", b" .srt", b"....srt", b"-o.srt", b".mp4.srt",
    ]  # fmt: skip
    for name in names:
        name.touch()  # the disk takes it
        assert name.suffix == ".srt"
    assert len(set(names)) == len(odd)


parts = st.sampled_from(
    ["a", "A", "b", "é", "e\u0301", "a.mp4", "a.mkv", "..", "x" * 249, "猫" * 80, "ß", "SS", " ", "\n"]
)
paths = st.tuples(
    st.lists(parts, max_size=3), parts.filter(lambda part: part != ".."), st.sampled_from([".mp4", ".mkv", ".MP4", ""])
)


@settings(deadline=None)
@given(
    videos=st.lists(paths.map(lambda path: Path(*path[0], path[1] + path[2])), unique_by=os.path.abspath, max_size=12)
)
def test_names_are_unique_and_stay_in_the_tree(videos: list[Path]) -> None:
    for names in (beside(videos, ".srt"), mirrored(videos, Path("subs"), ".srt")):
        assert set(names) == set(videos)
        folded = {unicodedata.normalize("NFC", str(Path.cwd() / name)).casefold() for name in names.values()}
        assert len(folded) == len(videos)
        assert all(len(os.fsencode(name.name)) <= 255 for name in names.values())
    for name in names.values():
        assert name.parts[0] == "subs" and ".." not in name.parts
