"""Measures the Ray path: throughput, overhead per clip, memory of the driver, and recovery from a lost node.

    python benchmarks/scale.py throughput [--model CHECKPOINT.ckpt --precision bf16] [--device-seconds 0.05]
    python benchmarks/scale.py overhead [--frames 8]
    python benchmarks/scale.py driver [--inputs 1000 10000 100000 1000000]
    python benchmarks/scale.py listing [--of list] [--inputs 1000 10000 100000 1000000]
    python benchmarks/scale.py recovery

Clusters are started on this machine. With `--device-seconds`, a pause for each clip stands in for an accelerator, so
that cores of this machine are not the limit.
"""

import argparse
import gc
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from static_s3 import s3_server

from cococli.captioning.job import prepare
from cococli.captioning.records import Record
from cococli.captioning.resume import open_run
from cococli.checkpoints.store import find_model
from cococli.distributed import driver as cluster_driver
from cococli.distributed.cluster import Cluster as Chosen
from cococli.distributed.cluster import check_cluster
from cococli.distributed.driver import compute_on_cluster
from cococli.distributed.worker import Item, to_rows, unpack_videos
from cococli.engines.choice import open_engine, resolve_options
from cococli.engines.sizes import Sizes
from cococli.journal import file_tasks, open_journal
from cococli.media.clips import ReadRequest, Sampling, Segments
from cococli.media.compute import FunctionComputer, compute_videos
from cococli.media.discover import discover
from cococli.media.pool import VideoFailed
from cococli.options import ModelOptions, RayOptions
from cococli.reporting import Reporter
from cococli.requests import CaptionRequest

READERS = 2
SOURCES = ("list", "folder", "tar", "s3")


