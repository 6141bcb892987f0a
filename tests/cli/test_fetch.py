"""`coca fetch`, as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints.hub_server import Hub, know_only

TINY = Path(__file__).parents[1] / "data" / "goldens" / "tiny"
SHAPES = Path(__file__).parents[2] / "examples" / "moves.mp4"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        know_only(server, tmp_path / "hf", monkeypatch)
        weights, config = (TINY / "open_clip_pytorch_model.bin").read_bytes(), (TINY / "config.json").read_bytes()
        server.add("org/coca", {"open_clip_pytorch_model.bin": weights, "open_clip_config.json": config})
        yield server


def started(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "cococli", "fetch", "org/coca", *map(str, arguments)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_it_prints_the_name_and_says_what_it_did(coca, server: Hub, home: Path) -> None:
    run = coca("fetch", "org/coca", "--name", "mine")
    assert (run.stdout, run.returncode) == ("mine\n", 0)
    assert run.stderr.splitlines()[-1] == "mine is ready: 1.5 MB"
    again = coca("fetch", "org/coca", "--name", "mine", "--json")
    assert again.stderr.splitlines()[-1] == "mine was here already: 1.5 MB"
    facts = json.loads(again.stdout)
    assert (facts["name"], facts["added"], facts["path"]) == ("mine", False, str(home / "models" / "mine"))
    assert facts["source"]["repository"] == "org/coca"


def test_what_is_fetched_is_what_caption_takes(coca, home: Path, tmp_path: Path) -> None:
    """The bundled model, exported as open_clip's, fetched from that file, captions as it does itself."""
    exported = tmp_path / "shapes.safetensors"
    assert coca("convert", "shapes", exported, "--to", "open_clip").returncode == 0
    assert coca("fetch", exported, "--name", "mine", "--quiet").returncode == 0
    ours = coca("caption", SHAPES, "--quiet")
    theirs = coca("caption", SHAPES, "--quiet", "--model", "shapes")
    assert json.loads(ours.stdout) == json.loads(theirs.stdout) | {"model": "mine"}


def test_without_any_model_caption_says_how_to_get_one(coca) -> None:
    run = coca("caption", SHAPES)
    assert run.stderr == (
        "error: no model is here yet\n"
        "hint: coca fetch vit-l-14-coco (2.55 GB); or try the bundled demo: --model shapes\n"
    )
    assert (run.stdout, run.returncode) == ("", 3)


def test_a_damaged_model_is_no_reason_to_say_that_there_is_none(coca, home: Path) -> None:
    assert coca("fetch", TINY / "open_clip_pytorch_model.bin", "--name", "mine").returncode == 0
    os.truncate(home / "models" / "mine" / "model.ckpt", 12)
    run = coca("caption", SHAPES)
    assert (run.stdout, run.returncode) == ("", 3)
    assert run.stderr.startswith("error: the model mine is damaged: model.ckpt has 12 bytes, not ")
    assert "--name mine --force" in run.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_fetch_leaves_nothing_that_looks_whole_and_the_next_goes_on(
    coca, server: Hub, home: Path, sent: signal.Signals
) -> None:
    server.piece, server.pause = 50_000, 0.5  # much longer than it takes to see the first pieces
    run = started()
    while not any(path.stat().st_size > 200_000 for path in home.rglob("*.incomplete")):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(sent)
    _, told = run.communicate()
    assert run.returncode == (-9 if sent == signal.SIGKILL else 130)
    assert sent == signal.SIGKILL or "error: interrupted" in told
    assert not (home / "models" / "org--coca").exists()
    server.pause = 0.0
    assert coca("fetch", "org/coca").stdout == "org--coca\n"
    first = next(made.headers["range"] for made in server.downloads if "range" in made.headers)
    assert int(first.removeprefix("bytes=").removesuffix("-")) > 200_000
    assert coca("models", "verify").stdout == "org--coca: whole\n"


def test_two_fetches_at_once_make_one_model(server: Hub) -> None:
    server.piece, server.pause = 100_000, 0.05
    runs = [started(), started()]
    told = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert [out for out, _ in told] == ["org--coca\n"] * 2
    gets = [made for made in server.downloads if made.method == "GET" and made.path.endswith(".bin")]
    assert len(gets) == 1
    assert sorted("was here already" in notes for _, notes in told) == [False, True]


def test_a_cache_that_is_a_file_is_one_clear_error(coca, server: Hub, tmp_path: Path, monkeypatch) -> None:
    place = tmp_path / "file"
    place.touch()
    monkeypatch.setenv("COCA_HOME", str(place))
    run = coca("fetch", "org/coca")
    assert (run.returncode, run.stdout) == (3, "")
    assert run.stderr == f"error: cannot write to {place}: Not a directory\nhint: set COCA_HOME to another folder\n"
