"""Runs on a Ray cluster of two nodes and a head, with the bundled model."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cococli.checkpoints.store import find_model
from cococli.distributed.cluster import check_cluster, make_plan
from cococli.distributed.driver import compute_on_cluster
from cococli.engines.sizes import Sizes
from cococli.errors import UsageError
from cococli.evaluation.score import score
from cococli.media.clips import ReadRequest, Sampling, Segments
from cococli.media.compute import FunctionComputer
from cococli.options import ModelOptions, RayOptions
from cococli.reporting import Reporter
from cococli.requests import EmbedRequest, ScoreRequest
from cococli.retrieval.embed import embed
from cococli.retrieval.index import Index

ROOT = Path(__file__).parents[1]
CPUS = 2  # of each node: for an engine and a reader
FAST = ("--model", "shapes", "--engine", "torch", "--precision", "fp32", "--search", "greedy", "--threads", "1")
BATCH = 4
ONLY_HERE = 250  # a file descriptor, whose path in /proc leads to a file for this process alone


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Start two nodes, and connect this process to them."""
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    import ray

    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        environment.setenv("COCA_MODEL", "shapes")
        memory = {"object_store_memory": 80_000_000}
        head = {"num_cpus": 0, "include_dashboard": True, **memory}
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(num_cpus=CPUS, **memory)
        ray.init(cluster.address, logging_level="ERROR", log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of ten clips and a broken one."""
    folder = tmp_path / "videos"
    folder.mkdir()
    for path in (ROOT / "examples").glob("*.mp4"):
        for number in range(2):
            shutil.copy(path, folder / f"{path.stem}{number}.mp4")
    (folder / "broken.mp4").write_bytes(b"this is not a video")
    return folder


def coca(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "cococli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def lines(path: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, path.open()), key=lambda record: (record["video"], record.get("start", 0)))


class Notes(Reporter):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_captions_equal_and_resume_local_ones(cluster: Any, folder: Path, tmp_path: Path) -> None:
    options = ("--segments", "2", *FAST)
    whole, shared = tmp_path / "whole.jsonl", tmp_path / "shared.jsonl"
    assert coca("caption", folder, "-o", whole, *options).returncode == 1
    assert coca("caption", folder, "-o", shared, *options, "--include", "*0.mp4").returncode == 0
    csv = tmp_path / "shared.csv"
    run = coca("caption", folder, "-o", shared, "-o", csv, *options, "--ray", cluster.address)
    assert run.returncode == 1, run.stderr
    assert "5 of 11 files already captioned" in run.stderr
    assert "captioned 5 of 6, 1 failed," in run.stderr
    assert "failed: 1 not a video" in run.stderr
    assert " busy, 1 " in run.stderr
    assert "Ray dashboard: http://127.0.0.1:" in run.stderr
    assert lines(shared) == lines(whole)
    assert [line.split(",")[0] for line in csv.read_text().splitlines()[1:]] == [
        record["video"] for record in lines(whole)
    ]
    again = coca("caption", folder, "-o", shared, *options)
    assert "11 of 11 files already captioned" in again.stderr


def test_embeddings_equal_local_ones(
    cluster: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # relative paths lead to the same files on the nodes
    texts = Path("texts.txt")
    texts.write_text("a red circle\na blue square\n")
    model = ModelOptions(model="shapes", engine="torch", precision="fp32", threads=1)
    for name, ray in (("one", None), ("two", cluster.address)):
        request = EmbedRequest((folder.name,), (f"{name}/",), texts=(texts,), model=model, cluster=RayOptions(ray))
        assert len(embed(request).failures) == 1
    one, two = Index(Path("one")), Index(Path("two"))
    names = sorted(f"{folder.name}/{path.name}" for path in folder.iterdir() if path.name != "broken.mp4")
    rows = [[entry.row for entry in index.entries(names)] for index in (one, two)]
    assert len(rows[0]) == len(names)
    np.testing.assert_allclose(two.vectors[rows[1]], one.vectors[rows[0]], atol=1e-6)
    assert len(two.vectors) == len(names) + 2


class Gate:
    """A lock that actors wait for."""

    def __init__(self, path: Path) -> None:
        self.file = path.open("w")
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def open(self) -> None:
        self.file.close()


def hosts(cluster: Any) -> list[tuple[Any, int]]:
    """Return the nodes and process ids of the actors with a model."""
    found = []
    for node in cluster.worker_nodes:
        raylet = node.all_processes["raylet"][0].process.pid
        run = subprocess.run(["pgrep", "-P", str(raylet), "-f", "MapWorker"], capture_output=True, text=True)
        found += [(node, int(line)) for line in run.stdout.split()]
    return found


def test_scores_equal_local_ones(cluster: Any, folder: Path, tmp_path: Path) -> None:
    rows = [f"{path},a red circle\n" for path in sorted(folder.iterdir())]
    (tmp_path / "captions.csv").write_text("".join(["path,caption\n", *rows]))
    model = ModelOptions(model="shapes", engine="torch", precision="fp32", threads=1)
    for name, ray in (("one", None), ("two", cluster.address)):
        output = (f"{tmp_path / name}.jsonl",)
        request = ScoreRequest(tmp_path / "captions.csv", output, model=model, cluster=RayOptions(ray))
        assert len(score(request).failures) == 1
    assert lines(tmp_path / "two.jsonl") == lines(tmp_path / "one.jsonl")


def test_lost_actor_and_node_repeat_one_batch(cluster: Any, tmp_path: Path) -> None:
    from PIL import Image

    paths = [tmp_path / f"{number}.png" for number in range(10 * BATCH)]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 32), (number, 0, 0)).save(path)
    with paths[0].open("rb") as only_here:
        os.dup2(only_here.fileno(), ONLY_HERE)
    paths.append(Path(f"/proc/self/fd/{ONLY_HERE}"))
    log, gates = tmp_path / "log.txt", [Gate(tmp_path / "gate0"), Gate(tmp_path / "gate1")]
    log.touch()
    held = [(2, tmp_path / "gate0"), (6, tmp_path / "gate1")]  # from which batch on

    def make(engine: Any, sizes: Sizes) -> FunctionComputer[int]:
        def compute(pixels: np.ndarray, seeds: list[int]) -> list[int]:
            done = len(log.read_text().splitlines())
            with log.open("a") as file:
                file.write(f"{os.getpid()} {len(seeds)}\n")
            for batches, gate in held:
                if done >= batches:
                    with gate.open() as lock:
                        fcntl.flock(lock, fcntl.LOCK_SH)
            return [int(picture[0, 0, 0, 0]) for picture in pixels]

        return FunctionComputer(compute)

    model = ModelOptions(model="shapes", engine="torch", precision="fp32", batch_size=BATCH, threads=1)
    chosen = check_cluster(RayOptions(cluster.address, "1"), find_model("shapes"), model)
    assert chosen
    request = ReadRequest(Sampling(), Segments(), 64)
    found: dict[int, int] = {}
    for video in compute_on_cluster(paths, chosen, request, lambda choice: Sizes(BATCH, BATCH), make, Reporter()):
        assert video.index not in found
        if video.index == 10 * BATCH:
            assert (video.failure.split(" on ")[0], video.transient) == ("not found", True)
            continue
        found[video.index] = video.values[0]
        if len(found) == 1:
            ((_, actor),) = hosts(cluster)
            os.kill(actor, signal.SIGKILL)
            gates[0].open()
        if len(found) == 5 * BATCH:
            ((node, _),) = hosts(cluster)
            cluster.remove_node(node, allow_graceful=False)
            gates[1].open()
    os.close(ONLY_HERE)
    assert found == {number: number for number in range(10 * BATCH)}
    batches = [line.split() for line in log.read_text().splitlines()]
    assert len({actor for actor, _ in batches}) == 3
    assert sum(int(size) for _, size in batches) <= (10 + 2) * BATCH


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (RayOptions("ray://head:10001"), "must run inside the cluster"),
        (RayOptions("local", "3:2"), "--ray-actors cannot be '3:2'"),
        (RayOptions("local", "many"), "--ray-actors cannot be 'many'"),
        (RayOptions("local", ray_gpus=1.5), "neither a whole number nor below 1"),
    ],
)
def test_invalid_options_fail_before_starting(options: RayOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_cluster(options, find_model("shapes"), ModelOptions())


GPU_NODE, CPU_NODE, NPU_NODE = {"CPU": 16.0, "GPU": 8.0}, {"CPU": 16.0}, {"CPU": 32.0, "NPU": 8.0}


@pytest.mark.parametrize(
    ("nodes", "options", "model", "most", "resources"),
    [
        ([CPU_NODE, CPU_NODE], RayOptions("auto"), {}, 7, {"num_cpus": 4}),
        ([{"CPU": 2.0}], RayOptions("auto"), {}, 1, {"num_cpus": 1}),
        ([CPU_NODE], RayOptions("auto", "2:9"), {"threads": 8}, 9, {"num_cpus": 8}),
        ([GPU_NODE, CPU_NODE], RayOptions("auto"), {}, 8, {"num_cpus": 1, "num_gpus": 1.0}),
        ([GPU_NODE], RayOptions("auto", ray_gpus=0.25), {}, 32, {"num_cpus": 1, "num_gpus": 0.25}),
        ([GPU_NODE], RayOptions("auto", ray_gpus=0), {}, 3, {"num_cpus": 4}),
        ([GPU_NODE], RayOptions("auto"), {"engine": "openvino"}, 3, {"num_cpus": 4}),
        ([NPU_NODE], RayOptions("auto"), {}, 8, {"num_cpus": 1, "resources": {"NPU": 1.0}}),
        ([{}], RayOptions("auto", "1:16", 1), {}, 16, {"num_cpus": 1, "num_gpus": 1}),  # nodes are yet to come
    ],
)
def test_engines_take_what_nodes_have(
    nodes: list[dict[str, float]], options: RayOptions, model: dict[str, Any], most: int, resources: dict[str, Any]
) -> None:
    chosen = check_cluster(options, find_model("shapes"), ModelOptions(**model))
    assert chosen
    plan = make_plan(chosen, ReadRequest(Sampling(), Segments(), 224), 1_000_000, nodes)
    assert (plan.most, plan.resources) == (most, resources)


@pytest.mark.parametrize(
    ("videos", "segments", "clips", "each"),
    [
        (10, "none", 1, 1),
        (1000, "none", 32, 32),
        (1_000_000, "none", 64, 200),
        (10, "seconds", 64, 1),
        (100_000, "seconds", 60, 20),
    ],
)
def test_batches_are_whole_read_tasks(videos: int, segments: Any, clips: int, each: int) -> None:
    chosen = check_cluster(RayOptions("auto", "12"), find_model("shapes"), ModelOptions())
    assert chosen
    plan = make_plan(chosen, ReadRequest(Sampling(), Segments(segments, 2.0), 224), videos, [CPU_NODE])
    assert (plan.clips, plan.videos) == (clips, each)
