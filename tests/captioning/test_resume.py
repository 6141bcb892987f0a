"""A run over many videos: what is reused, and that its outputs hold all that was done, however it ends."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cococli.captioning.records import Outcome, Record
from cococli.captioning.resume import Plan, open_run, preview
from cococli.errors import UsageError
from cococli.journal import Failure
from cococli.retrieval.index import About, Index

Planned = Callable[..., Plan]
VECTORS = np.eye(4, dtype=np.float32)


@pytest.fixture
def planned(tmp_path: Path) -> Planned:
    """A plan for three files."""
    videos = [tmp_path / "videos" / f"{name}.mp4" for name in "abc"]
    videos[0].parent.mkdir()
    for video in videos:
        video.write_bytes(b"a video")

    def plan(*outputs: str, **options: object) -> Plan:
        places = tuple(
            output if output == "-" else str(tmp_path / output) + "/" * output.endswith("/") for output in outputs
        )
        return Plan(videos, **{"options": ("beams 6",), "outputs": places} | options)

    return plan


def outcomes_of(video: str, segments: int = 1) -> list[Outcome]:
    return [Record(video, float(i), i + 1.0, "a cat", -0.5, 0.25, (i + 0.5,), "m", segments) for i in range(segments)]


def work_off(plan: Plan, most: int = 99, segments: int = 1) -> list[str]:
    """Do what is to be done, but no more than so much; the names of what was done."""
    done = []
    with open_run(plan) as run:
        for task in run.todo[:most]:
            assert run.take(task, outcomes_of(task.name, segments), VECTORS[:segments]) == []
            done.append(Path(task.name).stem)
    return done


def test_runs_resume_from_their_jsonl_output(planned: Planned, tmp_path: Path) -> None:
    assert work_off(planned("out.jsonl"), most=2) == ["a", "b"]
    assert work_off(planned("out.jsonl")) == ["c"]
    assert [Path(json.loads(line)["video"]).stem for line in (tmp_path / "out.jsonl").open()] == ["a", "b", "c"]


@pytest.mark.parametrize("outputs", [("out.csv",), ("subs/",), ("out.txt", "subs/")])
def test_without_jsonl_the_cache_keeps_the_journal(planned: Planned, home: Path, outputs: tuple[str, ...]) -> None:
    assert work_off(planned(*outputs), most=2) == ["a", "b"]
    assert work_off(planned(*outputs)) == ["c"]
    assert len(list((home / "journals").iterdir())) == 1
    assert work_off(planned("other.csv")) == ["a", "b", "c"]


def test_outputs_hold_records_of_earlier_runs(planned: Planned, tmp_path: Path) -> None:
    outputs = ("out.jsonl", "out.csv", "out.txt", "subs/")
    work_off(planned(*outputs), most=1, segments=2)
    (tmp_path / "subs" / "a.srt").unlink()
    work_off(planned(*outputs), segments=2)
    assert (tmp_path / "out.txt").read_text() == "a cat\n" * 6
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 7
    assert sorted(path.name for path in (tmp_path / "subs").iterdir()) == ["a.srt", "b.srt", "c.srt"]


def test_outputs_hold_finished_records_after_an_interrupt(planned: Planned, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(planned("out.csv", "out.vtt")) as run:
        run.take(run.todo[0], outcomes_of(run.todo[0].name), VECTORS[:1])
        raise KeyboardInterrupt
    assert (tmp_path / "out.csv").read_text().count("a cat") == 1
    assert "a cat" in (tmp_path / "out.vtt").read_text()


def test_subtitles_are_written_next_to_videos(planned: Planned, tmp_path: Path) -> None:
    assert work_off(planned(beside=True, suffix=".vtt")) == ["a", "b", "c"]
    assert sorted(path.name for path in (tmp_path / "videos").glob("*.vtt")) == ["a.vtt", "b.vtt", "c.vtt"]
    assert work_off(planned(beside=True, suffix=".vtt")) == []


def test_subtitles_that_a_person_made_stay(planned: Planned, tmp_path: Path) -> None:
    (tmp_path / "videos" / "b.srt").write_text("by hand")
    for plan in (planned(beside=True), planned("videos/")):
        with pytest.raises(UsageError, match=r"b\.srt was not written by coca, or was changed since"):
            work_off(plan)
        with pytest.raises(UsageError, match=r"b\.srt was not written by coca"):
            preview(plan)
    assert (tmp_path / "videos" / "b.srt").read_text() == "by hand"
    assert work_off(planned(beside=True, overwrite=True)) == ["a", "b", "c"]


OUTPUTS = ("out.jsonl", "out.csv", "out.txt", "out.parquet", "subs/")


def test_own_outputs_are_replaced_without_asking(planned: Planned, tmp_path: Path) -> None:
    work_off(planned(*OUTPUTS), most=1)
    for video in (tmp_path / "videos").iterdir():
        os.utime(video, (1, 1))  # changed: all is made again
    assert work_off(planned(*OUTPUTS, template="{stem}: {caption}")) == ["a", "b", "c"]
    assert (tmp_path / "out.txt").read_text() == "a: a cat\nb: a cat\nc: a cat\n"


@pytest.mark.parametrize("name", ["out.csv", "out.txt", "out.parquet"])
def test_outputs_of_others_are_kept(planned: Planned, tmp_path: Path, name: str) -> None:
    work_off(planned("out.jsonl", name), most=1)
    journal = (tmp_path / "out.jsonl").read_bytes()
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes() + b"my notes")
    edited = (tmp_path / name).read_bytes()
    with pytest.raises(UsageError, match=f"{name} was not written by coca, or was changed since"):
        work_off(planned("out.jsonl", name))
    assert ((tmp_path / name).read_bytes(), (tmp_path / "out.jsonl").read_bytes()) == (edited, journal)
    assert work_off(planned("out.jsonl", name, overwrite=True)) == ["a", "b", "c"]


def test_edited_subtitles_stay_until_their_video_changes(planned: Planned, tmp_path: Path) -> None:
    work_off(planned("out.jsonl", "subs/"), most=1)
    (tmp_path / "subs" / "a.srt").write_text("corrected by hand")
    assert work_off(planned("out.jsonl", "subs/")) == ["b", "c"]
    assert (tmp_path / "subs" / "a.srt").read_text() == "corrected by hand"
    with pytest.raises(UsageError, match=r"a\.srt was not written by coca, or was changed since"):
        work_off(planned("out.jsonl", "subs/", options="beams 3"))


def test_runs_resume_after_the_cache_is_lost(planned: Planned, home: Path) -> None:
    work_off(planned(*OUTPUTS), most=2)
    shutil.rmtree(home)
    assert work_off(planned(*OUTPUTS)) == ["c"]


def test_runs_resume_wherever_they_were_killed(planned: Planned, tmp_path: Path, monkeypatch) -> None:
    work_off(planned(*OUTPUTS), most=1)

    def killed(self: Path, place: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)  # when all is written and nothing in its place
        work_off(planned(*OUTPUTS, template="{stem}"), most=1)
    assert work_off(planned(*OUTPUTS, template="{stem}")) == ["b", "c"]
    assert (tmp_path / "out.txt").read_text() == "a\nb\nc\n"


def test_other_options_make_everything_again(planned: Planned) -> None:
    work_off(planned("out.jsonl"))
    assert work_off(planned("out.jsonl", options="beams 3")) == ["a", "b", "c"]


def test_failures_are_not_tried_again_unasked(planned: Planned) -> None:
    with open_run(planned("out.jsonl")) as run:
        run.take(run.todo[0], [Failure(run.todo[0].name, "no video stream")], VECTORS[:0])
    assert work_off(planned("out.jsonl"), most=0) == []
    assert [Path(task.name).stem for task in preview(planned("out.jsonl")).todo] == ["b", "c"]
    assert work_off(planned("out.jsonl", retry_failed=True)) == ["a", "b", "c"]


def test_a_preview_changes_nothing(planned: Planned, tmp_path: Path, home: Path) -> None:
    work_off(planned("out.jsonl"), most=2)
    with (tmp_path / "out.jsonl").open("a") as file:
        file.write('{"torn')
    before = (tmp_path / "out.jsonl").read_bytes()
    assert [Path(task.name).stem for task in preview(planned("out.jsonl")).todo] == ["c"]
    assert [Path(task.name).stem for task in preview(planned("out.jsonl", overwrite=True)).todo] == ["a", "b", "c"]
    assert len(preview(planned("out.csv")).todo) == 3
    assert (tmp_path / "out.jsonl").read_bytes() == before
    assert not (home / "journals").exists()


def test_stdout_only_runs_keep_no_journal(planned: Planned, home: Path) -> None:
    assert work_off(planned("-")) == work_off(planned()) == ["a", "b", "c"]
    assert [path.name for path in home.iterdir()] == ["bundled"]


@pytest.fixture
def indexed(planned: Planned, tmp_path: Path) -> Planned:
    """A plan whose embeddings go into an index, too."""
    about = About("m", "identity")
    return lambda *outputs, **options: planned(*outputs, index=(tmp_path / "index", about, 4), **options)


def in_index(tmp_path: Path) -> list[tuple[str, float, str]]:
    """Return the segments in the index and their captions, after checking their vectors."""
    index = Index(tmp_path / "index")
    entries = [index.entry(row) for row in index.rows.tolist()]
    for entry in entries:
        np.testing.assert_array_equal(index.vectors[entry.row], VECTORS[int(entry.start)])
    return [(Path(entry.video).stem, entry.start, entry.text) for entry in entries]


TWICE = [(name, start, "a cat") for name in "abc" for start in (0.0, 1.0)]


def test_embeddings_are_written_in_the_same_pass(indexed: Planned, tmp_path: Path) -> None:
    assert work_off(indexed("out.jsonl"), most=2, segments=2) == ["a", "b"]
    assert in_index(tmp_path) == TWICE[:4]
    assert work_off(indexed("out.jsonl"), segments=2) == ["c"]
    assert in_index(tmp_path) == TWICE
    assert work_off(indexed("out.jsonl")) == []


@pytest.mark.parametrize("lost", ["index", "out.jsonl"])
def test_journal_and_index_are_completed_without_duplicates(indexed: Planned, tmp_path: Path, lost: str) -> None:
    work_off(indexed("out.jsonl"), segments=2)
    kept = (tmp_path / "out.jsonl").read_text()
    for path in [tmp_path / "out.jsonl"] if lost == "out.jsonl" else list((tmp_path / "index").iterdir()):
        path.unlink()
    assert [Path(task.name).stem for task in preview(indexed("out.jsonl")).todo] == ["a", "b", "c"]
    assert work_off(indexed("out.jsonl"), most=1, segments=2) == ["a"]
    assert work_off(indexed("out.jsonl"), segments=2) == ["b", "c"]
    assert in_index(tmp_path) == TWICE
    assert (tmp_path / "out.jsonl").read_text() == kept
    assert work_off(indexed("out.jsonl")) == []


def test_run_killed_between_index_and_journal_resumes(indexed: Planned, tmp_path: Path) -> None:
    with open_run(indexed("out.jsonl")) as run:
        run.take(run.todo[0], outcomes_of(run.todo[0].name, 2), VECTORS[:2])
    (tmp_path / "out.jsonl").write_text("")
    assert work_off(indexed("out.jsonl"), segments=2) == ["a", "b", "c"]
    assert in_index(tmp_path) == TWICE
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 6


def test_captions_to_stdout_may_have_an_index_too(indexed: Planned, tmp_path: Path) -> None:
    assert work_off(indexed("-"), most=2) == ["a", "b"]
    assert [name for name, _, _ in in_index(tmp_path)] == ["a", "b"]
    assert work_off(indexed("-")) == ["a", "b", "c"]  # nothing is kept of the captions
    assert [name for name, _, _ in in_index(tmp_path)] == ["a", "b", "c"]


def test_failures_in_the_index_are_retried_on_request(indexed: Planned, tmp_path: Path) -> None:
    with open_run(indexed("out.jsonl")) as run:
        run.take(run.todo[0], [Failure(run.todo[0].name, "no video stream")], VECTORS[:0])
    assert work_off(indexed("out.jsonl")) == ["b", "c"]
    assert [name for name, _, _ in in_index(tmp_path)] == ["b", "c"]
    assert work_off(indexed("out.jsonl", retry_failed=True)) == ["a"]
    assert sorted(name for name, _, _ in in_index(tmp_path)) == ["a", "b", "c"]


def test_preview_compares_the_index_without_changes(indexed: Planned, planned: Planned) -> None:
    work_off(planned("out.jsonl"))
    work_off(indexed("out.jsonl"), most=2)
    assert [Path(task.name).stem for task in preview(indexed("out.jsonl")).todo] == ["c"]
    assert [Path(task.name).stem for task in preview(indexed("out.jsonl", overwrite=True)).todo] == ["a", "b", "c"]


def test_overwriting_makes_the_index_anew(indexed: Planned, tmp_path: Path) -> None:
    work_off(indexed("out.jsonl"), segments=3)
    assert work_off(indexed("out.jsonl", overwrite=True), segments=2) == ["a", "b", "c"]
    assert in_index(tmp_path) == TWICE


def test_index_of_another_model_is_refused(indexed: Planned, planned: Planned, tmp_path: Path) -> None:
    work_off(indexed("out.jsonl"))
    before = (tmp_path / "out.jsonl").read_bytes()
    other = planned("out.jsonl", options="another model", index=(tmp_path / "index", About("n", "other"), 4))
    with pytest.raises(UsageError, match="holds vectors of m, not n"):
        work_off(other)
    assert (tmp_path / "out.jsonl").read_bytes() == before
