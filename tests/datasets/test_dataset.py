"""Examples of a data set."""

from pathlib import Path

import pytest

from cococli.datasets.dataset import Dataset, Example, drop_missing
from cococli.errors import UsageError


def test_missing_and_empty_files_are_dropped(tmp_path: Path):
    whole, empty, link = tmp_path / "a.jpg", tmp_path / "b.jpg", tmp_path / "c.jpg"
    whole.write_bytes(b"x")
    empty.touch()
    link.symlink_to("gone.jpg")
    lost = [empty, link, tmp_path, tmp_path / "gone.jpg", whole / "d.jpg", tmp_path / ("x" * 300), Path("a\0b")]
    examples = tuple(Example(path, ("a dog", "a cat"), str(path)) for path in (whole, *lost))
    rest, problem = drop_missing(Dataset(Path("x.json"), "val", examples, {}))
    assert rest.examples == examples[:1]
    assert problem
    assert problem.message == f"no pictures found for 14 of 16 captions (first: {empty})"
    assert problem.hint == "pass the picture folder with --images"
    assert drop_missing(rest) == (rest, None)


def test_at_least_one_file_must_exist():
    videos = Dataset(Path("x.csv"), None, (Example(Path("a.mp4"), ("a dog",), "a"),), {})
    with pytest.raises(UsageError) as caught:
        drop_missing(videos)
    assert caught.value.message == "no videos found for 1 of 1 captions (first: a.mp4)"
    assert caught.value.hint == "pass the video folder with --images"
