"""Computation on a Ray cluster: tasks read clips, actors that hold the model compute them, and results stream back.

Tasks and actors scale independently. Ray Data repeats what a lost worker or node was doing, limits how far reading runs
ahead, and hands over each result once.
"""

import logging
import os
import pickle
import re
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .checkpoints.store import ModelFiles, find_model
from .engines.base import Engine
from .engines.choice import check_options, open_engine, resolve_options
from .engines.sizes import Sizes
from .errors import CocaError, ModelError, UsageError
from .files import container_of
from .media.clips import Clip, ReadRequest
from .media.compute import Computed, Computer, FittingComputer, clip_seed
from .media.pool import ClipRead, NotReady, VideoFailed, VideoRead, VideoReader
from .options import AUTO, ModelOptions, RayOptions
from .reporting import Reporter
from .settings import debugging
from .urls import RemotePath

MakeComputer = Callable[[Engine[Any], Sizes], Computer[Any]]  # can be pickled
ChooseSizes = Callable[..., Sizes]  # of a choice

ENGINE_CPUS = 4  # of an engine without --threads
GPU_CLIPS, CPU_CLIPS = 512, 64  # of a batch: a few times what is decoded at once, so that few slots are idle at its end
BATCH_BYTES = 64_000_000
READER_BYTES = 500_000_000
TASK_VIDEOS = 32  # that a task reads; fewer if each has many clips
MOST_TASKS = 5_000  # each takes some memory of the driver
_ACCELERATORS = {"cuda": "GPU", "ascend": "NPU"}


@dataclass(frozen=True)
class Cluster:
    """What computes: `check_cluster` makes one."""

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
def _connected(address: str, reporter: Reporter) -> Iterator[Any]:
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
            raise UsageError(f"--ray {address}: {_first_line(error)}", hint) from None
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
        ctypes.CDLL(None).fflush(None)
    finally:
        for number, stream in zip((1, 2), saved, strict=True):
            os.dup2(stream, number)
        for number in (null, *saved):
            os.close(number)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


@dataclass(frozen=True)
class _Plan:
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


def _plan(cluster: Cluster, request: ReadRequest, videos: int, nodes: list[dict[str, float]]) -> _Plan:
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
    return _Plan(cluster.least, most, cpus, accelerator, amount, clips, each)


@dataclass(frozen=True, slots=True)
class _Item:
    """A clip, or a video without any."""

    video: int  # its index
    index: int  # of the clip in its video
    seed: int
    clip: Clip | None
    content: Any  # pixels [F, S, S, 3] uint8, and once computed the value
    end: VideoRead | VideoFailed | None  # after the last clip of the video
    reader: str
    seconds: float  # that reading took
    missing: str = ""  # name of the node if the file is not there


class _Batch(NamedTuple):
    """What an actor has computed."""

    items: list[_Item]
    engine: str
    seconds: float
    notes: tuple[str, ...]
    error: CocaError | None = None


def _rows(values: Sequence[Any]) -> Any:
    """Return a table with a row for each value."""
    import pyarrow

    pickled = [pickle.dumps(value, protocol=5) for value in values]
    return pyarrow.table({"row": pyarrow.array(pickled, pyarrow.large_binary())})


def _values(table: Any) -> list[Any]:
    return [pickle.loads(row.as_buffer()) for row in table["row"]]


def _identity() -> str:
    return f"{os.uname().nodename}:{os.getpid()}"


@cache
def _reader() -> VideoReader:
    """Return the reader of this process, which tasks share."""
    return VideoReader()


def _read(table: Any, request: ReadRequest) -> Iterator[Any]:
    """Read the clips of some videos. A task of Ray Data."""
    for number, path in (video for videos in _values(table) for video in videos):
        for item in _read_video(number, path, request):
            yield _rows([item])


def _read_video(number: int, path: Path, request: ReadRequest) -> Iterator[_Item]:
    held: ClipRead | None = None  # until it is known whether it is the last
    started = time.perf_counter()
    for count, event in enumerate(_reader().read(number, path, request)):
        last = None if isinstance(event, ClipRead | NotReady) else event
        if held or last:
            clip, pixels = (held.clip, held.pixels) if held else (None, None)
            seed, seconds = clip_seed(path, count - 1), time.perf_counter() - started
            missing = "" if clip or _is_here(path) else os.uname().nodename
            yield _Item(number, count - 1, seed, clip, pixels, last, _identity(), seconds, missing)
            started = time.perf_counter()
        held = event if isinstance(event, ClipRead) else None


