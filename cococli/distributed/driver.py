"""The driver of a run on a cluster: it sends videos to Ray Data, and puts the results of each together.

Ray Data repeats what a lost worker or node was doing, limits how far reading runs ahead, and hands over each result
once.
"""

import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import CocaError
from ..media.clips import ReadRequest
from ..media.compute import Computed
from ..media.pool import VideoFailed, VideoRead
from ..options import AUTO
from ..reporting import Reporter
from .cluster import READER_BYTES, Cluster, connected, first_line, make_plan
from .worker import Actor, Batch, ChooseSizes, Item, MakeComputer, from_rows, is_here, pack_videos, read_task


@dataclass
class _Video:
    """A video of which some clips are computed."""

    items: dict[int, Item] = field(default_factory=dict)
    end: VideoRead | VideoFailed | None = None
    clips: int = 0  # of the complete video

    def add(self, item: Item) -> None:
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
    """Shares of the time in which readers and engines are busy."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._stages: dict[str, defaultdict[str, float]] = {
            "engines": defaultdict(float),
            "readers": defaultdict(float),
        }

    def add(self, batch: Batch) -> None:
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


def compute_on_cluster(
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
        connected(str(cluster.options.ray), reporter) as ray,
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
                if item.missing and is_here(paths[item.video]):
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
) -> Generator[Batch, None, None]:
    """Yield what the actors compute.

    Raises:
        CocaError: The cluster is gone.
    """
    plan = make_plan(cluster, request, len(paths), [node["Resources"] for node in ray.nodes() if node["Alive"]])
    options = replace(cluster.engine, threads=plan.cpus)
    if not plan.accelerator and options.device == AUTO:
        options = replace(options, device="cpu")  # a GPU of the node is not ours
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    clip = 3 * (request.image_size or 0) ** 2 * request.sampling.count + 1000
    context.target_max_block_size = max(1_000_000, plan.clips * clip)  # so that blocks of long videos are batches
    inputs = [pack_videos(start, paths[start : start + plan.videos]) for start in range(0, len(paths), plan.videos)]
    readers = cluster.engine.readers
    try:
        with ray.data.DataContext.current(context):
            results = (
                ray.data.from_items([{"row": videos} for videos in inputs], override_num_blocks=len(inputs))
                .map_batches(
                    read_task,
                    batch_size=1,
                    batch_format="pyarrow",
                    fn_kwargs={"request": request, "folder": str(Path.cwd())},
                    compute=ray.data.TaskPoolStrategy(None if readers == AUTO else readers),
                    num_cpus=1,
                    memory=READER_BYTES,  # and so that stages differ: Ray would fuse them
                )
                .map_batches(
                    Actor,
                    batch_size=plan.clips,
                    batch_format="pyarrow",
                    fn_constructor_args=(cluster.model, options, choose_sizes, make, str(Path.cwd())),
                    compute=ray.data.ActorPoolStrategy(min_size=plan.least, max_size=plan.most),
                    **plan.resources,
                )
            )
            for table in results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from from_rows(table)
    except ray.exceptions.RayError as error:
        hint = "what is done is kept: give the command again; COCA_DEBUG=1 shows why"
        raise CocaError(f"Ray: {first_line(error)}", hint) from error
