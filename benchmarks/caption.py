"""Comparison of coca and open_clip 3.3.0 for a vit-l-14 of random weights: see README.md in this folder.

python benchmarks/caption.py --oracle-python ORACLE/bin/python [--engine 'openvino int8'] [--pairs 3]
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
from workers import Worker

HERE = Path(__file__).parent
CLI = [sys.executable, "-m", "cococli"]


def random_checkpoint(path: Path) -> None:
    """Write a vit-l-14 of random weights in the Hub's format: 2.55 GB."""
    import torch

    rng = np.random.default_rng(0)
    torch.save({name: torch.from_numpy(random_values(rng, name, shape)) for name, shape in open_clip_shapes()}, path)


def open_clip_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of vit-l-14's tensors in open_clip."""
    from cococli.catalog import VIT_L_14
    from cococli.checkpoints.architecture import parameters
    from cococli.checkpoints.tensors import tensors_of

    return ((tensor.name, tensor.shape) for tensor in tensors_of(parameters(VIT_L_14)))


def random_values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(".weight") and "ln_" in name:
        return np.ones(shape, np.float32)
    return np.asarray(rng.standard_normal(shape, np.float32) * np.float32(0.02), np.float32)


def compare(ours: dict[str, Worker], oracle: Worker, job: str, images: int, pairs: int) -> dict[str, float]:
    """Time a job in all programs in turn, print medians and the median ratio, and return the medians."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*ours, "open_clip")}
    for worker in ours.values():
        worker.run({"job": job, "images": images})  # compile
    for _ in range(pairs):
        for name, worker in {**ours, "open_clip": oracle}.items():
            runs[name].append(worker.run({"job": job, "images": images}))
    seconds = {name: statistics.median(run["seconds"] for run in found) for name, found in runs.items()}
    for name in ours:
        both = zip(runs[name], runs["open_clip"], strict=True)
        ratio = statistics.median(theirs["seconds"] / mine["seconds"] for mine, theirs in both)
        ends = [f"{runs[program][-1]['tokens']}, {runs[program][-1]['peak_mb']} MB" for program in (name, "open_clip")]
        times = f"{seconds[name]:.2f} s", f"{seconds['open_clip']:.2f} s"
        row(name, f"{job} {images}", *times, f"{ratio:.2f}", "; ".join(ends))
    return seconds


def per_token(images: int, encode: dict[str, float], caption: dict[str, float]) -> None:
    """Print the time of each of the 29 steps after SOT; open_clip encodes every image once per beam."""
    theirs = (caption.pop("open_clip") - 6 * encode["open_clip"]) / 29
    for name, seconds in caption.items():
        mine = (seconds - encode[name]) / 29
        times = f"{mine:.3f} s", f"{theirs:.3f} s", f"{theirs / mine:.1f}"
        row(name, f"step, {images} x 6 beams", *times, "computed from the rows above")


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def timed(command: list[str], environment: dict[str, str] | None = None) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **(environment or {})})
    return time.perf_counter() - start


def cold_starts(checkpoint: Path, converted: Path, oracle_python: str, folder: Path, engines: list[str]) -> None:
    """Time the whole command for one picture: start, load, compile if needed, caption. Medians of 3."""
    from PIL import Image

    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)).save(picture)
    command = [*CLI, "caption", str(picture), "--model", str(converted), "-o", str(folder / "out.jsonl"), "--overwrite"]
    request = json.dumps({"job": "caption", "images": 1})
    script = f"echo '{request}' | {oracle_python} {HERE / 'workers.py'} oracle {checkpoint}"
    theirs = timed(["sh", "-c", script])
    for name in engines:
        flags = [*command, "--engine", *name.replace(" ", " --precision ").split()]
        mine = statistics.median(timed(flags) for _ in range(3))
        row(name, "cold start, 1 picture", f"{mine:.1f} s", f"{theirs:.1f} s", f"{theirs / mine:.2f}", "whole process")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--oracle-python", required=True, help="a Python with open_clip_torch 3.3.0, transformers 4.50.3"
    )
    parser.add_argument("--folder", type=Path, default=Path("/tmp/coca-bench"), help="for 5 GB of random weights")
    parser.add_argument(
        "--engine",
        action="append",
        help="with precision: 'openvino int8'; repeatable; default: mindspore fp32",
    )
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--eight", type=int, default=1, help="pairs for eight images, minutes each; 0 for none")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    checkpoint = arguments.folder / "open_clip_pytorch_model.bin"
    converted = checkpoint.with_suffix(".ckpt")
    if not checkpoint.exists():
        random_checkpoint(checkpoint)
    if not converted.exists():
        subprocess.run([*CLI, "convert", str(checkpoint), str(converted), "--config", "vit-l-14"], check=True)
    engines: list[str] = arguments.engine or ["mindspore fp32"]
    row("engine", "job", "coca", "open_clip", "open_clip / coca", "tokens and peak memory (coca; open_clip)")
    row("---", "---", "---:", "---:", "---:", "---")
    helps = statistics.median(timed([*CLI, "--help"]) for _ in range(7))
    row("", "coca --help", f"{helps:.2f} s", "", "", "")
    workers = HERE / "workers.py"
    ours = {name: Worker(sys.executable, workers, "ours", converted, *name.split()) for name in engines}
    oracle = Worker(arguments.oracle_python, workers, "oracle", checkpoint)
    for images, pairs in ((1, arguments.pairs), (8, arguments.eight)):
        if not pairs:
            continue
        encode = compare(ours, oracle, "encode", images, 3 * pairs)
        per_token(images, encode, compare(ours, oracle, "caption", images, pairs))
    for worker in (*ours.values(), oracle):
        worker.close()
    cold_starts(checkpoint, converted, arguments.oracle_python, arguments.folder, engines)


if __name__ == "__main__":
    main()
