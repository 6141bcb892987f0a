"""Captions of coca and open_clip 3.3.0 on a CPU, and conversion, with random weights: `make bench ONLY=captions`."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from words import gigabytes, seconds, table
from workers import Worker

HERE = Path(__file__).parent
CLI = [sys.executable, "-m", "cococli"]
MODELS = {"vit-l-14": "coca_ViT-L-14", "vit-b-32": "coca_ViT-B-32"}
ENGINES = ("openvino int8", "openvino bf16", "torch bf16", "torch fp32", "mindspore fp32")
NAMES = {"openvino": "OpenVINO", "mindspore": "MindSpore"}
MANY, BEAMS, STEPS = 8, 6, 29  # pictures at once; the steps after SOT, as random weights never end a caption
JOBS = (("encode", 1), ("encode", MANY), ("caption", 1), ("caption", MANY))

PEAK = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def write_checkpoint(path: Path, model: str) -> Path:
    """Write random weights in the Hub's format, if they are missing: 2.55 GB for vit-l-14."""
    if not path.exists():
        import torch

        from cococli.catalog import MODELS
        from cococli.checkpoints.architecture import parameters
        from cococli.checkpoints.tensors import tensors_of

        config, rng = MODELS[model].config, np.random.default_rng(0)
        assert config
        shapes = [(tensor.name, tensor.shape) for tensor in tensors_of(parameters(config))]
        part = path.with_suffix(".part")
        torch.save({name: torch.from_numpy(random_values(rng, name, shape)) for name, shape in shapes}, part)
        part.replace(path)
    return path


def random_values(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith(".weight") and "ln_" in name:
        return np.ones(shape, np.float32)
    return np.asarray(rng.standard_normal(shape, np.float32) * np.float32(0.02), np.float32)


def checkpoints(work: Path, quick: bool) -> tuple[str, Path, Path]:
    """Return the name of a model, its checkpoint, and that converted."""
    model = "vit-b-32" if quick else "vit-l-14"
    checkpoint = write_checkpoint(work / f"{model}.bin", model)
    converted = checkpoint.with_suffix(".ckpt")
    if not converted.exists():
        subprocess.run([*CLI, "convert", checkpoint, converted, "--config", model], check=True)
    return model, checkpoint, converted


def timed(command: list[object], **options: Any) -> float:
    start = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, **options)
    return time.perf_counter() - start


def measure(work: Path, quick: bool) -> dict[str, Any]:
    """Time coca in turn with open_clip in as many bits, and int8 with 16; then whole commands."""
    model, checkpoint, converted = checkpoints(work, quick)
    engines = [name for name in ENGINES if find_spec(name.split()[0]) and not (quick and name != "torch bf16")]
    oracle = [HERE / "workers.py", "oracle", checkpoint, MODELS[model]]
    times: dict[str, dict[str, list[float]]] = {}
    peaks: dict[str, float] = {}
    for precision in ("bf16",) if quick else ("bf16", "fp32"):
        ours = [name for name in engines if name.endswith("fp32") == (precision == "fp32")]
        programs = {name: Worker(HERE / "workers.py", "ours", converted, *name.split()) for name in ours}
        programs[f"open_clip {precision}"] = Worker(*oracle, precision, packages=work / "open_clip")
        take_turns(programs, quick, times, peaks)
        for worker in programs.values():
            worker.close()
    return {"times": times, "peaks": peaks, "commands": commands(work, converted, engines, oracle, 1 if quick else 2)}


def take_turns(
    programs: dict[str, Worker], quick: bool, times: dict[str, dict[str, list[float]]], peaks: dict[str, float]
) -> None:
    """Run each job three times in all programs in turn, but captions of many pictures once."""
    jobs = JOBS[::2] if quick else JOBS
    for name, worker in programs.items():  # compile
        for job, images in jobs if not name.startswith("open_clip") else JOBS[:1]:
            print(f"  warming up {name}: {job} {images}", flush=True)
            worker.run({"job": job, "images": images})
    for job, images in jobs:
        count = 1 if quick or (job, images) == JOBS[-1] else 3
        for number in range(count):
            for name, worker in programs.items():
                answer = worker.run({"job": job, "images": images})
                assert job == "encode" or answer["tokens"] == STEPS + 1, answer
                times.setdefault(name, {}).setdefault(f"{job} {images}", []).append(answer["seconds"])
                peaks[name] = answer["peak_mb"]
                print(f"  {job} {images}, {number + 1} of {count}: {name} {answer['seconds']:.2f} s", flush=True)


