"""Tars as inputs of commands, with the bundled model."""

import json
import os
import tarfile
from pathlib import Path

import pytest
from media.tar_fixtures import circle, write_tar
from remote_servers import S3

EXAMPLES = Path(__file__).parents[2] / "examples"
GREEDY = ("--search", "greedy", "--quiet")


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Two tars: three pictures in one, a clip in the other."""
    files = [("a/0.png", circle("red")), ("a/0.txt", b"a red circle"), ("./1.png", circle("blue")), ("1.cls", b"3")]
    write_tar(tmp_path / "shards" / "000.tar", [*files, ("2.v2.png", circle("green"))])
    write_tar(tmp_path / "shards" / "001.tar", [("clip.mp4", (EXAMPLES / "moves.mp4").read_bytes())])
    return tmp_path / "shards"


def records(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_pictures_and_videos_in_tars_are_captioned(coca, shards: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run = coca("caption", "shards/{000..001}.tar", "-o", output, *GREEDY)
    assert (run.returncode, run.stderr) == (0, "")
    found = records(output)
    assert [record["__key__"] for record in found] == ["a/0", "1", "2", "clip"]
    assert [record["video"].partition("/@")[0] for record in found] == ["shards/000.tar"] * 3 + ["shards/001.tar"]
    assert [record["video"].partition("+")[2].partition("/")[2] for record in found[::2]] == ["a/0.png", "2.v2.png"]
    assert all(color in record["caption"] for color, record in zip(("red", "blue", "green"), found[:3], strict=True))
    (tmp_path / "list.txt").write_text("shards/000.tar\nshards/001.tar\n")
    for paths in ("shards", "shards/*.tar", "@list.txt"):
        again = coca("caption", paths, "-o", output, "--search", "greedy")
        assert again.stderr.startswith("4 of 4 files already captioned")
    assert found == records(output)


def test_broken_tars_and_members_become_error_records(coca, shards: Path, tmp_path: Path) -> None:
    write_tar(shards / "000.tar", [("0.png", circle("red")), ("1.png", b"broken"), ("2.png", b"")])
    whole = write_tar(shards / "002.tar", [("3.png", circle("red")), ("4.png", circle("blue"))])
    os.truncate(whole, 1300)
    (shards / "003.tar").write_bytes(b"no tar" * 1000)
    write_tar(shards / "004.tar", [("text.txt", b"no picture")])
    run = coca("caption", "shards/{000..005}.tar", "-o", "out.jsonl", *GREEDY)
    found = [(record["video"].rpartition("/")[2], record.get("error")) for record in records(tmp_path / "out.jsonl")]
    assert found == [
        ("0.png", None),
        ("1.png", "not a video: invalid data found when processing input"),
        ("2.png", "empty file"),
        ("clip.mp4", None),
        ("3.png", None),
        ("002.tar", "the tar is truncated at byte 1,300: the rest of it is left out"),
        ("003.tar", "the tar is damaged at byte 0: the rest of it is left out"),
        ("004.tar", "no picture or video in this tar"),
        ("005.tar", "no such file"),
    ]
    assert run.returncode == 1
    write_tar(whole, [("3.png", circle("red")), ("4.png", circle("blue"))])
    assert coca("caption", whole.relative_to(tmp_path), "-o", "out.jsonl", *GREEDY).returncode == 0
    assert [record["__key__"] for record in records(tmp_path / "out.jsonl")[-2:]] == ["3", "4"]


def test_hostile_names_stay_inside_the_output(coca, tmp_path: Path) -> None:
    clip = (EXAMPLES / "moves.mp4").read_bytes()
    names = ("../../up.mp4", "/etc/root.mp4", "a/../../b.mp4", "new\nline.mp4", "/@5+7/in.mp4", "x" * 300 + ".mp4")
    (tmp_path / "here").mkdir()
    write_tar(tmp_path / "here" / "bad.tar", [(name, clip) for name in names])
    run = coca("caption", "here/bad.tar", "-o", "here/subs/", "-o", "here/out.jsonl", *GREEDY)
    keys = [record["__key__"] for record in records(tmp_path / "here" / "out.jsonl")]
    assert keys == ["up", "etc/root", "a/b", "new\nline", "@5+7/in", "x" * 300]
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.srt")}
    assert all(name.startswith("here/subs/") for name in written) and len(written) == 6
    assert run.returncode == 0


def test_globs_match_the_names_in_tars(coca, shards: Path) -> None:
    def listed(*options: str) -> list[str]:
        run = coca("caption", "shards", "-o", "out.jsonl", "--dry-run", *options)
        return [line.rpartition("/")[2] for line in run.stdout.splitlines()]

    assert listed("--include", "*.png", "--exclude", "000.tar/a/**") == ["1.png", "2.v2.png"]
    assert listed("--exclude", "000.tar") == ["clip.mp4"]


def test_tars_are_embedded_and_found(coca, shards: Path, tmp_path: Path) -> None:
    assert coca("embed", "shards", "-o", "index", "--quiet").returncode == 0
    entries = records(tmp_path / "index" / "entries.jsonl")
    assert [entry["__key__"] for entry in entries] == ["a/0", "1", "2", "clip"]
    run = coca("search", "a red circle", "index", "-k", 1, "--json", "--quiet")
    assert (run.returncode, run.stderr) == (0, "")
    with tarfile.open(shards / "000.tar") as tar:
        member = tar.getmember("a/0.png")
    (best,) = json.loads(run.stdout)
    assert best["video"] == f"shards/000.tar/@{member.offset_data}+{member.size}/a/0.png"
    assert json.loads(coca("caption", best["video"], "--json", *GREEDY).stdout)["__key__"] == "a/0"


def test_subtitles_cannot_go_next_to_what_is_in_tars(coca, shards: Path) -> None:
    run = coca("caption", "shards/001.tar", "--beside")
    assert run.returncode == 2
    assert run.stderr.startswith("error: nothing can be written next to shards/001.tar/@512+")
    assert run.stderr.endswith("hint: use -o FOLDER/ for what is in tars\n")


def test_missing_package_for_patterns_is_named(coca, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "lacking").mkdir()
    (tmp_path / "lacking" / "braceexpand.py").write_text("raise ImportError")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "lacking"), os.environ["PYTHONPATH"]]))
        run = coca("caption", "shards/{000..001}.tar")
    assert run.stderr == (
        "error: patterns of tars need the package webdataset\nhint: pip install 'cococli[webdataset]'\n"
    )


def test_remote_tars_are_read_in_place(coca, shards: Path, tmp_path: Path, s3: S3) -> None:
    for tar in shards.iterdir():
        s3.client.upload_file(str(tar), "bucket", f"tars/{tar.name}")
    run = coca("caption", "s3://bucket/tars/{000..002}.tar", "-o", "out.jsonl", *GREEDY)
    assert run.stderr == "warning: s3://bucket/tars/002.tar: not found (404)\n"
    *found, _missing = records(tmp_path / "out.jsonl")
    assert [record["__key__"] for record in found] == ["a/0", "1", "2", "clip"]
    assert [record["status"] for record in found] == ["ok"] * 4
    assert found[0]["video"] == "s3://bucket/tars/000.tar/@512+" + found[0]["video"].partition("+")[2]
    s3.client.upload_file(str(shards / "001.tar"), "bucket", "tars/001.tar")
    again = coca("caption", "s3://bucket/tars/", "-o", "out.jsonl", "--search", "greedy")
    assert again.stderr.startswith("4 of 4 files already captioned")
    write_tar(tmp_path / "new.tar", [("clip.mp4", (EXAMPLES / "grows.mp4").read_bytes())])
    s3.client.upload_file(str(tmp_path / "new.tar"), "bucket", "tars/001.tar")
    again = coca("caption", "s3://bucket/tars/", "-o", "out.jsonl", "--search", "greedy")
    assert again.stderr.startswith("3 of 4 files already captioned")


def test_classes_in_tars_are_measured(coca, tmp_path: Path) -> None:
    colors = ("blue", "green", "red")
    files = [(f"{i}.png", circle(color)) for i, color in enumerate(colors)]
    labels = [(f"{i}.cls", str(i).encode()) for i in range(3)]
    write_tar(tmp_path / "data" / "test" / "0.tar", [file for pair in zip(files, labels, strict=True) for file in pair])
    (tmp_path / "templates.txt").write_text("a {}")
    command = ("evaluate", "--classes", "data", "--templates", "templates.txt", "-o", "report", "--quiet")
    run = coca(*command)
    assert run.stderr.startswith("error: the classes in data/test/0.tar are numbers\n")
    names = [f"{color} circle" for color in (*colors, "yellow")]
    (tmp_path / "data" / "classnames.txt").write_text("\n".join(names))
    assert coca(*command).returncode == 0
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    assert report["evaluation"]["classes"]["names"] == names
    assert list(report["per_class"]) == names[:3]
    named = [(f"{i}.cls", f"{color}_circle".encode()) for i, color in enumerate(colors)]
    tar = write_tar(tmp_path / "named.tar", [file for pair in zip(files, named, strict=True) for file in pair])
    run = coca("evaluate", "--classes", tar, "--templates", "templates.txt", "-o", "other", "--quiet")
    report = json.loads((tmp_path / "other" / "report.json").read_text())
    assert report["evaluation"]["classes"]["names"] == names[:3]


def test_classes_in_tars_serve_as_captions(coca, tmp_path: Path) -> None:
    files = [("0.png", circle("red")), ("0.cls", b"red circle"), ("1.png", circle("blue")), ("1.cls", b"blue circle")]
    write_tar(tmp_path / "a.tar", [*files, ("2.png", circle("green")), ("2.cls", b"17")])
    run = coca("evaluate", "--data", "a.tar", "--only", "retrieval", "-o", "report")
    assert run.returncode == 0, run.stderr
    assert "1 classes that are numbers are left out" in run.stderr
    entries = records(tmp_path / "report" / "index" / "entries.jsonl")
    assert [entry["text"] for entry in entries if "text" in entry] == ["red circle", "blue circle"]
    assert [entry["__key__"] for entry in entries if "video" in entry] == ["0", "1"]
