"""`coca evaluate`, as a user runs it, with the bundled model and pictures of its world."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli.fork_server import start
from evaluation.benchmark_fixtures import dense_events, msr_vtt, vatex_hgr, write

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")
    monkeypatch.setenv("PATH", "/none")  # METEOR in Java takes seconds


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 pictures in COCO's layout."""
    folder = tmp_path_factory.mktemp("drawn")
    command = [sys.executable, ROOT / "examples" / "shapes.py", folder, "--train", "1", "--val", "10"]
    subprocess.run(command, check=True)
    return folder


def test_scores_and_worst_examples_are_printed(coca, data: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    run = coca("evaluate", "--data", data, "-o", report, "--worst", "1")
    kept = json.loads((report / "report.json").read_text())
    head, *rows = run.stdout.splitlines()
    assert head.split() == ["measure", "x", "100"]
    measures = dict(re.fullmatch(r"(.+?) {2,}(\S+)", row).groups() for row in rows[: len(kept["scores"])])
    assert measures == {name: f"{100 * score:.1f}" for name, score in kept["scores"].items()}
    ranks = [f"{way} {name} rank" for way in ("text to image", "image to text") for name in ("median", "mean")]
    assert list(kept["ranks"]) == [row.rpartition("  ")[0].strip() for row in rows[len(measures) + 1 :][:4]] == ranks
    first, second = (row.split()[0] for row in rows[len(measures) + 5 :] if not row.startswith(" "))
    assert (first, second) == ("CIDEr", "rank")
    assert run.returncode == 0
    assert run.stderr.splitlines()[-1] == f"kept in {report}"

    again = coca("evaluate", "--data", data, "-o", report, "--json")
    assert json.loads(again.stdout) == kept
    assert again.stderr.splitlines() == [*kept["notes"], f"kept in {report}"]  # nothing is computed again

    refused = coca("evaluate", "--data", data, "-o", report, "--limit", "4")
    assert (refused.stdout, refused.returncode) == ("", 2)
    assert f"error: {report}/report.json belongs to another evaluation: other data" in refused.stderr


def test_missing_files_make_exit_code_1(coca, data: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "data")
    missing = min((tmp_path / "data" / "val2017").iterdir())
    missing.unlink()
    run = coca("evaluate", "--data", tmp_path / "data", "--only", "retrieval", "--limit", "3", "--beams", "3")
    assert run.returncode == 1
    assert [line for line in run.stderr.splitlines() if line.startswith("warning: ")] == [
        f"warning: no pictures found for 1 of 3 captions (first: {missing}); pass the picture folder with --images",
        "warning: --beams has no effect with --only retrieval",
    ]


def test_vatex_is_ranked_as_in_papers(coca, tmp_path: Path) -> None:
    vatex_hgr(tmp_path / "VATEX")
    run = coca("evaluate", "--benchmark", "vatex", "--data", tmp_path / "VATEX", "--only", "retrieval", "--json")
    report = json.loads(run.stdout)
    assert (len(report["text_ranks"]), len(report["image_ranks"])) == (4, 2)  # two captions of each of two videos
    ways = ("text to image", "image to text", "image to grouped texts")
    assert list(report["scores"]) == [f"{way} recall@{k}" for way in ways for k in (1, 5, 10)]
    assert list(report["ranks"]) == [f"{way} {kind} rank" for way in ways for kind in ("median", "mean")]
    assert run.stderr.splitlines()[0] == "retrieval is measured on HGR's split: 2 videos of test_list.txt"


# By hand, of the video with predictions. The first prediction overlaps the first event by 0.8 and that of val_2.json by
# 0.32; the second is the second event. So two of three pairs are equal at 0.3, both at 0.5 and 0.7, and one of two at
# 0.9. Other pairs have no words in common, and the missing reference counts as one word.
EQUAL = {"0.3": 2 / 3, "0.5": 1, "0.7": 1, "0.9": 1 / 2}
RECALL = {"0.3": 1, "0.5": 2 / 3, "0.7": 2 / 3, "0.9": 1 / 3}  # all of val_2.json, or of the three events of val_1.json


def test_dense_captions_score_as_by_hand(coca, tmp_path: Path) -> None:
    dense_events(tmp_path)
    options = ["evaluate", "--benchmark", "activitynet", "--data", tmp_path, "--predictions"]
    run = coca(*options, tmp_path / "submission.json", "--json")
    report = json.loads(run.stdout)
    expected = {f"BLEU-{n}": EQUAL for n in (1, 2, 3, 4)} | {"ROUGE-L": EQUAL}
    expected["CIDEr"] = {tiou: 10 * share for tiou, share in EQUAL.items()}
    expected |= {"precision": EQUAL | {"0.3": 1}, "recall": RECALL}
    halves = {name: {tiou: value / 2 for tiou, value in at.items()} for name, at in expected.items()}
    assert report["dense"] == {name: pytest.approx(at, abs=1e-6) for name, at in halves.items()}
    means = {f"dense {name}": pytest.approx(sum(at.values()) / 4, abs=1e-6) for name, at in halves.items()}
    assert report["scores"] == means
    assert run.stderr.splitlines()[0] == "1 of 2 videos have no predictions and count as 0"

    records = [
        {"video": "videos/uqiMw7tQ1Cc.mp4", "start": start, "end": end, "caption": caption}
        for start, end, caption in ((0.0, 5.0, "a man rides a horse"), (4.0, 10.0, "he falls off the saddle"))
    ]
    records.append({"video": "videos/v_bXdq2zI1Ms0.mp4", "status": "error", "error": "no video stream"})
    write(tmp_path / "out.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    assert json.loads(coca(*options, tmp_path / "out.jsonl", "--json").stdout)["dense"] == report["dense"]
    run = coca(*options, tmp_path / "out.jsonl", "--allow-missing")
    assert run.stderr.splitlines()[0] == "1 of 2 videos have no predictions and are left out"
    rows = {row[0]: row[1:] for row in (re.split(" {2,}", line) for line in run.stdout.splitlines())}
    assert rows["dense BLEU-4"] == ["79.2"]
    assert rows["dense captions"] == ["tIoU 0.3", "tIoU 0.5", "tIoU 0.7", "tIoU 0.9"]
    assert rows["BLEU-4"] == ["66.7", "100.0", "100.0", "50.0"]
    assert rows["recall"] == ["100.0", "66.7", "66.7", "33.3"]


def test_invalid_dense_captions_are_refused(coca, tmp_path: Path) -> None:
    dense_events(tmp_path)
    options = ["evaluate", "--benchmark", "activitynet", "--data", tmp_path, "--predictions"]
    for name, content, message in (
        ("a.json", {"results": {"v_a": [{"sentence": "x"}]}}, "results in a.json: 'v_a.0.timestamp': field required"),
        ("b.json", {"results": {"v_a": []}}, "no video of the references has predictions"),
        (
            "c.jsonl",
            '{"video": "a.mp4", "start": 0, "end": null, "caption": "x"}\n',
            "line 1 of c.jsonl: 'timestamp.1'",
        ),
    ):
        write(tmp_path / name, content)
        run = coca(*options, tmp_path / name)
        assert run.returncode == 2 and f"error: {message}" in run.stderr.replace(f"{tmp_path}/", ""), run.stderr


def test_benchmark_reports_what_papers_report(coca, tmp_path: Path) -> None:
    msr_vtt(tmp_path / "MSRVTT")
    options = ["evaluate", "--benchmark", "msr-vtt", "--data", tmp_path / "MSRVTT"]
    run = coca(*options, "--frames", "multi", "--search", "greedy", "--worst", "0")
    rows = [re.split(" {2,}", line) for line in run.stdout.splitlines()]
    names = [row[0] for row in rows]
    assert {"BLEU-4", "CIDEr", "text to image recall@10"} < set(names)
    ranks = [f"{way} {kind} rank" for way in ("text to image", "image to text") for kind in ("median", "mean")]
    assert names[-4:] == ranks
    assert run.returncode == 0

    (tmp_path / "out.json").write_text('{"video7010": "a triangle", "video9770": "a circle"}')
    some = [*options, "--predictions", tmp_path / "out.json"]
    refused = coca(*some)
    assert (refused.stdout, refused.returncode) == ("", 2)
    assert refused.stderr.splitlines() == [
        "error: 1 of 3 pictures have no prediction: video9999",
        "hint: --allow-missing leaves them out",
    ]
    allowed = coca(*some, "--allow-missing")
    assert "1 of 3 pictures have no prediction and are left out" in allowed.stderr.splitlines()
    assert allowed.returncode == 0


def test_unknown_benchmark_lists_known_ones(coca, tmp_path: Path) -> None:
    run = coca("evaluate", "--benchmark", "msrvt", "--data", tmp_path)
    assert "msr-vtt" in run.stderr
    assert run.returncode == 2


def test_killed_evaluation_resumes_to_identical_scores(coca, data: Path, tmp_path: Path) -> None:
    options = ["evaluate", "--data", data, "--limit", "5", "--batch-size", "1", "--search", "greedy", "--json"]
    report = tmp_path / "report"
    run = start(*options, "-o", report, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    captions = report / "captions.jsonl"
    while not (captions.exists() and captions.stat().st_size):
        assert run.poll() is None
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    assert run.communicate()[0] == ""
    assert 0 < len(captions.read_text().splitlines()) < 5
    again, whole = coca(*options, "-o", report), coca(*options, "-o", tmp_path / "whole")
    assert again.returncode == 0
    assert again.stdout == whole.stdout


def test_invalid_options_exit_with_2(coca, tmp_path: Path) -> None:
    run = coca("evaluate", "--predictions", "a.jsonl")
    assert run.stderr.splitlines() == [
        "error: --predictions and --references go together, without --data and --classes",
        "hint: or --predictions with --benchmark and --data",
    ]
    assert (run.stdout, run.returncode) == ("", 2)
