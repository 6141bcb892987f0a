"""Speed of each engine on this machine, measured in separate processes.

Such a process is `python -m cococli.benchmark FD`, where FD is a socket to its parent.
"""

import math
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np

from .catalog import CocaConfig
from .checkpoints.store import find_model
from .decoding.search_options import SearchOptions
from .engines import measured
from .engines.base import Engine
from .engines.choice import Choice, available, open_engine, resolve
from .engines.sizes import Sizes, choose_sizes
from .errors import CocaError, UsageError
from .files import temporary_folder
from .jobs import choose_model
from .media.clips import ReadRequest, Sampling, Segments
from .media.pool import VideoRead, read_videos
from .options import AUTO, ModelOptions
from .processes import Channel, parent_channel, start_process
from .reporting import SILENT, Progress, Reporter
from .requests import BenchRequest

TOKENS = 15  # of a typical caption, including start and end
VIDEOS = 1000  # of the run whose sizes are timed
_READ_FOR = 2.0  # seconds
_MAX_RUNS, _MAX_SECONDS = 5, 2.0  # per measurement


@dataclass(frozen=True)
class Timing:
    """Speed of one engine: medians in seconds."""

    choice: Choice
    start: float  # from the start of the process to its first frame and step
    frame: float  # through the vision tower, in a batch of a run
    steps: dict[int, float]  # one token, by number of rows
    sizes: Sizes  # of a run
    read: float  # the middle frame of a clip, by one process

    @property
    def captions_per_minute(self) -> float:
        """Captions per minute with the default search and the largest number of rows, if frames are there in time."""
        return 60 * self._computed

    @property
    def _computed(self) -> float:
        """Clips per second that are encoded and decoded in turn."""
        return 1 / (1 / self.rates["encoder"] + 1 / self.rates["decoder"])

    @property
    def rates(self) -> dict[str, float]:
        """Clips per second of each stage."""
        rows = max(self.steps)
        decoding = (TOKENS - 1) * self.steps[rows] / (rows // _beams(rows))
        return {"readers": self.sizes.readers / self.read, "encoder": 1 / self.frame, "decoder": 1 / decoding}

    @property
    def bottleneck(self) -> str:
        """The stage that limits a run: readers, encoder or decoder."""
        rates = self.rates
        if rates["readers"] < self._computed:
            return "readers"
        return "encoder" if rates["encoder"] < rates["decoder"] else "decoder"

    def facts(self) -> dict[str, object]:
        """Return it in the types of JSON."""
        settings = {name: getattr(self.choice, name) for name in ("engine", "device", "precision", "threads")}
        seconds = {"start": self.start, "frame": self.frame, "steps": self.steps}
        speed = {"captions_per_minute": self.captions_per_minute, "clips_per_second": self.rates}
        return settings | seconds | asdict(self.sizes) | speed | {"bottleneck": self.bottleneck}


@dataclass(frozen=True)
class Benchmark:
    """Speed of the engines of this machine."""

    timings: list[Timing] = field(default_factory=list)
    failed: list[Choice] = field(default_factory=list)  # they could not be loaded, or crashed

    @property
    def exit_code(self) -> int:
        """0 if all engines were timed, else 1."""
        return int(bool(self.failed))


def benchmark(request: BenchRequest, reporter: Reporter = SILENT) -> Benchmark:
    """Time a model on this machine with every engine and precision that the request names.

    Each `Timing` also goes to `reporter.record` as soon as it is known.

    Raises:
        UsageError: This machine has no such engine or device, or a value is invalid.
        ModelError: The model does not exist.
    """
    rows, choices = _rows(request.rows), _choices(request)
    model = choose_model(request.model)
    result = Benchmark()
    reporter.checked()
    with reporter.progress("timing readers"):
        read = read_seconds(model.config)
    for choice in choices:
        with reporter.progress(f"timing {choice.flags}") as progress:
            try:
                timing = time_engine(request.model or model.name, choice, rows, read, progress)
            except CocaError as error:
                reporter.warning(f"{choice.flags}: {error.message}")
                result.failed.append(choice)
                continue
        result.timings.append(timing)
        if request.rows == AUTO and timing.choice.device == "cpu":
            with suppress(CocaError):  # the cache may be read-only
                measured.record(model.config, timing.choice, 60 / timing.captions_per_minute)
        reporter.record(timing)
    return result


def _rows(text: str) -> list[int]:
    """Return numbers of rows; none for `auto`."""
    if text == AUTO:
        return []
    counts = text.split(",")
    if not all(re.fullmatch("[0-9]{1,4}", count) and 0 < int(count) <= 1000 for count in counts):
        raise UsageError(f"--rows cannot be {text!r}", "choose auto, or numbers from 1 to 1000, such as 6,48")
    return sorted(set(map(int, counts)))


def _choices(request: BenchRequest) -> list[Choice]:
    """Return what to time, in the order of preference of `auto`."""
    names = request.engines.split(",") if request.engines else ["auto"]
    for name in names:
        resolve(name, request.device, threads=request.threads)
    return [
        resolve(choice.engine, choice.device, choice.precision, request.threads)
        for choice in available(request.device)
        if not request.engines or choice.engine in names
    ]


def _beams(rows: int) -> int:
    """Return the sequences of one clip: as many as in the default search, if rows are a multiple of it."""
    return math.gcd(rows, SearchOptions().beams)


def read_seconds(config: CocaConfig) -> float:
    """Return the time in which a process reads a clip of 7 s, 640x360, H.264."""
    request = ReadRequest(Sampling(), Segments(), config.vision.image_size, None, config.preprocess)
    with temporary_folder() as folder:
        path = folder / "clip.mp4"
        _make_clip(path)
        with closing(read_videos(repeat((path, request)), processes=1)) as events:
            ends = [time.perf_counter()]
            while len(ends) < 3 or ends[-1] - ends[1] < _READ_FOR:
                ends += [time.perf_counter() for event in [next(events)] if isinstance(event, VideoRead)]
    return (ends[-1] - ends[1]) / (len(ends) - 2)  # without the first, which waits for the process


def _make_clip(path: Path) -> None:
    import av

    x, y = np.meshgrid(np.arange(640), np.arange(360))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for index in range(25 * 7):
            gradient = (x + y + 3 * index).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.stack([gradient] * 3, -1))))
        file.mux(stream.encode())


