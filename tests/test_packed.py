"""Sequences in little memory: they return what was put in, and runs over many files stay small."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cococli.captioning.job import prepare
from cococli.captioning.records import Record
from cococli.captioning.resume import open_run
from cococli.options import ModelOptions
from cococli.packed import Paths, Table, View, select
from cococli.requests import CaptionRequest
from cococli.urls import RemotePath, remote_path

MANY = 1_000


def test_paths_return_what_was_added() -> None:
    names = ["a.mp4", "./b/../c.mp4", "", "caf\udce9.mp4", "lone\ud800.mp4", "nul\0.mp4", "\U0001f431.gif", "a.mp4"]
    paths = Paths(names)
    assert [*paths] == paths == [*map(Path, names)]
    assert (paths[-1], paths[1:3], len(paths)) == (Path("a.mp4"), [Path("b/../c.mp4"), Path()], len(names))
    with pytest.raises(IndexError):
        paths[len(names)]


def test_remote_paths_keep_url_and_version() -> None:
    signed = remote_path("https://host/a.mp4?Signature=s3cret", "12 etag")
    paths = Paths([signed, Path("local.mp4"), remote_path("s3://bucket/ä.mp4", "")])
    assert isinstance(found := paths[0], RemotePath)
    assert (found, found.url, found.version, str(found)) == (signed, signed.url, "12 etag", "https://host/a.mp4")
    assert [str(path) for path in paths[1:]] == ["local.mp4", "s3://bucket/ä.mp4"]


def test_tables_find_equal_hashes() -> None:
    table = Table(range(1000))
    table.add(-1)  # hash(-1) == hash(-2) == -2
    table.add(-2)
    assert [[*table.candidates(key)] for key in (0, 999, 1000, -2)] == [[0], [999], [], [1000, 1001]]


def test_views_choose_and_change_items() -> None:
    letters = "abcd"
    assert View(letters, str.upper, [2, 0]) == ["C", "A"]
    assert select(letters, b"\0\1\0\1") == ["a", "c"]
    assert select(letters, bytes(4)) is letters


def test_runs_take_little_memory_for_each_file(tmp_path: Path) -> None:
    def request(names: list[str]) -> CaptionRequest:
        (tmp_path / "list.txt").write_text("\n".join(names))
        model = ModelOptions(model="shapes", engine="torch", precision="fp32")
        return CaptionRequest((f"@{tmp_path / 'list.txt'}",), (str(tmp_path / "out.jsonl"),), model=model)

    def traced(names: list[str]) -> int:
        """Write a record of each file; return the memory that the package has then."""
        with open_run(prepare(request(names)).plan) as run:
            for task in (todo := run.todo):
                run.take(task, [Record(task.name, 0.0, 1.0, "a cat", -0.5, 0.25, (0.5,), "shapes")], vectors)
            assert len(todo) == len(names)
            ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/cococli/*")])
            return sum(trace.size for trace in ours.traces)

    names, vectors = [f"/archive/2024/{number:012}.mp4" for number in range(MANY)], np.zeros((1, 96), np.float32)
    tracemalloc.start()
    try:
        few = traced(["/before.mp4"])
        many = traced(names)
    finally:
        tracemalloc.stop()
    assert (many - few) / MANY < 120  # a record alone is an object of more than 500 bytes
    with open_run(prepare(request(names)).plan) as run:
        assert not run.todo
        assert [outcome.video for outcome in run.in_order()] == names
