"""Time coca and open_clip on one NVIDIA GPU: vit-l-14 of random weights, 6 beams, 30 tokens. Takes under four minutes.

    python benchmarks/card.py [--only encode,step,captions,folder,train] [--oracle-python ORACLE/bin/python]

Each row is measured with frames in memory; `folder` runs `coca caption` on clips of 640x360 pixels. open_clip runs in
its own environment (see README.md in this folder); without `--oracle-python` its column stays empty.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PARTS = ("encode", "step", "captions", "folder", "train")
ENCODED, CAPTIONED, ROWS = (1, 8, 64, 256), (1, 8, 64, 128, 256), (6, 48, 192, 768)
TRAINED = (("whole", 64), ("checkpointed", 256), ("locked", 64), ("locked", 256))  # see `train`


def frames(count: int) -> np.ndarray:
    """Return [count, 224, 224, 3] uint8, the same for both programs."""
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)


def median_of(action: Callable[[], object], seconds: float = 1.5) -> float:
    """Time an action, after two runs that may compile: the median of at least three runs."""
    action(), action()
    found: list[float] = []
    while len(found) < 3 or sum(found) < seconds:
        start = time.perf_counter()
        action()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


class Ours:
    """coca, on random weights."""

    def __init__(self, precision: str, weights: dict[str, np.ndarray]) -> None:
        import torch

        from cococli.catalog import VIT_L_14
        from cococli.engines.cuda import CudaEngine

        torch.set_num_threads(1)
        self.engine = CudaEngine(VIT_L_14, weights, "cuda", precision)
        self.wait = torch.cuda.synchronize

    def encode(self, count: int) -> float:
        pixels = frames(count)[:, None]
        return median_of(lambda: (self.engine.encode_clips(pixels), self.wait()))

    def captions(self, count: int) -> float:
        from cococli.captioning.captioner import Captioner

        captioner, pixels = Captioner(self.engine, "random"), frames(count)[:, None]
        return median_of(lambda: captioner.caption_batch(pixels, range(count)))

    def step(self, rows: int) -> float:
        """Time a step of the engine alone, without the search, in the middle of captions."""
        from cococli.decoding.search_options import SearchOptions

        options, engine = SearchOptions(), self.engine
        slots = np.arange(rows // options.rows)
        state = engine.begin(len(slots), options.rows, options.max_length, options.top_tokens)
        image = engine.encode_clips(frames(1)[:, None]).tokens[0]
        ids = np.full((len(slots), options.rows), engine.config.sot_id, np.int32)
        parents = np.broadcast_to(np.arange(options.rows, dtype=np.int32), ids.shape)
        found = []
        for _ in range(4):
            for slot in slots.tolist():
                engine.admit(state, slot, image)
            for _ in range(options.max_length - 1):
                start = time.perf_counter()
                engine.step(state, slots, ids, parents)
                found.append(time.perf_counter() - start)
        return statistics.median(found[options.max_length :])


def captions(count: int) -> np.ndarray:
    """Return ids of random captions of 8 to 20 tokens: [count, 76] int64."""
    random = np.random.default_rng(0)
    ids = np.zeros((count, 76), np.int64)
    for row in ids:
        length = random.integers(8, 21)
        row[: length + 2] = [49406, *random.integers(1000, 40000, length), 49407]
    return ids


def train(kind: str, count: int, precision: str, weights: dict[str, np.ndarray]) -> tuple[float, float]:
    """Train with coca; return the time of a step and the peak of GPU memory in GB.

    Args:
        kind: `whole`, `checkpointed` (activations are recomputed), or `locked` (the vision tower, features are cached).
    """
    import torch

    from cococli.catalog import VIT_L_14
    from cococli.training.objective import Batch, Objective
    from cococli.training.torch_trainer import Trainer

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    objective = Objective(caption=2.0, contrastive=1.0, lock_image=kind == "locked")
    checkpointing = kind == "checkpointed"
    trainer = Trainer(VIT_L_14, weights, objective, device="cuda", precision=precision, checkpointing=checkpointing)
    ids, pixels = captions(count).astype(np.int32), frames(count)[:, None]
    batch = Batch(ids, pixels)
    if kind == "locked":
        parts = [trainer.encode_images(part) for part in np.array_split(pixels, max(1, count // 64))]
        batch = Batch(ids, images=np.concatenate(parts))
    seconds = median_of(lambda: (trainer.step([batch], 1e-5, 1.0), torch.cuda.synchronize()))
    return seconds, (torch.cuda.max_memory_allocated() - before) / 1e9


def random_weights() -> dict[str, np.ndarray]:
    import torch

    from cococli.catalog import VIT_L_14
    from cococli.checkpoints.architecture import parameters

    torch.manual_seed(0)
    return {
        name: np.ones(shape, np.float32)
        if name.endswith(".gamma")
        else (torch.randn(shape, device="cuda") * 0.02).cpu().numpy()
        for name, shape in parameters(VIT_L_14).items()
    }


class Oracle:
    """open_clip, in this environment."""

    def __init__(self, precision: str) -> None:
        import torch

        self.torch, self.dtype = (
            torch,
            {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision],
        )

    @cached_property
    def model(self) -> Any:
        import open_clip

        return open_clip.create_model("coca_ViT-L-14").to("cuda", self.dtype).eval()

    def _pixels(self, count: int) -> Any:
        return self.torch.randn(count, 3, 224, 224, device="cuda").to(self.dtype)

    def encode(self, count: int) -> float:
        pixels = self._pixels(count)
        with self.torch.no_grad():
            return median_of(lambda: (self.model.encode_image(pixels), self.torch.cuda.synchronize()))

    def captions(self, count: int) -> float:
        pixels = self._pixels(count)
        with self.torch.no_grad():
            self.model.generate(pixels[:1], seq_len=30)
            start = time.perf_counter()
            self.model.generate(pixels, seq_len=30)
            return time.perf_counter() - start

    def train(self, kind: str, count: int) -> tuple[float, float]:
        """Train; return the time of a step and the peak of GPU memory in GB."""
        import open_clip

        torch = self.torch
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model = open_clip.create_model("coca_ViT-L-14", output_dict=True).to("cuda").train()
        if kind == "locked":
            model.visual.requires_grad_(False)
        model.set_grad_checkpointing(kind == "checkpointed")
        weights = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=True)
        loss = open_clip.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
        pixels, ids = torch.randn(count, 3, 224, 224, device="cuda"), torch.from_numpy(captions(count)).cuda()

        def step() -> None:
            optimizer.zero_grad()
            with torch.autocast("cuda", dtype=self.dtype):
                total = sum(loss(**model(pixels, ids), output_dict=True).values())
            total.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            total.item()

        seconds = median_of(step)
        return seconds, (torch.cuda.max_memory_allocated() - before) / 1e9


def start_oracle(python: str, precision: str) -> "Callable[..., Any]":
    command = [python, str(HERE / "card.py"), "--oracle", "--precision", precision]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(job: str, *arguments: Any) -> Any:
        assert process.stdin and process.stdout
        print(json.dumps([job, *arguments]), file=process.stdin, flush=True)
        return json.loads(process.stdout.readline())

    return ask


def answer(precision: str) -> None:
    """Run the measurements requested on stdin, one per line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    oracle = Oracle(precision)
    for line in sys.stdin:
        job, *arguments = json.loads(line)
        print(json.dumps(getattr(oracle, job)(*arguments)), file=answers, flush=True)
        oracle.torch.cuda.empty_cache()