def time_engine(model: str, choice: Choice, rows: Sequence[int], read: float, progress: Progress) -> Timing:
    """Time one engine in a new process.

    Args:
        model: Argument of `find_model`.
        rows: Numbers of rows; without any, one clip's and as many as a run decodes at once.
        read: Time in which a process reads a clip, in seconds.
        progress: Describes steps that are needed only once, such as compiling; they are not timed.

    Raises:
        CocaError: The engine cannot be loaded, or its process crashed.
    """
    for can_restart in (True, False):
        start, compiled = time.perf_counter(), False
        with _timer() as socket:
            socket.send((model, choice, rows))
            while isinstance(message := socket.receive(), str):
                progress.describe(message)
                compiled = True
            seconds = time.perf_counter() - start
            if compiled and can_restart:
                continue
            if isinstance(message, CocaError) or isinstance(message := socket.receive(), CocaError):
                raise message
            break
    frame, steps, sizes = message
    return Timing(choice, seconds, frame, steps, sizes, read)


@contextmanager
def _timer() -> Iterator[Channel]:
    """Start a process that runs `main`, and end it with the block."""
    process, socket = start_process("cococli.benchmark")
    with socket:
        try:
            yield socket
        except (EOFError, OSError):
            raise CocaError(f"its process ended with exit code {process.wait()}", "COCA_DEBUG=1 shows why") from None
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Time one engine. Send descriptions of slow steps, None when it runs, and the seconds of a frame and of steps."""
    parent = parent_channel()
    try:
        name, choice, rows = parent.receive()
        Thread(target=_exit_with, args=(parent,), daemon=True).start()
        model = find_model(name)
        size, search = model.config.vision.image_size, SearchOptions()
        engine = open_engine(model, choice, _Sender(parent))
        sizes = choose_sizes(
            model.config, choice, ModelOptions(), VIDEOS, beams=search.beams, max_length=search.max_length
        )
        rows = rows or sorted({search.beams, sizes.slots * search.beams})
        clips = np.random.default_rng(0).integers(0, 256, (sizes.batch, 1, size, size, 3), np.uint8)
        _step_seconds(engine, clips, rows[0], steps=1)
        parent.send(None)
        frame = _median(lambda: engine.encode_clips(clips)) / len(clips)
        parent.send((frame, {count: _step_seconds(engine, clips, count) for count in rows}, sizes))
    except CocaError as error:
        parent.send(error)


class _Sender(Progress):
    """Sends descriptions to the parent process."""

    def __init__(self, parent: Channel) -> None:
        self._parent = parent

    def describe(self, text: str) -> None:
        self._parent.send(text)


def _exit_with(parent: Channel) -> None:
    parent.wait()  # the parent sends nothing more: this returns once it is gone
    os._exit(0)


def _median(action: Callable[[], object]) -> float:
    """Time an action, except for its first run, which may compile."""
    action()
    seconds: list[float] = []
    while len(seconds) < _MAX_RUNS and sum(seconds) < _MAX_SECONDS:
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _step_seconds(engine: Engine[Any], clips: np.ndarray, rows: int, steps: int = TOKENS) -> float:
    """Time a step of the default search, in the middle of captions."""
    search, beams = SearchOptions(), _beams(rows)
    slots = np.arange(rows // beams)
    state = engine.begin(len(slots), beams, search.max_length, search.top_tokens)
    image = engine.encode_clips(clips[:1]).tokens[0]
    for slot in slots:
        engine.admit(state, int(slot), image)
    ids = np.full((len(slots), beams), engine.config.sot_id, np.int32)
    parents = np.broadcast_to(np.arange(beams), ids.shape)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        engine.step(state, slots, ids, parents)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
