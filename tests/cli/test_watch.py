"""`coca caption --watch`, as a user runs it, with the bundled model."""

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli.fork_server import start

import cococli

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


def wait_for(run: "subprocess.Popen[str]", condition: Callable[[], object]) -> None:
    while not condition():
        assert run.poll() is None
        time.sleep(0.02)


def captioned(output: Path) -> list[str]:
    text = output.read_text() if output.exists() else ""
    return [Path(json.loads(line)["video"]).name for line in text.splitlines()]


def test_files_are_captioned_once_complete(tmp_path: Path) -> None:
    folder, output, table = tmp_path / "in", tmp_path / "out.jsonl", tmp_path / "out.csv"
    folder.mkdir()
    shutil.copy(EXAMPLES / "moves.mp4", folder)
    options = ["-o", output, "-o", table, "--search", "greedy"]
    run = start("caption", "--watch", folder, *options, stderr=subprocess.PIPE)
    wait_for(run, lambda: captioned(output) == ["moves.mp4"])

    growing, finished = folder / "grows.mp4", threading.Event()
    content = (EXAMPLES / "grows.mp4").read_bytes()

    def grow() -> None:
        with growing.open("wb", buffering=0) as file:
            while not finished.wait(0.1):
                file.write(b"\0")
            file.truncate(0)
            os.pwrite(file.fileno(), content, 0)

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        (tmp_path / "moved").mkdir()
        shutil.copy(EXAMPLES / "appears.mp4", tmp_path / "moved")
        (tmp_path / "moved").rename(folder / "moved")
        wait_for(run, lambda: len(captioned(output)) == 2)
        assert captioned(output) == ["moves.mp4", "appears.mp4"]
    finally:
        finished.set()
        writer.join()
    wait_for(run, lambda: "grows.mp4" in captioned(output))
    (folder / "broken.mp4").write_text("this is no video")
    wait_for(run, lambda: "broken.mp4" in captioned(output) and "broken.mp4" in table.read_text())
    run.send_signal(signal.SIGINT)
    *_, total, reasons = run.communicate()[1].splitlines()
    assert total == "3 of 4 files captioned"
    assert reasons.startswith("failed: 1 not a video")
    assert run.returncode == 1
    assert len(captioned(output)) == 4 and len(table.read_text().splitlines()) == 5


def test_watch_prints_each_caption_once(coca, tmp_path: Path) -> None:
    run = start("caption", "--watch", tmp_path, "--search", "greedy", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout
    for name in ("moves", "grows"):
        shutil.copy(EXAMPLES / f"{name}.mp4", tmp_path)
        assert json.loads(run.stdout.readline())["video"] == str(tmp_path / f"{name}.mp4")
    run.send_signal(signal.SIGTERM)
    rest, errors = run.communicate()
    assert (rest, run.returncode) == ("", 0)
    assert errors.splitlines()[-1] == "2 of 2 files captioned"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["moves.mp4"], "--watch takes folders, and moves.mp4 is not one"),
        ([".", "--shard", "0/2", "-o", "out.jsonl"], "--watch and --shard exclude each other"),
        ([".", "-o", "out.srt"], "--watch cannot write all files to out.srt"),
        ([".", "-o", "out.jsonl", "-o", "-"], "with --watch, captions go to files or to stdout, not to both"),
    ],
)
def test_invalid_watch_fails_at_once(coca, tmp_path: Path, arguments: list[str], message: str) -> None:
    run = coca("caption", "--watch", *arguments, cwd=tmp_path)
    assert run.returncode == 2
    assert run.stderr.splitlines()[0] == f"error: {message}"


def test_python_watches_until_stopped(tmp_path: Path) -> None:
    class Inbox(cococli.Reporter):
        """Lets a file arrive after the first record, and stops after the second."""

        def __init__(self) -> None:
            self.names: list[str] = []

        def record(self, record: Any) -> None:
            self.names.append(Path(record.video).name)
            if len(self.names) == 1:
                shutil.copy2(EXAMPLES / "grows.mp4", tmp_path)

        @property
        def stop_requested(self) -> bool:
            return len(self.names) == 2

    shutil.copy2(EXAMPLES / "moves.mp4", tmp_path)
    inbox = Inbox()
    with cococli.load("shapes", engine="torch", precision="fp32") as coca:
        assert coca.run(tmp_path, watch=True, reporter=inbox, method="greedy").exit_code == 0
        with pytest.raises(cococli.UsageError, match="takes folders"):
            coca.run(tmp_path / "moves.mp4", watch=True)
    assert inbox.names == ["moves.mp4", "grows.mp4"]
