"""Several devices share a run: CPU processes stand in for GPUs."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli.fork_server import start

from cococli.retrieval.index import Index

EXAMPLES = Path(__file__).parents[2] / "examples"
OPTIONS = ("--segments", "0.5", "--search", "greedy")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_DEVICES", "cpu,cpu")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of 24 clips of two kinds, and a broken one."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(24):
        (folder / f"{i:02}.mp4").write_bytes((EXAMPLES / ("moves.mp4" if i % 3 else "grows.mp4")).read_bytes())
    (folder / "17b.mp4").write_bytes(b"broken")
    return folder


def test_captions_equal_those_of_one_device(coca: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    options = ["--batch-size", "4", "--segments", "2", "--search", "top-k", "--max-length", "9"]
    assert coca("caption", many, "-o", one, *options).returncode == 1
    monkeypatch.setenv("COCA_DEVICES", "cpu,cpu")
    run = coca("caption", many, "-o", two, *options)
    assert run.returncode == 1, run.stderr
    assert "captioned 24 of 25" in run.stderr
    assert two.read_text() == one.read_text()


def test_embeddings_equal_those_of_one_device(coca: Run, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "texts.txt").write_text("a red circle\na blue square\n")
    options = ["--batch-size", "4", "--texts", tmp_path / "texts.txt"]
    assert coca("embed", many, "-o", f"{tmp_path}/one/", *options).returncode == 1
    monkeypatch.setenv("COCA_DEVICES", "cpu,cpu")
    assert coca("embed", many, "-o", f"{tmp_path}/two/", *options).returncode == 1
    one, two = Index(tmp_path / "one"), Index(tmp_path / "two")
    np.testing.assert_allclose(two.vectors, one.vectors, atol=1e-6)
    names = [str(path) for path in sorted(many.iterdir()) if path.name != "17b.mp4"]
    assert [entry.video for entry in two.entries(names)] == names


def processes(run: "subprocess.Popen[str]") -> list[int]:
    """Return the processes of the devices of a run, once it has written records."""
    found = subprocess.run(["pgrep", "-P", str(run.pid), "-f", "cococli.devices"], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def started(many: Path, output: Path) -> "subprocess.Popen[str]":
    """Return a run that has written its first records."""
    run = start("caption", many, "-o", output, *OPTIONS, "--batch-size", "2", stderr=subprocess.PIPE)
    while not (output.exists() and output.stat().st_size):
        assert run.poll() is None
        time.sleep(0.02)
    return run


def videos(output: Path) -> list[str]:
    return list(dict.fromkeys(Path(json.loads(line)["video"]).name for line in output.read_text().splitlines()))


def test_killed_device_loses_no_clip(two: None, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run = started(many, output)
    first, _ = processes(run)
    os.kill(first, signal.SIGKILL)
    errors = run.communicate(timeout=900)[1]
    assert "warning: cpu: its process ended with exit code -9; the other devices compute its clips" in errors
    assert run.returncode == 1  # for the broken file
    assert videos(output) == sorted(path.name for path in many.iterdir())


def test_without_any_device_the_run_stops_and_resumes(coca: Run, two: None, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run = started(many, output)
    for process in processes(run):
        os.kill(process, signal.SIGKILL)
    errors = run.communicate(timeout=900)[1]
    assert "error: cpu: its process ended with exit code -9\nhint: COCA_DEBUG=1 shows why" in errors
    assert run.returncode == 1
    assert coca("caption", many, "-o", output, *OPTIONS).returncode == 1
    assert videos(output) == sorted(path.name for path in many.iterdir())


def test_ctrl_c_finishes_and_ends_all_processes(two: None, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run = started(many, output)
    children = processes(run)
    run.send_signal(signal.SIGINT)
    errors = run.communicate(timeout=900)[1]
    assert "finishing the batch" in errors
    assert run.returncode == 130
    assert 0 < len(videos(output)) < 25
    for child in children:
        assert not Path(f"/proc/{child}").exists()


def test_damaged_model_is_one_error(coca: Run, two: None, many: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.ckpt"
    weights.write_bytes(b"no weights")
    shapes = Path(__file__).parents[2] / "cococli" / "assets" / "models" / "shapes" / "shapes.json"
    weights.with_suffix(".json").write_bytes(shapes.read_bytes())
    run = coca("caption", many, "-o", tmp_path / "out.jsonl", "--model", weights)
    assert run.returncode == 3
    assert run.stderr.count("error: ") == 1
