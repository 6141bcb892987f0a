"""Files that appear complete or not at all, free space, digests and sizes."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cococli import files
from cococli.reporting import Progress

HOLD = """
import sys, time
from pathlib import Path
from cococli.files import create_temporary
file = create_temporary(Path(sys.argv[1]))
print(file.name, flush=True)
time.sleep(600)
"""


def hold_temporary(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    return process, Path(process.stdout.readline().strip())


def test_links_and_permissions_survive_replacement(tmp_path: Path) -> None:
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    with files.write_atomically(link) as (file,):
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640


def test_failure_leaves_destination_and_no_temporary(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), files.write_atomically(tmp_path / "a", tmp_path / "b") as (first, _):
        first.write(b"new")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_only_abandoned_temporaries_are_removed(tmp_path: Path) -> None:
    living, held = hold_temporary(tmp_path)
    killed, abandoned = hold_temporary(tmp_path)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    precious = tmp_path / "precious"
    precious.write_text("mine")
    (tmp_path / ".coca-0123456789abcdef.part").symlink_to(precious)
    os.mkfifo(tmp_path / ".coca-fedcba9876543210.part")
    try:
        assert abandoned in files.remove_abandoned(tmp_path)
        assert held.exists()
        assert not abandoned.exists()
        assert precious.read_text() == "mine"
    finally:
        living.kill()
        living.wait()


def test_writing_removes_leftovers_of_killed_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / ".coca-0123456789abcdef.part").write_bytes(b"half")
    (tmp_path / ".coca-0123456789abcdef.folder").mkdir()
    with files.temporary_folder() as folder:
        (folder / "file").write_text("inside")
        assert len(list(tmp_path.iterdir())) == 2  # the folder, and the file that it belongs to
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_special_files_are_neither_read_nor_replaced(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "special"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="not a regular file"):
        files.check_regular(path)
    with pytest.raises(OSError, match="not a regular file"), files.write_atomically(path):
        pass
    assert not path.is_file()


def test_pipes_of_the_shell_may_be_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    files.check_regular(Path(f"/dev/fd/{reading}"))
    files.check_regular(Path(os.devnull))
    files.check_regular(tmp_path)
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("exchange", [True, False], ids=["exchanged", "renamed"])
def test_published_folder_replaces_existing_one(
    tmp_path: Path, exchange: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    for content in ("old", "new"):
        (tmp_path / "part").mkdir()
        (tmp_path / "part" / content).write_text(content)
        files.publish_folder(tmp_path / "part", tmp_path / "folder")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["folder", "folder/new"]


def test_missing_space_is_reported_with_sizes(tmp_path: Path) -> None:
    files.check_space(tmp_path, 1)
    problem = rf"it needs 1152921504\.61 GB, but only \S+ [kMG]B is free in {tmp_path}"
    with pytest.raises(OSError, match=problem):
        files.check_space(tmp_path, 1 << 60)


def test_space_of_killed_processes_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / f".coca-{'0' * 16}.part"
    left.write_bytes(b"abandoned")
    disk = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk._replace(free=0 if left.exists() else 9))
    files.check_space(tmp_path, 9)
    assert not left.exists()


def test_hash_reports_progress(tmp_path: Path) -> None:
    class Seen(Progress):
        def update(self, done: int, total: int | None = None, detail: str = "") -> None:
            seen.append(done)

    seen: list[int] = []
    (tmp_path / "file").write_bytes(bytes(1_500_000))
    assert files.hash_file(tmp_path / "file", Seen(), before=7).startswith("3fb3661f659e89fe")
    assert seen == [7 + (1 << 20), 7 + 1_500_000]


def test_digest_takes_paths_of_any_bytes() -> None:
    assert files.digest("caption", 8) == "176ca529"
    assert len(files.digest(os.fsdecode(b"\xff.mp4"))) == 16


@pytest.mark.parametrize(
    ("size", "text"), [(12, "12 bytes"), (1000, "1.0 kB"), (3_141_592, "3.1 MB"), (2_553_990_148, "2.55 GB")]
)
def test_sizes_are_formatted_with_units(size: int, text: str) -> None:
    assert files.format_size(size) == text


@pytest.mark.parametrize(("start", "end"), [(0.0, 4.0), (1e-05, 61.25), (3600.123456, 7200.0)])
def test_parts_of_videos_have_paths(start: float, end: float) -> None:
    video = Path("a@b-c/dog.mp4")
    part = files.span_path(video, start, end)
    assert files.find_span(part) == (video, start, end)
    assert (part.name, files.container_of(part)) == ("dog.mp4", video)
    assert files.find_span(video) is None
