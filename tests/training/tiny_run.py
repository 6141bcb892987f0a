"""A CoCa as small as CLIP's vocabulary allows, data for it, and requests that train it in seconds."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from training.training_fixtures import pictures

from cococli.catalog import CocaConfig, TextConfig, VisionConfig
from cococli.reporting import Progress, Reporter
from cococli.requests import FinetuneRequest

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


def request(folder: Path, **changed: Any) -> FinetuneRequest:
    """A request for six steps from random weights, or from a model if one is named."""
    start = {} if "model" in changed else {"from_scratch": True, "config": config_file(folder.parent)}
    usual = {"name": "mine", "steps": 6, "batch_size": 4, "learning_rate": 0.01, "save_every": 2, "hold_out": 0}
    return FinetuneRequest(folder, **{**usual, **start, **changed})


@dataclass
class RecordingReporter(Reporter):
    """Keeps what is reported, and requests a stop after a step."""

    stop_after: int | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    moves: list[tuple[str, int, int | None, str]] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def record(self, record: Any) -> None:
        self.records.append(record)

    @contextmanager
    def progress(self, description: str, total: int | None = None, **_: Any) -> Iterator[Progress]:
        yield RecordedProgress(self, description)

    @property
    def stop_requested(self) -> bool:
        return bool(self.steps) and self.steps[-1] == self.stop_after

    @property
    def steps(self) -> list[int]:
        return [record["step"] for record in self.records if "loss" in record]

    @property
    def validations(self) -> list[dict[str, Any]]:
        return [record for record in self.records if "score" in record]


@dataclass
class RecordedProgress(Progress):
    reporter: RecordingReporter
    description: str

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        self.reporter.moves.append((self.description, done, total, detail))
