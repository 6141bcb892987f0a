"""Reports: the table in percent, JSON in the metrics' own units, the worst first."""

import json
import math

import numpy as np
import pytest

from cococli.evaluation.captions import CaptionScores
from cococli.evaluation.report import Report, WorstExample, worst_captions, worst_classes, worst_texts
from cococli.evaluation.retrieval import recall
from cococli.evaluation.zeroshot import Accuracy, accuracy

CAPTIONS = CaptionScores(
    corpus={"CIDEr": 1.2534, "BLEU-4": 0.356},
    each={
        "a": {"CIDEr": 2.0, "BLEU-4": 0.5},
        "b": {"CIDEr": 0.0, "BLEU-4": 0.0},
        "c": {"CIDEr": 0.5, "BLEU-4": math.nan},
    },
    notes=["METEOR is left out: java is not installed"],
)
CLASSES = ("cat", "dog", "bus")
RANKS = [f"{way} {name} rank" for way in ("text to image", "image to text") for name in ("median", "mean")]


@pytest.fixture
def zeroshot() -> Accuracy:
    """The cat and one of two dogs are recognized; the other dog and the bus are taken for cats."""
    return accuracy(np.eye(3)[[0, 1, 0, 0]], np.array([0, 1, 1, 2]), np.eye(3, dtype=np.float32), ks=(1,))


def test_a_table_has_percent_as_papers_print_them(zeroshot: Accuracy) -> None:
    report = Report(CAPTIONS, recall(np.eye(3), np.eye(3)[[0, 1, 1]], np.arange(3), ks=(1,)), zeroshot)
    assert report.rows() == [
        ("BLEU-4", "35.6"),
        ("CIDEr", "125.3"),
        ("text to image recall@1", "66.7"),
        ("image to text recall@1", "33.3"),
        ("accuracy@1", "50.0"),
        ("mean per class", "50.0"),
    ]


def test_json_has_the_metrics_own_units(zeroshot: Accuracy) -> None:
    worst = (WorstExample("b", "CIDEr", math.nan, "a cat", "a dog"),)
    fields = Report(CAPTIONS, None, zeroshot, worst, CLASSES).to_dict()
    assert json.loads(json.dumps(fields, allow_nan=False)) == fields
    assert fields == {
        "scores": {"BLEU-4": 0.356, "CIDEr": 1.2534, "accuracy@1": 0.5, "mean per class": 0.5},
        "notes": ["METEOR is left out: java is not installed"],
        "pictures": {**CAPTIONS.each, "c": {"CIDEr": 0.5, "BLEU-4": None}},
        "per_class": {"cat": 1.0, "dog": 0.5, "bus": 0.0},
        "confusions": [
            {"class": "dog", "taken_for": "cat", "count": 1},
            {"class": "bus", "taken_for": "cat", "count": 1},
        ],
        "worst": [{"what": "b", "by": "CIDEr", "score": None, "got": "a cat", "wanted": "a dog"}],
    }


def test_ranks_are_in_the_json_too() -> None:
    fields = Report(retrieval=recall(np.eye(3), np.eye(3), np.arange(3), ks=(1,))).to_dict()
    assert json.loads(json.dumps(fields)) == {
        "scores": {"text to image recall@1": 1.0, "image to text recall@1": 1.0},
        "ranks": dict.fromkeys(RANKS, 1.0),
        "text_ranks": [1, 1, 1],
        "image_ranks": [1, 1, 1],
    }


def test_median_and_mean_ranks_have_both_directions() -> None:
    found = recall(np.eye(3), np.eye(3)[[0, 1, 1, 2]], np.array([0, 1, 2, 2]))
    assert Report(retrieval=found).ranks == dict(zip(RANKS, (1.0, 1.5, 1.0, 4 / 3), strict=True))


def test_the_worst_captions_come_first() -> None:
    predictions = {"a": "x", "b": "y", "c": "z"}
    references = {"a": ["1"], "b": ["2", "3"], "c": ["4"]}
    assert worst_captions(CAPTIONS, predictions, references, count=2) == [
        WorstExample("b", "CIDEr", 0.0, "y", "2 | 3"),
        WorstExample("c", "CIDEr", 0.5, "z", "4"),
    ]
    assert worst_captions(CaptionScores({}, {}, []), predictions, references) == []


def test_the_texts_whose_image_comes_latest_come_first() -> None:
    owners = np.array([0, 1, 1, 2])
    found = recall(np.eye(3), np.array([[1, 0, 0], [3, 2, 1], [0, 1, 0], [3, 2, 1]]), owners)
    assert worst_texts(found, ["a", "b", "c", "d"], ["a.jpg", "b.jpg", "c.jpg"], owners, count=2) == [
        WorstExample("d", "rank", 3, "", "c.jpg"),
        WorstExample("b", "rank", 2, "", "b.jpg"),
    ]


def test_the_classes_that_are_recognized_least_come_first(zeroshot: Accuracy) -> None:
    assert worst_classes(zeroshot, CLASSES) == [
        WorstExample("bus", "accuracy", 0.0, "cat", "bus"),
        WorstExample("dog", "accuracy", 0.5, "cat", "dog"),
    ]


def test_the_few_worst_of_each_part_are_shown() -> None:
    worst = tuple(WorstExample(what, by, 0.0, "", "") for what, by in [("a", "CIDEr"), ("b", "CIDEr"), ("c", "rank")])
    assert [example.what for example in Report(worst=worst).worst_of_each(1)] == ["a", "c"]
