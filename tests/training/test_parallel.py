"""Training by several processes comes to what one comes to."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mindspore import Tensor
from training.tiny_run import RecordingReporter, request, write_list
from training.training_fixtures import pictures

from cococli.checkpoints import ckpt
from cococli.errors import CocaError, UsageError
from cococli.requests import FinetuneRequest
from cococli.training.finetune import finetune
from cococli.training.losses import contrastive_loss, part_of_contrastive_loss
from cococli.training.parallel import Workers, buckets
from cococli.training.tape import compiled

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
        "validate-every": run.validate_every,
        "save-every": run.save_every,
    }
    return ["--from-scratch", *(f"--{name}={value}" for name, value in named.items() if value is not None)]


def train_with_two_workers(logs: Path, run: FinetuneRequest) -> str:
    """What msrun says; whatever happens, no process is left."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # msrun starts what `python` is there
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    two = ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True", f"--log_dir={logs}"]
    launcher = [sys.executable, "-m", "mindspore.parallel.cluster.run", *two]
    command = [*launcher, "python", "-m", "cococli", "finetune", *options(run)]
    with (logs.parent / "msrun.log").open("w+") as log:
        process = psutil.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            process.wait(WAIT)
        finally:
            left = [*process.children(recursive=True), process] if process.is_running() else []
            for one in left:
                one.kill()
        log.seek(0)
        assert process.returncode == 0, log.read()
    return (logs / "worker_0.log").read_text()


def records(home: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "runs" / name / "metrics.jsonl").read_text().splitlines()]


def weights(home: Path, name: str) -> dict[str, np.ndarray]:
    return dict(ckpt.read(home / "runs" / name / "checkpoints/4/model.ckpt"))


def test_two_workers_find_the_losses_of_one(home: Path, tmp_path: Path) -> None:
    data = uneven(tmp_path / "data")
    finetune(request(data, name="one", steps=1))
    train_with_two_workers(tmp_path / "logs", request(data, name="two", steps=1))
    (one,), (two,) = records(home, "one"), records(home, "two")
    for name in ("loss", "caption", "contrastive", "norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-4), name


@pytest.mark.slow
def test_two_workers_resume_a_single_process_run(home: Path, tmp_path: Path) -> None:
    data = uneven(tmp_path / "data")
    changed = {"steps": 4, "accumulate": 2, "hold_out": 2, "validate_every": 2}
    finetune(request(data, name="one", **changed))
    begun = RecordingReporter(stop_after=1)
    finetune(request(data, name="two", **changed), begun)
    assert "run:two" in train_with_two_workers(tmp_path / "logs", request(data, name="two", **changed)).splitlines()
    one, two = records(home, "one"), records(home, "two")
    assert [record["step"] for record in two] == [1, 2, 2, 3, 4, 4]
    for mine, theirs in zip(two, one, strict=True):
        for number in mine.keys() & {"loss", "caption", "contrastive", "norm", "rate", "score"}:
            assert mine[number] == pytest.approx(theirs[number], rel=1e-4), (mine["step"], number)
    wanted = weights(home, "one")
    for name, array in weights(home, "two").items():
        if not name.endswith("k_proj.bias"):  # its gradient is rounding alone, of which AdamW makes whole steps
            assert np.linalg.norm(array - wanted[name]) <= 1e-3 * np.linalg.norm(wanted[name]), name


def test_contrastive_loss_parts_sum_to_whole() -> None:
    rng = np.random.default_rng(0)
    images, texts = rng.standard_normal((6, 3, 8), np.float32), rng.standard_normal((6, 8), np.float32)
    weight, scale = Tensor(np.float32(3)), Tensor(np.float32(2))

    def part(own: slice, others: slice) -> list[np.ndarray]:
        inputs = images[own], texts[own], images[others, :1], texts[others]
        mine = [Tensor(array) for array in inputs]
        found = compiled(part_of_contrastive_loss)(weight, *mine[:2], scale, *mine[2:])
        return [value.asnumpy() for value in found]

    first, second = part(slice(0, 3), slice(3, 6)), part(slice(3, 6), slice(0, 3))
    whole = [value.asnumpy() for value in compiled(contrastive_loss)(weight, Tensor(images), Tensor(texts), scale)]
    together = [
        first[0] + second[0],
        np.concatenate((first[1], second[1])),
        np.concatenate((first[2], second[2])),
        first[3] + second[3],
    ]
    for mine, wanted in zip(together, whole, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-6)


def both(first: Callable[[Workers], Any], second: Callable[[Workers], Any]) -> tuple[Any, Any]:
    """What two workers come to, each in a thread of its own."""
    ends, launcher = Pipe(), os.getppid()
    workers = [Workers(rank, 2, launcher, (end,)) for rank, end in enumerate(ends)]
    with ThreadPoolExecutor() as pool:
        found = [pool.submit(do, worker) for do, worker in zip((first, second), workers, strict=True)]
        return found[0].result(WAIT), found[1].result(WAIT)


def test_workers_exchange_values_by_rank() -> None:
    assert both(lambda one: one.exchange("a"), lambda two: two.exchange("b")) == (["a", "b"], ["a", "b"])
    assert both(lambda one: one.total(1.5), lambda two: two.total(2)) == (3.5, 3.5)


def test_one_that_is_asked_to_stop_stops_all() -> None:
    assert both(lambda one: one.stop(False), lambda two: two.stop(False)) == (False, False)
    assert both(lambda one: one.stop(False), lambda two: two.stop(True)) == (True, True)


def test_workers_stop_if_a_launcher_ends() -> None:
    assert both(lambda one: one.stop(False), lambda two: replace(two, launcher=0).stop(False)) == (True, True)


def test_the_first_goes_alone() -> None:
    done = []

    def go(worker: Workers) -> None:
        with worker.first_alone():
            done.append(worker.rank)

    both(go, go)
    assert done == [0, 1]


def test_workers_end_together_after_shared_error() -> None:
    left = []

    def leave(worker: Workers) -> None:
        with pytest.raises(KeyError), worker.ending_together(KeyError):
            left.append(worker.rank)
            raise KeyError
        assert len(left) == 2

    both(leave, leave)


def test_a_worker_whose_other_has_ended_says_so() -> None:
    mine, other = Pipe()
    other.close()
    for rank in (0, 1):
        with pytest.raises(CocaError, match=r"^another worker has ended\n") as error:
            Workers(rank, 2, connections=(mine,)).exchange(1)
        assert error.value.hint == "see the end of its log"


def test_indivisible_batches_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^a batch of 4 cannot be shared evenly among 3 workers$"):
        finetune(request(uneven(tmp_path / "data")), workers=Workers(count=3))


@given(st.lists(st.integers(0, 9)), st.integers(1, 6))
def test_buckets_are_full_and_lose_nothing(sizes: list[int], size: int) -> None:
    arrays = [np.full(count, place, np.float32) for place, count in enumerate(sizes)]
    found = list(buckets(arrays, size))
    lengths = [sum(piece.size for piece in bucket) for bucket in found]
    assert lengths[:-1] == [size] * (len(found) - 1)
    assert sum(lengths) == sum(sizes)
    for bucket in found:
        for piece in bucket:
            piece += 100
    for place, array in enumerate(arrays):
        assert (array == place + 100).all()
