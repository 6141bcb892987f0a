"""`coca merge` of numbered files, as a user runs it, with the bundled model."""

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import webdataset
from cli.fork_server import run
from media.tar_fixtures import circle, write_tar

from cococli.shards import Shard

COUNT = 9  # pictures
OPTIONS = ("-o", "tars/%06d.tar", "-o", "lines/%05d.jsonl", "-o", "one.tar", "--search", "greedy", "--quiet")


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a broken one among them, and their captions in two shards of numbered files."""
    folder = tmp_path_factory.mktemp("captioned")
    for name in ("in", "tars", "lines"):
        (folder / name).mkdir()
    for index in range(COUNT):
        (folder / "in" / f"{index}.png").write_bytes(circle("red") if index else b"broken")
    for sub in ("a", "b"):  # in different shards
        path = next(path for i in range(99) if Shard(sub == "b", 2).takes(path := f"in/{sub}{i}/same.png"))
        (folder / path).parent.mkdir()
        (folder / path).write_bytes(circle("blue"))
    environment = os.environ | {"COCA_MODEL": "shapes", "COCA_HOME": str(tmp_path_factory.mktemp("home"))}
    for index in range(2):
        command = ["caption", "in", *OPTIONS, "--shard", f"{index}/2", "--shard-size", "2"]
        assert run(*command, cwd=folder, env=environment).returncode in (0, 1)
    return folder


@pytest.fixture(autouse=True)
def shards(captioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy in the working folder."""
    monkeypatch.setenv("COCA_MODEL", "shapes")
    shutil.copytree(captioned, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def samples(folder: str) -> list[dict]:
    tars = [str(path) for path in sorted(Path(folder).glob("*.tar"))]
    return list(webdataset.WebDataset(tars, shardshuffle=False, empty_check=False).decode())


def test_tars_of_shards_become_one_folder(coca) -> None:
    run = coca("merge", "tars/", "-o", "merged/%04d.tar")
    sources = sorted(Path("tars").glob("*.tar"), key=lambda path: (path.name[7:], path.name))
    merged = sorted(Path("merged").iterdir())
    assert run.stderr == f"merged 11 inputs of 2 shards into {len(merged)} files, merged/%04d.tar\n"
    assert [path.name for path in merged] == [f"{index:04}.tar" for index in range(len(sources))]
    assert all(one.samefile(other) for one, other in zip(merged, sources, strict=True))
    found = samples("merged")
    assert len({sample["__key__"] for sample in found}) == len(found) == 10
    assert {sample["json"]["video"] for sample in found} == {
        str(path) for path in Path("in").rglob("*.png") if path.name != "0.png"
    }
    shutil.rmtree("tars")
    listed = coca("caption", "merged", "--dry-run")
    assert len(listed.stdout.splitlines()) == 10
    run = coca("caption", "in", "-o", "merged/%04d.tar")
    assert run.stderr.splitlines()[-2:] == [
        "error: merged/0000.tar was not written by coca, or was changed since",
        "hint: after coca merge, run the shards and merge again; else name another output, or --overwrite",
    ]


def test_manifest_of_merged_records_lists_all(coca) -> None:
    assert coca("merge", *Path("lines").glob("0*"), "-o", "merged").returncode == 0
    manifest = json.loads(Path("merged/manifest.json").read_text())
    assert (manifest["complete"], manifest["shard_size"]) == (True, 2)
    sizes = {path.name: path.stat().st_size for path in sorted(Path("merged").glob("*.jsonl"))}
    assert {name: one["bytes"] for name, one in manifest["files"].items()} == sizes
    assert sum(one["inputs"] for one in manifest["files"].values()) == 11
    lines = [line for name in sizes for line in Path("merged", name).read_text().splitlines()]
    videos = [json.loads(line)["video"] for line in lines]
    assert sorted(videos) == sorted(map(str, Path("in").rglob("*.png")))


def test_single_tars_of_shards_are_numbered(coca) -> None:
    assert coca("merge", *Path().glob("one-*"), "-o", "merged/").returncode == 0
    assert sorted(path.name for path in Path("merged").iterdir()) == ["000000.tar", "000001.tar"]
    run = coca("merge", *Path().glob("one-*"), "-o", "one.tar")
    assert run.stderr == "error: one.tar is one file\nhint: number the merged ones, as -o merged/%06d.tar\n"


def test_incomplete_and_damaged_shards_are_named(coca) -> None:
    def refused(*words: str | Path) -> str:
        run = coca("merge", *words, "-o", "merged/%06d.tar")
        assert run.returncode == 1 and not Path("merged").exists()
        return run.stderr

    first, *_ = sorted(Path("tars").glob("*0-of-00002.tar"))
    os.truncate(first, 512)
    assert refused("tars").startswith(f"warning: {first} has 512 bytes, not ")
    first.unlink()
    message = refused("tars")
    assert message.startswith(f"warning: {first} is missing\nerror: nothing was merged\n")
    assert "with --shard 0/2 (" in message
    Path("tars/manifest-00000-of-00002.tar.shard").unlink()
    assert refused("tars").startswith("warning: shard 0/2 is incomplete: the run that writes tars has not finished\n")
    others = [path for path in Path("tars").glob("0*") if "00000-of" not in path.name]
    assert refused(*others).startswith("warning: shard 0/2 is missing\n")
    manifest = Path("lines/manifest-00001-of-00002.jsonl.shard")
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]))
    run = coca("merge", "lines", "-o", "merged/")
    assert run.stderr.startswith("warning: 1 of 11 inputs are in no shard\n")
    manifest.write_text("".join([*lines[:-1], lines[1]]))
    run = coca("merge", "lines", "-o", "merged/")
    assert run.stderr.startswith(f"warning: {manifest} lists ")
    assert run.returncode == 1 and not Path("merged").exists()


