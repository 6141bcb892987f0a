"""Runs on pictures in tars and in Parquet."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet
from training.tiny_run import COLOURS, RecordingReporter, request
from training.training_fixtures import pictures

from cococli.training.finetune import finetune


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same pictures and captions in a folder, a tar and a Parquet file."""
    top = tmp_path_factory.mktemp("containers")
    (top / "folder").mkdir()
    rows = []
    with tarfile.open(top / "data.tar", "w") as tar:
        for path, colour in zip(pictures(top / "folder", 8), COLOURS, strict=False):
            captions = [f"a {colour} thing", f"it is {colour}"]
            path.with_suffix(".txt").write_text("\n".join(captions))
            rows.append({"image": {"bytes": path.read_bytes(), "path": path.name}, "caption": captions})
            tar.add(path, path.name)
            tar.add(path.with_suffix(".txt"), path.with_suffix(".txt").name)
    parquet.write_table(pa.Table.from_pylist(rows), top / "data.parquet", row_group_size=3)
    return {"folder": top / "folder", "tar": top / "data.tar", "parquet": top / "data.parquet"}


def losses(home: Path, name: str) -> list[Any]:
    lines = (home / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [record["loss"] for record in map(json.loads, lines) if "loss" in record]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_containers_train_like_folders_and_resume(data: dict[str, Path], home: Path, kind: str) -> None:
    finetune(request(data["folder"], name="files"))
    finetune(request(data[kind], name="mine"), RecordingReporter(stop_after=3))
    reporter = RecordingReporter()
    finetune(request(data[kind], name="mine"), reporter)
    assert [note for note in reporter.notes if "resuming" in note] == ["resuming run mine at step 3"]
    assert losses(home, "mine") == losses(home, "files")
    assert reporter.warnings == []


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_features_of_containers_equal_those_of_files(data: dict[str, Path], home: Path, kind: str) -> None:
    finetune(request(data["folder"], name="base", steps=1))
    for name, source in (("files", "folder"), ("mine", kind)):
        finetune(request(data[source], name=name, model="run:base", freeze="vision", steps=2))
    assert losses(home, "mine") == losses(home, "files")
