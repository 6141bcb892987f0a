"""Dense captions of videos, scored as densevid_eval does for ActivityNet Captions.

See https://github.com/ranjaykrishna/densevid_eval.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from ..datasets.benchmark_folder import Event
from ..errors import UsageError
from . import java
from .captions import BLEU, SCORERS_WITHOUT_JAVA, check_installed, tokenize

TIOUS = (0.3, 0.5, 0.7, 0.9)
DENSE_METRICS = (*BLEU, "METEOR", "ROUGE-L", "CIDEr", "precision", "recall")
_PROPOSALS = 1000  # that are scored in each video
_NOTHING = "qzxwvjkqzxwvjk"  # the reference of a caption that fits no event; densevid_eval takes random letters

Events = Mapping[str, Sequence[Event]]  # by video


@dataclass(frozen=True)
class DenseScores:
    """Scores of dense captions in the units of the metrics: 0..1, CIDEr 0..10."""

    at: dict[str, list[float]]  # metric -> mean over all videos at each of `TIOUS`
    notes: list[str]  # omissions and differences from papers

    @property
    def means(self) -> dict[str, float]:
        """Metric -> its mean over `TIOUS`, as papers report it."""
        return {metric: mean(values) for metric, values in self.at.items()}


@dataclass(frozen=True)
class _Caption:
    """A predicted caption as pairs with references: an index into those of all videos."""

    pairs: Sequence[tuple[float, int]]  # temporal IoU of an event, and the pair with its sentence
    alone: int  # the pair with nothing

    def pairs_at(self, tiou: float) -> list[int]:
        return [pair for overlap, pair in self.pairs if overlap >= tiou] or [self.alone]


def score_dense(predictions: Events, references: Sequence[Events], java_tokens: bool = True) -> DenseScores:
    """Score captions of events that a model found, or of given ones, against the events of several people.

    At each temporal IoU, a caption is compared with the sentence of every event that overlaps it that much, and with
    nothing if there is none. Metrics are computed over the pairs of each video and averaged over all videos, where
    those without predictions count as 0.

    Args:
        predictions: Of the videos in the references; others are left out.
        references: Of each person.
        java_tokens: See `captions.score_captions`.

    Raises:
        UsageError: No video has predictions, or pycocoevalcap is missing.
    """
    check_installed()
    videos = list(dict.fromkeys(video for people in references for video in people))
    notes = list(_notes(predictions, videos))
    found = {video: list(predictions[video][:_PROPOSALS]) for video in videos if predictions.get(video)}
    pairs: dict[tuple[str, str], int] = {}
    captions = {video: list(_paired(video, own, references, pairs)) for video, own in found.items()}
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    tokens = dict(zip(texts, tokenize([_ascii(text) for text in texts], notes, java_tokens), strict=True))
    guesses, truths = ([tokens[pair[side]] for pair in pairs] for side in (0, 1))
    groups = [
        [[pair for caption in own for pair in caption.pairs_at(tiou)] for own in captions.values()] for tiou in TIOUS
    ]

    def average(scores: Sequence[float]) -> float:
        return float(sum(scores)) / len(videos)

    at: dict[str, list[float]] = {metric: [] for metric in DENSE_METRICS}
    for tiou, own in zip(TIOUS, groups, strict=True):
        for names, score in SCORERS_WITHOUT_JAVA.items():
            columns = [score(_numbered(truths, group), _numbered(guesses, group)) for group in own]
            for number, name in enumerate(names):
                at[name].append(average([column[number][0] for column in columns]))
        detected = [_detection(found[video], [people.get(video, ()) for people in references], tiou) for video in found]
        at["precision"].append(average([precision for precision, _ in detected]))
        at["recall"].append(average([share for _, share in detected]))
    try:
        whole = iter(java.meteor(guesses, [[truth] for truth in truths], [group for own in groups for group in own]))
        at["METEOR"] = [average([next(whole)[0] for _ in own]) for own in groups]
    except java.JavaError as error:
        del at["METEOR"]
        notes.append(f"METEOR is left out: {error}")
    return DenseScores(at, notes)


def _notes(predictions: Events, videos: Sequence[str]) -> Iterator[str]:
    known = [video for video in videos if predictions.get(video)]
    if not known:
        raise UsageError("no video of the references has predictions")
    if extra := len(predictions.keys() - set(videos)):
        yield f"predictions of {extra} videos without references are left out"
    if len(known) < len(videos):
        yield f"{len(videos) - len(known)} of {len(videos)} videos have no predictions and count as 0"


def _paired(
    video: str, captions: Sequence[Event], references: Sequence[Events], pairs: dict[tuple[str, str], int]
) -> Iterator[_Caption]:
    """Pair captions with the events that they overlap, and number new pairs."""
    for caption in captions:
        overlaps = [
            (overlap, pairs.setdefault((caption.sentence, event.sentence), len(pairs)))
            for people in references
            for event in people.get(video, ())
            if (overlap := _tiou(caption.timestamp, event.timestamp)) >= min(TIOUS)
        ]
        yield _Caption(overlaps, pairs.setdefault((caption.sentence, _NOTHING), len(pairs)))


def _numbered(captions: Sequence[str], group: Sequence[int]) -> dict[str, list[str]]:
    return {str(number): [captions[pair]] for number, pair in enumerate(group)}


def _detection(captions: Sequence[Event], references: Sequence[Sequence[Event]], tiou: float) -> tuple[float, float]:
    """Return precision and recall of a video's events, each of the person with whom it is best."""
    precisions, recalls = [0.0], [0.0]
    for events in filter(None, references):
        hits = [
            (number, other)
            for number, caption in enumerate(captions)
            for other, event in enumerate(events)
            if _tiou(caption.timestamp, event.timestamp) > tiou
        ]
        precisions.append(len({number for number, _ in hits}) / len(captions))
        recalls.append(len({other for _, other in hits}) / len(events))
    return max(precisions), max(recalls)


def _tiou(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Return the intersection of two spans divided by their union."""
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    both = min(max(one[1], other[1]) - min(one[0], other[0]), one[1] - one[0] + other[1] - other[0])
    return shared / (both + 1e-8)


def _ascii(text: str) -> str:
    return re.sub(r"[^\x00-\x7f]", " ", text)
