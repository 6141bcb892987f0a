"""Files, folders and patterns become a list of files."""

import glob
import io
import json
import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from media.tar_fixtures import write_tar

from cococli.errors import UsageError
from cococli.media.discover import Filter, discover, is_image, parse_since
from cococli.options import FileOptions
from cococli.reporting import Reporter


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


class Notes(Reporter):
    """Collects notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).isoformat()


def find(*paths: str, stdin: BinaryIO | None = None, **options: Any) -> tuple[list[str], list[str]]:
    """Return the files, and the messages of problems."""
    files, problems = discover(paths, FileOptions(**options), stdin=stdin)
    return [str(path) for path in files], [problem.message for problem in problems]


def names(*paths: str, stdin: BinaryIO | None = None, **options: Any) -> list[str]:
    files, problems = find(*paths, stdin=stdin, **options)
    assert not problems
    return files


IN_VIDEOS = ["videos/a.MP4", "videos/b.mp4", "videos/photo.jpg", "videos/sub/c.mkv", "videos/sub/deep/d.webm"]


@pytest.mark.parametrize("spelling", ["videos", "videos/", "./videos", "sub/../videos"])
def test_folders_yield_sorted_visible_media(folder: Path, spelling: str):
    (folder / "sub").mkdir()
    assert [os.path.normpath(name) for name in names(spelling)] == IN_VIDEOS


def test_a_hidden_folder_is_read_when_named(folder: Path):
    assert names("videos/.cache") == ["videos/.cache/e.mp4"]
    os.chdir("videos/.cache")
    assert names(".") == ["e.mp4"]


def test_named_files_are_kept_with_any_suffix(folder: Path):
    assert names("videos/notes.txt", "missing.mp4", "videos/.hidden.mp4") == [
        "videos/notes.txt",
        "missing.mp4",
        "videos/.hidden.mp4",
    ]


def test_arguments_keep_order_and_first_spelling(folder: Path):
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


def test_exact_file_name_wins_over_pattern(folder: Path):
    (folder / "[ab].mp4").touch()
    (folder / "a.mp4").touch()
    assert names("[ab].mp4") == ["[ab].mp4"]


def test_patterns_work_inside_pattern_like_folders(folder: Path):
    odd = folder / "[2024] trip*" / "day 1"
    odd.mkdir(parents=True)
    (odd / "x.mp4").touch()
    os.chdir(odd.parent)
    assert names("**/*.mp4") == ["day 1/x.mp4"]


@pytest.mark.parametrize("pattern", ["videos/*.avi", "no/**/*.mp4"])
def test_unmatched_patterns_warn_and_the_rest_goes_on(folder: Path, pattern: str):
    files, problems = discover(["videos/b.mp4", pattern, "videos/*.mkv", "**/c.mkv"])
    assert list(map(str, files)) == ["videos/b.mp4", "videos/sub/c.mkv"]
    assert [problem.message for problem in problems] == [
        f"{pattern!r} matches no file",
        "'videos/*.mkv' matches no file",
    ]
    assert "videos/**/*.mp4" in problems[0].hint
    with pytest.raises(UsageError, match="matches no file"):
        discover([pattern])


def test_urls_are_files_wherever_they_stand(folder: Path):
    url, signed = "https://example.com/a b/*.mp4?v=1&t=2", "https://example.com/c?v=3&X-Amz-Signature=no"
    again = signed.replace("no", "neither")
    (folder / "list.txt").write_text(f"{signed}\n{again}\nfile:///b.mp4\nvideos/b.mp4\n")
    notes = Notes()
    files, problems = discover([url, "@list.txt", "C:/a.mp4"], reporter=notes)
    assert list(map(str, files)) == [url, "https://example.com/c?v=3", "/b.mp4", "videos/b.mp4", "C:/a.mp4"]
    assert files[1].url == signed and not problems
    assert notes.notes == ["1 URLs differ from others only in signatures or tokens: taken for the same files"]
    assert list(map(str, discover([url, signed], FileOptions(include=("*.mp4",)))[0])) == [url]
    (folder / "http:").mkdir()
    (folder / "http:/a.mp4").touch()
    assert names("http://a.mp4") == ["http:/a.mp4"]


@pytest.mark.parametrize("system", ["@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found"])
def test_system_folders_are_read_only_if_named(folder: Path, system: str):
    inner = folder / "videos/sub" / system / "b.mp4"
    inner.mkdir(parents=True)
    (inner / "thumb.jpg").touch()
    assert names("videos") == IN_VIDEOS
    assert names("videos/**/*.jpg") == ["videos/photo.jpg"]
    assert find("videos/*/*/*/*", "videos/b.mp4")[0] == ["videos/b.mp4"]
    assert names(f"videos/sub/{system}") == [f"videos/sub/{system}/b.mp4/thumb.jpg"]
    assert names(f"videos/*/{system}/**/*.jpg") == [f"videos/sub/{system}/b.mp4/thumb.jpg"]


def test_typescript_is_told_from_transport_streams(folder: Path):
    packets = b"".join(b"\x47" + bytes(187) for _ in range(6))
    contents = {
        "a.ts": packets,
        "b.ts": packets[100:],  # a recording that begins within a packet
        "c.mts": b"".join(bytes(4) + packets[i * 188 : i * 188 + 188] for i in range(6)),
        "d.ts": b"import { GGGG } from './G'\n" * 99,
        "e.d.mts": b"export {}",
        "f.ts": b"",
    }
    for name, content in contents.items():
        (folder / "videos/sub" / name).write_bytes(content)
    assert names("videos/sub") == [f"videos/sub/{name}" for name in ("a.ts", "b.ts", "c.mkv", "c.mts", "deep/d.webm")]
    assert names("videos/sub/d.ts") == ["videos/sub/d.ts"]


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


def test_linked_folders_are_searched_once(folder: Path):
    (folder / "videos/again").symlink_to("sub")
    assert names("videos") == [
        "videos/a.MP4",
        "videos/again/c.mkv",
        "videos/again/deep/d.webm",
        "videos/b.mp4",
        "videos/photo.jpg",
    ]


def test_links_are_followed_and_broken_ones_kept(folder: Path):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/f.mp4").touch()
    (folder / "videos/sub/linked").symlink_to(folder / "elsewhere")
    (folder / "videos/gone.mp4").symlink_to("nowhere.mp4")
    assert {"videos/sub/linked/f.mp4", "videos/gone.mp4"} <= set(names("videos"))


def test_unreadable_folders_are_kept(folder: Path, as_nobody: None):
    (folder / "videos/sub").chmod(0)
    try:
        assert names("videos") == [*IN_VIDEOS[:3], "videos/sub"]
    finally:
        (folder / "videos/sub").chmod(0o755)


def test_unreadable_folders_in_patterns_are_kept(folder: Path, as_nobody: None):
    (folder / "videos/sub").chmod(0)
    try:
        assert names("videos/**/*.mp4") == ["videos/b.mp4", "videos/sub"]
        assert names("videos/**/*.mp4", exclude=["sub"]) == ["videos/b.mp4"]
        assert names("videos/sub/c.mkv", exclude=["*.gif"], since=iso(0)) == ["videos/sub/c.mkv"]
    finally:
        (folder / "videos/sub").chmod(0o755)


def test_folders_removed_during_search_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch):
    scandir = os.scandir

    def moved_meanwhile(path: str) -> Any:
        if path.endswith("deep"):
            Path(path).rename("elsewhere")
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", moved_meanwhile)
        found = names("videos")
    assert found == [*IN_VIDEOS[:4], "videos/sub/deep"]


def test_names_of_any_bytes_survive(folder: Path):
    odd = [b"new\nline.mp4", b"caf\xe9.mp4", "日本 🎬.mp4".encode(), b" .mp4", b"-o.mp4"]
    for name in odd:
        Path(os.fsdecode(b"videos/" + name)).touch()
    found = {os.fsencode(name) for name in names("videos")}
    assert {b"videos/" + name for name in odd} <= found


def test_unreadable_media_in_folders_are_counted(folder: Path):
    for name in ("a.NEF", "b.nef", "c.svg", "d.psd", ".hidden.nef", "sub/e.heic", "left-out.nef"):
        (folder / "videos" / name).touch()
    reporter = Notes()
    options = FileOptions(exclude=("left-out*",))
    files, _ = discover(["videos", "videos/sub/../", "videos/d.psd"], options, reporter)
    assert list(map(str, files)) == [*IN_VIDEOS, "videos/sub/e.heic", "videos/d.psd"]
    assert reporter.notes == ["skipped 2 .nef, 1 .svg files: convert them to JPEG, PNG or MP4 first"]


def test_a_folder_of_unreadable_media_says_so(folder: Path):
    (folder / "raw").mkdir()
    (folder / "raw" / "a.nef").touch()
    with pytest.raises(UsageError) as caught:
        discover(["raw"])
    assert caught.value.hint == "skipped 1 .nef file: convert them to JPEG, PNG or MP4 first"


def test_pictures_are_told_by_suffix():
    assert is_image("a/b.JPG")
    assert is_image(Path("x.webp"))
    assert not is_image("clip.mp4")
    assert not is_image("moving.gif")
    assert not is_image("jpg")


def test_impossible_names_are_kept(folder: Path):
    impossible = ["x" * 300 + ".mp4", "nul\0.mp4", "nul\0/a.mp4", "\ud800.mp4"]
    Path("list.jsonl").write_text("".join(json.dumps({"video": name}) + "\n" for name in impossible))
    assert names("@list.jsonl", since=iso(0), exclude=["*.gif"]) == impossible


def test_lists_keep_their_order_among_arguments(folder: Path):
    Path("list.txt").write_text("videos/sub\nvideos/b.mp4\nmissing[1].mp4\n*.mp4\n@list.txt\n-\n")
    stdin = io.BytesIO(b"videos/b.mp4\0new\nline.mp4\0")
    assert names("videos/photo.jpg", "@list.txt", "-", "videos", stdin=stdin) == [
        "videos/photo.jpg",
        *IN_VIDEOS[3:],
        "videos/b.mp4",
        "missing[1].mp4",
        "*.mp4",
        "@list.txt",
        "-",
        "new\nline.mp4",
        "videos/a.MP4",
    ]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        (["*.mp4"], ["a.MP4", "photo.jpg", "sub/c.mkv", "sub/deep/d.webm"]),
        (["*.mp4", "[a-p]*.[Mj]*"], ["sub/c.mkv", "sub/deep/d.webm"]),
        (["sub"], ["a.MP4", "b.mp4", "photo.jpg"]),
        (["sub/"], ["a.MP4", "b.mp4", "photo.jpg"]),
        (["sub/**"], ["a.MP4", "b.mp4", "photo.jpg"]),
        (["sub/*"], ["a.MP4", "b.mp4", "photo.jpg"]),
        (["sub/?.*"], ["a.MP4", "b.mp4", "photo.jpg", "sub/deep/d.webm"]),
        (["sub/?"], ["a.MP4", "b.mp4", "photo.jpg", "sub/c.mkv", "sub/deep/d.webm"]),
        (["*/**"], ["a.MP4", "b.mp4", "photo.jpg"]),
        (["./sub/deep"], ["a.MP4", "b.mp4", "photo.jpg", "sub/c.mkv"]),
        (["deep"], ["a.MP4", "b.mp4", "photo.jpg", "sub/c.mkv"]),
        (["deep/**"], ["a.MP4", "b.mp4", "photo.jpg", "sub/c.mkv", "sub/deep/d.webm"]),
        (["**/deep/**"], ["a.MP4", "b.mp4", "photo.jpg", "sub/c.mkv"]),
        (["**/*.m*"], ["a.MP4", "photo.jpg", "sub/deep/d.webm"]),
        (["SUB", "B.mp4"], ["a.MP4", "b.mp4", "photo.jpg", "sub/c.mkv", "sub/deep/d.webm"]),
    ],
)
def test_what_an_exclude_matches_is_left_out(folder: Path, exclude: list[str], left: list[str]):
    assert names("videos", exclude=exclude) == [f"videos/{name}" for name in left]
    assert names("videos/**/*.[!t]*", exclude=exclude) == [f"videos/{name}" for name in left]
    assert names(str(folder / "videos"), exclude=exclude) == [str(folder / "videos" / name) for name in left]
    os.chdir("videos")
    assert names(".", exclude=exclude) == left
    assert names("**/*.[!t]*", exclude=exclude) == left


@pytest.mark.parametrize(
    ("include", "taken"),
    [
        (["*.mp4"], ["b.mp4"]),
        (["*.mp4", "*.jpg"], ["b.mp4", "photo.jpg"]),
        (["sub"], ["sub/c.mkv", "sub/deep/d.webm"]),
        (["s*/*.mkv"], ["sub/c.mkv"]),
        (["**/[cd].*"], ["sub/c.mkv", "sub/deep/d.webm"]),
    ],
)
def test_only_what_an_include_matches_is_taken(folder: Path, include: list[str], taken: list[str]):
    assert names("videos", include=include) == [f"videos/{name}" for name in taken]
    os.chdir("videos")
    assert names(".", include=include) == taken


def test_exclude_wins_over_include(folder: Path):
    assert names("videos", include=["*.m*"], exclude=["sub"]) == ["videos/b.mp4"]


def test_globs_match_paths_as_they_are_named(folder: Path):
    assert names("videos", exclude=["videos/sub/**", "./videos/b.mp4"]) == ["videos/a.MP4", "videos/photo.jpg"]
    assert names(str(folder / "videos"), include=[str(folder / "videos/sub")]) == [
        str(folder / name) for name in IN_VIDEOS[3:]
    ]


def test_globs_hold_for_named_files_folders_and_lists(folder: Path):
    Path("list.txt").write_text("videos/sub/c.mkv\nvideos/b.mp4\n")
    assert names("videos/photo.jpg", "@list.txt", exclude=["*.mkv", "videos/p*"]) == ["videos/b.mp4"]
    assert names("videos/photo.jpg", "@list.txt", exclude=["*/*/*", "*/p*"]) == ["videos/b.mp4"]
    assert names("videos/sub", "videos/b.mp4", exclude=["sub"]) == ["videos/b.mp4"]
    assert names("videos/sub", "videos/b.mp4", include=["sub"]) == ["videos/sub/c.mkv", "videos/sub/deep/d.webm"]


def test_globs_do_not_match_parent_folders(folder: Path):
    assert names("videos/sub/c.mkv", "videos/sub/deep", exclude=["sub", "videos", folder.name]) == [
        "videos/sub/c.mkv",
        "videos/sub/deep/d.webm",
    ]


def test_an_excluded_folder_is_not_opened(folder: Path, as_nobody: None):
    (folder / "videos/sub").chmod(0)
    try:
        for exclude in ("sub", "sub/**", "sub/*", "videos/sub", "**/sub/**"):
            assert names("videos", exclude=[exclude]) == IN_VIDEOS[:3]
            assert names("videos/**/*.[mM][pP]4", exclude=[exclude]) == IN_VIDEOS[:2]
        assert names("videos/sub", "videos/b.mp4", exclude=["sub"]) == ["videos/b.mp4"]
    finally:
        (folder / "videos/sub").chmod(0o755)


def test_a_pattern_may_match_only_what_is_excluded(folder: Path):
    assert names("videos/**/*.webm", "videos/b.mp4", exclude=["deep"]) == ["videos/b.mp4"]
    with pytest.raises(UsageError, match="matches no file"):
        names("videos/**/*.web", exclude=["deep"])


def test_since_keeps_recent_and_unknown_files(folder: Path):
    for name in IN_VIDEOS:
        os.utime(name, (0, 1000))
    os.utime("videos/b.mp4", (0, 2000))
    Path("link.mp4").symlink_to("videos/photo.jpg")
    assert names("videos", since=iso(1000.5)) == ["videos/b.mp4"]
    assert names("videos", since=iso(1000)) == IN_VIDEOS
    assert names("videos/b.mp4", "videos/a.MP4", "link.mp4", "missing.mp4", since=iso(2000)) == [
        "videos/b.mp4",
        "missing.mp4",
    ]


@pytest.mark.parametrize("limits", [{"include": ["*.avi"]}, {"exclude": ["*"]}, {"since": "9999-01-01"}])
def test_when_nothing_is_left_the_limits_are_named(folder: Path, limits: dict[str, Any]):
    with pytest.raises(UsageError) as caught:
        names("videos", **limits)
    assert caught.value.message == "'videos': no video or picture found within --include, --exclude and --since"


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda name: not set(name) & {0, 47} and name[0] != 46)))
def test_any_file_name_is_found(raw: list[bytes]):
    with TemporaryDirectory() as folder:
        paths = sorted({f"{folder}/{os.fsdecode(name)}.mp4" for name in raw})
        for path in paths:
            Path(path).touch()
        stdin = io.BytesIO(b"".join(os.fsencode(path) + b"\0" for path in paths))
        assume(paths)
        assert names(folder) == names(f"{folder}/*") == names("-", stdin=stdin) == paths
        assert names(folder, include=[glob.escape(paths[0])]) == paths[:1]
        assert names(folder, "missing.mp4", exclude=[glob.escape(Path(path).name) for path in paths]) == ["missing.mp4"]


# --include, --exclude and --since


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Local time is that of Berlin."""
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-01", "2024-04-30T22:00:00+00:00"),
        ("2024-05-01T12:00", "2024-05-01T10:00:00+00:00"),
        ("2024-12-01 12:00:30", "2024-12-01T11:00:30+00:00"),
        ("2024-05-01T12:00Z", "2024-05-01T12:00:00+00:00"),
        ("2024-05-01T12:00+05:30", "2024-05-01T06:30:00+00:00"),
    ],
)
def test_dates_without_offset_are_local(text: str, expected: str, berlin: None):
    assert parse_since(text) == datetime.fromisoformat(expected).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("1.5h", 5400), ("0d", 0)]
)
def test_an_age_counts_back_from_now(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert parse_since(text) == 2e9 - seconds


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-7d", "7 d", "7D", "1e3d", "today", "2024-13-01", "05/01/2024", "2024"]
)
def test_anything_else_is_a_usage_error(text: str):
    with pytest.raises(UsageError) as caught:
        parse_since(text)
    assert caught.value.message == f"{text!r} is neither a date nor an age"
    assert caught.value.hint == "write it as 2024-05-01, 2024-05-01T12:00, 30m, 12h, 7d or 2w"


