"""A model's captions and vectors held against those of people; the numbers are worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from evaluation.results_fixtures import PREDICTIONS, REFERENCES, needs_java

from cococli.datasets.dataset import Dataset, Example
from cococli.errors import UsageError
from cococli.evaluation.captions import score_captions
from cococli.evaluation.model import joined, measure_captions, measure_classes, measure_retrieval, vectors_of
from cococli.evaluation.report import Report
from cococli.journal import Task, text_name
from cococli.retrieval.index import About, Entry, Index, open_index
from cococli.tokenizer import decode, encode

NAMED = {f"{name}.jpg": captions for name, captions in REFERENCES.items()}
DATA = Dataset(
    Path("captions.json"),
    "val",
    tuple(Example(Path(path), tuple(captions), f"id of {path}") for path, captions in NAMED.items()),
    {},
)

METRICS = ["CIDEr", "BLEU-4", "ROUGE-L"]


def some(*examples: tuple[str, tuple[str, ...]]) -> Dataset:
    return Dataset(Path(), None, tuple(Example(Path(path), texts, path) for path, texts in examples), {})


@needs_java
def test_captions_score_as_from_files() -> None:
    captions = {f"{name}.jpg": caption for name, caption in PREDICTIONS.items()} | {"other.jpg": "of another split"}
    found = measure_captions(DATA, captions, ["CIDEr", "BLEU-4"]).captions
    raw = {name: decode(encode(caption)) for name, caption in PREDICTIONS.items()}
    scores = score_captions(raw, REFERENCES, ["CIDEr", "BLEU-4"])
    assert found is not None
    assert found.corpus == scores.corpus
    assert found.each == {f"id of {name}.jpg": own for name, own in scores.each.items()}


def test_worst_captions_come_first() -> None:
    data = some(("a.jpg", ("a red dog", "the red dog")), ("b.jpg", ("a green bus",)), ("c.jpg", ("a blue cat",)))
    predictions = {"a.jpg": "a red dog", "b.jpg": "no idea at all", "c.jpg": "a blue bus"}
    report = measure_captions(data, predictions, ["ROUGE-L"])
    assert [(bad.what, bad.got, bad.wanted) for bad in report.worst] == [
        ("b.jpg", "no idea at all", "a green bus"),
        ("c.jpg", "a blue bus", "a blue cat"),
        ("a.jpg", "a red dog", "a red dog | the red dog"),
    ]


def test_captions_are_scored_in_the_form_of_papers() -> None:
    """open_clip scores what the tokenizer decodes, where `t - shirt` is not the `t-shirt` of a reference."""
    data = some(("a.jpg", ("a man's t-shirt",)), ("b.jpg", ("a bus",)))
    readable = {"a.jpg": "a man's t-shirt", "b.jpg": "a bus"}
    raw = {"a.jpg": "a man 's t - shirt", "b.jpg": "a bus"}
    wanted = score_captions(raw, {"a.jpg": ["a man's t-shirt"], "b.jpg": ["a bus"]}, METRICS, java_tokens=False)
    report = measure_captions(data, readable, METRICS, java_tokens=False)
    assert report.captions is not None
    assert report.captions.each == wanted.each
    assert report.worst[0].got == "a man's t-shirt"


def test_every_example_needs_a_caption() -> None:
    data = some(("a.jpg", ("one",)), ("b.jpg", ("two",)))
    with pytest.raises(UsageError) as caught:
        measure_captions(data, {"a.jpg": "one"}, ["ROUGE-L"])
    assert caught.value.message == "1 of 2 pictures have no prediction: b.jpg"


def test_pictures_may_have_different_numbers_of_captions() -> None:
    data = some(("a.jpg", ("one", "two", "three")), ("b.jpg", ("four",)))
    images = np.eye(2, dtype=np.float32)
    texts = np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 1]], np.float32)  # "two" and "three" are nearer to b.jpg
    report = measure_retrieval(data, images, texts)
    assert report.retrieval is not None
    assert dict(report.rows())["text to image recall@1"] == "50.0"
    assert dict(report.rows())["image to text recall@1"] == "50.0"  # of b.jpg "three" is as near as "four"
    assert [(bad.what, bad.wanted) for bad in report.worst[:2]] == [("two", "a.jpg"), ("three", "a.jpg")]


def test_classification_uses_class_descriptions() -> None:
    texts_embedded: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        texts_embedded.extend(texts)
        return np.array([[1, 0] if "cat" in text else [0, 1] for text in texts], np.float32)

    images = np.array([[1, 0], [0.8, 0.6], [0.8, 0.6], [0, 1]], np.float32)
    report = measure_classes(images, [0, 0, 1, 1], ["cat", "dog"], embed, ["a {}", "the {}"])
    assert texts_embedded == ["a cat", "the cat", "a dog", "the dog"]
    assert report.rows()[0] == ("accuracy@1", "75.0")
    assert report.to_dict()["per_class"] == {"cat": 1.0, "dog": 0.5}
    assert report.to_dict()["confusions"] == [{"class": "dog", "taken_for": "cat", "count": 1}]


def test_reports_are_joined_part_by_part() -> None:
    data = some(("a.jpg", ("one",)), ("b.jpg", ("two",)))
    captioned = measure_captions(data, {"a.jpg": "one", "b.jpg": "one"}, ["ROUGE-L"])
    found = measure_retrieval(data, np.eye(2), np.eye(2))
    both = joined(captioned, found)
    assert both.rows() == captioned.rows() + found.rows()
    assert both.worst == captioned.worst + found.worst
    assert both.zeroshot is None
    assert joined() == Report()


def test_vectors_are_in_requested_order(tmp_path: Path) -> None:
    tasks = [Task("b.jpg", ""), Task(text_name("a"), ""), Task("a.jpg", "")]
    entries = [Entry(-1, "b.jpg"), Entry(-1, text="a"), Entry(-1, "a.jpg")]
    with open_index(tmp_path / "index", About("shapes", ""), 3, tasks, "float16") as writer:
        for i, (task, entry) in enumerate(zip(tasks, entries, strict=True)):
            writer.append(task, [entry], np.eye(3, dtype=np.float32)[i : i + 1])
    names = ["a.jpg", text_name("a"), "a.jpg", "b.jpg"]
    vectors = vectors_of(Index(tmp_path / "index"), names)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, np.eye(3)[[2, 1, 2, 0]])
