"""Speed of each engine compared to the limits of the machine, and cost of the search: see README.md in this folder.

    python benchmarks/engines.py floors
    python benchmarks/engines.py phases openvino int8 [--checkpoint build/bench/vit-l-14.ckpt]
    python benchmarks/engines.py search openvino int8
    python benchmarks/engines.py batching openvino int8
    python benchmarks/engines.py threads openvino int8

`make bench ONLY=conversion` creates the checkpoint, of random weights. Run one at a time.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from cococli.catalog import CocaConfig
from cococli.checkpoints.architecture import parameters
from cococli.checkpoints.store import find_model
from cococli.decoding.decoder import Decoder
from cococli.decoding.search_options import SearchOptions
from cococli.engines.base import Engine, Scores, top_k_scores
from cococli.engines.choice import Choice, open_engine

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
ROWS = (6, 48, 192)


def seconds_of(act: Callable[[], object], times: int = 7) -> list[float]:
    """Time an action, except for its first run."""
    act()
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - start)
    return seconds


def median_of(act: Callable[[], object], times: int = 7) -> float:
    return statistics.median(seconds_of(act, times))


def random_frames(size: int) -> np.ndarray:
    """Return eight frames."""
    return np.random.default_rng(0).standard_normal((8, 3, size, size), np.float32)


def row(*cells: object) -> None:
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def floors(threads: int) -> tuple[float, dict[str, float]]:
    """Return the memory bandwidth in bytes per second, and multiply-adds per second of matrix products.

    In float32 by oneDNN: MKL, which torch uses, reaches half of that on AMD.
    """
    import torch

    from cococli.model import onednn

    torch.set_num_threads(threads)
    block = torch.ones(2**28)  # 1 GiB: no cache holds it
    bandwidth = block.nbytes / min(seconds_of(block.sum))
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    rates = {"fp32": 2048**3 / min(seconds_of(lambda: onednn.linear(a, b, None)))}
    low_a, low_b = a.bfloat16(), b.bfloat16()
    rates["bf16"] = 2048**3 / min(seconds_of(lambda: low_a @ low_b))
    small_a, small_b = a.mul(30).char(), b.mul(30).char()
    rates["int8"] = 2048**3 / min(seconds_of(lambda: torch._int_mm(small_a, small_b)))
    return bandwidth, rates


def matrices(config: CocaConfig, *towers: str) -> int:
    """Count the weights of some towers that every token is multiplied with."""
    shapes = parameters(config).items()
    return sum(
        shape[0] * shape[1]
        for name, shape in shapes
        if name.startswith(towers) and len(shape) == 2 and "embedding" not in name and "attn_pool.query" not in name
    )


def phases(engine: Engine[Any], choice: Choice) -> None:
    """Time encoding and steps, and compare them to the lower bounds of the machine."""
    bandwidth, rates = floors(choice.threads)
    rate, config = rates[choice.precision.replace("fp16", "bf16")], engine.config
    row("phase", "time", "floor", "share of it reached")
    row("---", "---:", "---:", "---:")
    vision = matrices(config, "visual.transformer")
    for count in (1, 8):
        clips = random_frames(config.vision.image_size)[:count, None]
        seconds = median_of(lambda clips=clips: engine.encode_clips(clips), 5)
        floor = count * config.vision.tokens * vision / rate
        row(f"{count} frame(s)", f"{seconds:.3f} s", f"{floor:.3f} s multiplying", f"{floor / seconds:.0%}")
    weights = matrices(config, "text.transformer", "text_decoder")
    for rows in ROWS:
        seconds = step_seconds(engine, rows)
        reading, multiplying = weights * BYTES[choice.precision] / bandwidth, rows * weights / rate
        floor, kind = max((reading, "reading the weights"), (multiplying, "multiplying"))
        row(f"step, {rows} rows", f"{seconds:.3f} s", f"{floor:.3f} s {kind}", f"{floor / seconds:.0%}")


def begun(engine: Engine[Any], rows: int) -> tuple[Any, np.ndarray, SearchOptions]:
    options = SearchOptions()
    slots = np.arange(rows // options.rows)
    state = engine.begin(len(slots), options.rows, options.max_length, options.top_tokens)
    image = engine.encode_clips(random_frames(engine.config.vision.image_size)[:1, None]).tokens[0]
    for slot in slots:
        engine.admit(state, int(slot), image)
    return state, slots, options


def step_seconds(engine: Engine[Any], rows: int) -> float:
    state, slots, options = begun(engine, rows)
    ids = np.full((len(slots), options.rows), engine.config.sot_id, np.int32)
    parents = np.zeros_like(ids) + np.arange(options.rows, dtype=np.int32)
    return median_of(lambda: engine.step(state, slots, ids, parents), 14)


class Watched:
    """An engine whose steps are timed, and whose captions end at given lengths, if there are any."""

    def __init__(self, engine: Engine[Any], lengths: dict[int, int] | None = None) -> None:
        self.engine, self.config, self.lengths = engine, engine.config, lengths
        self.seconds, self.steps = 0.0, 0
        self.fed: dict[int, int] = {}
        self.clip_in: dict[int, int] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def admit(self, state: Any, slot: int, tokens: np.ndarray) -> None:
        self.clip_in[slot], self.fed[slot] = int(tokens[0, 0]), 0
        self.engine.admit(state, slot, tokens)

    def step(self, state: Any, slots: np.ndarray, ids: np.ndarray, parents: np.ndarray) -> Scores:
        start = time.perf_counter()
        scores = self.engine.step(state, slots, ids, parents)
        self.seconds += time.perf_counter() - start
        self.steps += 1
        if self.lengths is None:
            return scores
        logits = np.zeros((ids.size, 64), np.float32) - np.arange(64)
        for index, slot in enumerate(slots.tolist()):
            self.fed[slot] += 1
            if self.fed[slot] >= self.lengths[self.clip_in[slot]] - 1:
                logits[index * ids.shape[1] : (index + 1) * ids.shape[1], 63] = 99
        found = top_k_scores(logits, scores.ids.shape[1])
        ids = np.where(found.ids == 63, self.config.eot_id, found.ids)
        return Scores(ids, found.logits, found.log_sum, scores.lookup)


def search(engine: Engine[Any]) -> None:
    """Time the search without the steps of the engine, which return the top tokens."""
    row("rows", "a step", "search beside it", "share")
    row("---", "---:", "---:", "---:")
    tokens = engine.encode_clips(random_frames(engine.config.vision.image_size)[:1, None]).tokens[0]
    for rows in ROWS:
        options = SearchOptions()
        watched = Watched(engine)
        for measured in (False, True):
            watched.seconds, watched.steps = 0.0, 0
            decoder: Decoder[int] = Decoder(watched, options, slots=rows // options.rows)
            for clip in range(rows // options.rows):
                decoder.add(clip, tokens, clip)
            decoder.step()  # admits clips
            watched.seconds, watched.steps, start = 0.0, 0, time.perf_counter()
            while decoder.busy and watched.steps < (12 if measured else 1):
                decoder.step()
            elapsed = time.perf_counter() - start
        beside = elapsed - watched.seconds
        each, more = watched.seconds / watched.steps, beside / watched.steps
        row(rows, f"{each * 1e3:.1f} ms", f"{more * 1e3:.2f} ms", f"{more / (each + more):.1%}")


def batching(engine: Engine[Any], clips: int = 96) -> None:
    """Compare static and continuous batching for captions of 5 to 30 tokens."""
    draw = np.random.default_rng(0)
    row("lengths", "mean", "batch after batch", "continuous", "ratio")
    row("---", "---:", "---:", "---:", "---:")
    compare_batching(engine, "uniform", draw.integers(5, 31, clips))
    compare_batching(engine, "mostly short", np.minimum(5 + draw.exponential(8, clips).astype(int), 30))


def compare_batching(engine: Engine[Any], name: str, drawn_lengths: np.ndarray, width: int = 8) -> None:
    clips, lengths = len(drawn_lengths), dict(enumerate(drawn_lengths.tolist()))
    image = engine.encode_clips(random_frames(engine.config.vision.image_size)[:1, None]).tokens[0]

    def tokens(clip: int) -> np.ndarray:
        named = image.copy()
        named[0, 0] = clip
        return named

    def run(batches: list[range]) -> float:
        watched = Watched(engine, lengths)
        start = time.perf_counter()
        for batch in batches:
            decoder: Decoder[int] = Decoder(watched, SearchOptions(min_length=0), slots=width)
            for clip in batch:
                decoder.add(clip, tokens(clip), clip)
            while decoder.busy:
                decoder.step()
        return time.perf_counter() - start

    run([range(width)])
    ratios, seconds = [], []
    for _ in range(3):
        static = run([range(start, start + width) for start in range(0, clips, width)])
        continuous = run([range(clips)])
        ratios.append(static / continuous)
        seconds.append((static, continuous))
    static, continuous = (statistics.median(part) for part in zip(*seconds, strict=True))
    times = f"{static:.1f} s", f"{continuous:.1f} s", f"{statistics.median(ratios):.2f}"
    row(name, f"{drawn_lengths.mean():.1f}", *times)


def threads(arguments: argparse.Namespace) -> None:
    """Time a frame and a step of 48 rows with one and with two threads, in separate processes."""
    for count in ("1", "2"):
        print(f"{count} thread(s):", flush=True)
        order = [sys.executable, __file__, "phases", arguments.engine, arguments.precision, "--threads", count]
        subprocess.run([*order, "--checkpoint", str(arguments.checkpoint)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("floors", "phases", "search", "batching", "threads"))
    parser.add_argument("engine", nargs="?", default="mindspore")
    parser.add_argument("precision", nargs="?", default="fp32")
    parser.add_argument("--checkpoint", type=Path, default=Path("build/bench/vit-l-14.ckpt"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.what == "floors":
        bandwidth, rates = floors(arguments.threads)
        print(
            f"memory {bandwidth / 1e9:.1f} GB/s;", *(f"{name} {rate / 1e9:.0f} GMAC/s" for name, rate in rates.items())
        )
        return
    if arguments.what == "threads":
        threads(arguments)
        return
    model = find_model(str(arguments.checkpoint))
    choice = Choice(arguments.engine, arguments.device, arguments.precision, arguments.threads)
    engine = open_engine(model, choice)
    if arguments.what == "phases":
        phases(engine, choice)
    else:
        {"search": search, "batching": batching}[arguments.what](engine)


if __name__ == "__main__":
    main()
