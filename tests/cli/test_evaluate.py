"""`coca evaluate`, as a user runs it, with the bundled model and pictures of its world."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAME_DATA = "name --data, --classes, or --predictions and --references"
COMMAND = [sys.executable, "-m", "cococli"]
RECALLS = [f"{way} recall@{k}" for way in ("text to image", "image to text") for k in (1, 5, 10)]


@pytest.fixture(autouse=True)
def bundled(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


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


@pytest.fixture
def no_java(monkeypatch: pytest.MonkeyPatch) -> None:
    """METEOR takes seconds."""
    monkeypatch.setenv("PATH", "/none")


def references(data: Path) -> dict[str, list[str]]:
    """What people say: picture's path -> captions."""
    content = json.loads((data / "annotations" / "captions_val2017.json").read_text())
    captions = {note["image_id"]: note["caption"] for note in content["annotations"]}
    return {f"{data}/val2017/{image['file_name']}": [captions[image["id"]]] for image in content["images"]}


def said(folder: Path) -> dict[str, str]:
    """What the model said: picture's path -> caption."""
    records = [json.loads(line) for line in (folder / "captions.jsonl").open()]
    return {record["video"]: record["caption"] for record in records if record["status"] == "ok"}


def test_a_folder_is_measured_once_and_the_report_is_what_is_printed(coca, data: Path, tmp_path: Path) -> None:
    report = tmp_path / "report"
    run = coca("evaluate", "--data", data, "-o", report, "--worst", "1")
    kept = json.loads((report / "report.json").read_text())
    head, *rows = run.stdout.splitlines()
    assert head.split() == ["measure", "x", "100"]
    measures = dict(re.fullmatch(r"(.+?) {2,}(\S+)", row).groups() for row in rows[: len(kept["scores"])])
    assert measures == {name: f"{100 * score:.1f}" for name, score in kept["scores"].items()}
    assert set(RECALLS) <= set(measures)
    first, second = (row.split()[0] for row in rows[len(measures) :] if not row.startswith(" "))
    assert (first, second) == ("CIDEr", "rank")
    assert run.returncode == 0
    assert run.stderr.splitlines()[-1] == f"kept in {report}"

    again = coca("evaluate", "--data", data, "-o", report, "--json")
    assert json.loads(again.stdout) == kept
    assert again.stderr.splitlines() == [*kept["notes"], f"kept in {report}"]  # nothing is made again

    truths = data / "annotations" / "captions_val2017.json"
    for other in (["--limit", "4"], ["--split", "train"], ["--only", "captions"], ["--search", "greedy"]):
        refused = coca("evaluate", "--data", data, "-o", report, *other)
        assert (refused.stdout, refused.returncode) == ("", 2)
        assert f"error: {report}/report.json belongs to another evaluation: other " in refused.stderr
        assert refused.stderr.splitlines()[-1] == "hint: name another folder with -o, or pass --overwrite"
    assert json.loads((report / "report.json").read_text()) == kept

    files = coca("evaluate", "--predictions", report / "captions.jsonl", "--references", truths, "--json")
    captions = {name: score for name, score in kept["scores"].items() if name not in RECALLS}
    assert json.loads(files.stdout)["scores"] == captions
    assert {"CIDEr", "BLEU-4"} <= set(captions)


def test_what_is_missing_or_broken_is_left_out(coca, data: Path, tmp_path: Path, no_java: None) -> None:
    missing, broken, *good = sorted((data / "val2017").iterdir())
    missing.unlink()
    broken.write_bytes(b"no picture")
    run = coca("evaluate", "--data", data, "--only", "retrieval", "-o", tmp_path / "report", "--json")
    assert run.returncode == 1
    assert [line for line in run.stderr.splitlines() if line.startswith("warning: ")] == [
        f"warning: no pictures found for 1 of 10 captions (first: {missing}); pass the picture folder with --images",
        f"warning: {broken}: not a video or picture in a supported format",
        f"warning: 1 of 9 files cannot be read (first: {broken}); the rest is measured",
    ]
    found = json.loads(run.stdout)
    assert list(found["scores"]) == RECALLS
    assert len(found["text_ranks"]) == len(found["image_ranks"]) == len(good) == 8

    limited = coca(
        "evaluate",
        "--data",
        data,
        "--only",
        "captions",
        "--limit",
        "4",
        "--search",
        "greedy",
        "-o",
        tmp_path / "few",
        "--json",
    )
    assert set(json.loads(limited.stdout)["pictures"]) == {str(int(path.stem)) for path in good[:2]}
    assert "warning: no pictures found for 1 of 4 captions" in limited.stderr
    assert not (tmp_path / "few" / "index").exists()


