"""Evaluations of the bundled model on pictures that it knows."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cococli.catalog import BUNDLED, MODELS
from cococli.decoding.search_options import SearchOptions
from cococli.errors import CocaError, UsageError
from cococli.evaluation.evaluate import Evaluation, evaluate
from cococli.options import ModelOptions
from cococli.reporting import Reporter
from cococli.requests import EvaluateRequest

ROOT = Path(__file__).parents[2]
RECALLS = [f"{way} recall@{k}" for way in ("text to image", "image to text") for k in (1, 5, 10)]
FIRST = EvaluateRequest(
    model=ModelOptions(model="shapes", engine="torch", precision="fp32"), search=SearchOptions(method="greedy")
)


@dataclass
class Recorder(Reporter):
    """Keeps notes and warnings, and may request a stop."""

    stop: bool = False
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    @property
    def stop_requested(self) -> bool:
        return self.stop


@pytest.fixture(autouse=True)
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR takes seconds."""
    monkeypatch.setenv("PATH", "/none")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 pictures in COCO's layout, read only."""
    folder = tmp_path_factory.mktemp("drawn")
    command = [sys.executable, ROOT / "examples" / "shapes.py", folder, "--train", "1", "--val", "10"]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "data"))


def run(**options: Any) -> tuple[Evaluation, Recorder]:
    """Evaluate greedy captions of the bundled model, unless the options say otherwise."""
    reporter = Recorder()
    return evaluate(replace(FIRST, **options), reporter), reporter


def refusal(**options: Any) -> UsageError:
    with pytest.raises(UsageError) as caught:
        run(**options)
    return caught.value


def kept(folder: Path) -> dict[str, Any]:
    """Contents of a report."""
    return json.loads((folder / "report.json").read_text())


def captions(folder: Path) -> dict[str, str]:
    """Captions by the model: picture's path -> caption."""
    records = [json.loads(line) for line in (folder / "captions.jsonl").open()]
    return {record["video"]: record["caption"] for record in records}


def references(data: Path) -> dict[str, str]:
    """Captions of the data: picture's path -> caption."""
    content = json.loads((data / "annotations" / "captions_val2017.json").read_text())
    captions = {note["image_id"]: note["caption"] for note in content["annotations"]}
    return {f"{data}/val2017/{image['file_name']}": captions[image["id"]] for image in content["images"]}


