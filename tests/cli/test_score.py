"""`coca score`, as a user runs it, with the bundled model."""

import csv
import io
import json
import re
import shutil
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from cli.fork_server import start
from pyarrow import parquet

import cococli

EXAMPLES = Path(__file__).parents[2] / "examples"
CAPTIONS = {
    "appears.mp4": ["a purple triangle beside a yellow triangle", "a green circle"],
    "grows.mp4": ["a red square"],
}


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A list of captions of two videos."""
    folder = tmp_path / "data"
    folder.mkdir()
    for name in CAPTIONS:
        shutil.copy(EXAMPLES / name, folder)
    rows = [("path", "caption"), *((name, caption) for name, captions in CAPTIONS.items() for caption in captions)]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_scores_in_all_formats_resume(coca, data: Path, tmp_path: Path) -> None:
    (data / "broken.mp4").write_bytes(b"this is not a video")
    with (data / "captions.csv").open("a") as file:
        file.write("broken.mp4,nothing\n")
    output, table, rows = (tmp_path / f"scores{suffix}" for suffix in (".jsonl", ".csv", ".parquet"))
    command = ["score", data / "captions.csv", "--frames", "multi", "-o", output, "-o", table, "-o", rows, "-o", "-"]
    run = coca(*command)
    assert run.returncode == 1
    records = lines(output)
    *scores, failure = records
    assert failure["video"] == str(data / "broken.mp4") and failure["status"] == "error"
    with cococli.load("shapes", frames="multi", engine="torch", precision="fp32") as model:
        expected = [model.score(data / name, captions) for name, captions in CAPTIONS.items()]
        assert model.score(data / "grows.mp4", "a red square") == pytest.approx(float(expected[1][0]), abs=1e-5)
    np.testing.assert_allclose([one["similarity"] for one in scores], np.concatenate(expected), atol=1e-4)
    for one in scores:
        assert one["clipscore"] == pytest.approx(2.5 * max(one["similarity"], 0), abs=2e-4)
    assert [(one["id"], one["caption"], one.get("records")) for one in scores] == [
        ("appears.mp4", CAPTIONS["appears.mp4"][0], 2),
        ("appears.mp4", CAPTIONS["appears.mp4"][1], 2),
        ("grows.mp4", CAPTIONS["grows.mp4"][0], None),
    ]
    printed = [json.loads(line) for line in run.stdout.splitlines()]
    assert printed == [{name: value for name, value in record.items() if name != "key"} for record in records]
    tabled = parquet.read_table(rows).to_pylist()
    assert table.read_text().splitlines()[0] == ",".join(tabled[0])
    assert [row["similarity"] for row in tabled] == [record.get("similarity") for record in records]
    mean = np.mean([one["similarity"] for one in scores])
    assert f"3 captions: mean similarity {mean:.4f}, CLIPScore " in run.stderr

    again = coca(*command)
    assert (again.stdout, again.returncode) == (run.stdout, 1)
    assert again.stderr.startswith("3 of 3 files already scored (use --overwrite to redo them)\n")
    (data / "captions.csv").write_text("path,caption\ngrows.mp4,a blue square\nappears.mp4,a green circle\n")
    changed = coca(*command)
    assert "already scored" not in changed.stderr  # other captions
    assert [json.loads(line)["caption"] for line in changed.stdout.splitlines()] == ["a blue square", "a green circle"]


def test_layouts_have_the_same_scores(coca, data: Path, tmp_path: Path) -> None:
    sidecars, coco = tmp_path / "sidecars", tmp_path / "coco"
    sidecars.mkdir()
    (coco / "annotations").mkdir(parents=True)
    images, annotations = [], []
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number, (name, captions) in enumerate(CAPTIONS.items()):
            text = "\n".join(captions)
            shutil.copy(EXAMPLES / name, sidecars)
            (sidecars / name).with_suffix(".txt").write_text(text)
            tar.add(EXAMPLES / name, name)
            member = tarfile.TarInfo(str(Path(name).with_suffix(".txt")))
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
            images.append({"id": number, "file_name": name})
            annotations += [{"image_id": number, "id": len(annotations), "caption": caption} for caption in captions]
    (coco / "annotations" / "captions_val2017.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )
    found = {}
    for source, options in ((data, []), (sidecars, []), (tmp_path / "a.tar", []), (coco, ["--split", "val"])):
        places = ["--images", data] if source == coco else []
        run = coca("score", source, *options, *places)
        assert run.returncode == 0, run.stderr
        found[source] = [json.loads(line) for line in run.stdout.splitlines()]
    scores = [[(one["caption"], one["similarity"]) for one in records] for records in found.values()]
    assert scores == [scores[0]] * 4
    assert [one["id"] for one in found[tmp_path / "a.tar"]] == ["a.tar/appears", "a.tar/appears", "a.tar/grows"]
    assert [one["id"] for one in found[coco]] == ["0", "0", "1"]


def test_killed_scoring_resumes(coca, many: Path, tmp_path: Path) -> None:
    rows = [f"{name.name},{caption}\n" for name in sorted(many.iterdir()) for caption in ("a square", "a dot", "red")]
    (many / "captions.csv").write_text("path,caption\n" + "".join(rows))
    output = tmp_path / "scores.jsonl"
    run = start("score", many, "-o", output, "--batch-size", "2", stderr=subprocess.DEVNULL)
    while not (output.exists() and output.stat().st_size):
        assert run.poll() is None
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    assert run.wait(900) == -signal.SIGKILL
    again = coca("score", many, "-o", output)
    assert re.match(r"\d+ of 30 files already scored", again.stderr)
    assert [f"{Path(one['video']).name},{one['caption']}\n" for one in lines(output)] == rows


def test_scores_can_be_trained_on(coca, data: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.jsonl"
    assert coca("score", data, "-o", scores).returncode == 0
    best = tmp_path / "best.jsonl"
    best.write_text("".join(f"{json.dumps(one)}\n" for one in lines(scores) if one["similarity"] >= 0.5))
    assert len(lines(best)) == 1
    run = coca("finetune", "--data", best, "--steps", "1", "--batch-size", "1", "--hold-out", "0", "--name", "one")
    assert run.returncode == 0, run.stderr


def test_invalid_outputs_exit_with_2(coca, data: Path) -> None:
    run = coca("score", data, "-o", data / "out.srt")
    assert (run.returncode, "use one of .jsonl, .csv, .parquet" in run.stderr) == (2, True)
    run = coca("score", data, "-o", data / "captions.csv")
    assert (run.returncode, "was not written by coca" in run.stderr) == (2, True)
    assert coca("score", data / "none.csv").returncode == 2
