"""`coca bench` with the bundled model."""

import json
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cli.fork_server import start

from cococli.benchmark import Timing
from cococli.cli import bench
from cococli.engines.choice import Choice
from cococli.engines.measured import MARGIN
from cococli.engines.sizes import Sizes


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


def timing(**changes: object) -> Timing:
    """A timing of torch, with these changes."""
    sizes = Sizes(batch=8, slots=16, readers=2)
    one = Timing(Choice("torch", "cpu", "fp32", 1), 2.0, 0.25, {1: 0.01, 12: 0.05}, sizes, read=0.05)
    return replace(one, **changes)


def test_table_ends_with_the_flags_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    other = timing(choice=Choice("mindspore", "cpu", "fp32", 1), frame=0.5, steps={12: 0.1})
    bench._print([other, timing()], as_json=False)
    head, *rows, fastest, bottleneck = capsys.readouterr().out.splitlines()
    assert re.split("  +", head) == ["engine", "precision", "start", "frame", "1 rows", "12 rows", "captions/min"]
    assert [row.split()[0] for row in rows] == ["mindspore", "torch"]
    assert fastest == "fastest: --engine torch --precision fp32"
    assert bottleneck == "bottleneck: decoder, in clips per second: readers 40, encoder 4.0, decoder 2.9"
    assert max(map(len, [head, *rows, bottleneck])) < 80


def test_auto_follows_the_measurement(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COCA_PRECISION")
    run = coca("bench", "--engines", "torch", "--device", "cpu", "--json")
    seconds = {timing["precision"]: 60 / timing["captions_per_minute"] for timing in json.loads(run.stdout)}
    run = coca("caption", Path(__file__).parents[2] / "examples" / "grows.mp4", "--device", "cpu")
    if len(seconds) > 1:  # this CPU multiplies in bf16
        best = min(seconds, key=seconds.__getitem__)
        chosen = best if seconds[best] < MARGIN * seconds["bf16"] else "bf16"
        times = ", ".join(f"torch {precision} {time:.2g} s" for precision, time in seconds.items())
        assert run.stderr.startswith(f"using torch in {chosen} (coca bench: {times} a caption)")


def test_json_has_seconds_of_each_engine(capsys: pytest.CaptureFixture[str]) -> None:
    bench._print([timing()], as_json=True)
    assert json.loads(capsys.readouterr().out) == [
        {
            "engine": "torch",
            "device": "cpu",
            "precision": "fp32",
            "threads": 1,
            "start": 2.0,
            "frame": 0.25,
            "steps": {"1": 0.01, "12": 0.05},
            "batch": 8,
            "slots": 16,
            "readers": 2,
            "captions_per_minute": pytest.approx(60 / (0.25 + 14 * 0.05 / 2)),  # 12 rows are two clips
            "clips_per_second": {"readers": 40, "encoder": 4, "decoder": pytest.approx(1 / 0.35)},
            "bottleneck": "decoder",
        }
    ]
    assert timing(frame=0.5).bottleneck == "encoder"
    assert timing(read=2.0).bottleneck == "readers"


def test_failing_engines_are_reported(coca, home: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.ckpt"
    weights.write_bytes(b"no weights")
    shapes = Path(__file__).parents[2] / "cococli" / "assets" / "models" / "shapes" / "shapes.json"
    weights.with_suffix(".json").write_bytes(shapes.read_bytes())
    run = coca("bench", "--engines", "torch", "--model", weights)
    assert run.stdout == ""
    assert re.match(rf"warning: --engine torch --precision (fp32|bf16): {re.escape(str(weights))} ", run.stderr)
    assert run.returncode == 1


def started(*arguments: str) -> "subprocess.Popen[str]":
    return start("bench", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def child(run: "subprocess.Popen[str]", other: int = 0) -> int:
    """Return the process that it times now, other than this one."""
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    while run.poll() is None:
        for found in children.read_text().split():
            with suppress(FileNotFoundError):  # it has ended
                is_timer = b"cococli.benchmark" in Path(f"/proc/{found}/cmdline").read_bytes()
                if is_timer and int(found) != other:
                    return int(found)
        time.sleep(0.02)
    raise AssertionError("it has ended")


def test_ctrl_c_ends_the_timed_process() -> None:
    run = started("--engines", "mindspore", "--rows", "600")
    timed = child(run)
    run.send_signal(signal.SIGINT)
    assert run.communicate(timeout=900) == ("", "error: interrupted\nhint: what was done before is kept\n")
    assert run.returncode == 130
    while Path(f"/proc/{timed}").exists():  # Ctrl-C may come before its parent knows it
        time.sleep(0.05)


def test_ctrl_c_shows_results_so_far() -> None:
    run = started("--engines", "mindspore,torch", "--device", "cpu", "--rows", "6")
    child(run, other=child(run))
    run.send_signal(signal.SIGINT)
    results, errors = run.communicate(timeout=900)
    assert [line.split()[0] for line in results.splitlines()] == ["engine", "torch", "fastest:", "bottleneck:"]
    assert (errors.splitlines()[0], run.returncode) == ("error: interrupted", 130)


@pytest.mark.parametrize(
    ("wrong", "message", "hint"),
    [
        (["--rows", "six"], "--rows cannot be 'six'", "choose auto, or numbers from 1 to 1000, such as 6,48"),
        (["--rows", "6,0"], "--rows cannot be '6,0'", "choose auto, or numbers from 1 to 1000, such as 6,48"),
        (["--engines", "numpy"], "--engine cannot be 'numpy'", "choose auto, mindspore, torch or openvino"),
        (
            ["--device", "gpu"],
            "--device cannot be 'gpu'",
            "choose auto, cpu, cuda, mps, ascend, or one GPU, such as cuda:0",
        ),
    ],
    ids=str,
)
def test_invalid_options_fail_before_loading(coca, wrong: list[str], message: str, hint: str) -> None:
    run = coca("bench", *wrong, "--model", "no-such-model")
    assert (run.stdout, run.stderr, run.returncode) == ("", f"error: {message}\nhint: {hint}\n", 2)
