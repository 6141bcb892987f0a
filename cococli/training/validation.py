"""How good a model is while it trains: captions and recall on pictures that are held out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..captioning.captioner import Captioner
from ..captioning.pipeline import Settings, caption_videos
from ..captioning.records import Record
from ..datasets.dataset import Dataset, Example
from ..decoding.options import SearchOptions
from ..engines.mindspore import MindSporeEngine
from ..errors import CocaError
from ..evaluation.model import joined, measure_captions, measure_retrieval
from ..video.flow import Reading
from .step import Trainer

GREEDY = SearchOptions(method="greedy")  # a third of the time of a search by beams, and as good to compare with
METRICS = ("BLEU-4", "ROUGE-L", "CIDEr")  # those that need no Java
SAMPLES = 3
HELD_OUT = 0.05  # of examples that come in no splits


@dataclass(frozen=True)
class Sample:
    """What the model says of a picture now."""

    path: Path
    caption: str
    reference: str


@dataclass(frozen=True)
class Validation:
    """How good the model is at a step."""

    scores: dict[str, float]  # as `evaluation.report` has them: 0..1, CIDEr 0..10
    score: float  # the one to choose by: CIDEr, or recall@1 of both ways where captions are not trained
    samples: list[Sample]


def validate(
    trainer: Trainer, dataset: Dataset, reading: Reading, captions: bool = True, retrieval: bool = True
) -> Validation:
    """Measure the model as it is now.

    Args:
        dataset: Examples that are held out.
        captions: Whether to measure captions.
        retrieval: Whether to measure recall.

    Raises:
        CocaError: no file can be read.
        UsageError: pycocoevalcap is missing.
    """
    search = replace(GREEDY, max_length=min(GREEDY.max_length, trainer.config.context_length))
    captioner = Captioner(MindSporeEngine(trainer.config, trainer.weights()), "", search)
    found: dict[str, tuple[str, np.ndarray]] = {}
    for result in caption_videos([example.path for example in dataset.examples], captioner, Settings(reading)):
        record = result.outcomes[0]
        if isinstance(record, Record):
            found[record.video] = record.caption, result.embeddings[0]
    examples = tuple(example for example in dataset.examples if str(example.path) in found)
    if not examples:
        raise CocaError("none of the held-out files can be read")
    dataset = replace(dataset, examples=examples)
    said = {path: caption for path, (caption, _) in found.items()}
    reports = []
    if captions:
        reports.append(measure_captions(dataset, said, METRICS, java_tokens=False))  # the same on every machine
    if retrieval:
        images = np.stack([found[str(example.path)][1] for example in examples])
        texts = captioner.embed_texts([caption for example in examples for caption in example.captions])
        reports.append(measure_retrieval(dataset, images, texts))
    scores = joined(*reports).scores
    recalls = [value for name, value in scores.items() if name.endswith("recall@1")]
    samples = [Sample(example.path, said[str(example.path)], example.captions[0]) for example in examples[:SAMPLES]]
    return Validation(scores, scores["CIDEr"] if captions else float(np.mean(recalls)), samples)


def split_off(dataset: Dataset, most: int) -> tuple[Dataset, Dataset]:
    """Examples to train on, and a share to hold out: the same in every run, whatever their order."""
    by_chance = sorted(dataset.examples, key=lambda example: hashlib.sha256(example.id.encode()).digest())
    count = min(max(1, round(HELD_OUT * len(by_chance))), most)
    out = {example.id for example in by_chance[:count]}

    def those(held_out: bool) -> Dataset:
        return replace(dataset, examples=tuple(one for one in dataset.examples if (one.id in out) == held_out))

    return those(False), those(True)


def spread(examples: Sequence[Example], count: int) -> tuple[Example, ...]:
    """So many examples at equal distances, as neighbours may be alike."""
    if len(examples) <= count:
        return tuple(examples)
    return tuple(examples[i * len(examples) // count] for i in range(count))
