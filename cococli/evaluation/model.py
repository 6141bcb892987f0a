"""Scores of a model: captions, retrieval and classification."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ..datasets.benchmark_folder import Event
from ..datasets.dataset import Dataset
from ..files import find_span
from ..media.discover import is_image
from ..retrieval.index import Index
from ..tokenizer import decode, encode
from .captions import METRICS, cider_of_groups, score_captions
from .dense import Events, score_dense
from .report import Report, worst_captions, worst_classes, worst_texts
from .retrieval import recall
from .zeroshot import accuracy, classifier

EmbedTexts = Callable[[list[str]], np.ndarray]


def measure_captions(
    dataset: Dataset,
    captions: Mapping[str, str],
    metrics: Iterable[str] = METRICS,
    java_tokens: bool = True,
    groups: Mapping[str, str] | None = None,
) -> Report:
    """Score a caption of every example.

    Captions are scored as the tokenizer decodes them (`t - shirt`), as open_clip's published scores are.

    Args:
        captions: Path -> caption.
        java_tokens: See `captions.score_captions`.
        groups: Id of an example -> its group, whose CIDEr is measured, too.

    Raises:
        UsageError: An example has no caption, or pycocoevalcap is missing.
    """
    references = {example.id: example.captions for example in dataset.examples}
    predictions = {
        example.id: captions[str(example.path)] for example in dataset.examples if str(example.path) in captions
    }
    raw = {example: decode(encode(caption)) for example, caption in predictions.items()}
    scores = score_captions(raw, references, metrics, java_tokens)
    return Report(
        captions=scores,
        worst=tuple(worst_captions(scores, predictions, references)),
        groups=cider_of_groups(raw, references, groups or {}),
    )


def measure_dense(dataset: Dataset, captions: Mapping[str, str], events: Sequence[Events]) -> Report:
    """Score captions of annotated events as `dense` does. Videos without captions are left out.

    Args:
        captions: Path of a part of a video -> caption.
        events: Of several people, by video.
    """
    found: dict[str, list[Event]] = {}
    for example in dataset.examples:
        span = find_span(example.path)
        assert span
        event = Event((span.start, span.end), decode(encode(captions[str(example.path)])))
        found.setdefault(example.id.rpartition(" ")[0], []).append(event)
    known = [{video: own for video, own in people.items() if video in found} for people in events]
    return Report(dense=score_dense(found, known))


def measure_retrieval(dataset: Dataset, images: np.ndarray, texts: np.ndarray) -> Report:
    """Measure recall of pictures by their captions, and of captions by their pictures.

    Papers on videos with several captions rank captions in two ways, and both are measured; those on pictures in one.

    Args:
        images: [N, D], of the examples.
        texts: [M, D], of all their captions, one example after the other.
    """
    counts = [len(example.captions) for example in dataset.examples]
    image_of_text = np.repeat(np.arange(len(counts)), counts)
    grouped = max(counts) > 1 and not is_image(dataset.examples[0].path)
    found = recall(images, texts, image_of_text, grouped=grouped)
    captions = [caption for example in dataset.examples for caption in example.captions]
    names = [str(example.path) for example in dataset.examples]
    return Report(retrieval=found, worst=tuple(worst_texts(found, captions, names, image_of_text)))


def measure_classes(
    images: np.ndarray, labels: Sequence[int], classes: Sequence[str], embed_texts: EmbedTexts, templates: Sequence[str]
) -> Report:
    """Measure zero-shot classification of pictures.

    Args:
        images: [N, D].
        labels: Index of each picture's class.
        embed_texts: T texts -> [T, D].
        templates: Sentences with `{}` for the class.
    """
    found = accuracy(images, np.array(labels), classifier(embed_texts, classes, templates))
    return Report(zeroshot=found, worst=tuple(worst_classes(found, classes)), classes=tuple(classes))


def joined(*reports: Report) -> Report:
    """Join the parts of several reports."""
    return Report(
        captions=next((report.captions for report in reports if report.captions), None),
        retrieval=next((report.retrieval for report in reports if report.retrieval), None),
        zeroshot=next((report.zeroshot for report in reports if report.zeroshot), None),
        worst=tuple(example for report in reports for example in report.worst),
        dense=next((report.dense for report in reports if report.dense), None),
        groups=next((report.groups for report in reports if report.groups), {}),
        classes=next((report.classes for report in reports if report.classes), ()),
    )


def vectors_of(index: Index, names: Iterable[str]) -> np.ndarray:
    """Return the vectors [K, D] float32 of tasks that have one entry each in an index."""
    return np.asarray(index.vectors[index.rows_of(names)], np.float32)
