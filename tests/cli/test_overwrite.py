"""Commands refuse to overwrite what they read and what coca did not write, before anything is opened for writing."""

import json
import os
import shutil
from pathlib import Path

import pytest
from checkpoints import stored_models

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = Path(__file__).parents[1] / "data/goldens/tiny"


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")
    monkeypatch.setenv("COCA_ENGINE", "torch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Videos, a list of them, and links to both."""
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(EXAMPLES / "grows.mp4", tmp_path / name)
    (tmp_path / "list.csv").write_text("path,note\na.mp4,precious\nb.mp4,\n")
    (tmp_path / "texts.txt").write_text("a circle\n")
    (tmp_path / "video.csv").symlink_to("b.mp4")
    (tmp_path / "video.npz").symlink_to("b.mp4")
    os.link(tmp_path / "b.mp4", tmp_path / "hard.txt")
    (tmp_path / "notes.txt").write_text("my own\n")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_captions_overwrite_neither_inputs_nor_each_other(coca, folder: Path) -> None:
    before = contents(folder)
    for options, message in {
        ("@list.csv", "-o", "list.csv"): "-o list.csv would overwrite list.csv, which is read",
        ("@list.csv:path", "-o", "list.csv"): "-o list.csv would overwrite list.csv, which is read",
        ("a.mp4", "b.mp4", "-o", "video.csv"): "-o video.csv would overwrite b.mp4, which is read",
        ("a.mp4", "b.mp4", "-o", "hard.txt", "--overwrite"): "-o hard.txt would overwrite b.mp4, which is read",
        ("a.mp4", "--log-file", "b.mp4"): "b.mp4 exists and is not a log of coca",
        ("a.mp4", "-o", "new.jsonl", "--log-file", "./new.jsonl"): "-o new.jsonl and --log-file new.jsonl are the same",
        ("a.mp4", "--beside", "--log-file", "a.srt"): "a.srt and --log-file a.srt are the same file",
        ("a.mp4", "--embed", "index", "--log-file", "index/entries.jsonl"): "index/entries.jsonl and --log-file",
        ("a.mp4", "-o", "notes.txt"): "notes.txt was not written by coca, or was changed since",
        ("a.mp4", "-o", "notes.txt", "--dry-run"): "notes.txt was not written by coca, or was changed since",
    }.items():
        run = coca("caption", *options, cwd=folder)
        assert run.stderr.startswith(f"error: {message}")
        assert (run.stdout, run.returncode) == ("", 2)
        assert contents(folder) == before


def test_own_outputs_are_replaced_and_edited_ones_kept(coca, folder: Path) -> None:
    command = [
        "caption",
        "a.mp4",
        "-o",
        "out.csv",
        "-o",
        "s/",
        "--log-file",
        "run.log",
        "--quiet",
        "--search",
        "greedy",
    ]
    for options in ([], [], ["--max-length", "9"]):
        assert coca(*command, *options, cwd=folder).returncode == 0
    (folder / "s" / "a.srt").write_text("corrected")
    assert coca(*command, "--max-length", "9", cwd=folder).returncode == 0  # nothing is to be written there
    run = coca(*command, cwd=folder)
    assert run.stderr.startswith("error: s/a.srt was not written by coca, or was changed since\n")
    assert (folder / "s" / "a.srt").read_text() == "corrected"
    assert coca(*command, "--overwrite", cwd=folder).returncode == 0
    assert "circle" in (folder / "s" / "a.srt").read_text()


def test_vectors_overwrite_no_inputs(coca, folder: Path) -> None:
    before = contents(folder)
    for options, message in {
        ("a.mp4", "b.mp4", "-o", "video.npz", "--overwrite"): "-o video.npz would overwrite b.mp4, which is read",
        ("a.mp4", "-o", "video.npz"): "video.npz was not written by coca, or was changed since",
        (
            "--texts",
            "texts.txt",
            "-o",
            "new.npz",
            "--log-file",
            "texts.txt",
        ): "--log-file texts.txt would overwrite texts.txt, which is read",
        ("a.mp4", "-o", "index/", "--log-file", "index/vectors.npy"): "index/vectors.npy and --log-file",
    }.items():
        run = coca("embed", *options, cwd=folder)
        assert run.stderr.startswith(f"error: {message}")
        assert (run.stdout, run.returncode) == ("", 2)
        assert contents(folder) == before
    for _ in range(2):
        assert coca("embed", "--texts", "texts.txt", "-o", "new.npz", "--quiet", cwd=folder).returncode == 0


def test_reports_overwrite_no_data(coca, folder: Path) -> None:
    (folder / "captions.jsonl").write_text('{"image": "a.mp4", "caption": "a circle"}\n')
    before = contents(folder)
    run = coca("evaluate", "--data", ".", "-o", ".", "--only", "captions", cwd=folder)
    assert run.stderr.startswith("error: captions.jsonl would overwrite captions.jsonl, which is read\n")
    assert contents(folder) == before
    (folder / "report.json").write_text("my own")
    (folder / "truths.json").write_text(json.dumps({"a": ["a circle"]}))
    command = ["evaluate", "--predictions", "truths.json", "--references", "truths.json", "-o", "."]
    run = coca(*command, cwd=folder)
    assert run.stderr.startswith("error: report.json is not a report of this evaluation\n")
    assert (run.stdout, run.returncode) == ("", 2)
    assert (folder / "report.json").read_text() == "my own"


def test_models_overwrite_only_own_files(coca, folder: Path) -> None:
    weights = stored_models.add("mine") / "model.ckpt"
    (folder / "mine.ckpt").write_text("my own")
    (folder / "mine.tar").symlink_to(weights)
    before = contents(folder)
    source = TINY / "open_clip_pytorch_model.bin"
    for command, message in {
        ("convert", source, "mine.ckpt"): "mine.ckpt was not written by coca, or was changed since",
        ("models", "export", "mine", "mine.tar", "--overwrite"): f"mine.tar would overwrite {weights}, which is read",
    }.items():
        run = coca(*command, cwd=folder)
        assert run.stderr.startswith(f"error: {message}")
        assert (run.stdout, run.returncode) == ("", 2)
        assert contents(folder) == before
    for options in (["--overwrite"], ["--half"], []):
        assert coca("convert", source, "mine.ckpt", "--quiet", *options, cwd=folder).returncode == 0
