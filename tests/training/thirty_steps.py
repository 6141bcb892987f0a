"""Thirty steps of open_clip 3.3.0's own training loop, recorded for test_parity.py.

    ORACLE/bin/python tests/training/thirty_steps.py tests/data/goldens/tiny  # writes thirty_steps.npz

ORACLE is an environment with open_clip_torch 3.3.0. The folder holds a checkpoint of open_clip and its config. Up to 64
numbers of each tensor are recorded.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import numpy as np

STEPS, BATCH = 30, 4
LEARNING_RATE, WARMUP, WEIGHT_DECAY, MAX_NORM = 1e-3, 5, 0.2, 1.0
CAPTION_LOSS, CONTRASTIVE_LOSS = 2.0, 1.0
RECORDED = 64  # numbers of each tensor, at most


def batches(size: int, context: int, vocabulary: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield ids [B, T] int32 and pixels [B, 3, S, S] float32 of each step."""
    random = np.random.default_rng(0)
    for _ in range(STEPS):
        ids = np.zeros((BATCH, context), np.int32)
        for row, length in zip(ids, random.integers(4, context, BATCH), strict=True):
            row[:length] = [vocabulary - 2, *random.integers(1, vocabulary - 2, length - 2), vocabulary - 1]
        yield ids, random.standard_normal((BATCH, 3, size, size), np.float32)


def recorded(tensor: np.ndarray) -> np.ndarray:
    """Return numbers of a tensor at equal distances."""
    flat = tensor.reshape(-1)
    return flat[:: -(-flat.size // RECORDED)]


def main(folder: Path) -> None:
    import torch

    sys.modules["torchvision._meta_registrations"] = type(sys)("unused")  # registers operators that may be missing
    from open_clip import coca_model
    from open_clip.loss import CoCaLoss
    from open_clip_train.scheduler import cosine_lr
    from open_clip_train.train import train_one_epoch

    config = json.loads((folder / "config.json").read_text())
    vision, text = config["vision_cfg"], config["text_cfg"]
    model = coca_model.CoCa(config["embed_dim"], config["multimodal_cfg"], text, vision)
    state = torch.load(folder / "open_clip_pytorch_model.bin", weights_only=True)
    model.load_state_dict(state, strict=False)

    def decays(name: str, parameter: torch.Tensor) -> bool:  # as in open_clip_train.main
        return parameter.ndim >= 2 and not any(part in name for part in ("bn", "ln", "bias", "logit_scale"))

    groups = [
        {
            "params": [one for name, one in model.named_parameters() if decays(name, one) == wanted],
            "weight_decay": WEIGHT_DECAY * wanted,
        }
        for wanted in (False, True)
    ]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6)

    class Loader(list):  # type: ignore[type-arg]
        num_batches, num_samples = STEPS, STEPS * BATCH

    steps = batches(vision["image_size"], text["context_length"], text["vocab_size"])
    loader = Loader((torch.from_numpy(pixels), torch.from_numpy(ids).long()) for ids, pixels in steps)
    data = Namespace(dataloader=loader, set_epoch=lambda epoch: None)
    options = Namespace(
        device="cpu", precision="fp32", accum_freq=1, skip_scheduler=False, distill=False, horovod=False,
        grad_clip_norm=MAX_NORM, rank=0, local_rank=0, world_size=1, log_every_n_steps=1000, batch_size=BATCH,
        wandb=False, save_logs=False,
    )  # fmt: skip
    loss = CoCaLoss(caption_loss_weight=CAPTION_LOSS, clip_loss_weight=CONTRASTIVE_LOSS)
    schedule = cosine_lr(optimizer, LEARNING_RATE, WARMUP, STEPS)
    train_one_epoch(model, {"train": data}, loss, 0, optimizer, None, schedule, None, options)
    found = {name: recorded(tensor.detach().numpy()) for name, tensor in model.named_parameters()}
    np.savez_compressed(folder / "thirty_steps.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
