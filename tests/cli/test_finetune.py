"""`coca finetune`, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cli import fork_server
from training.tiny_run import captioned, config_file, write_list

from cococli import settings


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return captioned(tmp_path / "data")


def records(home: Path, name: str) -> list[dict[str, Any]]:
    """Return the metrics of a run without times, ignoring an incomplete last line."""
    path = home / "runs" / name / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{key: value for key, value in record.items() if key != "seconds"} for record in whole]


def start(arguments: list[object], home: Path, after: int, **streams: Any) -> "subprocess.Popen[str]":
    """Start the run `mine` and return once this step is done."""
    run = fork_server.start("finetune", *arguments, **streams)
    while not any(record["step"] >= after for record in records(home, "mine")):
        assert run.poll() is None, run.communicate()
        time.sleep(0.002)
    return run


@pytest.mark.slow
def test_interrupted_runs_resume_to_identical_metrics(coca, data: Path, tmp_path: Path, home: Path) -> None:
    usual = ["--data", data, "--from-scratch", "--config", config_file(tmp_path), "--steps", 40, "--batch-size", 4]
    often = ["--save-every", 3, "--validate-every", 16, "--lr", 0.01]
    mine = [*usual, *often, "--name", "mine"]

    killed = start(mine, home, after=4, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = len(records(home, "mine"))
    assert done < 40

    stopped = start([*mine, "--json"], home, after=18, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stopped.send_signal(signal.SIGINT)
    results, notes = stopped.communicate(timeout=900)
    events = [json.loads(line) for line in notes.splitlines()]
    assert (results, stopped.returncode) == ("", 130)
    said = [event["text"] for event in events if event["event"] != "progress"]
    assert [text for text in said if "resuming run" in text]
    assert said[-3:] == ["saving; Ctrl-C again stops now", "interrupted", "what was done before is kept"]
    moves = [event for event in events if event["event"] == "progress"]
    last = records(home, "mine")[-1]["step"]
    assert {"event": "progress", "stage": "training", "done": last, "total": 40}.items() <= moves[-1].items()
    assert last < 40

    finished = coca("finetune", *mine)
    assert f"resuming run mine at step {last}" in finished.stderr.splitlines()
    assert (finished.stdout, finished.returncode) == ("run:mine\n", 0)
    whole = coca("finetune", *usual, *often, "--name", "whole", "--quiet")
    warning = "warning: scores of 2 held-out examples are not reliable; more data helps (8 or more)\n"
    assert (whole.stdout, whole.stderr, whole.returncode) == ("run:whole\n", warning, 0)
    assert records(home, "mine") == records(home, "whole")

    again = coca("finetune", *mine, "--batch-size", 2)
    assert (again.stdout, again.returncode) == ("", 2)
    assert "error: the run mine has other settings: --batch-size was 4, is 2" in again.stderr.splitlines()


LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
import torch
from cococli.cli.main import run
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (700 << 20),) * 2)  # threads take some, too
run()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_out_of_memory_names_options_that_help(coca, data: Path, tmp_path: Path) -> None:
    write_list(data, [{"path": f"{place}.png", "captions": ["a thing"] * 400} for place in range(4)])
    command = ["finetune", "--data", data, "--from-scratch", "--config", config_file(tmp_path), "--batch-size", "1000"]
    run = subprocess.run([sys.executable, "-c", LITTLE_MEMORY, *command], capture_output=True, text=True, timeout=900)
    assert run.stderr.splitlines()[-2:] == [
        "error: not enough memory",
        "hint: --grad-checkpointing, a smaller --batch-size with --accumulate, --lock-image or --lora 8 take less",
    ]
    assert (run.stdout, run.returncode) == ("", 1)


NO_MINDSPORE = """
import sys
from importlib import util
sys.modules["mindspore"] = None
found = util.find_spec
util.find_spec = lambda name, *rest: None if name == "mindspore" else found(name, *rest)
from cococli.cli.main import run
run()
"""


def test_training_needs_no_mindspore(data: Path, tmp_path: Path) -> None:
    usual = ["--data", data, "--from-scratch", "--config", config_file(tmp_path), "--steps", "1", "--batch-size", "4"]
    command = [sys.executable, "-c", NO_MINDSPORE, "finetune", *usual, "--name", "mine"]
    trained = subprocess.run(command, capture_output=True, text=True)
    assert (trained.stdout, trained.returncode) == ("run:mine\n", 0), trained.stderr
    run = subprocess.run([*command, "--engine", "mindspore"], capture_output=True, text=True)
    assert run.stderr.splitlines() == [
        "error: --engine mindspore needs MindSpore, which is not installed",
        "hint: pip install mindspore",
    ]
    assert (run.stdout, run.returncode) == ("", 2)


def test_former_flags_still_work(coca, data: Path, tmp_path: Path, home: Path) -> None:
    settings.config_file().write_text("[finetune]\ndecay = 0.05\nclip-grad-norm = 2\n")
    former = ["--rate", "0.01", "--caption", "3", "--contrastive", "2", "--validate-every", "9", "--hold-out", "2"]
    usual = ["--data", data, "--from-scratch", "--config", config_file(tmp_path), "--steps", "1", "--batch-size", "4"]
    run = coca("finetune", *usual, *former, "--name", "mine", "--tensorboard")
    assert run.returncode == 0, run.stderr
    assert "warning: --val-frequency 9 has no effect: the run has 1 steps" in run.stderr.splitlines()
    asked = json.loads((home / "runs/mine/run.json").read_text())["asked"]
    assert (asked["rate"], asked["decay"], asked["clip"]) == (0.01, 0.05, 2)
    assert asked["loss"] == {"caption": 3, "contrastive": 2}
    assert (home / "runs/mine/events").exists()
    again = coca("finetune", *usual, "--lr", "0.01", "--name", "mine")  # the losses are those of the run
    assert (again.stdout, again.returncode) == ("run:mine\n", 0)
    for flags in (["--freeze", "text"], ["--lock-text"]):  # the second run finds that the first one did everything
        run = coca("finetune", "--data", data, "--model", "run:mine", *usual[-4:], *flags, "--name", "text")
        assert run.returncode == 0, run.stderr
    assert json.loads((home / "runs/text/run.json").read_text())["asked"]["frozen"] == "text"
    shown = coca("finetune", "--help").stdout
    assert not {"--rate", "--freeze", "--caption", "--validate-every", "--tensorboard"} & {*shown.split()}


@pytest.mark.slow
def test_runs_survive_damage_and_report_missing_parts(coca, data: Path, tmp_path: Path, home: Path) -> None:
    run_folder = home / "runs" / "mine"
    command = ["finetune", "--data", data, "--from-scratch", "--config", config_file(tmp_path), "--batch-size", 4,
               "--steps", 4, "--save-every", 1, "--name", "mine", "--hold-out", 2]  # fmt: skip
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "pycocoevalcap.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path / "lacking"), os.environ["PYTHONPATH"]])
    run = coca(*command, env=os.environ | {"PYTHONPATH": path})
    assert run.stderr.splitlines()[-2:] == [
        "error: caption metrics need pycocoevalcap", "hint: pip install 'cococli[evaluate]'"
    ]  # fmt: skip
    assert not run_folder.exists()
    late = coca(*command, "--warmup", "1000")
    assert late.stderr.splitlines()[-2] == "error: --warmup 1000 must be less than the 4 steps of the run"
    few = coca(*command, "--accumulate", 5)
    assert few.stderr.splitlines()[-2:] == [
        "error: one step needs 20 captions (4 x --accumulate 5), but there are only 16",
        "hint: --batch-size 3 or --accumulate 4 or less",
    ]

    assert coca(*command).returncode == 0
    metrics = (run_folder / "metrics.jsonl").read_bytes()
    os.truncate(run_folder / "checkpoints" / "4" / "model.ckpt", 1000)
    again = coca(*command)
    assert again.returncode == 0
    (warning,) = (line for line in again.stderr.splitlines() if "damaged" in line)
    assert warning.startswith(
        f"warning: the checkpoint of step 4 is damaged and was renamed to {run_folder}/checkpoints/4.damaged: "
    )
    assert sorted(path.name for path in (run_folder / "checkpoints").iterdir()) == ["3", "4", "4.damaged"]
    assert b"seconds" in metrics and len((run_folder / "metrics.jsonl").read_bytes().splitlines()) == 5

    for step in ("3", "4"):
        (run_folder / "checkpoints" / step / "progress.json").write_text('{"step": []}')
    before = {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()}
    lost = coca(*command)
    assert (lost.stdout, lost.returncode) == ("", 1)
    assert "error: no checkpoint of the run mine can be loaded: step 4: progress.json is damaged" in lost.stderr
    assert "--overwrite" in lost.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in run_folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--from-scratch"], "--from-scratch needs an architecture", "--config vit-b-32, or open_clip's config file"),
        (["--from-scratch", "--model", "shapes"], "--model and --from-scratch exclude each other", ""),
        (["--config", "shapes"], "--config requires --from-scratch: a model has its own architecture", ""),
        (["--caption", "0", "--contrastive", "0"], "--caption-loss-weight 0 and --contrastive-loss-weight 0 leave no "
         "loss to train with", "--contrastive-loss-weight 1 trains embeddings"),
        (["--caption-loss-weight", "0"], "--caption-loss-weight 0 and --contrastive-loss-weight 0 leave no "
         "loss to train with", "--contrastive-loss-weight 1 trains embeddings"),
        (["--from-scratch", "--lock-image"], "--lock-image, --lock-text and --lora need a trained model: random "
         "weights would never change", ""),
        (["--from-scratch", "--freeze", "text"], "--lock-image, --lock-text and --lora need a trained model: random "
         "weights would never change", ""),
        (["--unlocked-groups", "2"], "--unlocked-groups needs --lock-image", ""),
        (["--model", "shapes", "--rate", "0"], "--lr 0 trains nothing", ""),
        (["--model", "shapes", "--epochs", "0"], "--epochs 0 trains nothing",
         "to use the model as it is, run coca caption"),
        (["--model", "shapes", "--epochs", "2", "--steps", "9"], "--steps and --epochs exclude each other", ""),
        (["--model", "shapes", "--hold-out", "0", "--patience", "2"],
         "--patience and --val-frequency need held-out examples, but --hold-out is 0", ""),
        (["--engine", "mindspore", "--ema", "0.9"], "--ema needs --engine torch", ""),
        (["--engine", "mindspore", "--lora", "8"], "--lora needs --engine torch", ""),
    ],
)  # fmt: skip
def test_conflicting_options_fail_before_loading(coca, arguments: list[str], message: str, hint: str) -> None:
    run = coca("finetune", "--data", "none", *arguments)
    assert run.stderr == f"error: {message}\n" + f"hint: {hint}\n" * bool(hint)
    assert (run.stdout, run.returncode) == ("", 2)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--steps", "0"],
        ["--seed", "-1"],
        ["--freeze", "all"],
        ["--epochs", "-1"],
        ["--precision", "fp8"],
        ["--keep", "0"],
    ],
)
def test_invalid_values_are_usage_errors(coca, arguments: list[str]) -> None:
    run = coca("finetune", "--data", "none", *arguments)
    first, second = run.stderr.splitlines()
    assert first.startswith(f"error: Invalid value for '{arguments[0]}'")
    assert second == "hint: coca finetune --help"
    assert (run.stdout, run.returncode) == ("", 2)


def test_missing_data_folder_is_reported(coca, tmp_path: Path) -> None:
    run = coca("finetune", "--data", "none", "--from-scratch", "--config", config_file(tmp_path))
    assert run.stderr.splitlines()[0] == "error: none is not a folder or a list"
    assert (run.stdout, run.returncode) == ("", 2)


def test_help_groups_options(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = coca("finetune", "--help").stdout
    titles = [line[:-1] for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles == ["Data", "Frames", "Model", "Training", "Run", "Options", "Examples"]
    assert "resumes where it stopped when the same command is given again" in " ".join(shown.split())