def commands(
    work: Path, converted: Path, engines: list[str], oracle: list[object], rounds: int
) -> dict[str, list[float]]:
    """Time whole commands for one picture, in turn: start, load and caption. Graphs were compiled before."""
    from PIL import Image

    picture, out = work / "picture.png", work / "out.jsonl"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)).save(picture)
    caption = [*CLI, "caption", picture, "--model", converted, "-o", out, "--overwrite", "--quiet"]
    found: dict[str, list[float]] = {name: [] for name in engines}
    for number in range(rounds + 1):
        for name in engines:
            engine, precision = name.split()
            took = timed([*caption, "--engine", engine, "--precision", precision])
            if number:
                found[name].append(took)
    request = json.dumps({"job": "caption", "images": 1}) + "\n"
    packages = os.environ | {"PYTHONPATH": str(work / "open_clip")}
    for precision in ("bf16", "fp32") if rounds > 1 else ("bf16",):
        took = timed([sys.executable, *oracle, precision], input=request, text=True, env=packages)
        found[f"open_clip {precision}"] = [took]
    print(f"  commands: {found}", flush=True)
    return found


def render(values: dict[str, Any]) -> dict[str, str]:
    times, jobs = values["times"], [f"{job} {images}" for job, images in JOBS]
    medians = {name: {job: statistics.median(times[name][job]) for job in jobs} for name in times}
    half = "open_clip bf16" if "open_clip bf16" in times else "open_clip fp32"
    ours = [name for name in times if not name.startswith("open_clip")]

    def ratio(name: str, job: str) -> float:
        """Return the median of the ratios of pairs, to open_clip in as many bits; int8 is compared to 16."""
        others = times["open_clip fp32" if name.endswith("fp32") else half][job]
        return statistics.median(b / a for a, b in zip(times[name][job], others, strict=True))

    def row(label: str, cell: Callable[[str], str]) -> list[str]:
        return [label, *map(cell, times)]

    def ratios(job: str) -> list[str]:
        return row("open_clip / coca", lambda name: f"**{ratio(name, job):.1f}**" if name in ours else "")

    def step(name: str) -> str:
        """open_clip encodes each picture once per beam."""
        encodes = BEAMS if name.startswith("open_clip") else 1
        return seconds((medians[name][jobs[3]] - encodes * medians[name][jobs[1]]) / STEPS)

    titles = ["", *(f"{NAMES.get(engine, engine)} {bits}" for engine, bits in map(str.split, times))]
    rows = [
        row("encode 1 picture", lambda name: seconds(medians[name][jobs[0]])),
        row(f"encode {MANY} pictures", lambda name: seconds(medians[name][jobs[1]])),
        row("caption 1 picture", lambda name: seconds(medians[name][jobs[2]])),
        ratios(jobs[2]),
        row(f"caption {MANY} pictures", lambda name: seconds(medians[name][jobs[3]])),
        ratios(jobs[3]),
        row(f"of it, each of {STEPS} steps", step),
        row("the command, start to end, 1 picture", lambda name: seconds(statistics.median(values["commands"][name]))),
        row(f"peak memory, {MANY} pictures", lambda name: gigabytes(1e6 * values["peaks"][name])),
    ]
    fastest = min(ours, key=lambda name: medians[name][jobs[3]] if not name.endswith("int8") else 1e9)
    return {
        "table": table(titles, rows),
        "ratios": "in as many bits, and of int8 to bf16" if half.endswith("bf16") else "in fp32",
        "ratio": f"{ratio(fastest, jobs[3]):.0f}",
        "start": seconds(statistics.median(values["commands"][fastest])),
        "clip": seconds(medians[fastest][jobs[3]] / MANY),
    }


def measure_conversion(work: Path, quick: bool) -> dict[str, Any]:
    model, checkpoint, _ = checkpoints(work, quick)
    target = work / "again.ckpt"
    found: dict[str, list[float]] = {}
    for name, flags in (("plain", []), ("verify", ["--verify"])):
        command = [*CLI, "convert", str(checkpoint), str(target), "--config", model, "--overwrite", *flags]
        start = time.perf_counter()
        # Through a small process: the peak of a child includes that of the process that forks it.
        peak = subprocess.run([sys.executable, "-c", PEAK, *command], check=True, stdout=subprocess.PIPE, text=True)
        found[name] = [time.perf_counter() - start, int(peak.stdout) * (1 if sys.platform == "darwin" else 1024)]
    target.unlink()
    return found


def render_conversion(values: dict[str, Any]) -> dict[str, str]:
    return {
        f"{name}.{what}": text
        for name, (took, memory) in values.items()
        for what, text in (("time", seconds(took)), ("memory", gigabytes(memory)))
    }


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_help(work: Path, quick: bool) -> dict[str, Any]:
    commands = {"coca": [*CLI, "--help"], "caption": [*CLI, "caption", "--help"]}
    return {name: [cpu_seconds(command) for _ in range(3 if quick else 9)] for name, command in commands.items()}


def render_help(values: dict[str, Any]) -> dict[str, str]:
    return {name: seconds(statistics.median(each)) for name, each in values.items()}
