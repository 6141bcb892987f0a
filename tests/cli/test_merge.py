"""`coca caption` and `coca embed` with `--shard`, and `coca merge`, as a user runs them, with the bundled model."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli.fork_server import run, start

from cococli.retrieval.index import Index

ROOT = Path(__file__).parents[2]
OPTIONS = ("--search", "greedy", "--segments", "2")


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


def fill(folder: Path) -> None:
    """Fill a folder with ten videos and a broken file."""
    folder.mkdir()
    for path in (ROOT / "examples").glob("*.mp4"):
        for number in range(2):
            shutil.copy(path, folder / f"{path.stem}{number}.mp4")
    (folder / "broken.mp4").write_bytes(b"this is not a video")


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of ten videos and a broken file, seen from the working folder."""
    monkeypatch.chdir(tmp_path)
    if not Path("videos").exists():
        fill(Path("videos"))
    return Path("videos")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of videos and their captions in three shards."""
    folder = tmp_path_factory.mktemp("captioned")
    fill(folder / "videos")
    environment = os.environ | {"COCA_MODEL": "shapes", "COCA_HOME": str(tmp_path_factory.mktemp("home"))}
    for index in range(3):
        command = ["caption", "videos", "-o", "out.jsonl", "--shard", f"{index}/3", *OPTIONS]
        result = run(*command, cwd=folder, env=environment)
        assert result.returncode == int("1 failed" in result.stderr)
    return folder


@pytest.fixture
def shards(captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Captions of the videos in three shards, in the working folder."""
    shutil.copytree(captioned, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return [Path(f"out-0000{index}-of-00003.jsonl") for index in range(3)]


def names(path: Path) -> list[str]:
    return list(dict.fromkeys(json.loads(line)["video"] for line in path.open()))


def test_merged_shards_equal_unsharded_run(coca, shards: list[Path], videos: Path) -> None:
    assert coca("caption", videos, "-o", "whole.jsonl", *OPTIONS).returncode == 1
    run = coca("merge", *sorted(Path().glob("out-*"), reverse=True), "-o", "out.jsonl")
    assert (run.stdout, run.returncode) == ("", 0)
    merged, failed = run.stderr.splitlines()
    assert merged == "merged 11 inputs of 3 shards into out.jsonl"
    assert failed.startswith("failed: 1 not a video: ")
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    assert sorted(name for shard in shards for name in names(shard)) == sorted(map(str, videos.iterdir()))


def test_unsharded_run_resumes_from_merge(coca, shards: list[Path], videos: Path) -> None:
    coca("merge", *shards, "-o", "out.jsonl")
    shutil.copy(videos / "grows0.mp4", videos / "new.mp4")
    run = coca("caption", videos, "-o", "out.jsonl", "-o", "out.csv", *OPTIONS)
    assert run.stderr.startswith("11 of 12 files already captioned ")
    assert names(Path("out.jsonl"))[-1] == "videos/new.mp4"
    again = coca("merge", *shards, "-o", "out.jsonl")
    assert again.returncode == 2
    assert again.stderr.startswith("error: out.jsonl exists and may hold other records ")
    assert coca("merge", *shards, "-o", "out.jsonl", "--overwrite").returncode == 0


def test_shard_resumes_from_unsharded_run(coca, shards: list[Path], videos: Path) -> None:
    coca("merge", *shards, "-o", "out.jsonl")
    shutil.copy("out.jsonl", shards[1])
    run = coca("caption", videos, "-o", "out.jsonl", "--shard", "1/3", *OPTIONS)
    count = len(Path(f"{shards[1]}.shard").read_text().splitlines()) - 1
    assert f"{count} of {count} files already captioned" in run.stderr


def test_killed_shard_is_not_merged_until_complete(coca, many: Path, tmp_path: Path) -> None:
    output, options = tmp_path / "out.jsonl", ["--search", "greedy", "--batch-size", "2"]
    shards = [tmp_path / f"out-0000{index}-of-00002.jsonl" for index in range(2)]
    assert coca("caption", many, "-o", output, "--shard", "0/2", *options).returncode == 0
    killed = start("caption", many, "-o", output, "--shard", "1/2", *options, stderr=subprocess.DEVNULL)
    while not (shards[1].exists() and shards[1].stat().st_size):
        assert killed.poll() is None
    killed.kill()
    killed.communicate()
    run = coca("merge", *shards, "-o", output)
    assert run.stderr.splitlines() == [
        f"warning: shard 1/2 is incomplete: the run that writes {shards[1]} has not finished",
        "error: nothing was merged",
        "hint: run the same command again with --shard 1/2 (for --shard auto/2: sbatch --array=1), then merge",
    ]
    assert run.returncode == 1 and not output.exists()
    assert coca("caption", many, "-o", output, "--shard", "1/2", *options).returncode == 0
    assert coca("merge", *shards, "-o", output).returncode == 0
    assert names(output) == sorted(map(str, many.iterdir()))


@pytest.mark.parametrize(
    ("command", "output", "shard", "manifest", "merged"),
    [
        ("caption", "out.jsonl", "out-00000-of-00001.jsonl", "out-00000-of-00001.jsonl.shard", "out.jsonl"),
        ("caption", "%d.tar", "0-00000-of-00001.tar", "manifest-00000-of-00001.tar.shard", "merged/"),
        ("embed", "index/", "index-00000-of-00001", "index-00000-of-00001/shard.jsonl", "index/"),
    ],
)
def test_shard_is_incomplete_once_it_runs_again(
    coca, many: Path, tmp_path: Path, command: str, output: str, shard: str, manifest: str, merged: str
) -> None:
    words = [command, many, "-o", f"{tmp_path}/{output}", "--shard", "0/1", "--batch-size", "2"]
    assert coca(*words).returncode == 0
    again = start(*words, "--overwrite", stderr=subprocess.DEVNULL)
    while (tmp_path / manifest).exists():
        assert again.poll() is None
    again.kill()
    again.communicate()
    run = coca("merge", tmp_path / shard, "-o", f"{tmp_path}/{merged}")
    assert run.stderr.startswith("warning: shard 0/1 is incomplete: ")
    assert coca(*words).returncode == 0
    assert coca("merge", tmp_path / shard, "-o", f"{tmp_path}/{merged}").returncode == 0


def test_missing_shard_is_named(coca, shards: list[Path]) -> None:
    run = coca("merge", shards[0], shards[2], "-o", "out.jsonl")
    assert run.stderr.startswith("warning: shard 1/3 is missing\nerror: nothing was merged\n")
    run = coca("merge", shards[1], "-o", "out.jsonl")
    assert run.stderr.startswith("warning: 2 of 3 shards (0, 2) are missing\n")
    assert run.returncode == 1 and not Path("out.jsonl").exists()


def test_missing_records_are_found(coca, shards: list[Path]) -> None:
    lines = shards[2].read_bytes().splitlines(keepends=True)
    shards[2].write_bytes(b"".join(lines[:-1]) + lines[-1][:20])  # as a copy that was cut off
    run = coca("merge", *shards, "-o", "out.jsonl")
    lost = json.loads(lines[-1])["video"]
    assert run.stderr.startswith(f"warning: {shards[2]} lacks records of {lost}\n")
    assert run.returncode == 1 and "--shard 2/3" in run.stderr


def test_duplicated_shard_must_be_identical(coca, shards: list[Path]) -> None:
    shutil.copy(shards[0], "copy.jsonl")
    shutil.copy(f"{shards[0]}.shard", "copy.jsonl.shard")
    assert coca("merge", *shards, "copy.jsonl", "-o", "out.jsonl").returncode == 0
    count = len(Path("out.jsonl").read_text().splitlines())
    assert count == sum(len(path.read_text().splitlines()) for path in shards)
    Path("copy.jsonl").write_text(shards[0].read_text().replace('"caption": "', '"caption": "not '))
    run = coca("merge", *shards, "copy.jsonl", "-o", "out.jsonl")
    assert run.stderr.startswith(f"warning: {shards[0]} and copy.jsonl hold different records of ")
    assert run.stderr.endswith("hint: leave out one of the outputs that differ\n")
    assert run.returncode == 1


def test_shards_of_other_inputs_or_options_differ(coca, shards: list[Path], videos: Path) -> None:
    before = [names(path) for path in shards]
    (videos / "broken.mp4").unlink()
    shutil.copy(videos / "grows0.mp4", videos / "added.mp4")
    shutil.copy(videos / "grows0.mp4", videos / "new.mp4")
    coca("caption", videos, "-o", "out.jsonl", "--shard", "0/3", *OPTIONS)
    run = coca("merge", *shards, "-o", "out.jsonl")
    assert run.stderr.startswith("warning: shard 0/3 found 12 inputs, others 11\n")
    for index in (1, 2):
        coca("caption", videos, "-o", "out.jsonl", "--shard", f"{index}/3", *OPTIONS)
    assert coca("merge", *shards, "-o", "out.jsonl").returncode == 0
    for earlier, path in zip(before, shards, strict=True):  # inputs stay in their shards
        assert set(names(path)) - {"videos/added.mp4", "videos/new.mp4"} == set(earlier)
    coca("caption", videos, "-o", "out.jsonl", "--shard", "2/3", *OPTIONS, "--overwrite", "--min-score", "0.1")
    run = coca("merge", *shards, "-o", "out.jsonl")
    assert run.stderr.startswith("warning: shard 2/3 was run with other options or another model\n")


def test_records_that_no_shard_lists_are_kept(coca, shards: list[Path], videos: Path) -> None:
    before = shards[0].read_text()
    other = next(line for line in shards[1].read_text().splitlines(keepends=True))
    stale = other.replace('"caption": "', '"caption": "not '), other.replace(json.loads(other)["video"], "removed.mp4")
    shards[0].write_text("".join(stale) + before)
    run = coca("merge", *shards, "-o", "out.jsonl")
    assert run.stderr.startswith("merged 12 inputs of 3 shards into out.jsonl\n")
    assert stale[0] not in (merged := Path("out.jsonl").read_text().splitlines(keepends=True))
    assert other in merged and merged[-1] == stale[1]


def test_failed_inputs_of_shards_are_retried(coca, shards: list[Path], videos: Path) -> None:
    broken = next(index for index, path in enumerate(shards) if "videos/broken.mp4" in names(path))
    command = ["caption", videos, "-o", "out.jsonl", "--shard", f"{broken}/3", *OPTIONS]
    assert "captioned" not in coca(*command, "--quiet").stderr
    run = coca(*command, "--retry-failed")
    assert "captioned 0 of 1, 1 failed," in run.stderr
    assert coca("merge", *shards, "-o", "out.jsonl").returncode == 0


def test_merged_indexes_equal_unsharded_index(coca, videos: Path) -> None:
    Path("texts.txt").write_text("a red circle\na blue square\na white triangle\n")
    command = ["embed", videos, "--texts", "texts.txt", "--segments", "2"]
    assert coca(*command, "-o", "whole/").returncode == 1
    for index in range(2):
        coca(*command, "-o", "index/", "--shard", f"{index}/2")
    shards = [Path(f"index-0000{index}-of-00002") for index in range(2)]
    assert all(len(Index(shard).rows) for shard in shards)
    run = coca("merge", *shards, "-o", "index/")
    assert (run.stdout, run.returncode) == ("", 0)
    for name in ("entries.jsonl", "index.json"):
        assert Path("index", name).read_bytes() == Path("whole", name).read_bytes()
    np.testing.assert_allclose(np.load("index/vectors.npy"), np.load("whole/vectors.npy"), atol=1e-6)
    again = coca(*command, "-o", "index/")
    assert again.stderr.startswith("14 of 14 inputs already embedded ")

    (shards[1] / "shard.jsonl").unlink()
    run = coca("merge", *shards, "-o", "other/")
    assert run.stderr.startswith(f"warning: shard 1/2 is incomplete: the run that writes {shards[1]} has not finished")
    assert run.returncode == 1 and not Path("other").exists()


def test_merged_index_may_lie_elsewhere(coca, videos: Path) -> None:
    for index in range(2):
        coca("caption", videos, "-o", "out.jsonl", "--embed", "index", "--shard", f"{index}/2", *OPTIONS)
    coca("merge", "index-00000-of-00002", "index-00001-of-00002", "-o", "a/b/index/")
    index = Index(Path("a/b/index"))
    assert {index.entry(row).video for row in index.rows.tolist()} == {
        str(path) for path in videos.iterdir() if path.name != "broken.mp4"
    }
    coca("merge", "out-00000-of-00002.jsonl", "out-00001-of-00002.jsonl", "-o", "out.jsonl")
    run = coca("caption", videos, "-o", "out.jsonl", "--embed", "a/b/index", *OPTIONS)
    assert run.stderr.startswith("11 of 11 files already captioned ")


def test_subtitles_and_templates_are_those_of_one_run(coca, videos: Path) -> None:
    shutil.copytree(videos, "videos/deep")
    outputs = ["-o", "subtitles/", "-o", "out.txt", *OPTIONS]
    coca("caption", videos, *outputs)
    whole = {path: path.read_bytes() for path in Path("subtitles").rglob("*.srt")}
    lines = sorted(Path("out.txt").read_text().splitlines())
    shutil.rmtree("subtitles")
    for index in range(3):
        coca("caption", videos, *outputs, "--shard", f"{index}/3")
    assert {path: path.read_bytes() for path in Path("subtitles").rglob("*.srt")} == whole
    assert sorted(line for path in Path().glob("out-*.txt") for line in path.read_text().splitlines()) == lines


def test_empty_shard_is_complete(coca, videos: Path) -> None:
    for index in range(40):
        if coca("caption", videos, "--shard", f"{index}/40", "--dry-run").stdout == "":
            break
    run = coca("caption", videos, "-o", "out.jsonl", "--shard", f"{index}/40", *OPTIONS)
    assert (run.stderr, run.returncode) == (f"shard {index}/40 has 0 of 11 inputs\n", 0)
    assert Path(f"out-{index:05}-of-00040.jsonl.shard").exists()
    assert coca("caption", videos, "--shard", f"{index}/40", *OPTIONS).returncode == 0


@pytest.mark.parametrize("shard", ["0/0", "17/16", "a/b", "auto"])
def test_invalid_shard_fails_before_loading(coca, videos: Path, shard: str) -> None:
    for command in (("caption", videos), ("embed", videos, "-o", "index/")):
        run = coca(*command, "--shard", shard)
        assert (run.stdout, run.returncode) == ("", 2)
        assert run.stderr.startswith("error: --shard ")


def test_merge_refuses_what_is_not_of_shards(coca, shards: list[Path], videos: Path) -> None:
    for words, message in {
        ("missing.jsonl", "-o", "a.jsonl"): "missing.jsonl is neither a file nor an index",
        (videos / "grows0.mp4", "-o", "a.jsonl"): "videos/grows0.mp4 is not the output of a shard",
        (*shards, "-o", "a.csv"): "a.csv must end in .jsonl, as the shards do",
        (*shards, "-o", shards[0], "--overwrite"): f"-o {shards[0]} would overwrite {shards[0]}, which is read",
    }.items():
        run = coca("merge", *words)
        assert run.returncode == 2
        assert run.stderr.startswith(f"error: {message}\n")
    Path("texts.txt").write_text("a red circle\n")
    coca("embed", "--texts", "texts.txt", "-o", "vectors.jsonl", "--shard", "0/1")
    run = coca("merge", "vectors-00000-of-00001.jsonl", "-o", "a.jsonl")
    assert run.stderr.startswith("error: vectors-00000-of-00001.jsonl holds vectors without their keys\n")
    coca("embed", "--texts", "texts.txt", "-o", "index/", "--shard", "0/1")
    run = coca("merge", "index-00000-of-00001", "-o", "a.jsonl")
    assert run.stderr.startswith("error: a.jsonl cannot hold an index\n")
    shutil.copy(shards[0], "other-00000-of-00002.jsonl")
    run = coca("merge", *shards, "other-00000-of-00002.jsonl", "-o", "a.jsonl")
    assert run.stderr.startswith(f"error: {shards[0]} is one of 3 shards, other-00000-of-00002.jsonl one of 2\n")


def test_slurm_script_runs_given_shards(coca, videos: Path, tmp_path: Path) -> None:
    script = ROOT / "examples/cluster/slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    command = tmp_path / "bin/coca"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m cococli "$@"\n')
    command.chmod(0o755)
    path = f"{command.parent}:{os.environ['PATH']}"
    assert "#SBATCH --array=0-15\n" in script.read_text()
    videos_of = {}
    for index in (3, 7):  # as after sbatch --array=3,7
        array = {"ID": index, "COUNT": 2, "MIN": 3, "MAX": 7}
        slurm = {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()}
        arguments = ["caption", videos, "-o", "out.jsonl", *OPTIONS]
        run = subprocess.run([script, *arguments], env={**os.environ, "PATH": path, **slurm}, capture_output=True)
        assert run.returncode in (0, 1), run.stderr
        videos_of[index] = Path(f"out-{index:05}-of-00016.jsonl.shard").read_text().splitlines()[1:]
    assert not set(videos_of[3]) & set(videos_of[7])
    run = coca("merge", *sorted(Path().glob("out-*.jsonl")), "-o", "out.jsonl")
    assert run.stderr.startswith("warning: 14 of 16 shards (0, 1, 2, 4, 5, 6, 8, ")
