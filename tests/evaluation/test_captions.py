"""Caption metrics, held against the numbers of COCO's own evaluation."""

import sys

import pytest

from cococli.errors import UsageError
from cococli.evaluation import java
from cococli.evaluation.captions import METRICS, CaptionScores, score_captions

from .results_fixtures import PREDICTIONS, REFERENCES, needs_java

# Written down from pycocoevalcap 1.2: PTBTokenizer, then its scorers, on the made set.
CORPUS = {
    "BLEU-1": 0.846153846137574,
    "BLEU-2": 0.7428589804669082,
    "BLEU-3": 0.6285527872252622,
    "BLEU-4": 0.5198602222758917,
    "ROUGE-L": 0.6522891552745964,
    "CIDEr": 2.1925082179055506,
}
METEOR = 0.4389313769241035
EACH = {
    "BLEU-1": [0.888889, 1.0, 0.75, 0.833333, 0.866878, 0.7, 0.0],
    "METEOR": [0.486044, 0.507598, 0.610266, 0.766667, 0.309263, 0.478482, 0.0],
    "ROUGE-L": [0.895178, 0.802632, 0.879808, 0.666667, 0.602965, 0.718775, 0.0],
    "CIDEr": [2.269909, 3.279891, 2.202281, 1.526175, 2.147276, 3.922026, 0.0],
}
EMPTY = "empty captions count as wrong, 1 of 7: empty"
PLAIN = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """SPICE finds no models, whoever runs the tests."""
    monkeypatch.setattr(java, "_SPICE_MODELS", ("no.jar",))


def each(scores: CaptionScores, metric: str) -> list[float]:
    return [scores.each[picture][metric] for picture in REFERENCES]


@needs_java
def test_the_numbers_are_those_of_papers(no_models: None, capfd: pytest.CaptureFixture[str]) -> None:
    scores = score_captions(PREDICTIONS, REFERENCES)
    assert capfd.readouterr() == ("", "")
    assert scores.corpus == pytest.approx(CORPUS | {"METEOR": METEOR}, abs=1e-12)
    for metric, expected in EACH.items():
        assert each(scores, metric) == pytest.approx(expected, abs=1e-6)
    assert scores.notes == [EMPTY, f"SPICE is left out: {java._folder()}/spice/lib has no no.jar"]


def test_without_java_all_but_meteor_is_the_same(no_java: None, no_models: None) -> None:
    scores = score_captions(PREDICTIONS, REFERENCES)
    assert scores.corpus == pytest.approx(CORPUS, abs=1e-12)
    assert each(scores, "CIDEr") == pytest.approx(EACH["CIDEr"], abs=1e-6)
    assert scores.notes == [
        EMPTY,
        "captions are tokenized by coca, not by Java as in papers: java is not installed",
        "METEOR is left out: java is not installed",
        f"SPICE is left out: {java._folder()}/spice/lib has no no.jar",
    ]


def test_only_requested_metrics_are_computed(no_java: None) -> None:
    scores = score_captions(PREDICTIONS, REFERENCES, ["CIDEr", "BLEU-4"])
    assert scores.corpus == {name: pytest.approx(CORPUS[name]) for name in ("BLEU-4", "CIDEr")}
    assert all(list(own) == ["BLEU-4", "CIDEr"] for own in scores.each.values())


def test_the_order_of_predictions_does_not_matter(no_java: None) -> None:
    backwards = dict(reversed(PREDICTIONS.items()))
    assert score_captions(backwards, REFERENCES, PLAIN) == score_captions(PREDICTIONS, REFERENCES, PLAIN)


@pytest.mark.parametrize("java_runs", [pytest.param(True, marks=needs_java), False])
@pytest.mark.parametrize("line_break", ["\n", "\r", "\u2028", "\x85", "\v", "\x1c", " \r\n "])
def test_line_breaks_in_captions_are_blanks(line_break: str, java_runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not java_runs:
        monkeypatch.setenv("PATH", "")
    broken = {picture: caption.replace(" ", line_break) for picture, caption in PREDICTIONS.items()}
    assert score_captions(broken, REFERENCES, PLAIN).corpus == pytest.approx(CORPUS, abs=1e-12)


def test_extra_predictions_are_left_out(no_java: None) -> None:
    extra = PREDICTIONS | {"one": "a", "two": "b", "three": "c", "four": "d"}
    scores = score_captions(extra, REFERENCES, PLAIN)
    assert scores.corpus == pytest.approx(CORPUS, abs=1e-12)
    assert scores.notes[0] == "predictions without references are left out, 4 of 11: one, two, three, ..."


def test_a_single_picture_has_no_cider(no_java: None) -> None:
    scores = score_captions({"a": "a dog runs"}, {"a": ["a dog runs"]}, ["CIDEr", "BLEU-1"])
    assert scores.corpus == {"BLEU-1": pytest.approx(1), "CIDEr": 0.0}
    assert scores.notes[0] == "CIDEr is 0 for a single picture: it weighs words by how few pictures have them"


def test_captions_without_a_word_score_nothing(no_java: None) -> None:
    scores = score_captions({"a": "", "b": "..."}, {"a": ["..."], "b": [""]}, ["CIDEr", "BLEU-4"])
    assert scores.corpus == {"BLEU-4": pytest.approx(0), "CIDEr": 0.0}


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ({"a": "x"}, {}, "there are no references"),
        ({"a": "x"}, {"a": ["x"], "b": []}, "1 of 2 pictures have no references: b"),
        ({"a": "x"}, {name: ["x"] for name in "abcde"}, "4 of 5 pictures have no prediction: b, c, d, ..."),
    ],
)
def test_every_picture_needs_a_prediction_and_references(
    predictions: dict[str, str], references: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        score_captions(predictions, references)
    assert caught.value.message == message


def test_an_unknown_metric_names_the_known() -> None:
    with pytest.raises(UsageError) as caught:
        score_captions(PREDICTIONS, REFERENCES, ["CIDER"])
    assert caught.value.message == f"unknown metric CIDER: choose from {', '.join(METRICS)}"


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    with pytest.raises(UsageError) as caught:
        score_captions(PREDICTIONS, REFERENCES)
    assert caught.value.message == "caption metrics need pycocoevalcap"
    assert caught.value.hint == "pip install 'cococli[evaluate]'"