def test_extreme_ages_and_dates_are_accepted():
    assert parse_since("9" * 400 + "w") == float("-inf")
    for text in ("0001-01-01", "9999-12-31T23:59"):
        try:
            assert isinstance(parse_since(text), float)
        except UsageError as error:
            assert error.message == f"{text!r} is neither a date nor an age"


@pytest.mark.parametrize("text", ["", ".", "./"])
def test_a_glob_of_nothing_is_a_usage_error(text: str):
    with pytest.raises(UsageError) as caught:
        names("videos", exclude=[text])
    assert (caught.value.message, caught.value.hint) == (f"{text!r} is not a glob", "write it as '*.gif' or 'raw/**'")


TREE = ["a", "b.c/a", "b.c/[a]", "a.c/b", "a.c/b.c/a.c/b", "a.c/b.c/a.c/ab", "ab/b/a", "ab/a.c/a/b"]
PARTS = st.sampled_from(["**", "*", "a", "b", "ab", "*.c", "?", "a*", "[!a]", "[ab].c", "[[]*", "a**"])


@given(st.lists(PARTS, min_size=2, max_size=5).map("/".join))
def test_globs_match_paths_and_parent_folders(folder_of_tree: Path, text: str):
    text_for_files = f"{text}/*" if text.endswith("/**") else text  # else `a/**` finds the file a
    found = {Path(name) for name in glob.glob(text_for_files, root_dir=folder_of_tree, recursive=True)}  # noqa: PTH207
    filter = Filter.of(FileOptions(include=(text,)))
    for name in TREE:
        assert filter.accepts(name, 0, 0) == bool(found & {Path(name), *Path(name).parents})