def _is_here(path: Path) -> bool:
    """Return whether a file is on this machine, as far as it should be."""
    return isinstance(path, RemotePath) or container_of(path).exists()


class _Actor:
    """A process with the model."""

    def __init__(self, model: ModelFiles, options: ModelOptions, choose_sizes: ChooseSizes, make: MakeComputer) -> None:
        self._notes: list[str] = []
        self._error: CocaError | None = None
        try:
            model = _here(model)
            choice = resolve_options(options, model.config)
            self._notes += filter(None, (choice.note, model.note))
            engine = open_engine(model, choice)
            self._sizes = choose_sizes(choice=choice)
            self._computer: Computer[Any] = FittingComputer(make(engine, self._sizes), self._notes.append)
        except CocaError as error:  # as a value: an actor that fails to start would be started again
            self._error = error

    def __call__(self, table: Any) -> Any:
        started = time.perf_counter()
        items: list[_Item] = _values(table)
        if self._error:
            return _rows([_Batch([], _identity(), 0.0, (), self._error)])
        try:
            values = self._compute([item for item in items if item.clip])
        except CocaError as error:
            return _rows([_Batch([], _identity(), 0.0, (), error)])
        items = [replace(item, content=values.get((item.video, item.index))) for item in items]
        notes, self._notes[:] = tuple(self._notes), ()
        return _rows([_Batch(items, _identity(), time.perf_counter() - started, notes)])

    def _compute(self, items: list[_Item]) -> dict[tuple[int, int], Any]:
        computer = self._computer
        values: dict[tuple[int, int], Any] = {}
        for batch in _alike(items, self._sizes.batch):
            keys = [(item.video, item.index) for item in batch]
            computer.submit(keys, np.stack([item.content for item in batch]), [item.seed for item in batch])
            values |= computer.step()
            while computer.queued:
                values |= computer.step()
        while computer.busy:
            values |= computer.step()
        return values


def _alike(items: list[_Item], size: int) -> Iterator[list[_Item]]:
    """Yield batches of clips with equally many frames."""
    groups: dict[int, list[_Item]] = {}
    for item in items:
        groups.setdefault(len(item.content), []).append(item)
    for group in groups.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _here(model: ModelFiles) -> ModelFiles:
    """Return the files of a model on this machine: at the same path, or in its own cache.

    Raises:
        ModelError: They are not here, or are others.
    """
    if model.weights.exists():
        return model
    found = find_model(model.name)
    if found.identity != model.identity:
        raise ModelError(f"{model.name} on {os.uname().nodename} is another one than here", "fetch it there again")
    return found


@dataclass
class _Video:
    """A video of which some clips are computed."""

    items: dict[int, _Item] = field(default_factory=dict)
    end: VideoRead | VideoFailed | None = None
    clips: int = 0  # of the complete video

    def add(self, item: _Item) -> None:
        if item.end:
            self.end, self.clips = item.end, item.index + 1
        if item.clip:
            self.items[item.index] = item

    @property
    def complete(self) -> bool:
        return self.end is not None and len(self.items) == self.clips

    def computed(self, index: int) -> Computed[Any]:
        if isinstance(self.end, VideoFailed):
            return Computed(index, [], [], self.end.error, self.end.transient)
        items = [self.items[number] for number in range(self.clips)]
        return Computed(index, [item.clip for item in items if item.clip], [item.content for item in items])


