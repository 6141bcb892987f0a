"""A CoCa as thin as CLIP's vocabulary lets it be, data for it, and runs that train it in a moment."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.training_fixtures import pictures

from cococli.catalog import CocaConfig, TextConfig, VisionConfig
from cococli.training.data import Source
from cococli.training.run import Asked
from cococli.training.step import Step
from cococli.training.validation import Validation

TEXT = TextConfig(context_length=12, width=16, heads=2, layers=1)
CONFIG = CocaConfig(16, VisionConfig(16, 8, 16, 1, 8, pooler_queries=4, pooler_heads=2), TEXT, TEXT)
COLOURS = "red", "green", "blue", "white", "black", "yellow", "pink", "grey", "brown", "orange"


def config_file(folder: Path, config: CocaConfig = CONFIG) -> str:
    path = folder / "thin.json"
    path.write_text(json.dumps(config.to_open_clip()))
    return str(path)


def write_list(folder: Path, lines: Iterable[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "captions.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def captioned(folder: Path, train: int = 8, val: int = 2) -> Path:
    """A folder of pictures, two captions each, in two splits."""
    folder.mkdir(parents=True)
    for place, path in enumerate(pictures(folder, train + val)):
        colour = COLOURS[place]
        captions = [f"a {colour} thing", f"it is {colour}"]
        split = "train" if place < train else "val"
        with (folder / "captions.jsonl").open("a") as file:
            file.write(json.dumps({"path": path.name, "captions": captions, "split": split}) + "\n")
    return folder


def asked(folder: Path, **changed: Any) -> Asked:
    """A run of six steps from noise, or from a model if one is named."""
    start = {} if "model" in changed else {"config": config_file(folder.parent)}
    usual = {"name": "mine", "steps": 6, "batch_size": 4, "rate": 0.01, "save_every": 2, "hold_out": 0}
    return Asked(Source(folder), **{**usual, **start, **changed})


@dataclass
class Told:
    """Keeps what a run tells, and asks it to stop after a step. Implements `run.Teller`."""

    stop_after: int | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    looked: list[tuple[int, int]] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    looks: list[tuple[int, Validation, bool]] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def features(self, done: int, total: int) -> None:
        self.looked.append((done, total))

    def step(self, step: int, steps: int, found: Step, rate: float) -> None:
        self.steps.append(step)

    def look(self, step: int, found: Validation, best: bool) -> None:
        self.looks.append((step, found, best))

    def stopping(self) -> bool:
        return bool(self.steps) and self.steps[-1] == self.stop_after