@pytest.fixture(scope="module")
def folder_of_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for name in TREE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_sizes_in_tars_cannot_lead_back(folder: Path) -> None:
    content = bytearray(write_tar(folder / "t.tar", [("1.jpg", b"123"), ("2.jpg", b"123")]).read_bytes())
    content[1024 + 124 : 1024 + 136] = (-1024).to_bytes(12, "big", signed=True)
    content[1024 + 148 : 1024 + 156] = b" " * 8
    content[1024 + 148 : 1024 + 156] = b"%06o\0 " % sum(content[1024:1536])
    (folder / "t.tar").write_bytes(content)
    assert names("t.tar") == ["t.tar/@512+3/1.jpg", "t.tar"]


def test_tars_stand_for_what_they_hold(folder: Path) -> None:
    png = ("2.png", b"x")
    write_tar(
        folder / "videos" / "t.tar", [("a/1.jpg", b"123"), ("1.txt", b""), ("._1.jpg", b""), (".x/3.jpg", b""), png]
    )
    write_tar(folder / "videos" / "notes.tar", [("notes.txt", b"x")])
    inside = ["videos/t.tar/@512+3/a/1.jpg", "videos/t.tar/@3072+1/2.png"]
    files = ["videos/a.MP4", "videos/b.mp4", "videos/photo.jpg", "videos/sub/c.mkv", "videos/sub/deep/d.webm"]
    assert names("videos") == [*files, *inside]
    assert names("videos/t.tar", "./videos/t.tar", inside[0]) == inside
    assert names("videos/{t,notes}.tar") == [*inside, "videos/notes.tar"]
    assert names("videos/t.tar", include=("*.jpg",)) == inside[:1]
    assert names("videos/t.tar", exclude=("a",)) == inside[1:]
    os.utime(folder / "videos" / "t.tar", (0, 0))
    assert names("videos", since="1d") == files
