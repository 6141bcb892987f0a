"""Events for TensorBoard, read back as it reads them."""

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from cococli.errors import UsageError
from cococli.runs.trackers import open_events, open_wandb

ROOT = Path(__file__).parents[2]
SAMPLE = {"path": "a.png", "caption": "a `red` | <b>circle</b>", "reference": "ein\nKreis \udcff"}


def events(file: Path) -> Iterator[Event]:
    """Each record of a file: its length and a checksum of it, the event and a checksum of it."""
    data = file.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def shown(folder: Path) -> dict[str, dict[int, Any]]:
    """Values by name and step. The start of a session wipes what earlier ones wrote of its step and later."""
    found: dict[str, dict[int, Any]] = {}
    for file in sorted(folder.iterdir()):
        for event in events(file):
            if event.HasField("session_log"):
                found = {name: {s: it for s, it in of.items() if s < event.step} for name, of in found.items()}
            for value in event.summary.value:
                own = found.setdefault(value.tag, {})
                assert event.step not in own, f"{value.tag} stands there twice"
                own[event.step] = value.tensor.string_val[0] if value.HasField("tensor") else value.simple_value
    return found


def test_steps_and_scores_are_scalars(tmp_path: Path) -> None:
    with open_events(tmp_path) as log:
        log({"step": 1, "loss": 3.5, "rate": 0.25})
        log({"step": 2, "loss": None, "rate": 0.5})
        log({"step": 2, "score": 8, "scores": {"CIDEr": 8.0, "text to image recall@1": 0.5}, "samples": []})
        log({"step": 3, "diverged": ["a.png"]})
    found = shown(tmp_path)
    assert found.pop("held-out/captions/text_summary") == {2: b"file | caption | reference\n--- | --- | ---"}
    assert found == {
        "train/loss": {1: 3.5},
        "train/rate": {1: 0.25, 2: 0.5},
        "held-out/CIDEr": {2: 8.0},
        "held-out/text-to-image-recall-at-1": {2: 0.5},
    }


def test_captions_are_shown_as_they_are(tmp_path: Path) -> None:
    with open_events(tmp_path) as log:
        log({"step": 2, "scores": {}, "samples": [SAMPLE]})
    (text,) = shown(tmp_path)["held-out/captions/text_summary"].values()
    assert text.decode().splitlines()[2] == "`a.png` | `a 'red' ¦ <b>circle</b>` | `ein Kreis \\udcff`"


def test_a_resumed_run_has_each_step_once(tmp_path: Path) -> None:
    with open_events(tmp_path) as log:
        for step in (1, 2, 3, 4):
            log({"step": step, "loss": 1.0})
    with open_events(tmp_path, after=2) as log:
        for step in (3, 4, 5):
            log({"step": step, "loss": 2.0})
    assert shown(tmp_path) == {"train/loss": {1: 1, 2: 1, 3: 2, 4: 2, 5: 2}}


def test_events_of_killed_process_are_kept(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from cococli.errors import UsageError
from cococli.runs.trackers import open_events
with open_events(Path({str(tmp_path)!r})) as log:
    log({{"step": 1, "loss": 1.0}})
    log({{"step": 1, "scores": {{"CIDEr": 1.0}}, "samples": []}})
    os.kill(os.getpid(), 9)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (run.stdout, run.stderr, run.returncode) == ("", "", -9)
    assert shown(tmp_path).keys() == {"train/loss", "held-out/CIDEr", "held-out/captions/text_summary"}


def test_without_tensorboardx_it_is_told(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from cococli.errors import UsageError
from cococli.errors import UsageError
from cococli.runs.trackers import open_events
sys.modules["tensorboardX"] = None
try:
    open_events(Path("none")).__enter__()
except UsageError as error:
    print(error.message, error.hint, sep="; ")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout == "--report-to tensorboard needs tensorboardX; pip install 'cococli[tensorboard]'\n"


def test_wandb_receives_steps_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    with open_wandb(tmp_path, "mine", {"steps": 2}) as log:
        log({"step": 1, "loss": 2.5, "caption": 1.0})
        log({"step": 1, "score": 0.5, "held_out_loss": 2.0, "scores": {"CIDEr": 0.5}})
        log({"step": 2, "caption": 1.0})
        run = wandb.run
        assert (run.project, run.name, run.config["steps"]) == ("coca", "mine", 2)
        assert (run.summary["train/loss"], run.summary["held-out/CIDEr"]) == (2.5, 0.5)
    assert list(tmp_path.glob("wandb/offline-run-*-mine/*.wandb"))


def test_missing_wandb_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError) as caught, open_wandb(tmp_path, "mine", {}):
        pass
    assert (caught.value.message, caught.value.hint) == (
        "--report-to wandb needs wandb",
        "pip install 'cococli[wandb]'",
    )
