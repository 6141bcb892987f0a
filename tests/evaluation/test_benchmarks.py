"""Evaluations on small copies of public benchmarks, with the bundled model."""

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation import benchmark_fixtures as fixtures
from evaluation.test_evaluate import refusal, run

pytestmark = pytest.mark.usefixtures("no_java")

CAPTIONS = {"BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr"}
RECALLS = {f"{way} recall@{k}" for way in ("text to image", "image to text") for k in (1, 5, 10)}
DENSE = {f"dense {name}" for name in (*CAPTIONS, "precision", "recall")}
CLASSES = {"accuracy@1", "accuracy@5", "mean per class"}
MEASURED = {
    fixtures.msr_vtt: CAPTIONS | RECALLS,
    fixtures.activitynet: CAPTIONS | RECALLS | DENSE,
    fixtures.flickr30k: CAPTIONS | RECALLS,
    fixtures.nocaps: CAPTIONS | {"CIDEr in-domain", "CIDEr near-domain"},
    fixtures.imagenet: CLASSES,
    fixtures.ucf101: CLASSES,
}


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR takes seconds."""
    monkeypatch.setenv("PATH", "/none")


def name_of(make: Any) -> str:
    return make.__name__.replace("_", "-")


@pytest.mark.parametrize("make", MEASURED, ids=name_of)
def test_measures_of_papers_are_reported(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "data")
    found, reporter = run(benchmark=name_of(make), data=tmp_path / "data", output=tmp_path / "report")
    assert found.report.scores.keys() == MEASURED[make]
    assert len(found.report.ranks) == (4 if MEASURED[make] >= RECALLS else 0)
    assert (found.exit_code, reporter.warnings) == (0, [])
    kept = json.loads((tmp_path / "report" / "report.json").read_text())
    assert kept["evaluation"]["benchmark"] == name_of(make)


def test_segments_are_captioned_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fixtures.activitynet(tmp_path / "data")
    options: dict[str, Any] = {"benchmark": "activitynet", "data": tmp_path / "data", "only": "captions"}
    first, _ = run(**options, output=tmp_path / "report")
    records = [json.loads(line) for line in (tmp_path / "report" / "captions.jsonl").open()]
    spans = [(record["start"], record["end"]) for record in records]
    assert spans == [(0, 1.45), (0.28, 3.9), (3, 4), (0, 4)]
    monkeypatch.setattr("cococli.evaluation.evaluate.load_engine", None)
    assert run(**options, output=tmp_path / "report")[0].to_json() == first.to_json()

    results: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        name = "v_uqiMw7tQ1Cc" if "uqiMw7tQ1Cc" in record["video"] else "v_bXdq2zI1Ms0"
        end = 60 if record["end"] == record["start"] + 1 else record["end"]
        results.setdefault(name, []).append({"sentence": record["caption"], "timestamp": [record["start"], end]})
    submission = {"version": "VERSION 1.0", "results": results, "external_data": {"used": False, "details": ""}}
    fixtures.write(tmp_path / "submission.json", submission)
    again, _ = run(**options, predictions=tmp_path / "submission.json")
    assert again.report.scores.keys() == first.report.scores.keys()


def test_missing_predictions_are_counted_or_allowed(tmp_path: Path) -> None:
    fixtures.msr_vtt(tmp_path)
    for video in tmp_path.glob("*/*.mp4"):
        video.unlink()  # the captions are enough
    fixtures.write(tmp_path / "out.json", {"video7010": "a triangle appears", "video9770.mp4": "a circle"})
    options: dict[str, Any] = {"benchmark": "msr-vtt", "data": tmp_path, "predictions": tmp_path / "out.json"}
    assert refusal(**options).message == "1 of 3 pictures have no prediction: video9999"
    found, reporter = run(**options, allow_missing=True)
    assert reporter.notes == ["1 of 3 pictures have no prediction and are left out"]
    assert found.report.captions and set(found.report.captions.each) == {"video7010", "video9770"}
    options["predictions"] = None
    assert refusal(**options, allow_missing=True).message == "--allow-missing is for --predictions"


def test_missing_videos_are_reported(tmp_path: Path) -> None:
    fixtures.vatex(tmp_path)
    (tmp_path / "Ptf_2VRj-V1_000122_000132.mp4").unlink()
    found, reporter = run(benchmark="vatex", data=tmp_path, only="retrieval")
    assert reporter.warnings[0].startswith("no videos found for 2 of 6 captions (first: ")
    assert found.exit_code == 1


def test_what_a_benchmark_lacks_is_refused(tmp_path: Path) -> None:
    fixtures.nocaps(tmp_path)
    assert refusal(benchmark="nocaps", data=tmp_path, only="retrieval").hint == "leave out --only"
    assert refusal(benchmark="nocaps").message == "--benchmark needs --data, the folder with its files"
    assert refusal(benchmark="nocaps", data=tmp_path, split="test").message.endswith("has no test split, only val")