def test_lists_of_other_programs_are_measured(coca, data: Path, tmp_path: Path, no_java: None) -> None:
    pictures = references(data)
    rows = [(path, f"{caption}, seen from above") for path, (caption,) in pictures.items()]
    (tmp_path / "captions.txt").write_text("image,caption\n" + "".join(f"{path},{text}\n" for path, text in rows))
    (tmp_path / "broken.csv").write_text("image,caption,n\n" + "".join(f"{path},{text},1\n" for path, text in rows))
    command = ["evaluate", "--engine", "torch", "--only", "retrieval", "--json", "--data"]
    run = coca(*command, tmp_path)
    assert run.returncode == 0
    assert len(json.loads(run.stdout)["text_ranks"]) == 10
    note = f"{tmp_path}/captions.txt: 10 rows with unquoted ',' were joined to captions (first: line 2)"
    assert note in run.stderr.splitlines()
    refused = coca(*command, tmp_path / "broken.csv")
    assert f"error: line 2 of {tmp_path}/broken.csv has 4 fields, but the first line names 3" in refused.stderr

    (tmp_path / "alt.tsv").write_text("filepath\tx\talt\n" + "".join(f"{path}\t\t{text}\n" for path, text in rows))
    files = ["--predictions", tmp_path / "alt.tsv:alt", "--references", tmp_path / "captions.txt", "--json"]
    assert json.loads(coca("evaluate", *files).stdout)["scores"]["BLEU-4"] == pytest.approx(1)


def test_killed_a_run_goes_on_to_what_an_undisturbed_one_finds(coca, data: Path, tmp_path: Path, no_java: None) -> None:
    options = ["evaluate", "--data", data, "--batch-size", "1", "--search", "greedy", "--json"]
    report = tmp_path / "report"
    run = subprocess.Popen([*COMMAND, *map(str, options), "-o", report], stdout=-1, stderr=subprocess.DEVNULL)
    captions = report / "captions.jsonl"
    while not (captions.exists() and captions.stat().st_size):
        assert run.poll() is None
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    assert run.communicate()[0] == b""
    assert 0 < len(said(report)) < 10
    again, whole = coca(*options, "-o", report), coca(*options, "-o", tmp_path / "whole")
    assert again.returncode == 0
    assert again.stdout == whole.stdout


def test_keys_of_earlier_versions_still_match(coca, tmp_path: Path, no_java: None, home: Path) -> None:
    (tmp_path / "data").mkdir()
    picture = tmp_path / "data" / "a.ppm"
    picture.write_bytes(b"P6 8 8 255 " + bytes(192))
    os.utime(picture, ns=(10**18, 10**18))
    (tmp_path / "data" / "captions.csv").write_text("image,caption\na.ppm,a red circle\n")
    command = ["evaluate", "--data", "data", "--search", "greedy"]
    assert coca(*command, cwd=tmp_path).returncode == 0
    assert coca(*command, "--only", "retrieval", "--precision", "bf16", cwd=tmp_path).returncode == 0

    def keys(file: str) -> list[str]:
        return [json.loads(line)["key"] for line in (home / "evaluations" / file).open()]

    assert keys("432f4410d6a9c022/captions.jsonl") == ["991b3f71363eea2c"]
    assert keys("432f4410d6a9c022/index/entries.jsonl") == ["991b3f71363eea2c", "text"]
    assert keys("0a0e9ef5d578214e/index/entries.jsonl") == ["85bc0eb2816b4757", "text bf16"]


def test_pictures_are_put_into_classes(coca, data: Path, tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "classes"
    for path, (caption,) in references(data).items():
        form = re.search("circle|square|triangle", caption)[0]
        (folder / f"a_{form}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / f"a_{form}")
    (folder / "a_circle" / "broken.png").write_bytes(b"no picture")
    (tmp_path / "templates.txt").write_text("{}\n{} on a background\n")
    command = ["evaluate", "--classes", folder, "--templates", tmp_path / "templates.txt", "--json"]
    run = coca(*command)
    found = json.loads(run.stdout)
    assert set(found["per_class"]) == {path.name.replace("_", " ") for path in folder.iterdir()}
    wrong = sum(mix["count"] for mix in found["confusions"])
    assert found["scores"]["accuracy@1"] == pytest.approx(1 - wrong / 10)
    assert run.stderr.splitlines()[-1].startswith(f"kept in {home}/evaluations/")
    again = coca(*command)
    assert again.stdout == run.stdout
    assert again.stderr.splitlines() == [
        f"warning: 1 of 11 files cannot be read (first: {folder}/a_circle/broken.png); the rest is measured",
        run.stderr.splitlines()[-1],
    ]


def test_reports_in_the_cache_are_one_for_each_evaluation(coca, data: Path, tmp_path: Path, no_java: None) -> None:
    def reported(*arguments: object) -> Path:
        run = coca("evaluate", "--data", data, "--only", "captions", "--search", "greedy", *arguments)
        assert run.returncode == 0
        return Path(run.stderr.splitlines()[-1].removeprefix("kept in ")) / "report.json"

    few, fewer, train = reported("--limit", "3"), reported("--limit", "2"), reported("--split", "train")
    evaluations = [json.loads(path.read_text())["evaluation"]["data"] for path in (few, fewer, train)]
    assert [(found["split"], found["limit"]) for found in evaluations] == [("val", 3), ("val", 2), ("train", None)]
    assert len(said(few.parents[1])) == 4  # captions are shared

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.json").write_text('{"quarter": 3}')
    run = coca("evaluate", "--data", data, "--limit", "2", "--only", "captions", "--search", "greedy",
               "-o", tmp_path / "mine")  # fmt: skip
    assert (run.returncode, (tmp_path / "mine" / "report.json").read_text()) == (2, '{"quarter": 3}')
    assert reported("--limit", "2", "-o", tmp_path / "mine", "--overwrite").parent == tmp_path / "mine"


def test_class_folders_of_imagenet_need_their_names(coca, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "imagenet" / "val"
    for path, wnid in zip(sorted((data / "val2017").iterdir()), ("n01440764", "n01443537"), strict=False):
        (folder / wnid).mkdir(parents=True)
        shutil.copy(path, folder / wnid)
    command = ["evaluate", "--classes", folder, "--templates", "simple", "--json", "--limit", "3"]
    run = coca(*command)
    assert (run.stdout, run.returncode) == ("", 2)
    assert run.stderr.splitlines() == [
        f"error: 2 of 2 folders in {folder} are numbers, not names of classes: n01440764",
        "hint: put LOC_synset_mapping.txt there, or give their names by --class-names FILE",
    ]
    names = folder.parent / "LOC_synset_mapping.txt"
    names.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n")
    assert set(json.loads(coca(*command).stdout)["per_class"]) == {"tench", "goldfish"}
    names = names.rename(tmp_path / "mine.txt")
    assert set(json.loads(coca(*command, "--class-names", names).stdout)["per_class"]) == {"tench", "goldfish"}


def test_caption_metrics_are_asked_for_before_captioning(coca, data: Path, tmp_path: Path) -> None:
    (tmp_path / "pycocoevalcap.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    run = coca("evaluate", "--data", data, "-o", tmp_path / "report", env=os.environ | {"PYTHONPATH": path})
    assert run.stderr == "error: caption metrics need pycocoevalcap\nhint: pip install 'cococli[evaluate]'\n"
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (
            ["--limit", "3"],
            "there is nothing to evaluate on",
            "name --data, --classes, or --predictions and --references",
        ),
        (
            ["--predictions", "a.jsonl"],
            "--predictions and --references go together, without --data and --classes",
            "",
        ),
        (
            ["--predictions", "a.json", "--references", "b.json", "--data", "."],
            "--predictions and --references go together, without --data and --classes",
            "",
        ),
        (["--classes", "none"], "none is no folder", "it holds a folder of pictures or videos for each class"),
    ],
    ids=["nothing", "half", "both", "no classes"],
)
def test_what_is_wrong_is_told_at_once(coca, tmp_path: Path, arguments: list[str], message: str, hint: str) -> None:
    run = coca("evaluate", *arguments, cwd=tmp_path)
    assert run.stderr.endswith(f"error: {message}\n" + f"hint: {hint}\n" * bool(hint))
    assert (run.stdout, run.returncode) == ("", 2)
