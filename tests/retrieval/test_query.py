"""Queries as users type them."""

from pathlib import Path

import pytest

from cococli.errors import UsageError
from cococli.retrieval.search import Part, Query, parse_line, parse_part, parse_query
from cococli.urls import RemotePath


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a picture, a file whose name looks weighted, and one whose name is a sentence."""
    monkeypatch.chdir(tmp_path)
    for name in ("dog.jpg", "cat.jpg^2", "dog.jpg^3", "a dog jumps", "stray \udcff.mp4"):
        Path(name).touch()
    Path("dogs").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a dog", Part("a dog", 1.0)),
        ("a dog^2", Part("a dog", 2.0)),
        ("a dog^0.5", Part("a dog", 0.5)),
        ("a dog^.5", Part("a dog", 0.5)),
        ("a dog^-1.25", Part("a dog", -1.25)),
        ("a dog^0", Part("a dog", 0.0)),
        ("x^2 on a board", Part("x^2 on a board", 1.0)),
        ("x^2 on a board^3", Part("x^2 on a board", 3.0)),
        ("2^2^2", Part("2^2", 2.0)),
        ("two\nlines^2", Part("two\nlines", 2.0)),
        ("a dog^", Part("a dog^", 1.0)),
        ("a dog ^2", Part("a dog ^2", 1.0)),
        ("a dog^ 2", Part("a dog^ 2", 1.0)),
        ("a dog^^2", Part("a dog^^2", 1.0)),
        ("a dog^two", Part("a dog^two", 1.0)),
        ("^2", Part("^2", 1.0)),
        ("dog.jpg", Part(Path("dog.jpg"), 1.0)),
        ("dog.jpg^2", Part(Path("dog.jpg"), 2.0)),
        ("./dog.jpg^-2", Part(Path("dog.jpg"), -2.0)),
        ("cat.jpg^2", Part(Path("cat.jpg^2"), 1.0)),
        ("cat.jpg^2^4", Part(Path("cat.jpg^2"), 4.0)),
        ("dog.jpg^3", Part(Path("dog.jpg^3"), 1.0)),
        ("a dog jumps", Part(Path("a dog jumps"), 1.0)),
        ("stray \udcff.mp4^2", Part(Path("stray \udcff.mp4"), 2.0)),
        ("dogs", Part("dogs", 1.0)),
        ("Dr. Jpg meets Mr. mp4", Part("Dr. Jpg meets Mr. mp4", 1.0)),
        ("it is 3.5 m long", Part("it is 3.5 m long", 1.0)),
        ("a word " * 1000, Part("a word " * 1000, 1.0)),
        ("half\0a path", Part("half\0a path", 1.0)),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_parts_are_sentences_or_existing_files(text: str, part: Part) -> None:
    assert parse_part(text) == part


@pytest.mark.parametrize("text", ["cat.jpg", "cat.jpg^2", "clips/my dog.MP4"])
def test_missing_files_are_refused(text: str) -> None:
    Path("cat.jpg^2").unlink()
    with pytest.raises(UsageError) as caught:
        parse_part(text)
    assert (caught.value.message, caught.value.hint) == (f"no such file: {text.partition('^')[0]}", "")


def test_huge_weights_are_refused() -> None:
    with pytest.raises(UsageError, match="must be at most 1000"):
        parse_part("a dog^" + "9" * 400)


def test_broken_links_are_refused() -> None:
    Path("old.mp4").symlink_to("gone.mp4")
    with pytest.raises(UsageError) as caught:
        parse_part("old.mp4")
    assert caught.value.message == "no such file: old.mp4"


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_empty_parts_are_refused(text: str) -> None:
    for parts in (([text], []), (["a dog", text], []), (["a dog"], [text])):
        with pytest.raises(UsageError) as caught:
            parse_query(*parts)
        assert (caught.value.message, caught.value.hint) == (
            "the query is empty",
            "coca search 'a dog jumps' index/",
        )


def test_query_needs_a_part() -> None:
    with pytest.raises(UsageError, match="no query given"):
        parse_query([], ["snow"])


@pytest.mark.parametrize(
    ("line", "query"),
    [
        ("a dog\n", Query((Part("a dog"),))),
        ("  a dog^2 +  dog.jpg \n", Query((Part("a dog", 2.0), Part(Path("dog.jpg"))))),
        ("a dog --not snow", Query((Part("a dog"),), (Part("snow"),))),
        ("a + b --not c^2 --not d", Query((Part("a"), Part("b")), (Part("c", 2.0), Part("d")))),
        ("a C++ book, 1+1 on it", Query((Part("a C++ book, 1+1 on it"),))),
        ("a dog --nothing", Query((Part("a dog --nothing"),))),
    ],
)
def test_lines_hold_whole_queries(line: str, query: Query) -> None:
    assert parse_line(line) == query


@pytest.mark.parametrize("line", ["--not snow", "a dog --not"])
def test_incomplete_lines_are_refused(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_line(line)
    assert caught.value.message == "the query is empty"


def test_urls_stand_for_files() -> None:
    part = parse_part("https://example.com/a.jpg?token=x^2")
    assert (str(part.what), part.weight) == ("https://example.com/a.jpg", 2)
    assert isinstance(part.what, RemotePath)
