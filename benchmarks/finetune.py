"""Training steps of coca and open_clip 3.3.0 on a CPU, with random weights: `make bench ONLY=training`.

Captions have 20 random tokens, and pictures are noise. This file also runs in a separate process and answers each
line with {"seconds": ..., "peak_mb": ...}.
"""

import json
import os
import statistics
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from words import digits, gigabytes, seconds, table
from workers import THREADS, Worker, peak_mb, without_torchvision_operators

LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 1e-5, 0.2, 1.0
MODEL, OPEN_CLIP = "vit-b-32", "coca_ViT-B-32"

Batch = tuple[np.ndarray, np.ndarray]  # [B, 76] int32 captions, [B, 1, 3, 224, 224] float32 pictures


def random_batch(count: int) -> Batch:
    ids = np.zeros((count, 76), np.int32)
    ids[:, :20] = np.random.default_rng(0).integers(1, 49000, (count, 20))
    ids[:, 0], ids[:, 19] = 49406, 49407
    return ids, np.random.default_rng(1).standard_normal((count, 1, 3, 224, 224), dtype=np.float32)


class Ours:
    def __init__(self, frozen: str, precision: str, count: int) -> None:
        import torch

        from cococli import catalog
        from cococli.checkpoints.architecture import parameters
        from cococli.training.objective import AdamWOptions, Batch, Objective
        from cococli.training.torch_trainer import Trainer

        config = catalog.MODELS[MODEL].config
        assert config
        weights = {name: random_values(name, shape) for name, shape in parameters(config).items()}
        torch.set_num_threads(THREADS)
        objective = Objective(lock_image=frozen == "vision")
        self.trainer = Trainer(config, weights, objective, AdamWOptions(weight_decay=WEIGHT_DECAY), precision=precision)
        ids, pixels = random_batch(count)
        self.batch = Batch(ids, pixels)
        if frozen == "vision":  # a run computes image features only once
            self.batch = Batch(ids, images=self.trainer.encode_images(pixels))

    def step(self) -> None:
        assert self.trainer.step([self.batch], LEARNING_RATE, MAX_NORM).applied


class Oracle:
    """open_clip's own training: in bf16, it computes in it by autocast."""

    def __init__(self, frozen: str, precision: str, count: int) -> None:
        import torch

        torch.set_num_threads(THREADS)
        without_torchvision_operators(torch)
        import open_clip
        from open_clip.loss import CoCaLoss

        self.torch = torch
        self.autocast = torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else nullcontext()
        self.model = open_clip.create_model(OPEN_CLIP).train()
        if frozen == "vision":
            self.model.visual.lock()
        wanted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [parameter for parameter in wanted if parameter.ndim < 2], "weight_decay": 0.0},
            {"params": [parameter for parameter in wanted if parameter.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)
        self.loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
        ids, pixels = random_batch(count)
        self.ids, self.pixels = torch.from_numpy(ids).long(), torch.from_numpy(pixels[:, 0])

    def step(self) -> None:
        with self.autocast:
            found = self.model(self.pixels, self.ids)
            inputs = ("image_features", "text_features", "logits", "labels", "logit_scale")
            losses = self.loss(**{name: found[name] for name in inputs}, output_dict=True)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.torch.nn.utils.clip_grad_norm_(self.model.parameters(), MAX_NORM)
        self.optimizer.step()


def random_values(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name.endswith("gamma"):
        return np.ones(shape, np.float32)
    return np.asarray(np.random.default_rng(len(name)).standard_normal(shape, np.float32) * np.float32(0.02))


def work(kind: str, frozen: str, precision: str, count: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep output of the libraries out of the answers
    program = {"ours": Ours, "oracle": Oracle}[kind](frozen, precision, int(count))
    for _ in sys.stdin:
        start = time.perf_counter()
        program.step()
        print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak_mb()}), file=answers, flush=True)


def measure(folder: Path, quick: bool) -> dict[str, Any]:
    """Time steps of both in turn, after two that take longer."""
    found: dict[str, Any] = {}
    count, steps = (1, 3) if quick else (8, 5)
    for frozen in ("none",) if quick else ("none", "vision"):
        for precision in ("bf16",) if quick else ("fp32", "bf16"):
            ours = Worker(__file__, "ours", frozen, precision, count)
            oracle = Worker(__file__, "oracle", frozen, precision, count, packages=folder / "open_clip")
            answers = [[worker.run(None) for worker in (ours, oracle)] for _ in range(steps)]
            for worker in (ours, oracle):
                worker.close()
            pairs = [[answer["seconds"] for answer in pair] for pair in answers[2:]]
            print(f"  {frozen} frozen, {precision}: {pairs}", flush=True)
            found[f"{frozen} {precision}"] = {"pairs": pairs, "peaks": [answer["peak_mb"] for answer in answers[-1]]}
    return found


def render(values: dict[str, Any]) -> dict[str, str]:
    rows = []
    for name, found in values.items():
        frozen, precision = name.split()
        both = [seconds(statistics.median(each)) for each in zip(*found["pairs"], strict=True)]
        ratio = digits(statistics.median(theirs / mine for mine, theirs in found["pairs"]))
        label = precision + ", vision frozen in both" * (frozen == "vision")
        rows.append([label, *both, f"**{ratio}**", *(gigabytes(1e6 * peak) if peak else "" for peak in found["peaks"])])
    return {"table": table(["", "coca", "open_clip", "open_clip / coca", "memory of coca", "of open_clip"], rows)}


if __name__ == "__main__":
    work(*sys.argv[1:])
