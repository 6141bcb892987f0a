"""Indexes grow, survive kills, power failures and full disks, and report damage."""

import dataclasses
import json
import os
import resource
import signal
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cococli.errors import CocaError, UsageError
from cococli.journal import Failure, Task, text_name, text_of
from cococli.retrieval.index import About, Entry, Index, check_index, find_below, open_index, preview_index
from cococli.retrieval.vectors import REBUILD

ABOUT = About("shapes", "identity 1")
OTHER = About("vit-l-14", "identity 2")
DIMENSION = 64
HEADER = 128  # bytes of `vectors.npy` before the first row
REPAIR = "coca embed with the same paths repairs it; --overwrite rebuilds it"

Content = dict[str, list[tuple[float, bytes]]]


def tasks(*names: str, key: str = "k1") -> list[Task]:
    return [Task(name, key) for name in names]


A, B, C = tasks("a.mp4", "b.mp4", text_name("a dog")), tasks("d.mp4", "e.mp4"), tasks("f.mp4", "g.mp4")


def vectors_of(task: Task, segments: int, dtype: str = "float32") -> np.ndarray:
    """Return vectors that differ by name and key."""
    seed = zlib.crc32(f"{task.name}{task.key}".encode())
    vectors = np.random.default_rng(seed).normal(size=(segments, DIMENSION)).astype(np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(dtype)


def entries_of(task: Task, segments: int) -> list[Entry]:
    text = text_of(task.name)
    if text is not None:
        return [Entry(-1, text=text)]
    return [Entry(-1, task.name, float(i), i + 1.0, (i + 0.5,), segments) for i in range(segments)]


def fill(folder: Path, tasks: Sequence[Task], segments: int = 2, about: About = ABOUT, **options: object) -> list[str]:
    """Add the tasks that the index lacks, and return their names."""
    made = []
    with open_index(folder, about, DIMENSION, tasks, **options) as index:
        for task in tasks:
            if task.name not in index.reused:
                entries = entries_of(task, segments)
                index.append(task, entries, vectors_of(task, len(entries)))
                made.append(task.name)
    return made


def content(folder: Path) -> Content:
    index, found = Index(folder), Content()
    for row in index.rows.tolist():
        entry = index.entry(row)
        assert entry.row == row
        found.setdefault(entry.name, []).append((entry.start, index.vectors[row].tobytes()))
    return {name: sorted(own) for name, own in sorted(found.items())}


def plainly(folder: Path) -> Content:
    """Return the same, read without the package."""
    vectors, found = np.load(folder / "vectors.npy"), Content()
    for fields in map(json.loads, (folder / "entries.jsonl").read_text().split("\n")[:-1]):
        name = os.path.relpath(folder / fields["video"]) if "video" in fields else text_name(fields["text"])
        found.setdefault(name, []).append((fields.get("start", 0.0), vectors[fields["row"]].tobytes()))
    return {name: sorted(own) for name, own in sorted(found.items())}


def expected(tasks: Iterable[Task], segments: int = 2, dtype: str = "float32") -> Content:
    entries_by_task = {task: entries_of(task, segments) for task in tasks}
    return {
        task.name: [
            (entry.start, vector.tobytes())
            for entry, vector in zip(entries, vectors_of(task, len(entries), dtype), strict=True)
        ]
        for task, entries in sorted(entries_by_task.items(), key=lambda item: item[0].name)
    }


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "new" / "index"


def test_vectors_reach_the_disk_before_entries(tmp_path: Path, flushed: list[str]) -> None:
    fill(tmp_path / "index", A)
    assert flushed[-2:] == ["vectors.npy", "entries.jsonl"]


def test_entries_and_vectors_are_read_back(folder: Path) -> None:
    assert fill(folder, A) == [task.name for task in A]
    assert content(folder) == plainly(folder) == expected(A)
    assert Index(folder).about == ABOUT
    assert json.loads((folder / "index.json").read_text())["coca_index"] == 2
    assert sorted(path.name for path in folder.iterdir()) == ["entries.jsonl", "index.json", "vectors.npy"]


def test_runs_add_only_what_is_new(folder: Path) -> None:
    fill(folder, A)
    before = snapshot(folder)
    assert fill(folder, A) == []
    assert snapshot(folder) == before
    assert fill(folder, [*A, *B]) == [task.name for task in B]
    assert fill(folder, C) == [task.name for task in C]
    assert content(folder) == plainly(folder) == expected([*A, *B, *C])


def test_entries_follow_the_order_of_the_request(folder: Path) -> None:
    fill(folder, [*A, *B], segments=3)
    entries = Index(folder).entries(["e.mp4", text_name("a dog"), "never.mp4", "a.mp4"])
    assert [(entry.video, entry.text, entry.start) for entry in entries] == [
        *(("e.mp4", "", float(i)) for i in range(3)),
        ("", "a dog", 0.0),
        *(("a.mp4", "", float(i)) for i in range(3)),
    ]


def test_empty_index_is_valid(folder: Path) -> None:
    fill(folder, [])
    assert content(folder) == plainly(folder) == {}
    assert Index(folder).vectors.shape == (0, DIMENSION)
    assert Index(folder).entries(["a.mp4"]) == []


def test_other_programs_read_it_between_appends(folder: Path) -> None:
    done = []
    with open_index(folder, ABOUT, DIMENSION, A) as index:
        for task in A:
            entries = entries_of(task, 3)
            index.append(task, entries, vectors_of(task, len(entries)))
            done.append(task)
            assert content(folder) == plainly(folder) == expected(done, 3)


def test_concurrent_readers_find_vectors_of_all_entries(folder: Path) -> None:
    many = tasks(*map(str, range(200)))
    whole = expected(many)
    fill(folder, [])
    run = threading.Thread(target=fill, args=(folder, many))
    run.start()
    sizes = []
    while run.is_alive():
        seen = content(folder)
        assert all(own == whole[name][: len(own)] for name, own in seen.items())
        sizes.append(len(seen))
    run.join()
    assert sizes == sorted(sizes)
    assert content(folder) == whole


def test_open_index_survives_overwriting(folder: Path) -> None:
    fill(folder, A)
    index, before = Index(folder), content(folder)
    fill(folder, B, overwrite=True)
    assert [(index.entry(row).start, index.vectors[row].tobytes()) for row in index.rows[:2].tolist()] == before[
        "a.mp4"
    ]
    assert content(folder) == expected(B)


# Kills and power failures

damages = st.sampled_from(["cut", "zero", "none"])


def damage(path: Path, how: str, first: int, at: int, length: int) -> None:
    """Cut a file, or zero some of its sectors, from `first` on."""
    size = path.stat().st_size
    if how == "cut":
        os.truncate(path, first + at % (size - first + 1))
    elif how == "zero":
        sectors = 512 * (1 + at % (size // 512 + 1))
        with path.open("r+b") as file:
            file.seek(sectors)
            file.write(bytes(min(512 * length, max(0, size - sectors))))


@settings(max_examples=100)
@given(how=damages, at=st.integers(0, 10**6), length=st.integers(1, 4), entries=st.integers(0, 10**6))
def test_damaged_index_is_completed_by_the_next_run(
    tmp_path_factory: pytest.TempPathFactory, how: str, at: int, length: int, entries: int
) -> None:
    folder = tmp_path_factory.mktemp("run") / "index"
    fill(folder, A)
    fill(folder, B)
    lines = (folder / "entries.jsonl").read_bytes()
    damage(folder / "vectors.npy", how, HEADER, at, length)
    damage(folder / "entries.jsonl", "cut", 0, entries, 0)
    survivors = [json.loads(line) for line in (folder / "entries.jsonl").read_text().split("\n")[:-1]]
    fill(folder, [*A, *C])  # vectors of others may be lost, but their rows are not reused
    kept = [json.loads(line) for line in (folder / "entries.jsonl").read_text().splitlines()]
    theirs = {task.name for task in B}
    assert [line for line in kept if Path(line.get("video", "")).name in theirs] == [
        line for line in survivors if Path(line.get("video", "")).name in theirs
    ]
    fill(folder, [*B, *A])
    assert content(folder) == plainly(folder) == expected([*A, *B, *C])
    assert (folder / "entries.jsonl").read_bytes().count(b"\n") == lines.count(b"\n") + 2 * len(C)


def killed(call: int, do: Callable[[], object]) -> bool:
    """Do something in another process that is killed at this call of a C function, and return whether it was."""
    child = os.fork()
    if child == 0:
        left = call

        def count(frame: object, event: str, argument: object) -> None:
            nonlocal left
            left -= event in ("c_call", "c_return")
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        do()
        sys.setprofile(None)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_incomplete_lines_are_ignored(folder: Path) -> None:
    fill(folder, A, segments=1)
    path, rows = folder / "entries.jsonl", Index(folder).rows.tolist()
    for size in range(path.stat().st_size, 0, -1):
        os.truncate(path, size)
        assert Index(folder).rows.tolist() == rows[: path.read_bytes().count(b"\n")]


@settings(max_examples=40)
@given(calls=st.lists(st.integers(1, 1900), min_size=1, max_size=3), overwrite=st.booleans())
def test_killed_run_is_completed_by_the_next(
    tmp_path_factory: pytest.TempPathFactory, calls: list[int], overwrite: bool
) -> None:
    folder = tmp_path_factory.mktemp("run") / "index"
    for call in calls:
        killed(call, lambda: fill(folder, A, overwrite=overwrite))
        if (folder / "vectors.npy").exists() and (folder / "entries.jsonl").exists():
            seen, whole = content(folder), expected(A)
            assert seen == plainly(folder)
            assert all(own == whole[name][: len(own)] for name, own in seen.items())
    fill(folder, A)
    assert content(folder) == plainly(folder) == expected(A)


def test_full_disk_leaves_a_valid_index(folder: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    row = DIMENSION * 4
    resource.setrlimit(resource.RLIMIT_FSIZE, (HEADER + 3 * row + row // 2, limits[1]))
    try:
        with pytest.raises(CocaError) as caught:
            fill(folder, A)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (caught.value.message, caught.value.hint) == (
        f"cannot write {folder}/vectors.npy: File too large",
        "what was written so far is kept",
    )
    assert content(folder) == plainly(folder) == expected(A[:1])
    assert fill(folder, A) == [task.name for task in A[1:]]
    assert content(folder) == plainly(folder) == expected(A)


# Recomputed entries


def test_changed_files_reuse_their_rows(folder: Path) -> None:
    fill(folder, [*A, *B])
    size, changed = (folder / "vectors.npy").stat().st_size, tasks("b.mp4", key="changed")
    assert fill(folder, changed) == ["b.mp4"]
    assert content(folder) == plainly(folder) == expected([A[0], *changed, A[2], *B])
    assert (folder / "vectors.npy").stat().st_size == size


def test_free_rows_are_used_by_others(folder: Path) -> None:
    fill(folder, B, segments=3)
    fill(folder, tasks("d.mp4", key="shorter"), segments=1)
    size = (folder / "vectors.npy").stat().st_size
    fill(folder, tasks("x.mp4"), segments=2)
    assert (folder / "vectors.npy").stat().st_size == size
    wanted = expected(B, 3) | expected(tasks("d.mp4", key="shorter"), 1) | expected(tasks("x.mp4"), 2)
    assert content(folder) == plainly(folder) == wanted


def test_failures_are_kept_unless_retried(folder: Path) -> None:
    with open_index(folder, ABOUT, DIMENSION, A) as index:
        index.append(A[0], [Failure("a.mp4", "no video stream")], np.zeros((0, 0), np.float32))
    assert content(folder) == {}
    assert preview_index(folder, A) == {"a.mp4": [Failure("a.mp4", "no video stream")]}
    assert preview_index(folder, A, retry_failed=True) == {}
    assert fill(folder, A) == [A[1].name, A[2].name]
    assert content(folder) == expected(A[1:])
    assert fill(folder, A, retry_failed=True) == ["a.mp4"]
    assert content(folder) == plainly(folder) == expected(A)


def test_overwriting_drops_everything(folder: Path) -> None:
    fill(folder, A, about=OTHER, dtype="float16")
    assert fill(folder, B, overwrite=True) == [task.name for task in B]
    assert content(folder) == plainly(folder) == expected(B)
    assert Index(folder).about == ABOUT


def test_preview_changes_nothing(folder: Path) -> None:
    assert preview_index(folder, A) is None
    check_index(folder, ABOUT)
    assert not folder.exists()
    fill(folder, A)
    os.truncate(folder / "vectors.npy", HEADER + 3 * DIMENSION * 4 + 1)
    before = snapshot(folder)
    assert list(preview_index(folder, A)) == ["a.mp4"]
    assert snapshot(folder) == before


def test_float16_index_stays_float16(folder: Path) -> None:
    fill(folder, A, dtype="float16")
    fill(folder, [*A, *B])
    fill(folder, C, dtype="float16")
    assert content(folder) == plainly(folder) == expected([*A, *B, *C], dtype="float16")
    assert Index(folder).vectors.dtype == np.float16
    fill(folder, tasks("a.mp4", key="changed"))
    assert Index(folder).vectors.dtype == np.float16


def test_latest_sampling_is_recorded(folder: Path) -> None:
    fill(folder, A)
    multi = About(ABOUT.model, ABOUT.identity, "multi", 4, "mean")
    fill(folder, B, about=multi)
    assert Index(folder).about == multi


# Refusals


def refused(do: Callable[..., object], *arguments: object, **options: object) -> tuple[str, str]:
    with pytest.raises(UsageError) as caught:
        do(*arguments, **options)
    return caught.value.message, caught.value.hint


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (OTHER, "vectors of shapes, not vit-l-14"),
        (About("shapes", "retrained"), "vectors of another model named shapes"),
    ],
)
def test_index_of_another_model_is_refused_and_kept(folder: Path, asked: About, what: str) -> None:
    fill(folder, A)
    before = snapshot(folder)
    assert refused(fill, folder, B, about=asked) == (
        f"{folder} holds {what}",
        "vectors of two models cannot be compared: name another folder",
    )
    assert snapshot(folder) == before
    assert fill(folder, B, about=asked, overwrite=True) == [task.name for task in B]
    assert content(folder) == expected(B)
    assert Index(folder).about == asked


def test_other_dtype_is_refused(folder: Path) -> None:
    fill(folder, A)
    before = snapshot(folder)
    assert refused(fill, folder, A, dtype="float16") == (
        f"{folder} holds float32 vectors, not float16",
        "name another folder, or --overwrite this one",
    )
    assert snapshot(folder) == before
    fill(folder, A, dtype="float16", overwrite=True)
    assert content(folder) == expected(A, dtype="float16")


def test_other_dimension_is_refused(folder: Path) -> None:
    fill(folder, A)
    np.save(folder / "vectors.npy", np.eye(3, dtype=np.float32))
    assert refused(fill, folder, A) == (
        f"{folder}/vectors.npy holds vectors of 3 dimensions, not {DIMENSION}",
        REBUILD,
    )


def test_newer_version_is_refused(folder: Path) -> None:
    fill(folder, A)
    (folder / "index.json").write_text('{"coca_index": 3, "vectors": "elsewhere"}')
    message = (f"{folder} was written by a newer version of coca", "pip install --upgrade cococli")
    assert refused(Index, folder) == message
    assert refused(fill, folder, A) == message


@pytest.mark.parametrize("name", ["notes.txt", "index.json"])
def test_folder_of_other_files_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    for overwrite in (False, True):
        assert refused(fill, tmp_path, A, overwrite=overwrite) == (
            f"{tmp_path} is not an index, and not empty",
            "name a new folder",
        )
    assert snapshot(tmp_path) == {name: b"mine"}
    assert refused(fill, tmp_path / name, A) == (f"{tmp_path}/{name} is not a folder", "")


def test_concurrent_runs_are_refused(folder: Path) -> None:
    with open_index(folder, ABOUT, DIMENSION, A) as index:
        for overwrite in (False, True):
            assert refused(fill, folder, A, overwrite=overwrite)[0] == (f"another run writes to {folder}/entries.jsonl")
        index.append(A[0], entries_of(A[0], 2), vectors_of(A[0], 2))
    assert fill(folder, A) == [task.name for task in A[1:]]


@pytest.mark.usefixtures("as_nobody")
def test_unwritable_folder_is_reported(tmp_path: Path) -> None:
    for mode in (0o500, 0o000):  # neither writable nor readable
        tmp_path.chmod(mode)
        with pytest.raises(CocaError) as caught:
            fill(tmp_path / "index", A)
        doing = "write" if mode else "read"
        assert caught.value.message == f"cannot {doing} {tmp_path}/index: Permission denied"
    assert refused(Index, tmp_path / "index")[0] == f"{tmp_path}/index is not an index"


# Damage is reported, and the hint repairs it


def test_missing_index_is_reported(folder: Path, tmp_path: Path) -> None:
    for place in (folder, tmp_path):
        assert refused(Index, place) == (f"{place} is not an index", "coca embed PATHS -o FOLDER/ creates one")


def patched(path: Path, old: bytes, new: bytes) -> None:
    before = path.read_bytes()
    assert old in before
    path.write_bytes(before.replace(old, new, 1))


def poked(folder: Path, row: int, value: float) -> None:
    vectors = np.load(folder / "vectors.npy", mmap_mode="r+")
    vectors[row, :] = value
    vectors.flush()


REPAIRABLE = {
    "vectors cut": (
        lambda folder: os.truncate(folder / "vectors.npy", HEADER + DIMENSION * 4 * 3 + 17),
        "is damaged: vectors.npy ends before row 4",
    ),
    "vectors gone": (
        lambda folder: (folder / "vectors.npy").unlink(),
        "is damaged: {folder}/vectors.npy: No such file or directory",
    ),
    "entries gone": (
        lambda folder: (folder / "entries.jsonl").unlink(),
        "is damaged: {folder}/entries.jsonl: No such file or directory",
    ),
    "a vector zeroed": (
        lambda folder: poked(folder, 1, 0),
        "is damaged: 1 of 5 vectors are not of length 1",
    ),
    "a vector of NaN": (
        lambda folder: poked(folder, 0, np.nan),
        "is damaged: 1 of 5 vectors are not of length 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", REPAIRABLE)
def test_damage_is_reported_and_repaired(folder: Path, how: str) -> None:
    fill(folder, A)
    do, message = REPAIRABLE[how]
    do(folder)
    assert refused(Index, folder) == (f"{folder} {message.format(folder=folder)}", REPAIR)
    fill(folder, A)
    assert content(folder) == plainly(folder) == expected(A)
    do(folder)
    fill(folder, A, overwrite=True)
    assert content(folder) == plainly(folder) == expected(A)


IRREPARABLE = {
    "no header": (
        lambda folder: patched(folder / "vectors.npy", b"NUMPY", b"LUMPY"),
        "{folder}/vectors.npy is damaged: invalid header",
    ),
    "vectors emptied": (
        lambda folder: os.truncate(folder / "vectors.npy", 0),
        "{folder}/vectors.npy is damaged: invalid header",
    ),
    "about is junk": (
        lambda folder: (folder / "index.json").write_bytes(b"\0\0\0"),
        "{folder}/index.json is not valid JSON: Expecting value: line 1 column 1 (char 0)",
    ),
    "about is a list": (
        lambda folder: (folder / "index.json").write_text("[1]"),
        "{folder}/index.json is damaged: 'coca_index' is not a version",
    ),
    "about says too little": (
        lambda folder: (folder / "index.json").write_text('{"coca_index": 1}'),
        "{folder}/index.json: 'model': field required",
    ),
    "about is deep": (
        lambda folder: (folder / "index.json").write_text("[" * 100_000),
        "{folder}/index.json is not valid JSON: it is nested too deeply",
    ),
    "a line is junk": (
        lambda folder: patched(folder / "entries.jsonl", b'{"row": 2, "video": ', b"\0" * 20),
        "line 3 of {folder}/entries.jsonl is not an entry of coca",
    ),
    "a line is of another program": (
        lambda folder: patched(folder / "entries.jsonl", b'{"row": 2, "video": ', b'{"id": 1}\n{"row": 2, "video": '),
        "line 3 of {folder}/entries.jsonl is not an entry of coca",
    ),
    "a row without an end": (
        lambda folder: patched(folder / "entries.jsonl", b'"row": 2', b'"row": ' + b"2" * 5000),
        "line 3 of {folder}/entries.jsonl is not an entry of coca",
    ),
    "a row named twice": (
        lambda folder: patched(folder / "entries.jsonl", b'"row": 2', b'"row": 1'),
        "{folder} is damaged: two entries share a vector",
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", IRREPARABLE)
def test_irreparable_damage_is_reported_and_overwritten(folder: Path, how: str) -> None:
    fill(folder, A)
    do, message = IRREPARABLE[how]
    do(folder)
    assert refused(Index, folder) == (message.format(folder=folder), REBUILD)
    fill(folder, A, overwrite=True)
    assert content(folder) == plainly(folder) == expected(A)


def test_damaged_line_is_reported_when_it_is_read(folder: Path) -> None:
    fill(folder, A)
    patched(folder / "entries.jsonl", b'"start": 1.0', b'"start"\0\0\0\0\0')
    index = Index(folder)
    assert refused(index.entry, 1) == (
        f"line 2 of {folder}/entries.jsonl: not an entry of coca",
        REBUILD,
    )
    fill(folder, A, overwrite=True)
    assert content(folder) == expected(A)


@pytest.mark.parametrize("value", ["1e999", "null", '"soon"', "[1]"])
def test_values_of_wrong_types_are_named(folder: Path, value: str) -> None:
    fill(folder, A)
    patched(folder / "entries.jsonl", b'"start": 1.0', b'"start": ' + value.encode())
    message, _ = refused(Index(folder).entry, 1)
    assert message.startswith(f"line 2 of {folder}/entries.jsonl: damaged entry: 'start': input should be a ")
    fill(folder, B)
    with pytest.raises(UsageError):
        fill(folder, A)


@pytest.mark.parametrize("row", ["[1]", "null", "1e999", '"0"', "-1"])
def test_rows_of_wrong_types_are_named(folder: Path, row: str) -> None:
    fill(folder, A)
    patched(folder / "entries.jsonl", b'{"row": 1, ', b'{"row": ' + row.encode() + b", ")
    assert refused(Index, folder)[0] == f"line 2 of {folder}/entries.jsonl is not an entry of coca"
    assert refused(fill, folder, B)[0] == f"line 2 of {folder}/entries.jsonl: 'row' is missing or not a number"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 5),
        ("model", ["x"]),
        ("model", "a\0b"),
        ("identity", None),
        ("frames", "all"),
        ("num_frames", 10**30),
        ("num_frames", "many"),
        ("pool", {}),
    ],
)
def test_facts_of_wrong_types_are_named(folder: Path, name: str, value: object) -> None:
    fill(folder, A)
    facts = json.loads((folder / "index.json").read_text())
    (folder / "index.json").write_text(json.dumps({**facts, name: value}))
    for do in (Index, lambda folder: fill(folder, B)):
        assert refused(do, folder)[0].startswith(f"{folder}/index.json: {name!r}: ")


@pytest.mark.parametrize("name", ["index.json", "entries.jsonl", "vectors.npy"])
def test_fifos_are_refused(folder: Path, name: str) -> None:
    fill(folder, A)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert refused(Index, folder)[0].endswith(f"{folder / name}: not a regular file")


# Paths


def test_index_moves_with_its_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old/videos").mkdir(parents=True)
    (tmp_path / "old/videos/a.mp4").touch()
    monkeypatch.chdir(tmp_path / "old")
    fill(Path("index"), tasks("videos/a.mp4"))
    assert Index(Path("index")).entry(0).video == "videos/a.mp4"
    (tmp_path / "old").rename(tmp_path / "new")
    for here, folder, video in (
        ("new", "index", "videos/a.mp4"),
        ("new/videos", "../index", "a.mp4"),
        ("new/index", ".", f"{tmp_path}/new/videos/a.mp4"),
        (".", "new/index", "new/videos/a.mp4"),
    ):
        monkeypatch.chdir(tmp_path / here)
        index = Index(Path(folder))
        assert index.entry(0).video == video
        for spelled in (video, f"{tmp_path}/new/videos/a.mp4", f"{tmp_path}/new/index/../videos/a.mp4"):
            assert fill(Path(folder), tasks(spelled)) == []
            assert [entry.video for entry in index.entries([spelled])] == [spelled] * 2
            assert index.rows_of([spelled]) == [1]
            assert list(preview_index(Path(folder), tasks(spelled))) == [spelled]


def test_paths_across_the_root_are_absolute(folder: Path) -> None:
    fill(folder, tasks("/elsewhere/a.mp4"))
    assert json.loads((folder / "entries.jsonl").read_text().splitlines()[0])["video"] == "/elsewhere/a.mp4"
    assert Index(folder).entry(0).video == "/elsewhere/a.mp4"


def test_links_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("disk/deep/index", "disk/videos", "here"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "disk/videos/a.mp4").touch()
    (tmp_path / "here/index").symlink_to(tmp_path / "disk/deep/index")
    (tmp_path / "here/videos").symlink_to(tmp_path / "disk/videos")
    monkeypatch.chdir(tmp_path / "here")
    fill(Path("index"), tasks("videos/a.mp4"))
    assert Index(Path("index")).entry(0).video == "videos/a.mp4"
    assert fill(tmp_path / "disk/deep/index", tasks("videos/../videos/a.mp4")) == ["videos/../videos/a.mp4"]
    assert Index(Path("index")).entry(2).video == f"{tmp_path}/disk/videos/a.mp4"


def test_first_version_keeps_working(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "a.mp4").touch()
    monkeypatch.chdir(tmp_path)
    fill(Path("index"), [], about=dataclasses.replace(ABOUT, version=1))
    fill(Path("index"), tasks("a.mp4"))
    assert json.loads(Path("index/index.json").read_text())["coca_index"] == 1
    assert json.loads(Path("index/entries.jsonl").read_text().splitlines()[0])["video"] == "a.mp4"
    assert fill(Path("index"), tasks("a.mp4")) == []
    assert Index(Path("index")).entry(0).video == "a.mp4"
    Path("a.mp4").rename("index/a.mp4")
    assert Index(Path("index")).entry(0).video == "index/a.mp4"
    assert fill(Path("index"), tasks("a.mp4"), overwrite=True) == ["a.mp4"]
    assert json.loads(Path("index/index.json").read_text())["coca_index"] == 2


def test_moved_files_are_found_below_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("new/a.mp4", "new/sub/a.mp4", "new/lib/sub/b.mp4"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert find_below("lib/sub/a.mp4", Path("new")) == "new/sub/a.mp4"
    assert find_below("/old/lib/sub/b.mp4", Path("new")) == "new/lib/sub/b.mp4"
    assert find_below("other/a.mp4", Path("new")) == "new/a.mp4"
    assert find_below("other/c.mp4", Path("new")) == "other/c.mp4"


@pytest.mark.filterwarnings("ignore")  # numpy parses damaged headers as Python
@settings(max_examples=100)
@given(
    name=st.sampled_from(["index.json", "entries.jsonl", "vectors.npy"]),
    at=st.integers(0, 10**6),
    junk=st.binary(min_size=1, max_size=8),
)
def test_random_damage_never_crashes(tmp_path_factory: pytest.TempPathFactory, name: str, at: int, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "index"
    fill(folder, A, segments=1)
    path = folder / name
    at %= min(path.stat().st_size, 2 * HEADER)
    path.write_bytes(path.read_bytes()[:at] + junk + path.read_bytes()[at + len(junk) :])
    for do in (content, lambda folder: fill(folder, [*B, *A])):
        try:
            do(folder)
        except UsageError as error:
            assert str(folder) in error.message and "\n" not in error.message
    fill(folder, A, overwrite=True)
    assert content(folder) == plainly(folder) == expected(A)


def test_open_index_detects_changes(folder: Path) -> None:
    fill(folder, tasks("a", "b"))
    index = Index(folder)
    assert not index.has_changed()
    fill(folder, tasks("a", "b", "c"))
    assert index.has_changed()
    assert not Index(folder).has_changed()
