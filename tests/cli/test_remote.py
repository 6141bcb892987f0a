"""Commands read from and write to web servers and S3."""

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from remote_servers import EXAMPLES, S3, TOKEN, WebServer

CLIPS = ("appears", "changes", "grows", "moves", "vanishes")
OPTIONS = ("--search", "greedy", "--readers", "1")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COCA_MODEL", "shapes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def records(text: str | bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_captions_of_stores_equal_those_of_files(coca, s3: S3, web: WebServer) -> None:
    run = coca("caption", EXAMPLES, "s3://bucket/videos/", f"{web.url}/files/moves.mp4", *OPTIONS)
    assert run.returncode == 0, run.stderr
    captions = {record["video"]: record["caption"] for record in records(run.stdout)}
    for name in CLIPS:
        assert captions[f"s3://bucket/videos/{name}.mp4"] == captions[f"{EXAMPLES}/{name}.mp4"]
    assert captions[f"{web.url}/files/moves.mp4"] == captions[f"{EXAMPLES}/moves.mp4"]


def test_signatures_are_never_shown(coca, web: WebServer, folder: Path, home: Path) -> None:
    def listed(token: str) -> None:
        names = ("moves", "grows", "none")
        urls = [f"{web.url}/signed/{name}.mp4?v=1&X-Amz-Signature={token}&X-Amz-Date=2" for name in names]
        (folder / "list.csv").write_text("\n".join(["url,caption", *(f"{url},x" for url in urls)]))

    command = ("caption", "@list.csv", "-o", "out.jsonl", "-o", "out.csv", "--log-file", "log.txt", *OPTIONS)
    listed("expired")
    run = coca(*command)
    failed = records((folder / "out.jsonl").read_text())
    assert [record["error"] for record in failed] == ["forbidden (403)"] * 3 and run.returncode == 1
    shown = run.stdout + run.stderr
    listed(TOKEN)
    for _ in range(2):
        run = coca(*command)
        shown += run.stdout + run.stderr
    assert run.stderr.startswith("3 of 3 files already captioned")
    found = records((folder / "out.jsonl").read_text())
    assert [record["status"] for record in found] == ["ok", "ok", "error"]
    assert found[0]["video"] == f"{web.url}/signed/moves.mp4?v=1"
    assert [row["video"] for row in csv.DictReader((folder / "out.csv").open())] == [one["video"] for one in found]
    (folder / "list.csv").unlink()
    written = [path.read_bytes() for place in (folder, home) for path in place.rglob("*") if path.is_file()]
    assert not any(secret in text for secret in (TOKEN, "expired") for text in (shown, *map(str, written)))


def test_outputs_go_to_stores(coca, s3: S3, folder: Path) -> None:
    outputs = ("-o", "s3://bucket/out/a.jsonl", "-o", "s3://bucket/out/a.parquet", "-o", "here.csv")
    run = coca("caption", EXAMPLES, *outputs, *OPTIONS)
    assert run.returncode == 0, run.stderr
    assert [Path(record["video"]).stem for record in records(s3.read("out/a.jsonl"))] == list(CLIPS)
    assert s3.keys("out/") == ["out/a.jsonl", "out/a.parquet"]
    assert s3.read("out/a.parquet")[:4] == b"PAR1"
    s3.client.delete_object(Bucket="bucket", Key="out/a.jsonl")
    run = coca("caption", EXAMPLES, *outputs, *OPTIONS)
    assert run.stderr.startswith("5 of 5 files already captioned")
    assert len(records(s3.read("out/a.jsonl"))) == 5
    s3.client.put_object(Bucket="bucket", Key="out/a.jsonl", Body=b"mine")
    run = coca("caption", EXAMPLES, *outputs, "--frames", "multi", *OPTIONS)
    assert run.stderr.startswith("error: s3://bucket/out/a.jsonl was not written by coca")
    assert s3.read("out/a.jsonl") == b"mine"


@pytest.mark.parametrize("where", ["out/", "s3://bucket/numbered/"])
def test_numbered_files_are_listed_once_complete(coca, s3: S3, folder: Path, where: str) -> None:
    (folder / "out").mkdir()

    def read(name: str) -> bytes:
        return s3.read(f"numbered/{name}") if "://" in where else (folder / "out" / name).read_bytes()

    def manifest() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(read("manifest.json"))
        return found

    for clip in CLIPS[:4]:
        shutil.copy(EXAMPLES / f"{clip}.mp4", folder)
    command = ("caption", ".", "-o", f"{where}%02d.jsonl", "--shard-size", "2", *OPTIONS)
    assert coca(*command).returncode == 0
    before = manifest()
    assert before["complete"]
    assert {name: (one["inputs"], one["records"]) for name, one in before["files"].items()} == {
        "00.jsonl": (2, 2),
        "01.jsonl": (2, 2),
    }
    assert [record["video"] for record in records(read("01.jsonl"))] == ["grows.mp4", "moves.mp4"]
    shutil.copy(EXAMPLES / "vanishes.mp4", folder)
    (folder / "grows.mp4").write_bytes(b"broken")
    run = coca(*command)
    assert run.stderr.startswith("3 of 5 files already captioned")
    after = manifest()
    assert after["files"]["00.jsonl"] == before["files"]["00.jsonl"]
    assert [len(records(read(name))) for name in after["files"]] == [2, 2, 1]
    assert records(read("01.jsonl"))[0]["status"] == "error"
    assert "5 of 5 files already captioned" in coca(*command).stderr
    assert manifest() == after


def test_tars_of_remote_files_go_to_stores(coca, s3: S3) -> None:
    command = ("caption", "s3://bucket/videos/[gm]*", "-o", "s3://bucket/tars/%03d.tar", "--shard-size", "1", *OPTIONS)
    assert coca(*command).returncode == 0
    assert s3.keys("tars/") == ["tars/000.tar", "tars/001.tar"]
    with tarfile.open(fileobj=io.BytesIO(s3.read("tars/001.tar"))) as tar:
        assert tar.getnames() == ["moves.mp4", "moves.txt", "moves.json", "moves.npy"]
        content = tar.extractfile("moves.mp4")
        assert content and content.read() == (EXAMPLES / "moves.mp4").read_bytes()
    written = s3.client.head_object(Bucket="bucket", Key="tars/001.tar")["LastModified"]
    assert coca(*command).stderr.startswith("2 of 2 files already captioned")
    assert s3.client.head_object(Bucket="bucket", Key="tars/001.tar")["LastModified"] == written


def test_shards_in_stores_merge_once_copied(coca, s3: S3, folder: Path) -> None:
    command = ("caption", "s3://bucket/videos/[gm]*", "-o", "s3://bucket/s/%03d.jsonl", "--shard", "0/1", *OPTIONS)
    for _ in range(2):  # the second run withdraws the manifest and writes it again
        assert coca(*command).returncode == 0
    names = ["000-00000-of-00001.jsonl", "manifest-00000-of-00001.json", "manifest-00000-of-00001.jsonl.shard"]
    assert s3.keys("s/") == [f"s/{name}" for name in names]
    run = coca("merge", "s3://bucket/s/000-00000-of-00001.jsonl", "-o", "merged/")
    assert run.stderr.startswith("error: s3://bucket/s/000-00000-of-00001.jsonl is a URL, not a file\n")
    (folder / "s").mkdir()
    for name in names:
        (folder / "s" / name).write_bytes(s3.read(f"s/{name}"))
    assert coca("merge", "s", "-o", "merged/").returncode == 0
    assert (folder / "merged/000.jsonl").samefile(folder / "s" / names[0])


def test_impossible_outputs_fail_before_loading(coca, s3: S3) -> None:
    for output, words in (
        ("s3://no-such-bucket/a.jsonl", "cannot write s3://no-such-bucket/a.jsonl: not found (404)"),
        ("https://host/a.jsonl?token=1", "cannot write https://host/a.jsonl, to a web server"),
        ("s3://bucket/a.docx", "unknown output format: s3://bucket/a.docx"),
        ("s3://bucket/out/", "-o s3://bucket/out/ is a folder of a store"),
    ):
        run = coca("caption", EXAMPLES, "-o", output, "--model", "no-such-model")
        assert run.stderr.startswith(f"error: {words}\n"), run.stderr
        assert run.returncode == 2


def test_indexes_hold_urls(coca, s3: S3, folder: Path) -> None:
    run = coca("embed", "s3://bucket/videos/m*", "-o", "index", "-o", "s3://bucket/vectors.npz")
    assert run.returncode == 0, run.stderr
    run = coca("search", "s3://bucket/videos/moves.mp4", "index", "--quiet", "--json")
    assert run.stderr == ""
    assert json.loads(run.stdout)[0]["video"] == "s3://bucket/videos/moves.mp4"
    assert s3.read("vectors.npz")[:2] == b"PK"
    run = coca("embed", "s3://bucket/videos/m*", "-o", "index")
    assert run.stderr.startswith("1 of 1 inputs already embedded")


def test_lists_of_urls_are_evaluated(coca, web: WebServer, folder: Path) -> None:
    lines = [f"{web.url}/files/{name}.mp4?token=1,a shape that {name}" for name in (*CLIPS, "none")]
    (folder / "list.csv").write_text("\n".join(["url,caption", *lines]))
    run = coca("evaluate", "--data", "list.csv", "--only", "retrieval", "-o", "report")
    assert run.returncode == 1
    assert "none.mp4: not found (404)" in run.stderr
    entries = records((folder / "report/index/entries.jsonl").read_text())
    assert {entry["video"] for entry in entries if entry.get("video") and entry["status"] == "ok"} == {
        f"{web.url}/files/{name}.mp4" for name in CLIPS
    }
    run = coca("score", "list.csv", "-o", "scores.jsonl")
    assert "1 not found (404)" in run.stderr, run.stderr
    scored = records((folder / "scores.jsonl").read_text())
    assert [record["status"] for record in scored] == ["ok"] * 5 + ["error"]
