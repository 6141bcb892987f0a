"""Captions of the bundled model on the synthetic data set, and reading of videos: `make bench ONLY=quality,videos`."""

import json
import shutil
import subprocess
import sys
import time
from contextlib import closing
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from words import seconds

ROOT = Path(__file__).parents[1]
CLI = [sys.executable, "-m", "cococli"]
ENGINES = {"fp32": "torch", "bf16": "openvino", "int8": "openvino"}


def measure(work: Path, quick: bool) -> dict[str, Any]:
    """Evaluate the bundled model on held-out pictures in each precision, and on clips with one frame and with eight."""
    count = "8" if quick else "200"
    home = work / "quality"
    shutil.rmtree(home, ignore_errors=True)
    draw = [sys.executable, ROOT / "examples/shapes.py", home, "--train", "1", "--val", count, "--clips", count]
    subprocess.run(draw, check=True)
    found: dict[str, Any] = {}
    captions: dict[str, list[str]] = {}
    vectors: dict[str, np.ndarray] = {}
    for precision, engine in ENGINES.items():
        out = home / precision
        scores = evaluate(home, out, "--engine", engine, "--precision", precision)
        captions[precision] = [json.loads(line)["caption"] for line in (out / "captions.jsonl").open()]
        vectors[precision] = index_vectors(out / "index")
        least = float((vectors[precision] * vectors["fp32"]).sum(1).min())
        same = sum(a == b for a, b in zip(captions[precision], captions["fp32"], strict=True))
        found[precision] = {"scores": scores, "same": same, "count": len(captions[precision]), "cosine": least}
        print(f"  {precision}: {found[precision]}", flush=True)
    for frames in ("middle", "multi"):
        flags = ["--frames", frames, "--engine", "torch", "--precision", "fp32", "--only", "captions"]
        found[frames] = evaluate(home / "clips", home / frames, *flags)["CIDEr"]
        print(f"  {frames}: {found[frames]}", flush=True)
    shutil.rmtree(home)
    return found


def evaluate(data: Path, out: Path, *flags: str) -> dict[str, float]:
    command = [*CLI, "evaluate", "--data", data, "--model", "shapes", "-o", out, "--overwrite", "--quiet", *flags]
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)
    return json.loads((out / "report.json").read_text())["scores"]


def index_vectors(folder: Path) -> np.ndarray:
    from cococli.retrieval.index import Index

    vectors = np.asarray(Index(folder).vectors, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def render(values: dict[str, Any]) -> dict[str, str]:
    found = {name: f"{100 * values[name]:.1f}" for name in ("middle", "multi")}
    for precision in ENGINES:
        each = values[precision]
        found[f"{precision}.same"] = f"{each['same']} of {each['count']}"
        found[f"{precision}.cosine"] = f"{int(1e4 * each['cosine']) / 1e4:.4f}"  # rounded down
        found[f"{precision}.cider"] = f"{100 * each['scores']['CIDEr']:.1f}"
    scores = values["fp32"]["scores"]
    found["bleu"] = f"{100 * scores['BLEU-4']:.1f}"
    found["text"] = f"{100 * scores['image to text recall@1']:.1f}"
    found["image"] = f"{100 * scores['text to image recall@1']:.1f}"
    return found


def measure_videos(work: Path, quick: bool) -> dict[str, Any]:
    """Time reading a clip of 7 s, 640x360, in one process: its middle frame, and eight."""
    from cococli.benchmark import _make_clip
    from cococli.media.clips import ReadRequest, Sampling, Segments
    from cococli.media.pool import VideoRead, read_videos

    path = work / "clip.mp4"
    _make_clip(path)
    found: dict[str, Any] = {}
    for frames in ("middle", "multi"):
        request = ReadRequest(Sampling(frames), Segments(), 224)
        with closing(read_videos(repeat((path, request)), processes=1)) as events:
            ends: list[float] = []
            while len(ends) < 3 or ends[-1] - ends[0] < (1 if quick else 8):
                ends += [time.perf_counter() for event in [next(events)] if isinstance(event, VideoRead)]
        found[frames] = (ends[-1] - ends[1]) / (len(ends) - 2)
    return found


def render_videos(values: dict[str, Any]) -> dict[str, str]:
    return {name: seconds(value) for name, value in values.items()}
