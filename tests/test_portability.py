"""coca on Windows and macOS, as far as Linux can simulate them: see simulated/sitecustomize.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "cococli" / "assets" / "examples"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="simulates other systems on Linux")

HOLD_JOURNAL = """
import sys
from pathlib import Path
from cococli.errors import UsageError
from cococli.journal import open_journal
try:
    with open_journal(Path(sys.argv[1]), [], dict):
        print("held", flush=True)
        sys.stdin.read()
except UsageError as error:
    print(error)
"""


@pytest.fixture(params=["windows", "darwin"])
def system(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COCA_SIMULATE", request.param)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "simulated")]))
    monkeypatch.setenv("COCA_HOME", str(tmp_path / "home"))
    return request.param


def coca(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cococli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_captioning_resumes_on(system: str, tmp_path: Path):
    output, table = tmp_path / "out.jsonl", tmp_path / "out.csv"
    command = ["caption", *sorted(EXAMPLES.glob("*.mp4"))[:2], "--model", "shapes", "--engine", "torch"]
    assert "captioned 2 of 2" in coca(*command, "-o", output, "-o", table).stderr
    whole = table.read_text()
    first, second = output.read_text().splitlines(keepends=True)
    assert json.loads(second)["status"] == "ok"
    if system == "darwin":
        return
    output.write_text(first + second[:20])
    assert "captioned 1 of 1" in coca(*command, "-o", output, "-o", table).stderr
    assert output.read_text() == first + second
    assert table.read_text() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out.csv", "out.jsonl"]


def test_models_and_doctor_work_on(system: str):
    assert "vit-l-14-coco" in coca("models", "available").stdout
    if system == "windows":
        assert "readers have limits of time and memory only" in coca("doctor").stdout


def test_locks_exclude_other_processes_on(system: str, tmp_path: Path):
    command = [sys.executable, "-c", HOLD_JOURNAL, str(tmp_path / "out.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        refused = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        assert refused.stdout == f"another run writes to {tmp_path / 'out.jsonl'}\n"
        holder.communicate()
    free = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    assert free.stdout == "held\n"
