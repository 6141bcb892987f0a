"""`coca review`, as a user runs it, with the bundled model."""

import json
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import httpx2
import pytest
from cli.fork_server import start

from cococli.captioning.records import Record
from cococli.datasets.find import find_dataset
from cococli.media.readers import open_reader
from cococli.review.edits import Review, id_of

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "review.md").read_text()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "examples").mkdir()
    for clip in (ROOT / "examples").glob("*.mp4"):
        shutil.copy(clip, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COCA_MODEL", "shapes")
    return tmp_path


def test_three_commands_correct_the_model(coca, folder: Path) -> None:
    wrong, right = re.findall(r'"(a [^"]*triangle[^"]*)"', re.sub(r"\s+", " ", DOCS))[:2]
    block = DOCS[DOCS.index("# From a wrong caption") :]
    lines = re.findall(r"^\$ coca (.*)", block, re.MULTILINE)[:3]
    caption, review, finetune = map(shlex.split, lines)
    assert coca(*caption, "--quiet").returncode == 0

    server = start(*review, "--no-browser", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert server.stdout
    url = server.stdout.readline().strip()
    records = httpx2.get(f"{url}records").json()["records"]
    assert [record["caption"] for record in records if "appears" in record["video"]] == [wrong]
    for record in records:
        correction = right if "appears" in record["video"] else None
        edit = {"version": 0, "correction": correction, "verdict": "accepted"}
        assert httpx2.put(f"{url}records/{record['id']}", json=edit).status_code == 200
    exported = httpx2.post(f"{url}export", json={"form": "csv"}).json()
    assert finetune[:3] == shlex.split(exported["command"])[1:]
    server.send_signal(signal.SIGINT)
    assert (server.communicate()[1], server.returncode) == ("Ctrl-C ends\n", 0)

    trained = coca(*finetune, "--threads", "1")
    assert trained.returncode == 0, trained.stderr
    again = coca("caption", "examples/", "--model", "run:better", "--quiet")
    captions = [json.loads(line)["caption"] for line in again.stdout.splitlines()]
    assert captions == [right, *(record["caption"] for record in records[1:])]


def test_exports_hold_segments_as_frames(coca, folder: Path) -> None:
    options = ["--segments", "2", "--frames", "multi", "--num-frames", "3", "--search", "greedy"]
    assert coca("caption", "examples/moves.mp4", *options, "-o", "out.jsonl", "-q").returncode == 0
    empty = coca("review", "out.jsonl", "--export", "data.csv")
    assert empty.returncode == 2 and "no caption was corrected or accepted" in empty.stderr
    review = Review(folder / "out.jsonl")
    for id in review.records:
        review.edit(id, 0, "=a formula", "accepted")
    for name in ("data.csv", "data.json", "data/"):
        run = coca("review", "out.jsonl", "--export", name)
        assert run.returncode == 0, run.stderr
        assert run.stderr.splitlines()[-1] == f"coca finetune --data {name}"
        examples = find_dataset(Path(name), "train").examples
        assert [example.captions for example in examples] == [("=a formula",)] * 2
        assert [len(open_reader(example.path).starts) for example in examples] == [3, 3]
    assert len(list((folder / "data_segments").iterdir())) == 2
    assert sorted(path.suffix for path in (folder / "data").iterdir()) == [".txt", ".txt", ".webp", ".webp"]


def test_missing_and_foreign_files(coca, folder: Path) -> None:
    run = coca("review", "none.jsonl")
    assert (run.returncode, run.stderr.splitlines()[0]) == (2, "error: no such file: none.jsonl")
    record = Record("examples/moves.mp4", 0.0, 4.0, "a dog", -0.5, 0.25, (2.0,), "shapes")
    (folder / "out.jsonl").write_text(record.to_json() + "\n")
    Review(folder / "out.jsonl").edit(id_of(record), 0, None, "accepted")
    (folder / "data.csv").write_text("mine")
    run = coca("review", "out.jsonl", "--export", "data.csv")
    assert run.returncode == 2 and "was not written by coca" in run.stderr
    assert coca("review", "out.jsonl", "--export", "data.csv", "--overwrite").returncode == 0
    run = coca("review", "out.jsonl", "--export", "data.xml")
    assert run.stderr.splitlines()[0] == "error: unknown format: data.xml"
