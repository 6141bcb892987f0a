"""FIFOs and devices in place of files are refused at once: reading them may never end."""

import os
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    "arguments",
    [
        "caption @fifo.txt",
        "caption @zero.csv",
        "caption missing.mp4 --log-file fifo.txt",
        "embed --texts fifo.txt -o index/",
        "embed missing.mp4 -o fifo.npz",
        "caption a.mp4 --model model.ckpt",
        "search dog fifo.txt",
        "evaluate --predictions fifo.json --references fifo.json",
        "fetch fifo.ckpt --name x",
        "fetch org/repo --from zero.pt",
        "convert fifo.ckpt out.ckpt",
        "models import zero.tar",
        "review captions.jsonl --export corrected.csv",
    ],
)
def test_special_files_are_refused(coca, arguments: str, tmp_path: Path) -> None:
    for name in ("fifo.txt", "fifo.npz", "fifo.ckpt", "fifo.json", "model.ckpt"):
        os.mkfifo(tmp_path / name)
    for name in ("zero.csv", "zero.pt", "zero.tar"):
        (tmp_path / name).symlink_to("/dev/zero")
    (tmp_path / "model.json").write_text("{}")
    for name in ("a.mp4", "captions.jsonl"):
        (tmp_path / name).touch()
    (tmp_path / "captions.review.jsonl").symlink_to("/dev/zero")
    run = coca(*arguments.split(), cwd=tmp_path)
    assert run.returncode in (1, 2, 3)
    assert "error" in run.stderr.splitlines()[0]
    assert "Traceback" not in run.stderr


def test_config_must_be_a_regular_file(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_CONFIG", "/dev/zero")
    assert coca("models").stderr == "error: cannot read /dev/zero: not a regular file\n"
    monkeypatch.setenv("COCA_CONFIG", os.devnull)
    assert coca("models").returncode == 0
