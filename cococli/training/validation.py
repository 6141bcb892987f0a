"""Validation: captions and recall on held-out examples while a model trains."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..captioning.captioner import Caption, Captioner
from ..catalog import CocaConfig
from ..datasets.dataset import Dataset
from ..datasets.pairs import pairs_of
from ..decoding.search_options import SearchOptions
from ..engines.base import ClipFeatures, Engine
from ..errors import CocaError
from ..evaluation.model import joined, measure_captions, measure_retrieval
from ..media.clips import ReadRequest
from ..media.compute import FunctionComputer, compute_videos
from .objective import Batch, Losses, Objective, Step

GREEDY = SearchOptions(method="greedy")  # a third of the time of beam search, and ranks models equally well
METRICS = ("BLEU-4", "ROUGE-L", "CIDEr")  # those that need no Java
SAMPLES = 3
SHOWN = ("CIDEr", "BLEU-4", "recall@1")  # scores in notes; metrics.jsonl has all
_PAIRS = 32  # pairs whose loss is computed at once


class Trainer(Protocol):
    """Weights under training, and their optimizer: `torch_trainer.Trainer` and `mindspore_trainer.Trainer`."""

    config: CocaConfig

    def step(self, batches: Sequence[Batch], learning_rate: float, max_norm: float = ...) -> Step:
        """Train on the micro-batches of one step."""

    def weights(self) -> Mapping[str, np.ndarray]:
        """Return all weights to save."""

    def state(self) -> Mapping[str, np.ndarray]:
        """Return all else that resuming needs."""

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Restore the `state` that belongs to the weights."""

    def losses(self, batches: Sequence[Batch], objective: Objective) -> Losses:
        """Return the caption loss of batches, and the mean of their contrastive losses, of the weights to save."""

    def encode_images(self, pixels: np.ndarray) -> np.ndarray:
        """Encode frames, as in `Batch` -> [B, Q, D] float32."""

    def engine(self) -> Engine[Any]:
        """Return an engine with the weights to save."""


@dataclass(frozen=True)
class Sample:
    """A caption of the current model."""

    path: Path
    caption: str
    reference: str


@dataclass(frozen=True)
class Validation:
    """The quality of the model at a step."""

    scores: dict[str, float]  # as `evaluation.report` has them: 0..1, CIDEr 0..10
    score: float  # selects the best model: CIDEr, or mean recall@1 if captions are not trained
    loss: float  # caption loss, or contrastive loss if captions are not trained; breaks ties of scores
    samples: list[Sample]

    def lines(self, step: int, best: bool) -> Iterator[str]:
        """Describe the validation: the main scores, then a line for each sample."""
        scores = ", ".join(f"{name} {value:.3f}" for name, value in self.scores.items() if name.endswith(SHOWN))
        yield f"step {step}: {scores}, held-out loss {self.loss:.3f}{'; best so far' if best else ''}"
        for sample in self.samples:
            yield f"  {sample.path.name}: {sample.caption} (reference: {sample.reference})"


def validate(
    trainer: Trainer, dataset: Dataset, request: ReadRequest, captions: bool = True, retrieval: bool = True
) -> Validation:
    """Measure the current model.

    Args:
        dataset: The held-out examples.
        captions: Measure captions.
        retrieval: Measure recall.

    Raises:
        CocaError: No file can be read.
        UsageError: pycocoevalcap is missing.
    """
    search = replace(GREEDY, max_length=min(GREEDY.max_length, trainer.config.context_length))
    engine = _FeatureEngine(trainer.engine())
    captioner = Captioner(engine, "", search)

    def compute(pixels: np.ndarray, numbers: list[int]) -> list[tuple[Caption, np.ndarray]]:
        captions = captioner.caption_batch(pixels, numbers)
        return list(zip(captions, engine.tokens, strict=True))

    paths = [example.path for example in dataset.examples]
    computed = compute_videos(paths, FunctionComputer(compute), request)
    found = {str(paths[video.index]): video.values[0] for video in computed if not video.failure}
    examples = tuple(example for example in dataset.examples if str(example.path) in found)
    if not examples:
        raise CocaError("none of the held-out files can be read")
    dataset = replace(dataset, examples=examples)
    predicted = {path: caption.text for path, (caption, _) in found.items()}
    embeddings = np.stack([found[str(example.path)][0].embedding for example in examples])
    tokens = np.stack([found[str(example.path)][1] for example in examples])
    loss = _loss(trainer, dataset, np.concatenate([embeddings[:, None], tokens], 1), captions)
    reports = []
    if captions:
        reports.append(measure_captions(dataset, predicted, METRICS, java_tokens=False))  # the same on every machine
    if retrieval:
        texts = captioner.embed_texts([caption for example in examples for caption in example.captions])
        reports.append(measure_retrieval(dataset, embeddings, texts))
    scores = joined(*reports).scores
    recalls = [value for name, value in scores.items() if name.endswith("recall@1")]
    samples = [
        Sample(example.path, predicted[str(example.path)], example.captions[0]) for example in examples[:SAMPLES]
    ]
    return Validation(scores, scores["CIDEr"] if captions else float(np.mean(recalls)), loss, samples)


class _FeatureEngine:
    """An engine that keeps the image features of the last clips for the loss."""

    tokens: np.ndarray  # [B, N, D]

    def __init__(self, engine: Engine[Any]) -> None:
        self._engine = engine

    def encode_clips(self, pixels: np.ndarray, pool: str = "joint") -> ClipFeatures:
        features = self._engine.encode_clips(pixels, pool)
        self.tokens = (
            features.tokens if isinstance(features.tokens, np.ndarray) else features.tokens.float().cpu().numpy()
        )
        return features

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def _loss(trainer: Trainer, dataset: Dataset, images: np.ndarray, captions: bool) -> float:
    """Return the caption loss of all captions, or the contrastive loss of one caption of each example.

    Args:
        images: [N, Q, D], of the examples, as `Trainer.encode_images` gives them but for the length of the latents.
    """
    if not captions:  # other captions of a picture would count as wrong
        dataset = replace(dataset, examples=tuple(replace(one, captions=one.captions[:1]) for one in dataset.examples))
    pairs = pairs_of(dataset, trainer.config.context_length)
    batches = [
        Batch(pairs.ids[some], images=images[pairs.file[some]])
        for some in np.split(np.arange(len(pairs)), range(_PAIRS, len(pairs), _PAIRS))
    ]
    objective = Objective(caption=float(captions), contrastive=float(not captions))
    return round(trainer.losses(batches, objective).total, 4)  # smaller differences say nothing