def test_merged_folder_is_replaced_as_a_whole(coca) -> None:
    for name in ("000000.tar", "000099.tar"):
        write_tar(Path("merged", name), [("a.png", circle("red"))])
    command = ("merge", "tars", "-o", "merged/%06d.tar")
    run = coca(*command)
    assert run.stderr.startswith("error: merged holds other files (first: 000000.tar)\n")
    assert coca(*command, "--overwrite").stderr == run.stderr
    assert coca("merge", "tars", "-o", "tars/%06d.tar").stderr.startswith("error: tars holds other files (first: ")
    shutil.rmtree("merged")
    assert coca(*command).returncode == 0
    shutil.copy("merged/000000.tar", "merged/000099.tar")
    again = coca(*command)
    assert (again.returncode, again.stderr.splitlines()[0]) == (2, "error: merged is not empty")
    assert coca(*command, "--overwrite").returncode == 0
    assert not Path("merged/000099.tar").exists() and tarfile.is_tarfile("merged/000000.tar")
    assert not list(Path().glob(".coca-*"))


def test_failing_merge_leaves_nothing(coca) -> None:
    last = sorted(Path("tars").glob("*1-of-00002.tar"))[-1]
    size = last.stat().st_size
    last.unlink()
    last.mkdir()  # which can be neither linked nor copied
    manifest = Path("tars/manifest-00001-of-00002.tar.shard")
    manifest.write_text(manifest.read_text().replace(f'"{last.name}": {size}', f'"{last.name}": {last.stat().st_size}'))
    before = sorted(Path().iterdir())
    run = coca("merge", "tars", "-o", "merged/%06d.tar")
    assert (run.returncode, "error: cannot write " in run.stderr) == (1, True)
    assert sorted(Path().iterdir()) == before


def test_files_of_other_disks_are_copied(coca, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == Path("tars").stat().st_dev:
        pytest.skip("there is one disk")
    target = shared / tmp_path_factory.mktemp("merged").name
    try:
        assert coca("merge", "tars", "-o", f"{target}/%06d.tar").returncode == 0
        assert len(samples(str(target))) == 10
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_outputs_of_several_kinds_are_told_apart(coca) -> None:
    shutil.copytree("lines", "tars", dirs_exist_ok=True)
    run = coca("merge", "tars", "-o", "merged/")
    assert run.stderr.startswith("error: these are shards of %05d.jsonl and of %06d.tar\n")
    assert coca("merge", "tars", "-o", "merged/%d.jsonl").returncode == 0
    Path("knn-00000-of-00002/metadata").mkdir(parents=True)  # of clip-retrieval
    for words, message in {
        ("lines", "-o", "a.tar"): "lines holds .jsonl files of shards",
        ("lines", "in/1.png", "-o", "other/"): "in/1.png is not of the numbered files of shards",
        ("knn-00000-of-00002", "-o", "knn"): "knn-00000-of-00002 cannot be merged",
        ("in", "-o", "other/"): "in is neither an index nor holds the numbered files of shards",
    }.items():
        run = coca("merge", *words)
        assert (run.returncode, run.stderr.splitlines()[0]) == (2, f"error: {message}")


@pytest.mark.parametrize("suffix", [".csv", ".txt", ".json", ".parquet", ".html", ".srt", ".npz", ".lance"])
def test_other_outputs_are_refused_with_advice(coca, suffix: str) -> None:
    path = Path(f"out-00000-of-00002{suffix}")
    path.mkdir() if suffix == ".lance" else path.touch()
    run = coca("merge", path, "-o", f"out{suffix}")
    assert run.stderr.startswith(f"error: {path} cannot be merged\nhint: merge the ")
    assert run.stderr.endswith(f" -o out{suffix} then writes it\n")
    assert run.returncode == 2