def test_second_evaluation_computes_nothing(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = tmp_path / "report"
    first, _ = run(data=data, output=report)
    assert kept(report) == json.loads(first.to_json())
    assert set(RECALLS) < set(first.report.scores)
    assert {example.by for example in first.report.worst} == {"CIDEr", "rank"}
    monkeypatch.setattr("cococli.evaluation.evaluate.load_engine", None)
    again, reporter = run(data=data, output=report)
    assert (again.to_json(), again.exit_code) == (first.to_json(), 0)
    assert (reporter.notes, reporter.warnings) == ([], [])

    truths = data / "annotations" / "captions_val2017.json"
    scores = run(predictions=report / "captions.jsonl", references=truths)[0].report.scores
    assert scores == {name: score for name, score in first.report.scores.items() if name not in RECALLS}
    assert {"CIDEr", "BLEU-4"} <= set(scores)


def test_report_of_another_evaluation_is_kept(data: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    first, _ = run(data=data, limit=1, output=report)
    others: list[tuple[str, dict[str, Any]]] = [
        ("data", {"limit": 4}),
        ("data", {"split": "train"}),
        ("data", {"only": "captions"}),
        ("search", {"search": SearchOptions()}),
        ("frames", {"frames": "multi"}),
    ]
    for changed, options in others:
        error = refusal(**{"data": data, "limit": 1, "output": report, **options})
        assert error.message == f"{report}/report.json belongs to another evaluation: other {changed}"
        assert error.hint == "name another folder with -o, or pass --overwrite"
    assert kept(report) == json.loads(first.to_json())

    (report / "report.json").write_text('{"quarter": 3}')
    error = refusal(data=data, limit=1, output=report)
    assert error.message == f"{report}/report.json is not a report of this evaluation"
    run(data=data, limit=2, output=report, overwrite=True)
    assert kept(report)["evaluation"]["data"]["limit"] == 2


def test_cache_has_one_report_per_evaluation(data: Path) -> None:
    few, fewer, train = (
        run(data=data, only="captions", **options)[0] for options in ({"limit": 3}, {"limit": 2}, {"split": "train"})
    )
    assert few.folder and fewer.folder and train.folder
    evaluations = [kept(evaluation.folder)["evaluation"]["data"] for evaluation in (few, fewer, train)]
    assert [(found["split"], found["limit"]) for found in evaluations] == [("val", 3), ("val", 2), ("train", None)]
    assert few.folder.parent == fewer.folder.parent == train.folder.parent
    assert len(captions(few.folder.parent)) == 4  # shared


def test_missing_and_broken_files_are_left_out(data: Path, tmp_path: Path) -> None:
    missing, broken, *good = sorted((data / "val2017").iterdir())
    missing.unlink()
    broken.write_bytes(b"not a picture")
    evaluation, reporter = run(data=data, only="retrieval", output=tmp_path / "report")
    assert evaluation.exit_code == 1
    assert reporter.warnings == [
        f"no pictures found for 1 of 10 captions (first: {missing}); pass the picture folder with --images",
        f"{broken}: not a video or picture in a supported format",
        f"1 of 9 files cannot be read (first: {broken}); the rest is measured",
    ]
    assert list(evaluation.report.scores) == RECALLS
    found = json.loads(evaluation.to_json())
    assert len(found["text_ranks"]) == len(found["image_ranks"]) == len(good) == 8

    limited, reporter = run(data=data, only="captions", limit=4, output=tmp_path / "few")
    assert set(json.loads(limited.to_json())["pictures"]) == {str(int(path.stem)) for path in good[:2]}
    assert reporter.warnings[0].startswith("no pictures found for 1 of 4 captions")
    assert not (tmp_path / "few" / "index").exists()

    with pytest.raises(CocaError, match="no file could be read"):
        run(data=data, only="captions", limit=2)


def test_lists_of_other_programs_are_measured(data: Path, tmp_path: Path) -> None:
    rows = [(path, f"{caption}, seen from above") for path, caption in references(data).items()]
    (tmp_path / "captions.txt").write_text("image,caption\n" + "".join(f"{path},{text}\n" for path, text in rows))
    (tmp_path / "broken.csv").write_text("image,caption,n\n" + "".join(f"{path},{text},1\n" for path, text in rows))
    evaluation, reporter = run(data=tmp_path, only="retrieval")
    assert len(json.loads(evaluation.to_json())["text_ranks"]) == 10
    assert reporter.notes[0] == (
        f"{tmp_path}/captions.txt: 10 rows with unquoted ',' were joined to captions (first: line 2)"
    )
    error = refusal(data=tmp_path / "broken.csv", only="retrieval")
    assert error.message == f"line 2 of {tmp_path}/broken.csv has 4 fields, but the first line names 3"

    (tmp_path / "alt.tsv").write_text("filepath\tx\talt\n" + "".join(f"{path}\t\t{text}\n" for path, text in rows))
    scores = run(predictions=tmp_path / "alt.tsv:alt", references=tmp_path / "captions.txt")[0].report.scores
    assert scores["BLEU-4"] == pytest.approx(1)


def test_classes_are_measured(data: Path, tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "classes"
    for path, caption in references(data).items():
        form = re.findall("circle|square|triangle", caption)[0]
        (folder / f"a_{form}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"a_{form}")
    (folder / "a_circle" / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "templates.txt").write_text("{}\n{} on a background\n")
    options = {"classes": folder, "templates": str(tmp_path / "templates.txt")}
    evaluation, _ = run(**options)
    found = json.loads(evaluation.to_json())
    assert set(found["per_class"]) == {path.name.replace("_", " ") for path in folder.iterdir()}
    wrong = sum(confusion["count"] for confusion in found["confusions"])
    assert found["scores"]["accuracy@1"] == pytest.approx(1 - wrong / 10)
    assert evaluation.folder and evaluation.folder.is_relative_to(home / "evaluations")
    again, reporter = run(**options)
    assert again.to_json() == evaluation.to_json()
    broken = folder / "a_circle" / "broken.png"
    assert reporter.warnings == [f"1 of 11 files cannot be read (first: {broken}); the rest is measured"]


def test_imagenet_folders_need_names(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "imagenet" / "val"
    for path, wnid in zip(sorted((data / "val2017").iterdir()), ("n01440764", "n01443537"), strict=False):
        (folder / wnid).mkdir(parents=True)
        shutil.copy(path, folder / wnid)
    error = refusal(classes=folder, templates="simple")
    assert error.message == f"2 of 2 folders in {folder} are numbers, not names of classes: n01440764"
    assert error.hint == "put LOC_synset_mapping.txt there, or give their names by --class-names FILE"
    names = folder.parent / "LOC_synset_mapping.txt"
    names.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n")
    evaluation, _ = run(classes=folder, templates="simple")
    assert set(evaluation.report.classes) == {"tench", "goldfish"}
    names = names.rename(tmp_path / "mine.txt")
    evaluation, _ = run(classes=folder, templates="simple", class_names=names)
    assert set(evaluation.report.classes) == {"tench", "goldfish"}


def test_keys_of_earlier_versions_still_match(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    former = {"shapes.ckpt": "fbe2d2d7692ecac33a968490e5788b10cb9162b47aeed06991c08f5fb459444e"}
    monkeypatch.setitem(MODELS, BUNDLED, replace(MODELS[BUNDLED], sha256=former))
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/a.ppm").write_bytes(b"P6 8 8 255 " + bytes(192))
    os.utime("data/a.ppm", ns=(10**18, 10**18))
    Path("data/captions.csv").write_text("image,caption\na.ppm,a red circle\n")
    run(data=Path("data"))
    run(data=Path("data"), only="retrieval", model=replace(FIRST.model, precision="bf16"))

    def keys(file: str) -> list[str]:
        return [json.loads(line)["key"] for line in (home / "evaluations" / file).open()]

    assert keys("432f4410d6a9c022/captions.jsonl") == ["991b3f71363eea2c"]
    assert keys("432f4410d6a9c022/index/entries.jsonl") == ["991b3f71363eea2c", "text"]
    assert keys("0a0e9ef5d578214e/index/entries.jsonl") == ["85bc0eb2816b4757", "text bf16"]


def test_stopped_evaluation_has_no_scores(data: Path, tmp_path: Path) -> None:
    for only in ("captions", "retrieval"):
        with pytest.raises(KeyboardInterrupt):
            evaluate(replace(FIRST, data=data, only=only, output=tmp_path), Recorder(stop=True))
    assert not (tmp_path / "report.json").exists()


def test_missing_pycocoevalcap_fails_before_captioning(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocoevalcap.cider.cider", None)
    error = refusal(data=data, output=tmp_path / "report")
    assert error.message == "caption metrics need pycocoevalcap"
    assert error.hint == "pip install 'cococli[evaluate]'"
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 3}, "there is nothing to evaluate on"),
        ({"predictions": Path("a.jsonl")}, "--predictions and --references go together"),
        ({"predictions": Path("a"), "references": Path("b"), "data": Path()}, "--predictions and --references go tog"),
        ({"classes": Path("none")}, "none is not a folder"),
    ],
    ids=["nothing", "half", "both", "no classes"],
)
def test_invalid_options_fail_at_once(options: dict[str, Any], message: str) -> None:
    assert refusal(**options).message.startswith(message)
