"""Speed of reader processes, and what they cost the process that computes: see README.md in this folder.

    python benchmarks/readers.py                         # clips per second by number of readers
    python benchmarks/readers.py --frames 8
    python benchmarks/readers.py --pictures --device gpu # beside a stand-in for a GPU: 128 slots, 5 ms per token
    python benchmarks/readers.py --sandbox 20            # with and without it, in turn: a new reader, and the examples

It makes clips of 640x360, 7 s, in a temporary folder; `--pictures` makes small pictures instead, which readers decode
so fast that the parent becomes the limit.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from cococli.media.clips import ReadRequest, Sampling, Segments
from cococli.media.compute import FunctionComputer, compute_videos

STEPS = 30  # tokens of a caption
ROOT = Path(__file__).parents[1]
READ_ONE = """
import sys
from pathlib import Path
from cococli.media.clips import ReadRequest, Sampling, Segments
from cococli.media.pool import read_videos
list(read_videos([(Path(sys.argv[1]), ReadRequest(Sampling(), Segments("none"), 224))], processes=1))
"""


class Gpu:
    """A stand-in for a GPU: each step is some Python, then waiting without the interpreter's lock."""

    def __init__(self, slots: int = 128, python: float = 0.0025, waiting: float = 0.0025) -> None:
        self.slots, self.python, self.waiting = slots, python, waiting
        self.left: dict[Any, int] = {}  # tokens of clips in slots
        self.line: list[Any] = []

    @property
    def queued(self) -> int:
        return len(self.line)

    @property
    def busy(self) -> bool:
        return bool(self.left or self.line)

    def submit(self, keys: Sequence[Any], pixels: np.ndarray, seeds: list[int]) -> None:
        time.sleep(pixels.shape[0] * pixels.shape[1] / 2400)
        self.line += keys

    def step(self) -> dict[Any, int]:
        while self.line and len(self.left) < self.slots:
            self.left[self.line.pop(0)] = STEPS
        end = time.thread_time() + self.python
        while time.thread_time() < end:
            sum(range(100))
        time.sleep(self.waiting)
        self.left = {key: left - 1 for key, left in self.left.items()}
        done = [key for key, left in self.left.items() if not left]
        for key in done:
            del self.left[key]
        return dict.fromkeys(done, 0)

    def shrink(self) -> int:
        return 0


def make_clip(path: Path, seconds: int = 7) -> None:
    """Write a clip of drifting gradients with noise, 25 frames a second."""
    noise = np.random.default_rng(0).integers(0, 30, (360, 640, 3))
    x, y = np.meshgrid(np.arange(640), np.arange(360))
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for index in range(25 * seconds):
            waves = [110 + 100 * np.sin((x + y * channel) / 40 + index / 10) for channel in range(3)]
            picture = np.clip(np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        file.mux(stream.encode())


def compare_sandbox(pairs: int, folder: Path) -> None:
    """Print what the sandbox costs: medians of runs with and without it, in turn."""
    (folder / "sitecustomize.py").write_text("from cococli.media import sandbox\nsandbox.enter = lambda **_: ()\n")
    example, output = ROOT / "examples" / "moves.mp4", folder / "out.jsonl"
    commands = {
        "a new reader": ["-c", READ_ONE, str(example)],
        "coca caption examples": [
            "-m",
            "cococli",
            "caption",
            str(example.parent),
            "--model",
            "shapes",
            "-o",
            str(output),
        ],
    }
    for name, command in commands.items():
        costs: dict[bool, list[list[float]]] = {True: [], False: []}
        for pair in range(pairs):
            for sandboxed in (True, False) if pair % 2 else (False, True):
                output.unlink(missing_ok=True)
                path = os.pathsep.join([str(ROOT), *([] if sandboxed else [str(folder)])])
                started, used = time.perf_counter(), _children_seconds()
                subprocess.run(
                    [sys.executable, *command], env=os.environ | {"PYTHONPATH": path}, check=True, capture_output=True
                )
                costs[sandboxed].append([time.perf_counter() - started, _children_seconds() - used])
        differences = [[a - b for a, b in zip(*both, strict=True)] for both in zip(*costs.values(), strict=True)]
        for kind, index in (("s", 0), ("s of CPU time", 1)):
            with_it, without = (statistics.median(one[index] for one in costs[key]) for key in (True, False))
            more = statistics.median(one[index] for one in differences)
            print(f"{name}: {with_it:.3f} {kind}, {without:.3f} without, median difference {1000 * more:+.0f} ms")


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", default="1,2")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--device", choices=("none", "gpu"), default="none")
    parser.add_argument("--sandbox", type=int, metavar="PAIRS", default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.sandbox:
            compare_sandbox(given.sandbox, Path(folder))
            return
        first = Path(folder, "0.png" if given.pictures else "0.mp4")
        if given.pictures:
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8)).save(first)
        else:
            make_clip(first)
        paths = [first, *(Path(folder, f"{index}{first.suffix}") for index in range(1, given.clips))]
        for path in paths[1:]:
            path.hardlink_to(first)
        sampling = Sampling("multi", given.frames) if given.frames > 1 else Sampling()
        request = ReadRequest(sampling, Segments(), given.size)
        for readers in map(int, given.readers.split(",")):
            computer: Any = Gpu() if given.device == "gpu" else FunctionComputer(lambda pixels, seeds: seeds)
            results = compute_videos(paths, computer, request, given.batch, readers=readers)
            with closing(results):
                started, cpu = 0.0, 0.0
                for result in results:
                    if not started:  # the readers run
                        started, cpu, before = time.perf_counter(), time.process_time(), result.index + 1
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            count = given.clips - before
            cost = f"{1000 * cpu / count:.2f} ms of this process per clip"
            print(f"{readers} readers: {count / seconds:.1f} clips/s, {cost}", flush=True)


if __name__ == "__main__":
    main()
