"""The output of a run as its journal: what is in it is not made again, and nothing in it is lost or doubled."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.captioning.records import Outcome, Record, from_json
from cococli.decoding.search_options import SearchOptions
from cococli.errors import CocaError, UsageError
from cococli.journal import (
    Failure,
    Task,
    cache_path,
    file_tasks,
    fingerprint,
    open_journal,
    preview_journal,
    text_name,
    text_of,
    text_tasks,
)
from cococli.media.clips import Sampling, parse_segments
from cococli.retrieval.index import About, Entry, parse_entry


def task(name: str, key: str = "k1") -> Task:
    return Task(name, key)


def outcomes_of(name: str, segments: int = 1) -> list[Outcome]:
    return [Record(name, float(i), i + 1.0, "a cat", -0.5, 0.25, (i + 0.5,), "m", segments) for i in range(segments)]


def write(path: Path, tasks: Iterable[Task], segments: int = 1) -> bytes:
    with open_journal(path, tasks, from_json) as journal:
        for each in tasks:
            if each.name not in journal.reused:
                journal.append(each, outcomes_of(each.name, segments))
    return path.read_bytes()


def reused(path: Path, *tasks: Task, **options: bool) -> list[str]:
    with open_journal(path, tasks, from_json, **options) as journal:
        return list(journal.reused)


def test_each_video_has_a_keyed_line(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, [task("a.mp4"), task("b.mp4", "k2")])
    assert [(line["video"], line["key"]) for line in map(json.loads, path.open())] == [("a.mp4", "k1"), ("b.mp4", "k2")]


def test_existing_records_are_reused(tmp_path: Path) -> None:
    path, tasks = tmp_path / "out.jsonl", [task("a.mp4"), task("b.mp4")]
    before = write(path, tasks, segments=3)
    with open_journal(path, tasks, from_json) as journal:
        assert journal.reused == {each.name: outcomes_of(each.name, 3) for each in tasks}
    assert path.read_bytes() == before


@given(cut=st.integers(min_value=0), segments=st.integers(1, 3))
def test_killed_run_resumes_to_identical_file(
    tmp_path_factory: pytest.TempPathFactory, cut: int, segments: int
) -> None:
    path, tasks = tmp_path_factory.mktemp("run") / "out.jsonl", [task(f"{name}.mp4") for name in "abc"]
    whole = write(path, tasks, segments)
    os.truncate(path, cut % (len(whole) + 1))
    assert write(path, tasks, segments) == whole


def test_changed_files_and_options_are_redone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, [task("a.mp4"), task("b.mp4"), task("other.mp4")])
    assert reused(path, task("a.mp4", "new"), task("b.mp4")) == ["b.mp4"]
    assert [json.loads(line)["video"] for line in path.open()] == ["b.mp4", "other.mp4"]


def test_failures_are_kept_unless_retried(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_journal(path, [task("a.mp4")], from_json) as journal:
        journal.append(task("a.mp4"), [Failure("a.mp4", "no video stream")])
    with open_journal(path, [task("a.mp4")], from_json) as journal:
        assert journal.reused == {"a.mp4": [Failure("a.mp4", "no video stream")]}
    assert reused(path, task("a.mp4"), retry_failed=True) == []
    assert path.read_bytes() == b""


def test_overwriting_drops_everything(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text("not ours\n")
    assert reused(path, task("a.mp4"), overwrite=True) == []
    assert path.read_bytes() == b""


@pytest.mark.parametrize("content", [b"hello\n", b'{"video": 3, "status": "ok"}\n', b"[" * 100_000 + b"\n", b"\xff\n"])
def test_other_files_are_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"line 1 of .*notes.jsonl is not a record of coca") as caught:
        reused(path, task("a.mp4"))
    assert caught.value.hint == "correct or delete that line, name another file, or --overwrite this one"
    assert path.read_bytes() == content


def test_records_of_older_versions_are_redone(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"video": "a.mp4", "status": "ok", "caption": "a cat"}\n')
    assert reused(path, task("a.mp4")) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("caption", "null"),
        ("caption", "7"),
        ("start", "1e999"),
        ("start", "null"),
        ("end", "1" + 400 * "0"),
        ("frames", "[{}]"),
        ("candidates", "[3]"),
        ("status", '"error", "error": 5'),
    ],
)
def test_damaged_records_are_named_and_kept(tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "out.jsonl"
    write(path, [task("a.mp4"), task("b.mp4")])
    first, second = path.read_text().splitlines()
    path.write_text(f'{first}\n{second[:-1]}, "{field}": {value}}}\n')
    before = path.read_bytes()
    with pytest.raises(UsageError, match=rf"^line 2 of {path}: damaged record: '") as caught:
        reused(path, task("a.mp4"), task("b.mp4"))
    assert "delete that line" in caught.value.hint
    assert path.read_bytes() == before
    assert reused(path, task("a.mp4")) == ["a.mp4"]  # lines of other videos are not read


def test_transient_failures_are_retried(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_journal(path, [task("a.mp4"), task("b.mp4")], from_json) as journal:
        journal.append(task("a.mp4"), [Failure("a.mp4", "too many open files", transient=True)])
        journal.append(task("b.mp4"), [Failure("b.mp4", "no video stream")])
    assert reused(path, task("a.mp4"), task("b.mp4")) == ["b.mp4"]


def test_rewriting_keeps_links_modes_and_planted_files(tmp_path: Path) -> None:
    path, target, precious = tmp_path / "out.jsonl", tmp_path / "disk" / "out.jsonl", tmp_path / "precious"
    target.parent.mkdir()
    path.symlink_to(target)
    precious.write_text("mine")
    for folder in (tmp_path, target.parent):
        (folder / f".coca-{os.getpid()}.part").symlink_to(precious)  # the name that was once used
    write(path, [task("a.mp4"), task("b.mp4")])
    target.chmod(0o640)
    assert reused(path, task("a.mp4", "new"), task("b.mp4")) == ["b.mp4"]
    assert path.is_symlink()
    assert target.stat().st_mode & 0o777 == 0o640
    assert precious.read_text() == "mine"
    assert len(list(target.parent.iterdir())) == 2
    with open_journal(path, [task("a.mp4", "new")], from_json) as journal:
        journal.append(task("a.mp4", "new"), outcomes_of("a.mp4"))
    assert [json.loads(line)["video"] for line in target.open()] == ["b.mp4", "a.mp4"]


def test_records_reach_the_disk_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr("os.fsync", synced.append)
    tasks = [task(f"{i}.mp4") for i in range(10)]
    monkeypatch.setattr("cococli.journal.SYNC_EVERY", 1e9)
    write(tmp_path / "a.jsonl", tasks)
    assert len(synced) == 2  # the folder, and the journal at the end
    monkeypatch.setattr("cococli.journal.SYNC_EVERY", 0.0)
    write(tmp_path / "b.jsonl", tasks)
    assert len(synced) == 2 + 12


def test_a_pipe_is_not_a_journal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out.jsonl")
    for opened in (reused, lambda path: preview_journal(path, [], from_json)):
        with pytest.raises(UsageError, match=r"out\.jsonl is not a file"):
            opened(tmp_path / "out.jsonl")


def test_two_runs_on_one_output_refuse_each_other(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_journal(path, [], from_json), pytest.raises(UsageError, match=f"another run writes to {path}"):
        reused(path, task("a.mp4"))
    assert reused(path, task("a.mp4")) == []  # once it has ended


def test_rewritten_journals_stay_locked(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, [task("a.mp4"), task("b.mp4")])
    with open_journal(path, [task("a.mp4", "new")], from_json), pytest.raises(UsageError):
        reused(path)
    assert list(tmp_path.iterdir()) == [path]


def test_the_lock_goes_with_the_process(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    code = f"import fcntl, os; f = open({str(path)!r}, 'a'); fcntl.flock(f, fcntl.LOCK_EX); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert reused(path, task("a.mp4")) == []


def test_full_disk_keeps_records_and_resumes(tmp_path: Path) -> None:
    path, tasks = tmp_path / "out.jsonl", [task(f"{name}.mp4") for name in "abc"]
    whole = write(path, tasks)
    path.unlink()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) // 2, limits[1]))  # SIGXFSZ is ignored by Python
    try:
        with pytest.raises(CocaError, match=f"cannot write {path}: File too large"):
            write(path, tasks)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole[: len(whole) // 2]
    assert write(path, tasks) == whole


def test_journal_and_its_name_reach_the_disk(tmp_path: Path, flushed: list[str]) -> None:
    write(tmp_path / "out.jsonl", [task("a.mp4")])
    assert flushed == [tmp_path.name, "out.jsonl"]
    write(tmp_path / "out.jsonl", [task("a.mp4"), task("b.mp4")])
    assert flushed[2:] == ["out.jsonl"]


def test_fingerprint_follows_file_and_options(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"one")
    keys = [fingerprint("beams 6", file=video), fingerprint("beams 3", file=video)]
    os.utime(video, (1, 1))
    keys.append(fingerprint("beams 6", file=video))
    video.unlink()
    keys.append(fingerprint("beams 6", file=video))
    assert len(set(keys)) == 4
    assert fingerprint("beams 6", file=video) == keys[3]
    assert fingerprint("beams 6", file=Path("nul\0.mp4")) == keys[3]


def test_files_changed_meanwhile_are_computed_again(tmp_path: Path) -> None:
    videos = [tmp_path / f"{name}.mp4" for name in "abc"]
    for video in videos:
        video.write_bytes(b"one")
    tasks, aside = file_tasks(videos, "beams 6"), tmp_path / "aside"
    with open_journal(tmp_path / "out.jsonl", tasks, from_json) as journal:
        videos[0].rename(aside)
        journal.append(tasks[0], [Failure(tasks[0].name, "no such file")])
        videos[1].write_bytes(b"two and more")
        for each in tasks[1:]:
            journal.append(each, outcomes_of(each.name))
    aside.rename(videos[0])
    assert reused(tmp_path / "out.jsonl", *file_tasks(videos, "beams 6")) == [tasks[2].name]


def test_fingerprints_match_existing_runs(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"12345")
    os.utime(video, ns=(10**18, 10**18))
    search, scenes, pieces = asdict(SearchOptions()), parse_segments("scene"), parse_segments("2.5")
    about, identity = About("shapes", "identity", "multi", 4, "mean"), ("shapes", "identity", "joint", "a photo of")

    def key(*options: object) -> str:
        return file_tasks([video], *options)[0].key

    # coca caption
    assert key((*identity, False, 0.95, None, "bf16"), search, Sampling(), scenes) == "199cd6bf8f5b7cf0"
    assert key((*identity, False, 0.95, None), search, Sampling(), pieces) == "bc12987ad32e2dc0"
    # coca embed
    assert key("identity", "joint", Sampling("multi", 4), pieces, "int8") == "e3b0cebf1607eb60"
    assert text_tasks(["a dog"], "int8") == [Task("\0a dog", "text int8")]
    assert text_tasks(["a dog"]) == [Task("\0a dog", "text")]
    # coca evaluate
    assert key("identity", search, about, "bf16") == "c55bd2b6999a93cf"
    assert key("identity", about, "bf16") == "72cccc32c45bbd14"
    assert fingerprint("identity", search, about, Path("data"), "bf16") == "9641b6f3951362e0"
    assert fingerprint({"model": "shapes", "data": None}) == "faf31fc6e20fd5d5"


def test_cached_journals_keep_their_names(home: Path) -> None:
    index = cache_path("('identity', False)", "/x/out.jsonl", "/x/out.npz", suffix=".index")
    assert index == home / "journals/84c4d055f162388e.index"
    assert cache_path("/x/out.csv", "beside", suffix=".jsonl") == home / "journals/fe7957d8247b2511.jsonl"


def test_texts_and_videos_may_share_names(tmp_path: Path) -> None:
    path, tasks = tmp_path / "entries.jsonl", [task("cat.jpg"), task(text_name("cat.jpg")), task(text_name(""))]
    entries = {each.name: [Entry(row, *_video_or_text(each.name))] for row, each in enumerate(tasks)}
    with open_journal(path, tasks, parse_entry) as journal:
        for each in tasks:
            journal.append(each, entries[each.name])
    before = path.read_bytes()
    with open_journal(path, tasks[1:], parse_entry) as journal:
        assert journal.reused == {each.name: entries[each.name] for each in tasks[1:]}
        assert [line["row"] for line in journal.lines] == [0, 1, 2]  # that of the video, too
    assert path.read_bytes() == before
    assert preview_journal(path, [task("cat.jpg"), task("other")], parse_entry) == {"cat.jpg": entries["cat.jpg"]}
    with open_journal(path, [task(text_name("cat.jpg"), "new")], parse_entry) as journal:
        assert (journal.reused, [line["row"] for line in journal.lines]) == ({}, [0, 2])


def _video_or_text(name: str) -> tuple[object, ...]:
    text = text_of(name)
    return (name,) if text is None else ("", 0.0, 0.0, (), 1, text)


def test_lines_without_video_or_text_are_invalid(tmp_path: Path) -> None:
    path = tmp_path / "entries.jsonl"
    path.write_text('{"row": 0, "text": null, "status": "ok"}\n')
    with pytest.raises(UsageError, match=r"line 1 of .*entries.jsonl is not a record of coca"):
        preview_journal(path, [], parse_entry)
