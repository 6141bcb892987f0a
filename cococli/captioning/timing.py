"""How fast an engine is on this machine, timed in a process of its own.

That process is `python -m cococli.captioning.timing FD`, where FD is a socket to its parent.
"""

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from threading import Thread
from typing import Any

import numpy as np

from ..checkpoints.store import find_model
from ..decoding.options import SearchOptions
from ..engines.base import Engine
from ..engines.choice import Choice, open_engine
from ..errors import CocaError
from ..reporting import Progress
from ..settings import debugging

TOKENS = 15  # of a caption as people write them, start and end included
BATCH = 8  # frames that a graphics card takes at once
_QUICK = 0.1  # seconds of a frame below which a batch is timed, too
_TIMES, _ENOUGH = 5, 2.0  # how often something is timed, but no more after so many seconds


@dataclass(frozen=True)
class Timing:
    """Medians, in seconds."""

    choice: Choice
    start: float  # of the process, to its first frame and step
    frame: float  # through the vision tower
    steps: dict[int, float]  # one token for so many rows

    @property
    def captions(self) -> float:
        """Captions a minute that this makes with the default search, as many clips at once as the most rows hold."""
        rows = max(self.steps)
        return 60 / (self.frame + (TOKENS - 1) * self.steps[rows] / (rows // beams_of(rows)))


def beams_of(rows: int) -> int:
    """Rows of one clip: those of the default search, where so many rows are a multiple of them."""
    return math.gcd(rows, SearchOptions().beams)


def timed(model: str, choice: Choice, rows: Sequence[int], say: Callable[[str], object] = lambda doing: None) -> Timing:
    """Time a model.

    Args:
        model: What `find_model` takes.
        rows: At least one number of rows.
        say: Told of what is done once, such as compiling; that is not timed.

    Raises:
        CocaError: it cannot be loaded, or its process has died, as for lack of memory.
    """
    for again in (False, True):
        start, made = time.perf_counter(), False
        with _process() as socket:
            socket.send((model, choice, rows))
            while isinstance(told := socket.recv(), str):
                say(told)
                made = True
            started = time.perf_counter() - start
            if made and not again:  # next time it starts as it always will
                continue
            if isinstance(told, CocaError) or isinstance(told := socket.recv(), CocaError):
                raise told
            break
    return Timing(choice, started, *told)


@contextmanager
def _process() -> Iterator[Connection]:
    """A socket to the process, which ends with the block."""
    ours, theirs = Pipe()
    with ours, theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cococli.captioning.timing", str(theirs.fileno())],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if debugging() else subprocess.DEVNULL,
            process_group=0,  # Ctrl-C is not for it
        )
        theirs.close()
        try:
            yield ours
        except (EOFError, OSError):
            raise CocaError(f"its process ended with exit code {process.wait()}", "COCA_DEBUG=1 shows why") from None
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Time one engine: tell what is made for it, then None once it runs, then seconds of a frame and of steps."""
    parent = Connection(int(sys.argv[1]))
    try:
        name, choice, rows = parent.recv()
        Thread(target=_end_with, args=(parent,), daemon=True).start()
        model = find_model(name)
        size = model.config.vision.image_size
        engine = open_engine(model, choice, _Told(parent))
        _step_seconds(engine, np.zeros((1, 1, 3, size, size), np.float32), rows[0], steps=1)
        parent.send(None)
        clips = np.random.default_rng(0).standard_normal((BATCH, 1, 3, size, size), np.float32)
        parent.send((_frame_seconds(engine, clips), {count: _step_seconds(engine, clips, count) for count in rows}))
    except CocaError as error:
        parent.send(error)


class _Told(Progress):
    def __init__(self, parent: Connection) -> None:
        self._parent = parent

    def describe(self, text: str) -> None:
        self._parent.send(text)


def _end_with(parent: Connection) -> None:
    parent.poll(None)  # it says nothing more: until it is gone
    os._exit(0)


def _frame_seconds(engine: Engine[Any], clips: np.ndarray) -> float:
    one = _median_of(lambda: engine.encode_clips(clips[:1]))
    return one if one > _QUICK else min(one, _median_of(lambda: engine.encode_clips(clips)) / len(clips))


def _median_of(act: Callable[[], object]) -> float:
    """What it takes, once everything is compiled."""
    act()
    seconds: list[float] = []
    while len(seconds) < _TIMES and sum(seconds) < _ENOUGH:
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _step_seconds(engine: Engine[Any], clips: np.ndarray, rows: int, steps: int = TOKENS) -> float:
    """A step of the default search, in the middle of captions."""
    search, beams = SearchOptions(), beams_of(rows)
    lanes = np.arange(rows // beams)
    state = engine.begin(len(lanes), beams, search.max_length, search.top_tokens)
    image = engine.encode_clips(clips[:1]).tokens[0]
    for lane in lanes:
        engine.admit(state, int(lane), image)
    ids = np.full((len(lanes), beams), engine.config.sot_id, np.int32)
    parents = np.broadcast_to(np.arange(beams), ids.shape)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        engine.step(state, lanes, ids, parents)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
