"""Files that are read, and those of others, are not overwritten."""

import os
from pathlib import Path

import pytest

from cococli.errors import UsageError
from cococli.overwrite import check_log, check_paths, find_foreign, refuse_foreign, write_output


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"a video")
    return path


def refusal(written: list[tuple[str, Path]], *read: Path) -> str:
    with pytest.raises(UsageError) as caught:
        check_paths(written, read)
    return caught.value.message


def test_links_to_inputs_are_refused(video: Path, tmp_path: Path) -> None:
    soft, hard = tmp_path / "soft.csv", tmp_path / "hard.csv"
    soft.symlink_to("a.mp4")
    os.link(video, hard)
    folder = tmp_path / "folder"
    folder.symlink_to(".")
    for path in (video, soft, hard, folder / "a.mp4", folder / "soft.csv"):
        assert refusal([(f"-o {path}", path)], Path("missing"), video) == (
            f"-o {path} would overwrite {video}, which is read"
        )


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("new.csv")  # which does not exist
    new = tmp_path / "new.csv"
    for other in (new, tmp_path / "there" / ".." / "new.csv", tmp_path / "link"):
        message = refusal([("-o new.csv", new), ("--log-file", other)])
        assert message == "-o new.csv and --log-file are the same file"
    assert refusal([("-o new.csv", new), ("-o new.csv", new)]) == "-o new.csv is given twice"


def test_different_files_pass(video: Path, tmp_path: Path) -> None:
    check_paths([("-o a", tmp_path / "a.csv"), ("-o b", tmp_path / "b.csv")], [video, Path("nul\0"), tmp_path])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_full_disk_leaves_no_unknown_output(home: Path, tmp_path: Path) -> None:
    (home / "written").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"), write_output(tmp_path / "out.csv") as (file,):
        file.write(b"written")
    assert list(tmp_path.iterdir()) == []


def test_partial_fingerprint_hides_no_other(home: Path, tmp_path: Path) -> None:
    (home / "written").write_bytes(b"0123456789")
    with write_output(tmp_path / "out.csv") as (file,):
        file.write(b"written")
    assert find_foreign([tmp_path / "out.csv"]) == []


def test_written_files_are_known_until_changed(tmp_path: Path) -> None:
    path, link = tmp_path / "out.csv", tmp_path / "link.csv"
    link.symlink_to(path)
    with write_output(link) as (file,):
        file.write(b"written")
    assert find_foreign([path, link]) == []
    path.write_bytes(b"changed")
    os.utime(path, (1, 1))
    assert find_foreign([path, link]) == [path, link]
    with pytest.raises(UsageError, match=r"out\.csv was not written by coca, or was changed since"):
        refuse_foreign(path)


def test_missing_and_empty_files_are_free(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    refuse_foreign(tmp_path / "empty.csv", tmp_path / "missing.csv", tmp_path)


def test_unwritable_registry_does_not_prevent_output(tmp_path: Path, home: Path) -> None:
    (home / "written").mkdir()
    with write_output(tmp_path / "out.csv") as (file,):
        file.write(b"written")
    assert find_foreign([tmp_path / "out.csv"]) == [tmp_path / "out.csv"]


def test_only_logs_are_appended_to(video: Path, tmp_path: Path) -> None:
    log, pipe = tmp_path / "run.log", tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (log, pipe, tmp_path):
        check_log(path)
    log.write_text("2024-05-01 12:00:00 captioned 1 of 1\n")
    check_log(log)
    with pytest.raises(UsageError, match=r"a\.mp4 exists and is not a log of coca"):
        check_log(video)