class _Load:
    """How busy readers and engines are."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[str, defaultdict[str, float]] = {
            "engines": defaultdict(float),
            "readers": defaultdict(float),
        }

    def add(self, batch: _Batch) -> None:
        self._stages["engines"][batch.engine] += batch.seconds
        for item in batch.items:
            self._stages["readers"][item.reader] += item.seconds

    def __str__(self) -> str:
        """The stages, the busiest first."""
        passed = max(time.perf_counter() - self._started, 1e-6)
        shares = {
            f"{len(spent)} {stage[: None if len(spent) > 1 else -1]}": sum(spent.values()) / passed / len(spent)
            for stage, spent in self._stages.items()
            if spent
        }
        busiest = sorted(shares, key=lambda stage: -shares[stage])
        return ", ".join(f"{stage} {shares[stage]:.0%} busy" for stage in busiest)


def compute_videos(
    paths: Sequence[Path],
    cluster: Cluster,
    request: ReadRequest,
    choose_sizes: ChooseSizes,
    make: MakeComputer,
    reporter: Reporter,
) -> Generator[Computed[Any], None, None]:
    """Compute a value for every clip of every video. See `media.compute.compute_videos`.

    Args:
        choose_sizes: Returns the sizes of an engine for its `choice`.
        make: Returns what computes on an engine.

    Yields:
        The results of each video, in the order in which they are complete.

    Raises:
        UsageError: There is no such cluster.
        ModelError: The model cannot be loaded on a node.
        CocaError: There is not enough memory for a single clip, or the cluster is gone.
    """
    load, clips, noted = _Load(), 0, set[str]()
    videos: defaultdict[int, _Video] = defaultdict(_Video)
    with (
        _connected(str(cluster.options.ray), reporter) as ray,
        reporter.progress("starting engines") as stage,
        closing(_batches(ray, paths, cluster, request, choose_sizes, make)) as batches,
    ):
        for batch in batches:
            if batch.error:
                raise batch.error
            load.add(batch)
            clips += sum(item.clip is not None for item in batch.items)
            ends = [item.end for item in batch.items if isinstance(item.end, VideoRead)]
            for note in (*batch.notes, *(note for end in ends for note in end.notes)):
                if note not in noted:
                    noted.add(note)
                    reporter.note(note)
            for item in batch.items:
                if item.missing and _is_here(paths[item.video]):
                    why = f"not found on {item.missing}, as all nodes need the inputs"
                    item = replace(item, end=VideoFailed(item.video, why, transient=True))
                videos[item.video].add(item)
                if videos[item.video].complete:
                    yield videos.pop(item.video).computed(item.video)
            stage.describe(str(load))
            if reporter.stop_requested:
                break
    if clips > 1:
        reporter.note(f"{clips} clips on {load}")


def _batches(
    ray: Any,
    paths: Sequence[Path],
    cluster: Cluster,
    request: ReadRequest,
    choose_sizes: ChooseSizes,
    make: MakeComputer,
) -> Generator[_Batch, None, None]:
    """Yield what the actors compute.

    Raises:
        CocaError: The cluster is gone.
    """
    plan = _plan(cluster, request, len(paths), [node["Resources"] for node in ray.nodes() if node["Alive"]])
    options = replace(cluster.engine, threads=plan.cpus)
    if not plan.accelerator and options.device == AUTO:
        options = replace(options, device="cpu")  # a GPU of the node is not ours
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    clip = 3 * (request.image_size or 0) ** 2 * request.sampling.count + 1000
    context.target_max_block_size = max(1_000_000, plan.clips * clip)  # so that blocks of long videos are batches
    numbered = [*enumerate(paths)]
    inputs = [numbered[start : start + plan.videos] for start in range(0, len(numbered), plan.videos)]
    readers = cluster.engine.readers
    try:
        with ray.data.DataContext.current(context):
            results = (
                ray.data.from_items(
                    [{"row": pickle.dumps(videos)} for videos in inputs], override_num_blocks=len(inputs)
                )
                .map_batches(
                    _read,
                    batch_size=1,
                    batch_format="pyarrow",
                    fn_kwargs={"request": request},
                    compute=ray.data.TaskPoolStrategy(None if readers == AUTO else readers),
                    num_cpus=1,
                    memory=READER_BYTES,  # and so that stages differ: Ray would fuse them
                )
                .map_batches(
                    _Actor,
                    batch_size=plan.clips,
                    batch_format="pyarrow",
                    fn_constructor_args=(cluster.model, options, choose_sizes, make),
                    compute=ray.data.ActorPoolStrategy(min_size=plan.least, max_size=plan.most),
                    **plan.resources,
                )
            )
            for table in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from _values(table)
    except ray.exceptions.RayError as error:
        hint = "what is done is kept: give the command again; COCA_DEBUG=1 shows why"
        raise CocaError(f"Ray: {_first_line(error)}", hint) from error
