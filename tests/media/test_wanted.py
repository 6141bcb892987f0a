"""What --include, --exclude and --since may be given."""

import glob
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.errors import UsageError
from cococli.media.wanted import Wanted, parse_glob, since


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
def test_a_date_is_local_unless_it_has_an_offset(text: str, expected: str, berlin: None):
    assert since(text) == datetime.fromisoformat(expected).timestamp()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600), ("1.5h", 5400), ("0d", 0)]
)
def test_an_age_counts_back_from_now(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(time, "time", lambda: 2e9)
    assert since(text) == 2e9 - seconds


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-7d", "7 d", "7D", "1e3d", "today", "2024-13-01", "05/01/2024", "2024"]
)
def test_anything_else_is_a_usage_error(text: str):
    with pytest.raises(UsageError) as caught:
        since(text)
    assert caught.value.message == f"{text!r} is no date and no age"
    assert caught.value.hint == "write it as 2024-05-01, 2024-05-01T12:00, 30m, 12h, 7d or 2w"


def test_any_age_and_the_first_year_are_no_crash():
    assert since("9" * 400 + "w") == float("-inf")
    for text in ("0001-01-01", "9999-12-31T23:59"):
        try:
            assert isinstance(since(text), float)
        except UsageError as error:
            assert error.message == f"{text!r} is no date and no age"


@pytest.mark.parametrize("text", ["", ".", "./"])
def test_a_glob_of_nothing_is_a_usage_error(text: str):
    with pytest.raises(UsageError) as caught:
        parse_glob(text)
    assert (caught.value.message, caught.value.hint) == (f"{text!r} is no glob", "write it as '*.gif' or 'raw/**'")


TREE = ["a", "b.c/a", "b.c/[a]", "a.c/b", "a.c/b.c/a.c/b", "a.c/b.c/a.c/ab", "ab/b/a", "ab/a.c/a/b"]
PARTS = st.sampled_from(["**", "*", "a", "b", "ab", "*.c", "?", "a*", "[!a]", "[ab].c", "[[]*", "a**"])


@given(st.lists(PARTS, min_size=2, max_size=5).map("/".join))
def test_a_path_fits_a_glob_that_finds_it_or_a_folder_it_is_in(folder_of_tree: Path, text: str):
    text_for_files = f"{text}/*" if text.endswith("/**") else text  # else `a/**` finds the file a
    found = {Path(name) for name in glob.glob(text_for_files, root_dir=folder_of_tree, recursive=True)}  # noqa: PTH207
    wanted = Wanted(include=(parse_glob(text),))
    for name in TREE:
        assert wanted.takes(name, 0, 0) == bool(found & {Path(name), *Path(name).parents})


@pytest.fixture(scope="module")
def folder_of_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for name in TREE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder
