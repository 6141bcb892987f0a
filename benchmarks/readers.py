"""Speed of reader processes, and what they cost the process that computes: see README.md in this folder.

    python benchmarks/readers.py                         # clips per second by number of readers
    python benchmarks/readers.py --frames 8
    python benchmarks/readers.py --pictures --device gpu # beside a stand-in for a GPU: 128 slots, 5 ms per token

It makes clips of 640x360, 7 s, in a temporary folder; `--pictures` makes small pictures instead, which readers decode
so fast that the parent becomes the limit.
"""

import argparse
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readers", default="1,2")
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--frames", type=int, default=1)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--device", choices=("none", "gpu"), default="none")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
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
