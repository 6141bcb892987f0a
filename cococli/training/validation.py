"""How good a model is while it trains: captions and recall on pictures that are held out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..captioning.captioner import Caption, Captioner
from ..datasets.dataset import Dataset, Example
from ..decoding.options import SearchOptions
from ..engines.base import ClipFeatures
from ..engines.mindspore import MindSporeEngine
from ..errors import CocaError
from ..evaluation.model import joined, measure_captions, measure_retrieval
from ..media.flow import AtOnce, Reading, compute_videos
from .network import Batch, Objective, losses_and_gradients, token_count
from .pairs import pairs_of
from .step import Trainer

GREEDY = SearchOptions(method="greedy")  # a third of the time of a search by beams, and as good to compare with
METRICS = ("BLEU-4", "ROUGE-L", "CIDEr")  # those that need no Java
SAMPLES = 3
HELD_OUT = 0.05  # of examples that come in no splits
ENOUGH = 8  # examples that scores should be of at least
_PAIRS = 32  # pairs whose loss is computed at once


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
    loss: float  # of the captions, or contrastive where they are not trained; it decides between equal scores
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
    engine = _Engine(trainer.config, trainer.weights())
    captioner = Captioner(engine, "", search)

    def compute(pixels: np.ndarray, numbers: list[int]) -> list[tuple[Caption, np.ndarray]]:
        captions = captioner.caption_batch(pixels, numbers)
        return list(zip(captions, engine.tokens, strict=True))

    paths = [example.path for example in dataset.examples]
    computed = compute_videos(paths, AtOnce(compute), reading)
    found = {str(paths[video.place]): video.values[0] for video in computed if not video.failure}
    examples = tuple(example for example in dataset.examples if str(example.path) in found)
    if not examples:
        raise CocaError("none of the held-out files can be read")
    dataset = replace(dataset, examples=examples)
    said = {path: caption.text for path, (caption, _) in found.items()}
    embeddings = np.stack([found[str(example.path)][0].embedding for example in examples])
    tokens = np.stack([found[str(example.path)][1] for example in examples])
    loss = _loss(trainer, dataset, np.concatenate([embeddings[:, None], tokens], 1), captions)
    reports = []
    if captions:
        reports.append(measure_captions(dataset, said, METRICS, java_tokens=False))  # the same on every machine
    if retrieval:
        texts = captioner.embed_texts([caption for example in examples for caption in example.captions])
        reports.append(measure_retrieval(dataset, embeddings, texts))
    scores = joined(*reports).scores
    recalls = [value for name, value in scores.items() if name.endswith("recall@1")]
    samples = [Sample(example.path, said[str(example.path)], example.captions[0]) for example in examples[:SAMPLES]]
    return Validation(scores, scores["CIDEr"] if captions else float(np.mean(recalls)), loss, samples)


class _Engine(MindSporeEngine):
    """Keeps the image features of the last clips, of which a loss is computed, too."""

    tokens: np.ndarray  # [B, N, D]

    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        features = super().encode_clips(pixels, pool)
        self.tokens = features.tokens
        return features


def _loss(trainer: Trainer, dataset: Dataset, images: np.ndarray, captions: bool) -> float:
    """Return the caption loss of all captions, or the contrastive loss of one caption of each example.

    Args:
        images: [N, Q, D], of the examples, as `network.encode_images` gives them but for the length of the latents.
    """
    if not captions:  # other captions of a picture would count as wrong
        dataset = replace(dataset, examples=tuple(replace(one, captions=one.captions[:1]) for one in dataset.examples))
    pairs = pairs_of(dataset, trainer.config.context_length)
    batches = [
        Batch(pairs.ids[some], images=images[pairs.file[some]])
        for some in np.split(np.arange(len(pairs)), range(_PAIRS, len(pairs), _PAIRS))
    ]
    objective = Objective(caption=float(captions), contrastive=float(not captions), frozen="vision")
    tokens = sum(token_count(trainer.config, batch) for batch in batches)
    losses = [
        losses_and_gradients(trainer.config, trainer.tensors, (), batch, objective, tokens=tokens, batches=len(batches))
        for batch in batches
    ]
    return round(sum(found.total for found, _ in losses), 4)  # smaller differences say nothing


def split_off(dataset: Dataset, most: int, before: int = 0) -> tuple[Dataset, Dataset]:
    """Examples to train on, and a share to hold out: the same in every run, whatever their order.

    Scores of a few examples tell little, so at least 8 are held out, or a quarter where there are not so many.

    Args:
        most: How many to hold out at most.
        before: How many were held out when the run was started; 0: it starts now.
    """
    by_chance = sorted(dataset.examples, key=lambda example: hashlib.sha256(example.id.encode()).digest())
    count = before or max(1, round(HELD_OUT * len(by_chance)), min(ENOUGH, len(by_chance) // 4))
    count = min(count, most)
    out = {example.id for example in by_chance[:count]}

    def those(held_out: bool) -> Dataset:
        return replace(dataset, examples=tuple(one for one in dataset.examples if (one.id in out) == held_out))

    return those(False), those(True)


def spread(examples: Sequence[Example], count: int) -> tuple[Example, ...]:
    """So many examples at equal distances, as neighbors may be alike."""
    if len(examples) <= count:
        return tuple(examples)
    return tuple(examples[i * len(examples) // count] for i in range(count))
