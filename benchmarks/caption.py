"""This program beside open_clip 3.3.0 at vit-l-14 size, random weights: see README.md in this folder.

python benchmarks/caption.py --oracle-python ORACLE/bin/python [--folder /tmp/bench] [--pairs 3]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
CLI = [sys.executable, "-m", "cococli"]


class Worker:
    """A program under test, waiting for orders."""

    def __init__(self, python: str, kind: str, *given: object) -> None:
        threads = {"OMP_NUM_THREADS": os.environ.get("BENCH_THREADS", "2"), "GLOG_v": "3"}
        self.process = subprocess.Popen(
            [python, str(HERE / "workers.py"), kind, *map(str, given)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **threads},
        )

    def run(self, job: str, images: int) -> dict[str, float]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"job": job, "images": images}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def random_checkpoint(path: Path) -> None:
    """A vit-l-14 of random weights in the hub's format: 2.55 GB."""
    import torch

    rng = np.random.default_rng(0)
    torch.save({name: torch.from_numpy(random_values(rng, name, shape)) for name, shape in open_clip_shapes()}, path)


def open_clip_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of vit-l-14's tensors in open_clip."""
    from cococli.catalog import VIT_L_14
    from cococli.checkpoints.architecture import parameters
    from cococli.checkpoints.names import tensors_of

    return ((tensor.name, tensor.shape) for tensor in tensors_of(parameters(VIT_L_14)))


def random_values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(".weight") and "ln_" in name:
        return np.ones(shape, np.float32)
    return np.asarray(rng.standard_normal(shape, np.float32) * np.float32(0.02), np.float32)


def compare(ours: Worker, oracle: Worker, job: str, images: int, pairs: int) -> list[float]:
    """Time a job in both, in turn, print medians and the median ratio, and return the medians."""
    ours.run(job, images)  # compile
    mine, theirs = [], []
    for _ in range(pairs):
        theirs.append(oracle.run(job, images))
        mine.append(ours.run(job, images))
    ratio = statistics.median(b["seconds"] / a["seconds"] for a, b in zip(mine, theirs, strict=True))
    seconds = [statistics.median(run["seconds"] for run in runs) for runs in (mine, theirs)]
    peaks = [runs[-1]["peak_mb"] for runs in (mine, theirs)]
    tokens = [runs[-1]["tokens"] for runs in (mine, theirs)]
    row(f"{job} {images}", *(f"{value:.2f} s" for value in seconds), f"{ratio:.2f}", f"{tokens}, peak MB {peaks}")
    return seconds


def per_token(images: int, encode: list[float], caption: list[float]) -> None:
    """What each of the 29 steps after SOT takes; open_clip encodes every image once per beam."""
    mine, theirs = (caption[0] - encode[0]) / 29, (caption[1] - 6 * encode[1]) / 29
    row(
        f"step, {images} x 6 beams",
        f"{mine:.3f} s",
        f"{theirs:.3f} s",
        f"{theirs / mine:.1f}",
        "computed from the rows above",
    )


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def timed(command: list[str], environment: dict[str, str] | None = None) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **(environment or {})})
    return time.perf_counter() - start


def cold_starts(checkpoint: Path, converted: Path, oracle_python: str, folder: Path, flags: list[str]) -> None:
    """The whole command for one picture: start, load, compile, caption."""
    from PIL import Image

    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)).save(picture)
    command = [*CLI, "caption", str(picture), "--model", str(converted), "-o", str(folder / "out.jsonl"), *flags]
    mine = timed([*command, "--overwrite"])
    order = json.dumps({"job": "caption", "images": 1})
    script = f"echo '{order}' | {oracle_python} {HERE / 'workers.py'} oracle {checkpoint}"
    theirs = timed(["sh", "-c", script])
    row("cold start, one picture", f"{mine:.1f} s", f"{theirs:.1f} s", f"{theirs / mine:.2f}", "whole process")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--oracle-python", required=True, help="a Python with open_clip_torch 3.3.0, transformers 4.50.3"
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/coca-bench"), help="for 5 GB of random weights")
    parser.add_argument("--engine", default="mindspore")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--eight", type=int, default=1, help="pairs for eight images, minutes each; 0: none")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.folder / "open_clip_pytorch_model.bin"
    converted = checkpoint.with_suffix(".ckpt")
    if not checkpoint.exists():
        random_checkpoint(checkpoint)
    if not converted.exists():
        subprocess.run([*CLI, "convert", str(checkpoint), str(converted), "--config", "vit-l-14"], check=True)
    row("job", "coca", "open_clip", "open_clip / coca", "tokens and peak memory (coca, open_clip)")
    row("---", "---:", "---:", "---:", "---")
    helps = statistics.median(timed([*CLI, "--help"]) for _ in range(7))
    row("coca --help", f"{helps:.2f} s", "", "", "")
    ours = Worker(sys.executable, "ours", converted, arguments.engine, arguments.precision)
    oracle = Worker(arguments.oracle_python, "oracle", checkpoint)
    for images, pairs in ((1, arguments.pairs), (8, arguments.eight)):
        if not pairs:
            continue
        encode = compare(ours, oracle, "encode", images, 3 * pairs)
        per_token(images, encode, compare(ours, oracle, "caption", images, pairs))
    ours.close()
    oracle.close()
    flags = ["--engine", arguments.engine, "--precision", arguments.precision]
    cold_starts(checkpoint, converted, arguments.oracle_python, arguments.folder, flags)


if __name__ == "__main__":
    main()
