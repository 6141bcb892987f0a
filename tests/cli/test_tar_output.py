"""WebDataset shards as outputs of `coca caption`, with the bundled model."""

import io
import os
import signal
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import webdataset
from cli.fork_server import start
from media.tar_fixtures import circle, write_tar
from remote_servers import S3

EXAMPLES = Path(__file__).parents[2] / "examples"
GREEDY = ("--search", "greedy", "--quiet")


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()


def pictures(folder: Path, *colors: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for color in colors:
        (folder / f"{color}.png").write_bytes(circle(color))


def members(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_captions_go_to_shards_and_into_training(coca, tmp_path: Path) -> None:
    pictures(tmp_path / "in", "blue", "green", "red", "yellow")
    files = [("sub/a.v2.png", circle("red")), ("b.mp4", (EXAMPLES / "moves.mp4").read_bytes()), ("c.png", b"broken")]
    write_tar(tmp_path / "in.tar", files)
    run = coca("caption", "in", "in.tar", "-o", "out/%06d.tar", "--shard-size", 3, *GREEDY)
    assert run.returncode == 1
    assert run.stderr.startswith("warning: in.tar/@")
    samples = list(webdataset.WebDataset(str(tmp_path / "out/{000000..000002}.tar"), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["blue", "green", "red", "yellow", "sub/a", "b"]
    for sample in samples:
        assert sample["txt"] == sample["json"]["caption"]
        assert sample["npy"].shape == (96,) and np.linalg.norm(sample["npy"]) == pytest.approx(1, abs=1e-5)
        assert sample["json"]["model"] == "shapes"
    assert samples[0]["png"] == circle("blue")
    assert "red" in samples[4]["txt"] and samples[4]["json"]["__key__"] == "sub/a"
    assert members(tmp_path / "out" / "000002.tar") == []
    run = coca("finetune", "--data", "out", "--steps", 1, "--batch-size", 2, "--hold-out", 0, "--name", "mine")
    assert run.returncode == 0, run.stderr
    assert "all: 6 files, 6 captions" in run.stderr


def test_killed_run_shows_only_complete_shards(coca, many: Path, tmp_path: Path) -> None:
    options = ["-o", "out/%03d.tar", "--shard-size", "4", "--batch-size", "4", "--search", "greedy"]
    run = start("caption", str(many), *options)
    while not (tmp_path / "out" / "000.tar").exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    shown = sorted((tmp_path / "out").glob("*.tar"))
    assert 0 < len(shown) < 8
    assert [len(members(path)) for path in shown] == [16] * len(shown)
    before = {path: path.stat().st_ino for path in shown}
    again = coca("caption", many, *options)
    assert (again.returncode, again.stderr.partition(" of ")[0].isdigit()) == (0, True)
    assert {path: path.stat().st_ino for path in shown} == before
    (tmp_path / "whole").mkdir()
    assert coca("caption", many, *options, "-o", "whole/%03d.tar").returncode == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert [len(members(path)) for path in sorted((tmp_path / "out").iterdir())] == [16] * 7 + [8]


def test_segments_are_lines_of_a_sample(coca, tmp_path: Path) -> None:
    run = coca("caption", EXAMPLES / "moves.mp4", "-o", "out/one.tar", "--segments", 2, "--embed", "index", *GREEDY)
    assert (run.returncode, run.stderr) == (0, "")
    (sample,) = webdataset.WebDataset(str(tmp_path / "out/one.tar"), shardshuffle=False).decode()
    assert [record["start"] for record in sample["json"]] == [0.0, 2.0]
    assert sample["txt"].splitlines() == [record["caption"] for record in sample["json"]]
    assert sample["npy"].tolist() == np.load(tmp_path / "index" / "vectors.npy").tolist()


def test_shards_follow_the_inputs(coca, tmp_path: Path) -> None:
    command = ["caption", "in", "-o", "out/%d.tar", "--shard-size", 2, *GREEDY]
    pictures(tmp_path / "in", "blue", "green", "red")
    pictures(tmp_path / "in" / "too", "green")
    assert coca(*command).returncode == 0
    keys = [name.removesuffix(".png") for path in ("0", "1") for name in members(tmp_path / "out" / f"{path}.tar")[::4]]
    assert [key.partition("-")[0] for key in keys] == ["blue", "green", "red", "green"]
    assert len(set(keys)) == 4
    before = contents(tmp_path / "out")
    (tmp_path / "in" / "red.png").unlink()
    (tmp_path / "in" / "too" / "green.png").unlink()
    run = coca(*command)
    assert run.stderr == "warning: 1 files of a run with more shards will remain (first: out/1.tar)\n"
    assert members(tmp_path / "out" / "0.tar")[4] == "green.png"
    assert contents(tmp_path / "out")["0.tar"] != before["0.tar"]


def test_changed_shards_are_kept(coca, home: Path, tmp_path: Path) -> None:
    command = ["caption", "in", "-o", "out/%d.tar", *GREEDY]
    pictures(tmp_path / "in", "red")
    assert coca(*command).returncode == 0
    made = contents(tmp_path / "out")
    (home / "written").unlink()
    assert coca(*command).returncode == 0
    os.utime(tmp_path / "in" / "red.png", (0, 0))
    assert coca(*command).stderr.startswith("error: out/0.tar was not written by coca, or was changed since\n")
    assert contents(tmp_path / "out") == made
    assert coca(*command, "--overwrite").returncode == 0
    assert coca("caption", "out/0.tar", "-o", "out/%d.tar").stderr.startswith("error: -o out/0.tar would overwrite ")
    run = coca("caption", "in", "-o", "out/%d-%d.tar")
    assert run.stderr == "error: out/%d-%d.tar has several numbers\nhint: write it as in shards/%06d.tar\n"


def test_one_of_several_machines_writes_its_own_shards(coca, tmp_path: Path) -> None:
    pictures(tmp_path / "in", "blue", "green", "red", "pink")
    for shard in ("0/2", "1/2"):
        run = coca("caption", "in", "-o", "out/%d.tar", "--shard", shard, *GREEDY)
        assert run.returncode == 0
    tars = sorted((tmp_path / "out").glob("*.tar"))
    assert [path.name for path in tars] == ["0-00000-of-00002.tar", "0-00001-of-00002.tar"]
    held = sorted(name for path in tars for name in members(path)[::4])
    assert held == ["blue.png", "green.png", "pink.png", "red.png"]


def test_shards_go_to_stores(coca, tmp_path: Path, s3: S3) -> None:
    pictures(tmp_path / "in", "blue", "green", "red")
    command = ["caption", "in", "-o", "s3://bucket/shards/%d.tar", "--shard-size", 2, "--search", "greedy"]
    assert coca(*command).returncode == 0
    assert s3.keys("shards/") == ["shards/0.tar", "shards/1.tar"]
    made = s3.client.head_object(Bucket="bucket", Key="shards/1.tar")["LastModified"]
    with tarfile.open(fileobj=io.BytesIO(s3.read("shards/1.tar"))) as tar:
        assert tar.getnames() == ["red.png", "red.txt", "red.json", "red.npy"]
    assert coca(*command).stderr.startswith("3 of 3 files already captioned")
    assert s3.client.head_object(Bucket="bucket", Key="shards/1.tar")["LastModified"] == made
