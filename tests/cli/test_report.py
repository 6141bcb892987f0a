"""Pages of captions, as a user makes them."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_packaging import without

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with two clips and a broken file in `videos`."""
    monkeypatch.setenv("COCA_MODEL", "shapes")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("grows.mp4", "moves.mp4"):
        shutil.copy(EXAMPLES / name, folder)
    (folder / "a broken.mp4").write_bytes(b"this is no video")
    return folder


def data_of(page: Path) -> dict[str, Any]:
    return json.loads(re.search(r'id="coca-data">(.*?)</script>', page.read_text("utf-8"))[1])


def test_caption_writes_a_page_with_map(coca, videos: Path) -> None:
    run = coca("caption", "videos", "--frames", "multi", "-o", "out.jsonl", "-o", "page.html", "--embed", "index")
    assert run.returncode == 1  # for the broken file
    page = data_of(Path("page.html"))
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [record["video"] for record in page["records"]] == [line["video"] for line in lines]
    broken, *others = page["records"]
    assert (broken["status"], broken["thumbnails"]) == ("error", [])
    for record in others:
        assert len(record["thumbnails"]) == 4
        assert {one["time"] for one in record["thumbnails"]} <= set(record["frames"])
    assert [point[0] for point in page["map"]["points"]] == [1, 2]
    assert coca("report", "out.jsonl", "-o", "again.html", "--index", "index").returncode == 0
    assert data_of(Path("again.html")) == page | {"title": "out.jsonl"}


def test_page_alone_is_resumed_and_rewritten(coca, videos: Path) -> None:
    (videos / "a broken.mp4").unlink()
    coca("caption", "videos/grows.mp4", "-o", "page.html")
    first = data_of(Path("page.html"))
    again = coca("caption", "videos/grows.mp4", "-o", "page.html")
    assert (again.returncode, again.stderr) == (0, "1 of 1 files already captioned (use --overwrite to redo them)\n")
    assert data_of(Path("page.html")) == first


def test_page_of_failures_has_no_map(coca, videos: Path) -> None:
    run = coca("caption", "videos/a broken.mp4", "-o", "page.html", "-o", "out.csv", "--embed", "index")
    assert (run.returncode, Path("out.csv").exists()) == (1, True)
    page = data_of(Path("page.html"))
    assert ([record["status"] for record in page["records"]], page["map"]) == (["error"], None)


def test_moved_files_are_found_by_root(coca, videos: Path) -> None:
    coca("caption", "videos/grows.mp4", "-o", "out.jsonl")
    videos.rename("elsewhere")
    assert coca("report", "out.jsonl", "-o", "page.html").returncode == 0
    assert data_of(Path("page.html"))["records"][0]["thumbnails"] == []
    assert coca("report", "out.jsonl", "-o", "page.html", "--root", "elsewhere").returncode == 0
    [record] = data_of(Path("page.html"))["records"]
    assert (record["video"], len(record["thumbnails"])) == ("videos/grows.mp4", 1)


def test_invalid_reports_fail_with_hints(coca, videos: Path) -> None:
    Path("mine.html").write_text("my own page")
    Path("wrong.jsonl").write_text('{"video": "a.mp4", "status": "ok"}\n')
    Path("empty.jsonl").write_text("")
    Path("out.jsonl").write_text('{"video": "a.mp4", "status": "error", "error": "no such file"}\n')

    def error(*arguments: str) -> str:
        run = coca("report", *arguments)
        assert (run.returncode, run.stdout) == (2, "")
        return run.stderr.splitlines()[0]

    assert error("out.jsonl", "-o", "page.pdf") == "error: page.pdf must end in .html"
    assert error("wrong.jsonl", "-o", "a.html") == "error: line 1 of wrong.jsonl is not a record of coca caption"
    assert error("empty.jsonl", "-o", "a.html") == "error: empty.jsonl holds no records"
    assert error("out.jsonl", "-o", "mine.html").startswith("error: mine.html was not written by coca")
    assert Path("mine.html").read_text() == "my own page"
    assert coca("report", "out.jsonl", "-o", "mine.html", "--overwrite").returncode == 0
    assert data_of(Path("mine.html"))["records"][0]["error"] == "no such file"


def test_page_without_jinja_names_the_extra(tmp_path: Path) -> None:
    run = without(
        "jinja2", tmp_path, "caption", "examples/moves.mp4", "-o", tmp_path / "page.html", "--model", "shapes"
    )
    assert run.stderr.splitlines() == [
        "error: the page of results needs jinja2",
        "hint: pip install 'cococli[review]'",
    ]
