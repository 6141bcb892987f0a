"""`coca caption`, as a user runs it, with the bundled model."""

import dataclasses
import inspect
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cococli.cli.caption import caption
from cococli.decoding.options import SearchOptions
from cococli.video.sampling import Sampling

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMAND = [sys.executable, "-m", "cococli"]


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


def test_a_folder_becomes_json_lines_and_a_bad_file_fails_alone(coca, tmp_path: Path) -> None:
    for name in ("moves", "grows"):
        (tmp_path / f"{name}.mp4").symlink_to(EXAMPLES / f"{name}.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"this is no video")
    run = coca("caption", tmp_path, "--frames", "multi", "--num-frames", 3, "--beams", 2)
    records = [json.loads(line) for line in run.stdout.splitlines()]
    assert [Path(record["video"]).name for record in records] == ["broken.mp4", "grows.mp4", "moves.mp4"]
    assert [record["status"] for record in records] == ["error", "ok", "ok"]
    for record in records[1:]:
        assert re.search("circle|square|triangle", record["caption"])
        assert record["model"] == "shapes"
        assert len(record["frames"]) == 3
        assert 0 == record["start"] < record["frames"][0] < record["frames"][2] < record["end"]
        assert record["logprob"] <= 0 and 0 < record["similarity"] <= 1
    assert run.returncode == 1
    warning, summary = run.stderr.splitlines()  # and not a word from the libraries
    assert warning.startswith(f"warning: {tmp_path}/broken.mp4: ")
    assert re.fullmatch(r"captioned 2 of 3, 1 failed, in \S+ \(\S+\)", summary)


def test_a_terminal_shows_names_and_captions_side_by_side() -> None:
    screen = on_terminal(["caption", "moves.mp4", "grows.mp4", "--model", "shapes"], EXAMPLES)
    lines = [line for line in screen.splitlines() if " circle " in line or " square " in line or " triangle " in line]
    assert [line.split("  ")[0] for line in lines] == ["moves.mp4", "grows.mp4"]
    assert len({line.index(" a ") for line in lines}) == 1
    assert all(len(line) <= 80 for line in lines)
    assert "captioned 2 of 2" in screen


def test_subtitles_of_one_video(coca, tmp_path: Path) -> None:
    run = coca("caption", EXAMPLES / "moves.mp4", "-o", tmp_path / "moves.srt", "--quiet", "--search", "greedy")
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)
    assert re.fullmatch(r"1\n00:00:00,000 --> 00:00:0\d,\d{3}\na .+\n", (tmp_path / "moves.srt").read_text())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_done(tmp_path: Path, number: signal.Signals) -> None:
    for i in range(2000):
        (tmp_path / f"{i:04}.mp4").write_bytes((EXAMPLES / "grows.mp4").read_bytes())
    output = tmp_path / "out.jsonl"
    command = [*COMMAND, "caption", tmp_path, "-o", output, "--search", "greedy", "--batch-size", "4"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        deadline = time.monotonic() + 60
        while not (output.exists() and output.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        run.send_signal(number)
        errors = run.communicate(timeout=30)[1]
    assert run.returncode == 130
    assert errors.splitlines()[-2:] == ["error: interrupted", "hint: what was done before is kept"]
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert 0 < len(records) < 2000
    assert f"captioned {len(records)} of 2000" in errors


@pytest.mark.parametrize(
    "wrong",
    [
        ["--num-frames", "0"],
        ["--beams", "0"],
        ["--min-length", "40"],
        ["--top-p", "2"],
        ["--batch-size", "0"],
        ["--search", "guess"],
        ["--pool", "max"],
        ["-o", "out.avi"],
        ["-o", "no/such/folder/out.jsonl"],
        ["-o", "two.srt", str(EXAMPLES / "grows.mp4")],
        ["no*.mp4"],
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_found_before_the_model_is_looked_for(coca, wrong: list[str]) -> None:
    run = coca("caption", EXAMPLES / "moves.mp4", "--model", "no-such-model", *wrong)
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.splitlines()) <= 2
    assert (run.stdout, run.returncode) == ("", 2)


def test_options_are_held_against_the_model_before_it_is_loaded(coca, tmp_path: Path) -> None:
    config = coca_config_without_weights(tmp_path)
    run = coca("caption", EXAMPLES / "moves.mp4", "--model", config, "--max-length", "999")
    assert (run.returncode, run.stdout) == (2, "")
    assert "--max-length" in run.stderr


def test_an_unknown_model_is_exit_code_3(coca) -> None:
    run = coca("caption", EXAMPLES / "moves.mp4", "--model", "shaped")
    assert run.returncode == 3
    assert "shapes" in run.stderr


def test_the_model_may_be_named_in_the_environment(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "from-the-environment")
    run = coca("caption", EXAMPLES / "moves.mp4")
    assert "from-the-environment" in run.stderr


def test_flags_left_out_mean_what_the_library_means() -> None:
    flags = {name: parameter.default for name, parameter in inspect.signature(caption).parameters.items()}
    library = {field.name: field.default for field in dataclasses.fields(SearchOptions)}
    assert flags["search"] == library["method"]
    shared = flags.keys() & library.keys()
    assert {name: flags[name] for name in shared} == {name: library[name] for name in shared}
    assert len(shared) == 10
    assert (flags["frames"], flags["num_frames"]) == (Sampling().frames, Sampling().num_frames)


def coca_config_without_weights(folder: Path) -> Path:
    """A model whose config is right and whose weights cannot be read."""
    from cococli.catalog import CocaConfig

    (folder / "model.json").write_text(json.dumps(CocaConfig().to_open_clip()))
    weights = folder / "model.ckpt"
    weights.write_bytes(b"no weights")
    return weights


def on_terminal(arguments: list[str], folder: Path) -> str:
    """What a terminal of 80 columns shows of a `coca` command, escape sequences taken out."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ |= {"COLUMNS": "80", "TERM": "xterm", "PYTHONPATH": str(EXAMPLES.parent)}
        os.execv(COMMAND[0], [*COMMAND, *arguments])
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # how Linux ends a terminal
            break
        if not piece:
            break
        shown += piece
    os.waitpid(child, 0)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    return "\n".join(line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").split("\n"))
