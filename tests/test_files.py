"""Files that appear complete or not at all."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cococli import files

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
        files.remove_abandoned(tmp_path)
        assert held.exists()
        assert not abandoned.exists()
        assert precious.read_text() == "mine"
    finally:
        living.kill()
        living.wait()
