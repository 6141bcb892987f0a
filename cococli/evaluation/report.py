"""Report of an evaluation, as a table and as JSON, with the worst examples."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .captions import METRICS, CaptionScores
from .dense import TIOUS, DenseScores
from .retrieval import KS, Recall, share_within
from .zeroshot import Accuracy

WORST = 10  # examples
_RANKED_BY = ("CIDEr", "METEOR", "ROUGE-L", "BLEU-4")  # the first that was measured ranks captions


@dataclass(frozen=True)
class WorstExample:
    """An example with a low score."""

    what: str  # the picture, the text or the class
    by: str  # a metric, "rank" or "accuracy"
    score: float
    got: str
    wanted: str


@dataclass(frozen=True)
class Report:
    """Results of the requested parts of an evaluation."""

    captions: CaptionScores | None = None
    retrieval: Recall | None = None
    zeroshot: Accuracy | None = None
    worst: tuple[WorstExample, ...] = ()
    classes: tuple[str, ...] = ()  # names of the zero-shot part's labels
    groups: Mapping[str, float] = field(default_factory=dict)  # group of pictures -> CIDEr
    dense: DenseScores | None = None

    @property
    def scores(self) -> dict[str, float]:
        """All measures, as the metrics define them: 0..1, CIDEr 0..10."""
        return dict(self._measures())

    @property
    def notes(self) -> list[str]:
        """Omissions and differences from papers."""
        captions, dense = (part.notes if part else [] for part in (self.captions, self.dense))
        return list(dict.fromkeys([*captions, *dense]))

    @property
    def ranks(self) -> dict[str, float]:
        """Median and mean rank of retrieval in both directions, from 1."""
        if not self.retrieval:
            return {}
        ways = {"text to image": self.retrieval.text_ranks, "image to text": self.retrieval.image_ranks}
        if self.retrieval.group_ranks is not None:
            ways["image to grouped texts"] = self.retrieval.group_ranks
        return {
            f"{way} {name} rank": float(average(found))
            for way, found in ways.items()
            for name, average in (("median", np.median), ("mean", np.mean))
        }

    def rows(self) -> list[tuple[str, str]]:
        """Return the names and values of all measures, times 100 as in papers: CIDEr 125.3, recall@1 45.7."""
        return [(name, f"{100 * value:.1f}") for name, value in self._measures()]

    def worst_of_each(self, count: int) -> list[WorstExample]:
        """Return the first few examples of each part."""
        taken: Counter[str] = Counter()
        chosen = []
        for example in self.worst:
            taken[example.by] += 1
            if taken[example.by] <= count:
                chosen.append(example)
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Return the fields for JSON, in the units of the metrics: 0..1, CIDEr 0..10; None if not finite."""
        fields: dict[str, Any] = {"scores": {name: _number(value) for name, value in self._measures()}}
        if self.captions or self.dense:
            fields["notes"] = self.notes
        if self.dense:
            at = self.dense.at.items()
            fields["dense"] = {name: dict(zip(map(str, TIOUS), values, strict=True)) for name, values in at}
        if self.captions:
            fields["pictures"] = {
                picture: {name: _number(value) for name, value in scores.items()}
                for picture, scores in self.captions.each.items()
            }
        if self.retrieval:
            fields["ranks"] = self.ranks
            fields["text_ranks"] = self.retrieval.text_ranks.tolist()
            fields["image_ranks"] = self.retrieval.image_ranks.tolist()
        if self.zeroshot:
            fields["per_class"] = {self.classes[label]: value for label, value in self.zeroshot.per_class.items()}
            fields["confusions"] = [
                {"class": self.classes[mix.label], "taken_for": self.classes[mix.taken_for], "count": mix.count}
                for mix in self.zeroshot.confusions
            ]
        if self.worst:
            fields["worst"] = [vars(example) | {"score": _number(example.score)} for example in self.worst]
        return fields

    def _measures(self) -> list[tuple[str, float]]:
        measures: list[tuple[str, float]] = []
        if self.captions:
            measures += [(name, self.captions.corpus[name]) for name in METRICS if name in self.captions.corpus]
            measures += [(f"CIDEr {group}", value) for group, value in self.groups.items()]
        if self.dense:
            measures += [(f"dense {name}", value) for name, value in self.dense.means.items()]
        if self.retrieval:
            measures += [(f"text to image recall@{k}", value) for k, value in self.retrieval.text_to_image.items()]
            measures += [(f"image to text recall@{k}", value) for k, value in self.retrieval.image_to_text.items()]
            if (ranks := self.retrieval.group_ranks) is not None:
                measures += [(f"image to grouped texts recall@{k}", share_within(ranks, k)) for k in KS]
        if self.zeroshot:
            measures += [(f"accuracy@{k}", value) for k, value in self.zeroshot.top.items()]
            measures.append(("mean per class", self.zeroshot.mean_per_class))
        return measures


def worst_captions(
    scores: CaptionScores, predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], count: int = WORST
) -> list[WorstExample]:
    """Return the pictures with the lowest CIDEr, or another metric if that was not measured."""
    metric = next((name for name in _RANKED_BY if name in scores.corpus), None)
    if metric is None:
        return []
    pictures = sorted(scores.each, key=lambda picture: scores.each[picture][metric])[:count]
    return [
        WorstExample(
            picture, metric, scores.each[picture][metric], predictions[picture], " | ".join(references[picture])
        )
        for picture in pictures
    ]


def worst_texts(
    recall: Recall, texts: Sequence[str], images: Sequence[str], image_of_text: np.ndarray, count: int = WORST
) -> list[WorstExample]:
    """Return the texts whose image has the highest rank."""
    latest = np.argsort(-recall.text_ranks, kind="stable")[:count]
    ranks = recall.text_ranks.tolist()
    return [WorstExample(texts[text], "rank", ranks[text], "", images[image_of_text[text]]) for text in latest]


def worst_classes(accuracy: Accuracy, classes: Sequence[str], count: int = WORST) -> list[WorstExample]:
    """Return the classes with the lowest accuracy, with the class that each is confused with most."""
    taken_for = {confusion.label: classes[confusion.taken_for] for confusion in reversed(accuracy.confusions)}
    labels = sorted(accuracy.per_class, key=lambda label: accuracy.per_class[label])[:count]
    return [
        WorstExample(classes[label], "accuracy", accuracy.per_class[label], taken_for[label], classes[label])
        for label in labels
        if label in taken_for
    ]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