@contextmanager
def cluster(nodes: int, cpus: int = 3) -> Iterator[Any]:
    """Start a head and nodes on this machine, and connect to them."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray
    from ray.cluster_utils import Cluster

    memory = {"object_store_memory": 150_000_000}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **memory})
    for _ in range(nodes):
        started.add_node(num_cpus=cpus, **memory)
    ray.init(started.address, logging_level="ERROR", log_to_driver=False)
    try:
        yield started
    finally:
        ray.shutdown()
        started.shutdown()


def pictures(folder: Path, count: int) -> list[Path]:
    """Write pictures of 256 by 256 pixels."""
    from PIL import Image

    paths = [folder / f"{number:06}.jpg" for number in range(count)]
    content = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    for path in paths:
        Image.fromarray(content).resize((256, 256)).save(path)
    return paths


def chosen(given: argparse.Namespace, actors: int) -> Chosen:
    options = ModelOptions(
        engine="torch", precision=given.precision, batch_size=given.batch, threads=1, readers=READERS
    )
    found = check_cluster(RayOptions("auto", str(actors)), find_model(given.model), options)
    assert found
    return found


def stand_in(seconds: float, pool: str = "joint") -> Callable[[Any, Sizes], FunctionComputer[Any]]:
    """Return what computes: the model if `seconds` is negative, else a pause of that many seconds for each clip."""

    def make(engine: Any, sizes: Sizes) -> FunctionComputer[Any]:
        def compute(pixels: np.ndarray, seeds: list[int]) -> list[Any]:
            if seconds < 0:
                return list(engine.encode_clips(pixels, pool).embedding)
            time.sleep(seconds * len(pixels))
            return [np.zeros(768, np.float32)] * len(pixels)

        return FunctionComputer(compute)

    return make


def on_ray(
    paths: Sequence[Path], chosen: Chosen, request: ReadRequest, make: Any, on_clip: Any = None
) -> tuple[float, float]:
    """Return the seconds of a run on the cluster from its first result on, and the number of results in them."""
    batch = int(chosen.engine.batch_size)
    choose = partial(sizes, batch)
    first, done, results = 0.0, 0, compute_on_cluster(paths, chosen, request, choose, make, Notes())
    with closing(results):
        for _ in results:
            first = first or time.perf_counter()
            done += 1
            if on_clip:
                on_clip(done)
    return time.perf_counter() - first, done - batch


class Notes(Reporter):
    """Prints how busy the stages were."""

    def note(self, text: str) -> None:
        print(text)


def sizes(batch: int, choice: Any = None) -> Sizes:
    return Sizes(batch, batch, READERS)


def throughput(given: argparse.Namespace) -> None:
    """Print clips per second with one worker and with two."""
    request = ReadRequest(Sampling(), Segments(), 224)
    make = stand_in(given.device_seconds)
    with tempfile.TemporaryDirectory() as folder, cluster(2):
        paths = pictures(Path(folder), given.clips)
        for actors in (1, 2):
            seconds, clips = on_ray(paths, chosen(given, actors), request, make)
            print(f"{actors} engine{'s'[: actors - 1]}: {clips / seconds:.1f} clips/s")


def overhead(given: argparse.Namespace) -> None:
    """Print the time of a clip that is not computing, on this machine and through Ray, and the time of computing."""
    sampling = Sampling("multi", given.frames) if given.frames > 1 else Sampling()
    request = ReadRequest(sampling, Segments(), 224)
    make = stand_in(given.device_seconds)
    found = find_model(given.model)
    engine = None
    if given.device_seconds < 0:
        engine = open_engine(found, resolve_options(chosen(given, 1).engine, found.config))
    with tempfile.TemporaryDirectory() as folder:
        paths = pictures(Path(folder), given.clips)
        here, there = [], []
        with cluster(1):
            for _ in range(given.rounds):
                done, first = 0, 0.0
                with closing(
                    compute_videos(paths, make(engine, sizes(given.batch)), request, given.batch, readers=READERS)
                ) as videos:
                    for _ in videos:
                        first = first or time.perf_counter()
                        done += 1
                here.append((time.perf_counter() - first) / (done - given.batch) * 1000)
                seconds, clips = on_ray(paths, chosen(given, 1), request, make)
                there.append(seconds / clips * 1000)
    print(f"ms per clip: {min(here):.2f} here, {min(there):.2f} through Ray, {min(there) - min(here):+.2f}")


def driver(given: argparse.Namespace) -> None:
    """Print the memory and time of the driver for each number of inputs, each in a separate process."""
    in_processes(given, "driver-of")


def listing(given: argparse.Namespace) -> None:
    """Print memory and time of `coca caption` without captioning, on this machine, for each number of inputs."""
    in_processes(given, f"listing-of-{given.of}")


def in_processes(given: argparse.Namespace, command: str) -> None:
    for count in given.inputs:
        subprocess.run([sys.executable, __file__, command, str(count)], check=True)


def numbered(count: int) -> Iterator[str]:
    return (f"/archive/2024/{number // 1000:06}/{number:012}.mp4" for number in range(count))


def driver_of(given: argparse.Namespace) -> None:
    """List inputs that do not exist, open a journal, and send them through a cluster that does not read them."""
    count = given.count

    def read(table: Any, request: ReadRequest, folder: str) -> Iterator[Any]:
        failures = [VideoFailed(number, "x") for number, _ in unpack_videos(table)]
        yield to_rows([Item(failure.video, -1, 0, None, None, failure, "r", 0.0) for failure in failures])

    cluster_driver.read_task = read  # type: ignore[assignment]
    request = ReadRequest(Sampling(), Segments(), 224)
    with tempfile.TemporaryDirectory() as folder, cluster(1):
        names = Path(folder, "list.txt")
        names.write_text("\n".join(numbered(count)))
        gc.collect()
        base = resident()
        paths, _ = discover([f"@{names}"])
        tasks = file_tasks(paths, "benchmark")
        with open_journal(Path(folder) / "out.jsonl", tasks, lambda fields: None) as journal:  # type: ignore
            listed = resident() - base
            started, spent = time.perf_counter(), time.process_time()
            options = ModelOptions(engine="torch", precision="fp32", threads=1)
            found = check_cluster(RayOptions("auto", "1"), find_model("shapes"), options)
            assert found
            results = compute_on_cluster(paths, found, request, partial(sizes, 64), stand_in(0.0), Reporter())
            done = sum(1 for _ in results)
            seconds, spent = time.perf_counter() - started, time.process_time() - spent
        del journal
    assert done == count
    at_most = peak() - base
    print(
        f"{count} inputs: {listed:.0f} MB listed, {at_most:.0f} MB at most; "
        f"{seconds:.0f} s, {spent:.0f} s of the driver's processor time"
    )


@contextmanager
def source(kind: str, count: int, folder: Path) -> Iterator[str]:
    """Provide inputs, which are never read, as an argument of `coca caption`."""
    if kind == "s3":
        with s3_server(count):
            yield "s3://numbered/"
        return
    if kind == "list":
        (folder / "list.txt").write_text("\n".join(numbered(count)))
        yield f"@{folder / 'list.txt'}"
    elif kind == "tar":
        with tarfile.open(folder / "a.tar", "w") as tar:
            for name in numbered(count):
                tar.addfile(tarfile.TarInfo(name))
                tar.members.clear()  # type: ignore[attr-defined]
        yield str(folder / "a.tar")
    else:
        for name in numbered(count):
            path = folder / name.lstrip("/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        yield str(folder / "archive")


def listing_of(given: argparse.Namespace) -> None:
    """List inputs, write a record of each without computing anything, and do the same again as a run that resumes."""
    with tempfile.TemporaryDirectory() as name, source(given.of, given.count, Path(name)) as argument:
        request = CaptionRequest(
            paths=(argument,),
            output=(f"{name}/out.jsonl", f"{name}/out.csv"),
            model=ModelOptions(model="shapes", engine="torch", precision="fp32"),
        )
        prepare(replace(request, paths=(__file__,)))  # which imports
        gc.collect()
        base = resident()
        started, spent = time.perf_counter(), time.process_time()
        job = prepare(request)
        seconds, spent = time.perf_counter() - started, time.process_time() - spent
        listed = resident() - base
        with open_run(job.plan) as run:
            todo, vector = run.todo, np.zeros((1, 768), np.float32)
            for index in range(len(todo)):
                task = todo[index]
                record = Record(task.name, 0.0, 7.5, "a dog runs on a beach", -0.5, 0.25, (3.75,), "shapes")
                run.take(task, [record], vector)
        print(
            f"{len(todo)} inputs of a {given.of}: {listed:.0f} MB listed, {peak() - base:.0f} MB at most with records; "
            f"listed in {seconds:.1f} s, {spent:.1f} s of the processor"
        )
        with open_run(job.plan) as run:
            assert not run.todo
        print(f"{' ' * 8}{peak() - base:.0f} MB at most with a run that resumes")


def resident() -> float:
    """Return the memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak() -> float:
    """Return the most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def recovery(given: argparse.Namespace) -> None:
    """Print how long no result arrives when a node with an engine is lost."""
    request = ReadRequest(Sampling(), Segments(), 224)
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder, cluster(2) as nodes:
        paths = pictures(Path(folder), given.clips)
        make = stand_in(given.device_seconds)

        def lose(done: int) -> None:
            times.append(time.perf_counter())
            if done == len(paths) // 3:
                nodes.remove_node(max(nodes.worker_nodes, key=has_engine), allow_graceful=False)

        _, _ = on_ray(paths, chosen(given, given.actors), request, make, lose)
    gaps = np.diff(times)
    at = len(paths) // 3 - 1
    print(f"{given.actors} engine(s), one node lost: no result for {max(gaps[at:]):.1f} s; all {len(times)} clips done")


def has_engine(node: Any) -> bool:
    raylet = node.all_processes["raylet"][0].process.pid
    return subprocess.run(["pgrep", "-P", str(raylet), "-f", "MapWorker"], capture_output=True).returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for function, clips in ((throughput, 400), (overhead, 400), (recovery, 600)):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--clips", type=int, default=clips)
        command.add_argument("--batch", type=int, default=16)
        command.add_argument("--model", default="shapes")
        command.add_argument("--precision", default="fp32")
        command.add_argument("--device-seconds", type=float, default=-1 if function is throughput else 0.02)
        command.add_argument("--frames", type=int, default=1)
        command.add_argument("--rounds", type=int, default=3)
        command.add_argument("--actors", type=int, default=1)
    for function in (driver, listing):
        command = commands.add_parser(function.__name__, help=function.__doc__)
        command.set_defaults(function=function)
        command.add_argument("--inputs", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
        command.add_argument("--of", choices=SOURCES, default="list")
    for name, function in (("driver-of", driver_of), *((f"listing-of-{kind}", listing_of) for kind in SOURCES)):
        command = commands.add_parser(name)
        command.set_defaults(function=function, of=name.rpartition("-")[2])
        command.add_argument("count", type=int)
    given = parser.parse_args()
    given.function(given)


if __name__ == "__main__":
    main()
