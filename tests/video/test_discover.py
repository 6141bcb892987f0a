"""Files, folders and patterns become a list of files."""

import os
from pathlib import Path

import pytest

from cococli.errors import UsageError
from cococli.video.discover import discover, is_image


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with videos, pictures, a text, and hidden things."""
    for name in (
        "b.mp4", "a.MP4", "photo.jpg", "notes.txt", ".hidden.mp4", "sub/c.mkv", "sub/deep/d.webm", ".cache/e.mp4",
    ):  # fmt: skip
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*paths: str) -> list[str]:
    return [str(path) for path in discover(paths)]


IN_VIDEOS = ["videos/a.MP4", "videos/b.mp4", "videos/photo.jpg", "videos/sub/c.mkv", "videos/sub/deep/d.webm"]


@pytest.mark.parametrize("spelling", ["videos", "videos/", "./videos", "sub/../videos"])
def test_a_folder_gives_its_videos_and_pictures_sorted_without_hidden_ones(folder: Path, spelling: str):
    (folder / "sub").mkdir()
    assert [os.path.normpath(name) for name in names(spelling)] == IN_VIDEOS


def test_a_hidden_folder_is_read_when_named(folder: Path):
    assert names("videos/.cache") == ["videos/.cache/e.mp4"]
    os.chdir("videos/.cache")
    assert names(".") == ["e.mp4"]


def test_a_named_file_is_taken_whatever_its_suffix_and_kept_though_missing(folder: Path):
    assert names("videos/notes.txt", "missing.mp4", "videos/.hidden.mp4") == [
        "videos/notes.txt",
        "missing.mp4",
        "videos/.hidden.mp4",
    ]


def test_arguments_keep_their_order_and_a_file_its_first_spelling(folder: Path):
    (folder / "link.mp4").symlink_to("videos/b.mp4")
    assert names("./videos/../videos/b.mp4", "link.mp4", "videos", str(folder / "videos/b.mp4")) == [
        "videos/../videos/b.mp4",
        *(name for name in IN_VIDEOS if name != "videos/b.mp4"),
    ]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("videos/*.mp4", ["videos/b.mp4"]),
        ("videos/?.[mM][pP]4", ["videos/a.MP4", "videos/b.mp4"]),
        ("videos/**/*.mkv", ["videos/sub/c.mkv"]),
        ("**/*.webm", ["videos/sub/deep/d.webm"]),
        ("**/deep/**/*", ["videos/sub/deep/d.webm"]),
        ("v*/**/[cd].*", ["videos/sub/c.mkv", "videos/sub/deep/d.webm"]),
        ("videos/s*", ["videos/sub/c.mkv", "videos/sub/deep/d.webm"]),
    ],
)
def test_a_pattern_gives_what_it_matches(folder: Path, pattern: str, expected: list[str]):
    assert names(pattern) == expected
    assert names(str(folder / pattern)) == [str(folder / name) for name in expected]


def test_two_stars_at_the_end_walk_the_folders(folder: Path):
    assert set(IN_VIDEOS) <= set(names("videos/**"))
    assert not [name for name in names("videos/**") if "/." in name]


def test_a_file_with_the_very_name_wins_over_a_pattern(folder: Path):
    (folder / "[ab].mp4").touch()
    (folder / "a.mp4").touch()
    assert names("[ab].mp4") == ["[ab].mp4"]


def test_patterns_work_inside_folders_whose_names_look_like_patterns(folder: Path):
    odd = folder / "[2024] trip*" / "day 1"
    odd.mkdir(parents=True)
    (odd / "x.mp4").touch()
    os.chdir(odd.parent)
    assert names("**/*.mp4") == ["day 1/x.mp4"]


@pytest.mark.parametrize("pattern", ["videos/*.avi", "no/**/*.mp4"])
def test_a_pattern_that_matches_nothing_is_a_usage_error(folder: Path, pattern: str):
    with pytest.raises(UsageError, match="matches no file") as caught:
        discover(["videos/b.mp4", pattern])
    assert pattern in caught.value.message
    assert "videos/**/*.mp4" in caught.value.hint


def test_no_file_at_all_is_a_usage_error(folder: Path):
    (folder / "empty").mkdir()
    for paths in ([], ["empty"], ["empty", "./empty"]):
        with pytest.raises(UsageError) as caught:
            discover(paths)
        assert caught.value.hint
    assert names("empty", "videos/b.mp4") == ["videos/b.mp4"]


def test_links_that_circle_end(folder: Path):
    for place in ("videos/again", "videos/sub/up", "videos/sub/deep/top"):
        (folder / place).symlink_to(folder / "videos", target_is_directory=True)
    (folder / "videos/self.mp4").symlink_to("self.mp4")
    expected = sorted([*IN_VIDEOS, "videos/self.mp4"])
    assert names("videos") == expected
    assert names("videos/**/*.mkv") == ["videos/sub/c.mkv"]


def test_a_linked_folder_is_followed_and_a_broken_link_is_kept(folder: Path):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/f.mp4").touch()
    (folder / "videos/sub/linked").symlink_to(folder / "elsewhere")
    (folder / "videos/gone.mp4").symlink_to("nowhere.mp4")
    assert {"videos/sub/linked/f.mp4", "videos/gone.mp4"} <= set(names("videos"))


def test_a_folder_that_cannot_be_listed_is_kept_for_the_reader_to_say_so(folder: Path, as_nobody: None):
    (folder / "videos/sub").chmod(0)
    try:
        assert names("videos") == [*IN_VIDEOS[:3], "videos/sub"]
    finally:
        (folder / "videos/sub").chmod(0o755)


def test_names_with_new_lines_and_bytes_that_are_no_text_survive(folder: Path):
    odd = [b"new\nline.mp4", b"caf\xe9.mp4", "日本 🎬.mp4".encode(), b" .mp4", b"-o.mp4"]
    for name in odd:
        Path(os.fsdecode(b"videos/" + name)).touch()
    found = {os.fsencode(path) for path in discover(["videos"])}
    assert {b"videos/" + name for name in odd} <= found


def test_pictures_are_told_by_suffix():
    assert is_image("a/b.JPG")
    assert is_image(Path("x.webp"))
    assert not is_image("clip.mp4")
    assert not is_image("moving.gif")
    assert not is_image("jpg")
