"""The cluster of a run: its options, the connection to it, and what its processes take."""

import logging
import os
import re
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any

from ..checkpoints.store import ModelFiles
from ..engines.choice import check_options
from ..errors import UsageError
from ..media.clips import ReadRequest
from ..options import AUTO, ModelOptions, RayOptions
from ..reporting import Reporter
from ..settings import debugging

ENGINE_CPUS = 4  # of an engine without --threads
GPU_CLIPS, CPU_CLIPS = 512, 64  # of a batch: a few times what is decoded at once, so that few slots are idle at its end
BATCH_BYTES = 64_000_000
READER_BYTES = 500_000_000
TASK_VIDEOS = 32  # that a task reads; fewer if each has many clips
MOST_TASKS = 5_000  # each takes some memory of the driver
_ACCELERATORS = {"cuda": "GPU", "ascend": "NPU"}


@dataclass(frozen=True)
class Cluster:
    """Model and number of actors of a run on a cluster. Created by `check_cluster`."""

    options: RayOptions
    model: ModelFiles
    engine: ModelOptions
    least: int  # actors
    most: int | None  # None for as many as there is room for


def check_cluster(options: RayOptions, model: ModelFiles, engine: ModelOptions) -> Cluster | None:
    """Check the options of a cluster, which is not started yet; return None without one.

    Raises:
        UsageError: They are invalid.
    """
    if options.ray is None:
        return None
    check_options(engine)
    if options.ray.startswith("ray://"):
        raise UsageError(
            f"--ray {options.ray}: the command must run inside the cluster",
            "ray job submit --address http://HEAD:8265 -- coca ... --ray auto",
        )
    if ":" in engine.device:
        raise UsageError(f"--device {engine.device}: Ray decides which one", f"--device {engine.device.split(':')[0]}")
    gpus = options.ray_gpus
    if gpus is not None and gpus > 1 and gpus != int(gpus):
        raise UsageError(f"--ray-gpus {gpus:g} is neither a whole number nor below 1")
    actors = re.fullmatch(r"([1-9][0-9]{0,5})(?::([1-9][0-9]{0,5}))?", options.ray_actors)
    if options.ray_actors == AUTO:
        return Cluster(options, model, engine, 1, None)
    least, most = (int(actors[1]), int(actors[2] or actors[1])) if actors else (1, 0)
    if least > most:
        raise UsageError(f"--ray-actors cannot be {options.ray_actors!r}", "auto, a number as 8, or a range as 2:16")
    return Cluster(options, model, engine, least, most)


@contextmanager
def connected(address: str, reporter: Reporter) -> Iterator[Any]:
    """Start or join a cluster for the block; yield the package ray.

    Raises:
        UsageError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # which tell a server about the cluster
    if not debugging():
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError:
        raise UsageError("--ray needs the package ray", "pip install 'cococli[ray]'") from None
    joined = not ray.is_initialized()
    if joined:
        handler = signal.getsignal(signal.SIGTERM)  # which Ray replaces
        try:
            with nullcontext() if debugging() else _muted():
                context = ray.init(address, logging_level=logging.ERROR, log_to_driver=debugging())
        except (ConnectionError, ValueError, RuntimeError) as error:
            hint = "start one with ray start --head, or use --ray local"
            raise UsageError(f"--ray {address}: {first_line(error)}", hint) from None
        finally:
            if signal.getsignal(signal.SIGTERM) is not handler:
                signal.signal(signal.SIGTERM, handler)
        if url := context.dashboard_url:
            reporter.note(f"Ray dashboard: http://{url}")
    logging.getLogger("ray.data").setLevel(logging.INFO if debugging() else logging.CRITICAL)
    try:
        yield ray
    finally:
        if joined:
            ray.shutdown()


@contextmanager
def _muted() -> Iterator[None]:
    """Discard what Ray's libraries print on stdout and stderr for the block."""
    import ctypes

    sys.stdout.flush()
    saved = os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        os.dup2(null, 2)
        yield
        with suppress(TypeError):  # on Windows, a library has a name
            ctypes.CDLL(None).fflush(None)
    finally:
        for number, stream in zip((1, 2), saved, strict=True):
            os.dup2(stream, number)
        for number in (null, *saved):
            os.close(number)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@dataclass(frozen=True)
class Plan:
    """Resources of actors, and sizes."""

    least: int  # actors
    most: int
    cpus: int  # of each
    accelerator: str  # GPU, NPU, or none
    amount: float  # of it
    clips: int  # of a batch
    videos: int  # that a task reads

    @property
    def resources(self) -> dict[str, Any]:
        """Arguments of an actor."""
        found: dict[str, Any] = {"num_cpus": self.cpus}
        if self.accelerator == "GPU":
            found["num_gpus"] = self.amount
        elif self.accelerator:
            found["resources"] = {self.accelerator: self.amount}
        return found


def make_plan(cluster: Cluster, request: ReadRequest, videos: int, nodes: list[dict[str, float]]) -> Plan:
    """Choose resources and sizes.

    Args:
        nodes: Resources of each node.
    """
    total: defaultdict[str, float] = defaultdict(float)
    for node in nodes:
        for name, amount in node.items():
            total[name] += amount
    options, gpus = cluster.engine, cluster.options.ray_gpus
    accelerator = _ACCELERATORS.get(options.device, "")
    if options.device == AUTO:
        found = {"torch": ("GPU",), "mindspore": ("NPU",), AUTO: ("GPU", "NPU")}.get(options.engine, ())
        accelerator = next((name for name in found if total[name]), found[0] if found and gpus else "")
    if gpus == 0:
        accelerator = ""
    amount = gpus or 1.0
    cores = min((int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1), default=ENGINE_CPUS + 1)
    cpus = options.threads or (1 if accelerator else max(1, min(ENGINE_CPUS, cores - 1)))
    fitting = total[accelerator] // amount if accelerator else (total["CPU"] - 1) // cpus
    most = cluster.most or max(1, int(fitting))
    size = 3 * (request.image_size or 0) ** 2 * request.sampling.count
    clips = GPU_CLIPS if accelerator else CPU_CLIPS
    clips = options.batch_size if options.batch_size != AUTO else max(1, min(clips, BATCH_BYTES // max(size, 1)))
    least = -(-videos // MOST_TASKS)
    if request.segments.kind == "none":
        clips = min(clips, -(-videos // (2 * most)))
        each = max(least, min(TASK_VIDEOS, clips))
    else:
        each = least
    clips = max(clips // each * each, min(clips, each))  # whole tasks, if they are not larger
    return Plan(cluster.least, most, cpus, accelerator, amount, clips, each)
