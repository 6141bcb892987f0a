"""A file for each video, none for two."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cococli.captioning.names import beside, mirrored


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def named_beside(*videos: str) -> list[str]:
    names = beside([Path(video) for video in videos], ".srt")
    return [str(names[Path(video)]) for video in videos]


def named_in_tree(*videos: str, folders: tuple[str, ...] = ()) -> list[str]:
    names = mirrored([Path(video) for video in videos], Path("subs"), ".srt", map(Path, folders))
    return [str(names[Path(video)]) for video in videos]


def test_a_video_has_its_subtitles_where_players_look_for_them() -> None:
    assert named_beside("trip/a.mp4", "/b.x.mov", "../c") == ["trip/a.srt", "/b.x.srt", "../c.srt"]


def test_a_tree_is_like_that_of_the_videos_below_their_common_parent(folder: Path) -> None:
    assert named_in_tree("v/a.mp4", "v/x/b.mp4", "v/x/../y/z/c.mp4", str(folder / "v/d.mp4")) == [
        "subs/a.srt", "subs/x/b.srt", "subs/y/z/c.srt", "subs/d.srt",
    ]  # fmt: skip
    assert named_in_tree("v/x/b.mp4") == ["subs/b.srt"]
    assert named_in_tree("v/x/b.mp4", "../w/c.mp4") == [f"subs/{folder.name}/v/x/b.srt", "subs/w/c.srt"]


def test_a_tree_below_the_folders_that_were_named_stays_when_videos_come() -> None:
    assert named_in_tree("v/x/b.mp4", folders=("v",)) == ["subs/x/b.srt"]
    assert named_in_tree("v/x/b.mp4", "v/y/c.mp4", folders=("v", "v/x")) == ["subs/x/b.srt", "subs/y/c.srt"]


def test_videos_of_one_name_in_one_folder_keep_their_suffix() -> None:
    assert named_beside("a.mp4", "a.mkv", "x/a.mp4") == ["a.mp4.srt", "a.mkv.srt", "x/a.srt"]
    assert named_in_tree("v/a.mp4", "v/a.mkv", "v/x/a.mp4") == ["subs/a.mp4.srt", "subs/a.mkv.srt", "subs/x/a.srt"]


def test_what_stands_in_the_folder_decides_not_what_was_asked_for(folder: Path) -> None:
    (folder / "a.mp4").touch()
    assert named_beside("a.mp4") == ["a.srt"]
    (folder / "a.MKV").touch()
    assert named_beside("a.MKV") == ["a.MKV.srt"]  # and a.srt stays the subtitles of a.mp4
    assert named_in_tree("a.mp4") == ["subs/a.mp4.srt"]


def test_pictures_and_other_files_are_no_reason_for_a_longer_name(folder: Path) -> None:
    for name in ("a.jpg", "a.nfo", "a.srt"):
        (folder / name).touch()
    assert named_beside("a.mp4") == ["a.srt"]
    assert beside([Path("a.jpg")], ".srt") == {}
    assert mirrored([], Path("subs"), ".srt") == {}


def test_names_that_some_disks_take_for_one_are_apart() -> None:
    decomposed = unicodedata.normalize("NFD", "é.mp4")
    names = named_in_tree("v/A.mp4", "v/a.mkv", "v/é.mp4", f"v/{decomposed}", "w/b.mp4", "W/b.mp4")
    assert names[:2] == ["subs/v/A.mp4.srt", "subs/v/a.mkv.srt"]
    assert len({unicodedata.normalize("NFC", name).casefold() for name in names}) == 6


def test_a_name_that_is_also_the_longer_name_of_another_is_settled() -> None:
    names = named_beside("a.mp4", "a.mkv", "a.mp4.avi")
    assert names[1:] == ["a.mkv.srt", "a.mp4.avi.srt"]
    assert names[0].startswith("a.mp4.") and len(names[0]) == len("a.mp4.12345678.srt")


def test_odd_names_survive_and_long_ones_are_cut_to_what_a_disk_takes(folder: Path) -> None:
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
def test_no_two_videos_have_one_name_and_none_leaves_the_tree(videos: list[Path]) -> None:
    for names in (beside(videos, ".srt"), mirrored(videos, Path("subs"), ".srt")):
        assert set(names) == set(videos)
        folded = {unicodedata.normalize("NFC", str(Path.cwd() / name)).casefold() for name in names.values()}
        assert len(folded) == len(videos)
        assert all(len(os.fsencode(name.name)) <= 255 for name in names.values())
    for name in names.values():
        assert name.parts[0] == "subs" and ".." not in name.parts
