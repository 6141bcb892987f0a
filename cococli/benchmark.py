"""Speed of each engine on this machine, measured in processes of their own.

Such a process is `python -m cococli.benchmark FD`, where FD is a socket to its parent.
"""

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Thread
from typing import Any

import numpy as np

from .checkpoints.store import find_model
from .decoding.search_options import SearchOptions
from .engines.base import Engine
from .engines.choice import Choice, available, open_engine, resolve
from .errors import CocaError, UsageError
from .jobs import choose_model
from .processes import Channel, start_process
from .reporting import SILENT, Progress, Reporter
from .requests import BenchRequest

TOKENS = 15  # of a typical caption, including start and end
BATCH = 8  # frames per batch on a GPU
_BATCHED_BELOW = 0.1  # seconds per frame below which batches are timed, too
_MAX_RUNS, _MAX_SECONDS = 5, 2.0  # per measurement


@dataclass(frozen=True)
class Timing:
    """Speed of one engine: medians in seconds."""

    choice: Choice
    start: float  # from the start of the process to its first frame and step
    frame: float  # through the vision tower
    steps: dict[int, float]  # one token, by number of rows

    @property
    def captions_per_minute(self) -> float:
        """Captions per minute with the default search and the largest number of rows."""
        rows = max(self.steps)
        return 60 / (self.frame + (TOKENS - 1) * self.steps[rows] / (rows // _beams(rows)))

    def facts(self) -> dict[str, object]:
        """Return it in the types of JSON."""
        settings = {name: getattr(self.choice, name) for name in ("engine", "device", "precision", "threads")}
        seconds = {"start": self.start, "frame": self.frame, "steps": self.steps}
        return settings | seconds | {"captions_per_minute": self.captions_per_minute}


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
    for choice in choices:
        with reporter.progress(f"timing {choice.flags}") as progress:
            try:
                timing = time_engine(request.model or model.name, choice, rows, progress)
            except CocaError as error:
                reporter.warning(f"{choice.flags}: {error.message}")
                result.failed.append(choice)
                continue
        result.timings.append(timing)
        reporter.record(timing)
    return result


def _rows(text: str) -> list[int]:
    counts = text.split(",")
    if not all(count.isdecimal() and 0 < int(count) <= 1000 for count in counts):
        raise UsageError(f"--rows cannot be {text!r}", "choose numbers from 1 to 1000, such as 6,48")
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


def time_engine(model: str, choice: Choice, rows: Sequence[int], progress: Progress) -> Timing:
    """Time one engine in a new process.

    Args:
        model: Argument of `find_model`.
        rows: At least one number of rows.
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
    return Timing(choice, seconds, *message)


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
    parent = Channel(int(sys.argv[1]))
    try:
        name, choice, rows = parent.receive()
        Thread(target=_exit_with, args=(parent,), daemon=True).start()
        model = find_model(name)
        size = model.config.vision.image_size
        engine = open_engine(model, choice, _Sender(parent))
        _step_seconds(engine, np.zeros((1, 1, 3, size, size), np.float32), rows[0], steps=1)
        parent.send(None)
        clips = np.random.default_rng(0).standard_normal((BATCH, 1, 3, size, size), np.float32)
        parent.send((_frame_seconds(engine, clips), {count: _step_seconds(engine, clips, count) for count in rows}))
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


def _frame_seconds(engine: Engine[Any], clips: np.ndarray) -> float:
    single = _median(lambda: engine.encode_clips(clips[:1]))
    return single if single > _BATCHED_BELOW else min(single, _median(lambda: engine.encode_clips(clips)) / len(clips))


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
