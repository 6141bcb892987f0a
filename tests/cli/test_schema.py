"""`coca schema`, and records in other programs, as the documentation says."""

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator, ValidationError

from cococli.captioning.records import Candidate, Record, Score
from cococli.journal import Failure

ROOT = Path(__file__).parents[2]
RECORDS = (
    Record("a.mp4", 0.0, 1.0, "a dog", float("nan"), 0.25, (0.5,), "shapes"),
    Record("b.mp4", 0.0, 1.0, "", -0.5, 0.25, (0.5,), "shapes", 2, True, (Candidate("a dog", -0.5, float("nan")),)),
    Score("c.jpg", "42", "a cat", float("nan"), float("nan"), "shapes", 5),
    Failure("d.mp4", "no video stream", transient=True),
)


def blocks(package: str) -> list[str]:
    """Return the documented lines that import a package."""
    page = (ROOT / "docs" / "formats.md").read_text()
    return [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if f"import {package}\n" in block]


def test_printed_schema_describes_records(coca, validator: Draft202012Validator) -> None:
    schema = json.loads(coca("schema").stdout)
    assert schema["$id"] == "urn:coca:record:1"
    printed = Draft202012Validator(schema)
    for record in RECORDS:
        for line in (record.to_json(), record.to_json("0123456789abcdef")):
            printed.validate(json.loads(line))
            validator.validate(json.loads(line))
    for wrong in ({"start": None}, {"status": "error"}, {"frames": [None]}, {"logprob": "high"}):
        with pytest.raises(ValidationError):
            printed.validate(RECORDS[0].fields() | wrong)


@pytest.fixture
def captions(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """Records of two videos and of a broken one, in the working folder."""
    (tmp_path / "broken.mp4").write_bytes(b"this is not a video")
    names = [ROOT / "examples" / "moves.mp4", ROOT / "examples" / "grows.mp4", tmp_path / "broken.mp4"]
    coca("caption", *names, "--model", "shapes", "-o", tmp_path / "captions.jsonl")
    monkeypatch.chdir(tmp_path)
    return [json.loads(line) for line in Path("captions.jsonl").read_text().splitlines()]


def test_hugging_face_loads_records(captions: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (block,) = blocks("datasets")
    names: dict = {}
    exec(block, names)
    fields = dict.fromkeys(names["captions"].column_names)
    assert names["captions"].to_list() == [fields | record for record in captions]


def test_fiftyone_takes_records(captions: list[dict]) -> None:
    fiftyone = pytest.importorskip("fiftyone")
    (block,) = blocks("fiftyone")
    exec(block, {})
    dataset = fiftyone.load_dataset("captions")
    ok = [record for record in captions if record["status"] == "ok"]
    assert dataset.values("filepath") == [record["video"] for record in ok]
    assert dataset.values("caption") == [record["caption"] for record in ok]
    fiftyone.delete_dataset("captions")