def row(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def clips(folder: Path, count: int) -> Path:
    """Make clips of 640x360 pixels: 4 s of H.264, of which all but eight are copies."""
    import av

    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for number in range(min(8, count)):
        with av.open(str(folder / f"{number:04}.mp4"), "w") as file:
            stream = file.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
            low = random.integers(0, 256, (10, 16, 3), np.uint8)
            base = low.repeat(36, 0).repeat(40, 1)
            for shift in range(100):
                file.mux(stream.encode(av.VideoFrame.from_ndarray(np.roll(base, 5 * shift, 1))))
            file.mux(stream.encode())
    for number in range(8, count):
        shutil.copy(folder / f"{number % 8:04}.mp4", folder / f"{number:04}.mp4")
    return folder


def folder_runs(weights: dict[str, np.ndarray], precision: str) -> Iterator[tuple[str, int, float]]:
    """Run `coca caption` on folders of clips; yield a description, clips, and seconds of the whole command."""
    work = Path(os.environ.get("TMPDIR", "/tmp")) / "coca-card"
    model = work / "random.ckpt"
    if not model.exists():
        write_model(model, weights)
    for flags in ([], ["--frames", "multi"]):
        for count in (1, 2000):
            source = clips(work / f"clips-{count}", count)
            out = work / "out.jsonl"
            command = [sys.executable, "-m", "cococli", "caption", str(source), "--model", str(model), "-o", str(out)]
            start = time.perf_counter()
            done = subprocess.run(
                [*command, "--overwrite", "--precision", precision, *flags], stderr=subprocess.PIPE, text=True
            )
            seconds = time.perf_counter() - start
            print(done.stderr[-1500:], file=sys.stderr)
            assert done.returncode == 0 and len(out.read_text().splitlines()) == count
            yield " ".join(["coca caption", *flags]), count, seconds


def write_model(path: Path, weights: dict[str, np.ndarray]) -> None:
    """Write a converted checkpoint with its config beside it: 2.55 GB."""
    from cococli.catalog import VIT_L_14
    from cococli.checkpoints import ckpt

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for name, array in weights.items():
            ckpt.write(file, name, array.shape, [array])
    path.with_suffix(".json").write_text(json.dumps(VIT_L_14.to_file()))


def infer(parts: list[str], precision: str, weights: dict[str, np.ndarray], ask: "Callable[..., Any] | None") -> None:
    """Compare encoding and captions, and time steps."""
    ours = Ours(precision, weights)

    def compare(job: str, count: int, unit: str) -> None:
        mine = count / getattr(ours, job)(count)
        theirs = count / ask(job, count) if ask else 0.0
        others = (f"{theirs:,.1f}", f"{mine / theirs:.1f}") if ask else ("", "")
        row(f"{job}, batch {count}", f"{mine:,.1f} {unit}", *others)

    for count in ENCODED if "encode" in parts else ():
        compare("encode", count, "frames/s")
    for rows in ROWS if "step" in parts else ():
        row(f"step, {rows} rows", f"{1000 * ours.step(rows):.2f} ms", "", "")
    for count in CAPTIONED if "captions" in parts else ():
        compare("captions", count, "captions/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--precision", default="bf16", choices=("bf16", "fp16", "fp32"))
    parser.add_argument("--oracle-python", help="a Python with open_clip_torch 3.3.0 and transformers 4.50.3")
    parser.add_argument("--oracle", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.oracle:
        return answer(arguments.precision)
    import torch

    parts = arguments.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"--only takes some of {','.join(PARTS)}, not {', '.join(sorted(unknown))}")
    python, precision = arguments.oracle_python, arguments.precision
    ask = start_oracle(python, precision) if python and {"encode", "captions", "train"} & {*parts} else None
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {os.cpu_count()} CPU cores, {precision}\n")
    row("measurement", "coca", "open_clip", "ratio")
    row("---", "---:", "---:", "---:")
    weights = random_weights()
    if {"encode", "step", "captions"} & {*parts}:
        infer(parts, precision, weights, ask)
    for kind, count in TRAINED if "train" in parts else ():
        seconds, memory = train(kind, count, precision, weights)
        torch.cuda.empty_cache()
        others, ratio = "", ""
        if ask:
            theirs, more = ask("train", kind, count)
            others, ratio = f"{count / theirs:,.0f}, {more:.0f} GB", f"{theirs / seconds:.1f}"
        row(f"train {kind}, batch {count}", f"{count / seconds:,.0f} images/s, {memory:.0f} GB", others, ratio)
    if "folder" in parts:
        seconds = {}
        for name, count, spent in folder_runs(weights, precision):
            seconds[name, count] = spent
            row(f"{name}, {count} clips", f"{spent:.1f} s", "", "")
            if count > 1:
                row(f"{name}, after loading", f"{(count - 1) / (spent - seconds[name, 1]):.1f} clips/s", "", "")
    return None


if __name__ == "__main__":
    main()
