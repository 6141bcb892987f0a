"""Edits of a review: saved at once, never lost, and what is read of a growing file."""

import json
import threading
from pathlib import Path

import pytest

from cococli.captioning.records import Record
from cococli.errors import UsageError
from cococli.journal import Failure
from cococli.review.edits import Conflict, Edit, Review, id_of


def record(name: str, caption: str = "a dog", **fields: float) -> Record:
    times = {"start": 0.0, "end": 4.0} | fields
    return Record(f"{name}.mp4", **times, caption=caption, logprob=-0.5, similarity=0.25, frames=(1.0,), model="shapes")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "out.jsonl"
    lines = [record("a"), record("b"), Failure("c.mp4", "no video stream")]
    path.write_text("".join(f"{line.to_json('key')}\n" for line in lines))
    return path


A = id_of(record("a"))


def test_edits_survive_beside_untouched_records(path: Path) -> None:
    before = path.read_bytes()
    review = Review(path)
    assert review.edit(A, 0, "  a\ncat ", "accepted") == Edit(1, "a cat", "accepted")
    again = Review(path)
    assert path.read_bytes() == before
    assert again.edit_of(A) == Edit(1, "a cat", "accepted")
    assert (again.state(A)["caption"], again.state(A)["original"]) == ("a cat", "a dog")
    assert [caption for _, caption in again.reviewed()] == ["a cat"]
    again.edit(A, 1, "a dog", "rejected")  # the model's caption is no correction
    assert list(Review(path).reviewed()) == []


def test_acknowledged_edits_are_on_disk(path: Path, flushed: list[str]) -> None:
    Review(path).edit(A, 0, "a cat", None)
    assert flushed == [path.parent.name, "out.review.jsonl"]


def test_edit_of_an_older_version_conflicts(path: Path) -> None:
    one, other = Review(path), Review(path)
    one.edit(A, 0, "a cat", None)
    with pytest.raises(Conflict):
        other.edit(A, 0, "a cow", None)
    assert other.edit_of(A) == Edit(1, "a cat")
    assert other.edit(A, 1, "a cow", None).version == 2


def test_concurrent_edits_are_all_kept(path: Path) -> None:
    def count(review: Review) -> None:
        for _ in range(20):
            while True:
                try:
                    version = review.edit_of(A).version
                    review.edit(A, version, f"caption {version}", None)
                    break
                except Conflict:
                    pass

    threads = [threading.Thread(target=count, args=[Review(path)]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = (path.parent / "out.review.jsonl").read_text().splitlines()
    assert [json.loads(line)["version"] for line in lines] == list(range(1, 61))


def test_line_cut_short_by_crash_is_dropped(path: Path) -> None:
    Review(path).edit(A, 0, "a cat", None)
    edits = path.parent / "out.review.jsonl"
    with edits.open("a") as file:
        file.write('{"video": "a.mp4", "sta')
    review = Review(path)
    assert review.edit_of(A) == Edit(1, "a cat")
    review.edit(A, 1, "a cow", None)
    assert [json.loads(line)["caption"] for line in edits.read_text().splitlines()] == ["a cat", "a cow"]


def test_correction_outlives_new_captions_verdicts_do_not(path: Path) -> None:
    review = Review(path)
    b = id_of(record("b"))
    review.edit(A, 0, "a cat", None)
    review.edit(b, 0, None, "accepted")
    path.write_text(f"{record('a', 'a cow').to_json()}\n{record('b', 'a cow').to_json()}\n")
    changes = review.since(review.refresh() - 1)
    assert changes["complete"] and changes["records"] == [A, b]
    assert review.edit_of(A) == Edit(1, "a cat")
    assert review.edit_of(b) == Edit(1)


def test_only_changed_records_are_reported(path: Path) -> None:
    review = Review(path)
    stamp = review.stamp
    added = record("d", start=2.0)
    with path.open("a") as file:
        file.write(f"{added.to_json()}\n{record('e').to_json()[:30]}")
    review.refresh()
    assert review.since(stamp)["records"] == [id_of(added)]
    stamp = review.stamp
    Review(path).edit(A, 0, None, "accepted")
    review.refresh()
    assert review.since(stamp) == {"stamp": stamp + 1, "complete": False, "records": [A]}
    assert review.find("d.mp4", 0.0, 3.0) == id_of(added)
    assert review.find("x.mp4", 0.0, 3.0) is None


@pytest.mark.parametrize(
    "line", ["not JSON", '{"video": "a.mp4"}', "[]", '{"video": 3, "status": "error", "error": ""}']
)
def test_other_files_are_refused(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(UsageError, match=r"line 4 of .*out.jsonl is not a caption of coca"):
        Review(path)
