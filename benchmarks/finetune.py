"""Comparison of training steps of coca and open_clip 3.3.0, with random weights: see README.md in this folder.

    python benchmarks/finetune.py --oracle-python ORACLE/bin/python [--data coco/] [--pairs 5] [--frozen vision]
    python benchmarks/finetune.py --only-ours vit-l-14 --frozen vision --batch 8

Without --data captions have 20 random tokens, and pictures are noise.

This file also runs in a process of its own and answers the index of a batch with {"seconds": ..., "peak_mb": ...}.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from workers import THREADS, Worker, peak_mb, without_torchvision_operators

LEARNING_RATE, WEIGHT_DECAY, MAX_NORM = 1e-5, 0.2, 1.0
OPEN_CLIP = {"vit-b-32": "coca_ViT-B-32", "vit-l-14": "coca_ViT-L-14"}


Batch = tuple[np.ndarray, np.ndarray]  # [B, 76] int32 captions, [B, 1, 3, 224, 224] float32 pictures


def random_batch(count: int) -> Batch:
    ids = np.zeros((count, 76), np.int32)
    ids[:, :20] = np.random.default_rng(0).integers(1, 49000, (count, 20))
    ids[:, 0], ids[:, 19] = 49406, 49407
    return ids, np.random.default_rng(1).standard_normal((count, 1, 3, 224, 224), dtype=np.float32)


def real_batches(folder: Path, count: int) -> list[Batch]:
    """Return the batches of the first epoch of a run on this data."""
    from cococli.catalog import CLIP
    from cococli.datasets.feeding import Feeding, feed
    from cococli.datasets.pairs import Order, bucket_lengths, pairs_of
    from cococli.media.clips import Sampling
    from cococli.model.arrays import normalize
    from cococli.requests import FinetuneRequest
    from cococli.training.data import find_data

    pairs = pairs_of(find_data(FinetuneRequest(folder, hold_out=0), 76).train, 76)
    order = Order(0, bucket_lengths(pairs.ids, 0), count)
    steps = feed(pairs, order, range(order.steps), Feeding(Sampling("middle"), 224))
    return [(step.ids, normalize(step.pixels, CLIP)) for step in steps if step.pixels is not None]


class Ours:
    def __init__(self, model: str, frozen: str, batches: list[Batch], precision: str) -> None:
        import torch

        from cococli import catalog
        from cococli.checkpoints.architecture import parameters
        from cococli.training.objective import AdamWOptions, Batch, Objective
        from cococli.training.torch_trainer import Trainer

        config = catalog.MODELS[model].config
        assert config
        weights = {name: random_values(name, shape) for name, shape in parameters(config).items()}
        torch.set_num_threads(THREADS)
        objective = Objective(lock_image=frozen == "vision", lock_text=frozen == "text")
        adamw = AdamWOptions(weight_decay=WEIGHT_DECAY)
        self.trainer = Trainer(config, weights, objective, adamw, precision=precision)
        self.batches = [Batch(ids, pixels) for ids, pixels in batches]
        if frozen == "vision":  # a run computes image features only once
            features = [self.trainer.encode_images(pixels) for _, pixels in batches]
            self.batches = [Batch(ids, images=images) for (ids, _), images in zip(batches, features, strict=True)]

    def step(self, index: int) -> None:
        assert self.trainer.step([self.batches[index]], LEARNING_RATE, MAX_NORM).applied


class Oracle:
    def __init__(self, model: str, frozen: str, batches: list[Batch], precision: str) -> None:
        import torch

        torch.set_num_threads(THREADS)
        without_torchvision_operators(torch)
        import open_clip
        from open_clip.loss import CoCaLoss

        self.torch = torch
        self.model = open_clip.create_model(OPEN_CLIP[model]).train()
        if frozen == "vision":
            self.model.visual.lock()
        wanted = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [parameter for parameter in wanted if parameter.ndim < 2], "weight_decay": 0.0},
            {"params": [parameter for parameter in wanted if parameter.ndim >= 2], "weight_decay": WEIGHT_DECAY},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)
        self.loss = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)
        self.batches = [(torch.from_numpy(ids).long(), torch.from_numpy(pixels[:, 0])) for ids, pixels in batches]

    def step(self, index: int) -> None:
        ids, pixels = self.batches[index]
        found = self.model(pixels, ids)
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


def work(kind: str, model: str, frozen: str, data: str, precision: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep output of the libraries out of the answers
    arrays = np.load(data)
    batches = list(zip(arrays["ids"], arrays["pixels"], strict=True))
    program = {"ours": Ours, "oracle": Oracle}[kind](model, frozen, batches, precision)
    for line in sys.stdin:
        start = time.perf_counter()
        program.step(int(line) % len(batches))
        print(json.dumps({"seconds": time.perf_counter() - start, "peak_mb": peak_mb()}), file=answers, flush=True)


def compare(arguments: argparse.Namespace, model: str, frozen: str, data: str, batches: int) -> None:
    """Time steps of both in turn, after an epoch of coca, whose first steps take longer."""
    ours = Worker(sys.executable, __file__, "--worker", "ours", model, frozen, data, arguments.precision)
    theirs_frozen = arguments.theirs or frozen
    command = arguments.oracle_python, __file__, "--worker", "oracle", model, theirs_frozen, data, "fp32"
    oracle = None if arguments.only_ours else Worker(*command)
    first = sum(ours.run(index)["seconds"] for index in range(batches))
    if oracle:
        oracle.run(0)
    mine: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for index in range(arguments.pairs):
        mine.append(ours.run(index))
        if oracle:
            theirs.append(oracle.run(index))
    cells = [f"{model}, {frozen} frozen", f"{first:.1f} s", f"{mean(mine):.2f} s", f"{mine[-1]['peak_mb']:.0f} MB"]
    if oracle:
        cells += [f"{mean(theirs):.2f} s", f"{theirs[-1]['peak_mb']:.0f} MB", f"{mean(mine) / mean(theirs):.2f}"]
        oracle.close()
    ours.close()
    print("| " + " | ".join(cells) + " |", flush=True)


def mean(steps: list[dict[str, Any]]) -> float:
    """Return the mean, not the median, as an epoch has batches of short and of long captions."""
    return statistics.mean(step["seconds"] for step in steps)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--oracle-python", help="a Python with open_clip_torch 3.3.0")
    parser.add_argument("--data", type=Path, help="pictures with captions, such as COCO")
    parser.add_argument("--only-ours", choices=OPEN_CLIP, help="measure this model without open_clip")
    parser.add_argument("--frozen", choices=("none", "vision", "text"), help="frozen part; default: none, then vision")
    parser.add_argument("--theirs", choices=("none", "vision"), help="frozen in open_clip; default: what coca freezes")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of coca")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, help="pairs of steps; default: an epoch, or 5 without --data")
    arguments = parser.parse_args()
    batches = real_batches(arguments.data, arguments.batch) if arguments.data else [random_batch(arguments.batch)]
    arguments.pairs = arguments.pairs or (len(batches) if arguments.data else 5)
    ids, pixels = zip(*batches, strict=True)
    print("| model | first steps | step | peak | open_clip's step | peak | coca / open_clip |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        np.savez(f"{folder}/data.npz", ids=ids, pixels=pixels)
        for frozen in [arguments.frozen] if arguments.frozen else ["none", "vision"]:
            model = arguments.only_ours or "vit-b-32"
            compare(arguments, model, frozen, f"{folder}/data.npz", len(batches))


if __name__ == "__main__":
    main()
