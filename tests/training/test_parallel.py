"""Several processes train as one does."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training.tiny_run import RecordingReporter, request, write_list
from training.training_fixtures import pictures

from cococli.checkpoints import ckpt
from cococli.errors import UsageError
from cococli.requests import FinetuneRequest
from cococli.training.finetune import finetune
from cococli.training.parallel import Workers, buckets

WAIT = 900  # seconds, against a hang alone


def uneven(folder: Path) -> Path:
    """Eight pictures; the captions of some are thrice as long as those of others."""
    folder.mkdir()
    lines = [
        {"path": path.name, "captions": ["red", "a very long tale of " + "it " * (place % 4)], "split": "train"}
        for place, path in enumerate(pictures(folder, 8))
    ]
    write_list(folder, lines)
    return folder


def options(run: FinetuneRequest) -> list[str]:
    """The command line that asks for it."""
    named = {
        "data": run.data,
        "config": run.config,
        "name": run.name,
        "steps": run.steps,
        "batch-size": run.batch_size,
        "accumulate": run.accumulate,
        "lr": run.learning_rate,
        "hold-out": run.hold_out,
        "val-frequency": run.validate_every,
        "save-every": run.save_every,
        "engine": run.engine,
    }
    return ["--from-scratch", *(f"--{name}={value}" for name, value in named.items() if value is not None)]


def launch(
    run: FinetuneRequest,
    log: Path,
    launcher: list[str],
    program: list[str],
    disturb: Callable[[psutil.Popen], None] | None = None,
) -> str:
    """Start two processes and return what they print; whatever happens, none is left."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # msrun starts what `python` is there
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launcher, *program, "finetune", *options(run)]
    with log.open("w+") as output:
        process = psutil.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            if disturb:
                disturb(process)
            process.wait(WAIT)
        finally:
            left = [*process.children(recursive=True), process] if process.is_running() else []
            for one in left:
                one.kill()
        output.seek(0)
        printed = output.read()
    assert process.returncode == 0, printed
    return printed


def train_by_torchrun(folder: Path, run: FinetuneRequest) -> str:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    return launch(run, folder / "torchrun.log", launcher, ["-m", "cococli"])


def train_by_msrun(folder: Path, run: FinetuneRequest) -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    two = ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True", f"--log_dir={folder}/logs"]
    launch(run, folder / "msrun.log", ["mindspore.parallel.cluster.run", *two], ["python", "-m", "cococli"])
    return (folder / "logs" / "worker_0.log").read_text()


def records(home: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def weights(home: Path, name: str) -> dict[str, np.ndarray]:
    return dict(ckpt.read(home / "runs" / name / "checkpoints/4/model.ckpt"))


def test_two_processes_resume_a_single_process_run(home: Path, tmp_path: Path) -> None:
    data = uneven(tmp_path / "data")
    changed = {"steps": 4, "accumulate": 2, "hold_out": 2, "validate_every": 2}
    finetune(request(data, name="one", **changed))
    begun = RecordingReporter(stop_after=1)
    finetune(request(data, name="two", **changed), begun)
    assert "run:two" in train_by_torchrun(tmp_path, request(data, name="two", **changed)).splitlines()
    one, two = records(home, "one"), records(home, "two")
    assert [record["step"] for record in two] == [1, 2, 2, 3, 4, 4]
    for mine, theirs in zip(two, one, strict=True):
        for number in mine.keys() & {"loss", "caption", "contrastive", "norm", "rate", "score"}:
            assert mine[number] == pytest.approx(theirs[number], rel=1e-4), (mine["step"], number)
    wanted = weights(home, "one")
    for name, array in weights(home, "two").items():
        if not name.endswith("k_proj.bias"):  # its gradient is rounding alone, of which AdamW makes whole steps
            assert np.linalg.norm(array - wanted[name]) <= 1e-3 * np.linalg.norm(wanted[name]), name


@pytest.mark.slow
def test_killed_process_restarts_all_from_the_last_checkpoint(home: Path, tmp_path: Path) -> None:
    wanted = request(uneven(tmp_path / "data"), name="two", steps=40, save_every=4)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]

    def kill(process: psutil.Popen) -> None:
        metrics = home / "runs" / "two" / "metrics.jsonl"
        while not metrics.exists() or metrics.read_text().count("\n") < 6:
            assert process.poll() is None
            time.sleep(0.01)
        process.children()[-1].kill()

    printed = launch(wanted, tmp_path / "torchrun.log", launcher, ["-m", "cococli"], kill)
    assert "resuming run two at step " in printed
    assert [record["step"] for record in records(home, "two")] == [*range(1, 41)]


@pytest.mark.slow
def test_two_mindspore_processes_find_the_losses_of_one(home: Path, tmp_path: Path) -> None:
    pytest.importorskip("mindspore")
    data = uneven(tmp_path / "data")
    finetune(request(data, name="one", steps=1))
    train_by_msrun(tmp_path, request(data, name="two", steps=1, engine="mindspore"))
    (one,), (two,) = records(home, "one"), records(home, "two")
    for name in ("loss", "caption", "contrastive", "norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name


def test_workers_stop_if_their_launcher_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Workers, "exchange", lambda self, value: [value])
    assert not Workers(0, 2, os.getppid()).stop(False)
    assert Workers(0, 2, launcher=0).stop(False)
    assert Workers(0, 2, os.getppid()).stop(True)


def test_indivisible_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^a batch of 4 cannot be shared evenly among 3 workers$"):
        finetune(request(uneven(tmp_path / "data")), workers=Workers(count=3))


@given(st.lists(st.integers(0, 9)), st.integers(1, 6))
def test_buckets_keep_the_order_of_tensors(sizes: list[int], size: int) -> None:
    tensors = [torch.full((count,), index) for index, count in enumerate(sizes)]
    found = list(buckets(tensors, size))
    assert [id(one) for bucket in found for one in bucket] == [id(one) for one in tensors]
    assert all(len(bucket) == 1 or sum(map(len, bucket)) <= size for bucket in found)
