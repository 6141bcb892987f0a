"""`coca caption`, as a user runs it, with the bundled model."""

import dataclasses
import inspect
import json
import os
import pty
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from cli.fork_server import COMMAND, start
from media.video_fixtures import make_video
from PIL import Image, ImageDraw, ImageFont

from cococli.cli.caption import caption
from cococli.decoding.search_options import SearchOptions
from cococli.media.clips import Sampling

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def bundled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_MODEL", "shapes")


def test_broken_file_fails_alone(coca, tmp_path: Path) -> None:
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
    warning, summary, reasons = run.stderr.splitlines()  # and not a word from the libraries
    assert warning.startswith(f"warning: {tmp_path}/broken.mp4: ")
    pace = r"\d+% computing, \d+% waiting for frames"
    assert re.fullmatch(rf"captioned 2 of 3, 1 failed, in \S+ \(\S+\); {pace}", summary)
    assert re.fullmatch(r"failed: 1 not a video: .+", reasons)


def test_terminal_shows_names_beside_captions() -> None:
    screen = on_terminal(["caption", "moves.mp4", "grows.mp4", "--model", "shapes"], EXAMPLES)
    lines = [line for line in screen.splitlines() if " circle " in line or " square " in line or " triangle " in line]
    assert [line.split("  ")[0] for line in lines] == ["moves.mp4", "grows.mp4"]
    assert len({line.index(" a ") for line in lines}) == 1
    assert all(len(line) <= 80 for line in lines)
    assert "captioned 2 of 2" in screen


def test_subtitles_of_one_video(coca, tmp_path: Path) -> None:
    run = coca("caption", EXAMPLES / "moves.mp4", "-o", tmp_path / "moves.srt", "--quiet", "--search", "greedy")
    assert (run.stdout, run.stderr, run.returncode) == ("", "", 0)
    assert re.fullmatch(r"1\n00:00:00,000 --> 00:00:04,000\na .+\n.+\n\n", (tmp_path / "moves.srt").read_text())


def started(folder: Path, output: Path, *arguments: str) -> "subprocess.Popen[str]":
    """A run on a folder that has written its first records."""
    options = ["-o", output, "--search", "greedy", "--batch-size", "4", *arguments]
    run = start("caption", folder, *options, stderr=subprocess.PIPE)
    while not (output.exists() and output.stat().st_size):
        assert run.poll() is None
        time.sleep(0.05)
    return run


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_resumes(coca, many: Path, tmp_path: Path, number: signal.Signals) -> None:
    output = tmp_path / "out.jsonl"
    run = started(many, output)
    run.send_signal(number)
    errors = run.communicate(timeout=900)[1].splitlines()
    assert run.returncode == 130
    assert "finishing the batch; Ctrl-C again stops now" in errors
    assert errors[-2:] == ["error: interrupted", "hint: what was done before is kept"]
    done = len(lines(output))
    assert 0 < done < 30
    assert any(line.startswith(f"captioned {done} of 30 in ") for line in errors)
    again = coca("caption", many, "-o", output, "--search", "greedy", "--batch-size", "4")
    assert again.returncode == 0
    assert again.stderr.startswith(f"{done} of 30 files already captioned ")
    assert [Path(line["video"]).name for line in lines(output)] == sorted(path.name for path in many.iterdir())


def test_batch_size_and_readers_change_no_record(coca, many: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    options = ["--search", "greedy", "--segments", "2"]
    assert coca("caption", many, "-o", whole, *options).returncode == 0
    assert coca("caption", many, "-o", output, *options, "--batch-size", "3", "--readers", "1").returncode == 0
    assert output.read_text() == whole.read_text()
    again = coca("caption", many, "-o", output, *options, "--batch-size", "auto", "--readers", "auto")
    assert again.stderr.startswith("30 of 30 files already captioned")


def test_two_interrupts_stop_at_once(many: Path, tmp_path: Path) -> None:
    run = started(many, tmp_path / "out.jsonl")
    run.send_signal(signal.SIGINT)
    assert run.stderr
    while run.stderr.readline() != "finishing the batch; Ctrl-C again stops now\n":
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=900)
    assert run.returncode == 130


def test_killed_run_resumes_to_identical_output(coca, many: Path, tmp_path: Path) -> None:
    options = ["--search", "greedy", "--batch-size", "4", "--quiet", "--segments", "2"]
    whole, output = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert coca("caption", many, "-o", whole, *options).returncode == 0
    for size in (1, 10_000):
        run = started(many, output, *options)
        while output.stat().st_size < size:
            time.sleep(0.001)
        run.kill()
        run.communicate()
    assert coca("caption", many, "-o", output, *options).returncode == 0
    assert output.read_text() == whole.read_text()


def test_two_runs_on_one_output_refuse_each_other(coca, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    run = started(many, output)
    second = coca("caption", many, "-o", output)
    run.kill()
    run.communicate()
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: another run writes to {output}\n")


def test_one_pass_writes_every_format(coca, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("a.jsonl", "a.csv", "a.txt", "a.parquet")] + [f"{tmp_path}/subs/"]
    flags = [flag for output in outputs for flag in ("-o", output)]
    run = coca("caption", EXAMPLES, *flags, "--segments", "2", "--search", "greedy", "--template", "{stem}: {caption}")
    assert (run.stdout, run.returncode) == ("", 0)
    records = lines(tmp_path / "a.jsonl")
    assert {record["segments"] for record in records} == {2}
    assert (tmp_path / "a.txt").read_text().splitlines() == [
        f"{Path(record['video']).stem}: {record['caption']}" for record in records
    ]
    assert len((tmp_path / "a.csv").read_text().splitlines()) == len(records) + 1
    assert sorted(path.name for path in (tmp_path / "subs").iterdir()) == sorted(
        f"{path.stem}.srt" for path in EXAMPLES.glob("*.mp4")
    )


def test_people_read_captions_spaced_as_usual(coca, tmp_path: Path) -> None:
    prompt = "a man's hat, it's 10:30 in 2024. a t-shirt"
    outputs = [tmp_path / f"a.{suffix}" for suffix in ("jsonl", "csv", "txt", "srt")]
    options = ["--prompt", prompt, "--max-length", 40, "--engine", "torch", "--candidates", 2, "--rerank"]
    written = [flag for output in outputs for flag in ("-o", output)]
    run = coca("caption", EXAMPLES / "moves.mp4", *options, *written, "-o", "-", "--embed", tmp_path / "index")
    record = json.loads(run.stdout)
    assert all(candidate["caption"].startswith(prompt) for candidate in record["candidates"])
    assert all(record["caption"] in " ".join(output.read_text().split()) for output in outputs)
    found = coca("search", "a t-shirt", tmp_path / "index", "--engine", "torch")
    assert record["caption"] in found.stdout
    banned = coca("caption", EXAMPLES / "moves.mp4", *options, "--ban", "man's hat")
    assert "which --ban forbids" in banned.stderr


def test_every_video_has_a_line_of_text(coca, tmp_path: Path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    command = ["caption", EXAMPLES / "grows.mp4", tmp_path / "bad.mp4", EXAMPLES / "moves.mp4", "--search", "greedy"]
    assert coca(*command, "-o", tmp_path / "out.txt").returncode == 1
    grows, bad, moves = (line.split("\t") for line in (tmp_path / "out.txt").read_text().splitlines())
    assert [grows[0], bad, moves[0]] == [str(command[1]), [str(command[2]), ""], str(command[3])]
    assert " circle " in grows[1] and " circle " in moves[1]
    assert coca(*command[:2], "-o", tmp_path / "one.txt", "--search", "greedy").returncode == 0
    assert (tmp_path / "one.txt").read_text() == f"{grows[1]}\n"
    assert coca(*command, "-o", tmp_path / "own.txt", "--template", "{stem}:{caption}").returncode == 1
    assert (tmp_path / "own.txt").read_text() == f"grows:{grows[1]}\nbad:\nmoves:{moves[1]}\n"


def test_pictures_have_no_subtitles(coca, tmp_path: Path) -> None:
    picture, video = tmp_path / "a.png", tmp_path / "a.mp4"
    Image.new("RGB", (64, 64), "red").save(picture)
    video.write_bytes((EXAMPLES / "moves.mp4").read_bytes())
    for options in (["--beside"], ["-o", f"{tmp_path}/subtitles/"]):
        run = coca("caption", picture, *options)
        assert run.stderr == "error: pictures have no subtitles\nhint: use -o captions.jsonl\n"
        assert (run.stdout, run.returncode) == ("", 2)
        run = coca("caption", picture, video, *options, "--search", "greedy")
        assert run.stderr.startswith("warning: 1 of 2 files skipped: pictures have no subtitles\ncaptioned 1 of 1 in ")
        assert run.returncode == 0
    assert sorted(path.name for path in tmp_path.rglob("*.srt")) == ["a.srt", "a.srt"]


def test_dry_run_writes_nothing(coca, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    assert coca("caption", EXAMPLES / "moves.mp4", "-o", output).returncode == 0
    before = output.read_bytes()
    run = coca("caption", EXAMPLES, "-o", output, "--dry-run")
    assert [line[:18].strip() for line in run.stdout.splitlines()].count("already captioned") == 1
    assert run.stderr.splitlines()[0] == "4 to caption, 1 already captioned; nothing was written"
    assert re.fullmatch(r"about \S+, estimated from 2 of them", run.stderr.splitlines()[1])
    assert output.read_bytes() == before


def test_stdout_gets_what_was_captioned_before_too(coca, tmp_path: Path) -> None:
    options = ["-o", tmp_path / "out.jsonl", "-o", "-", "--search", "greedy"]
    assert coca("caption", EXAMPLES / "moves.mp4", *options).stdout
    run = coca("caption", EXAMPLES / "moves.mp4", EXAMPLES / "grows.mp4", *options)
    assert [Path(json.loads(line)["video"]).stem for line in run.stdout.splitlines()] == ["moves", "grows"]
    assert run.stderr.startswith("1 of 2 files already captioned ")


def test_the_best_captions_come_with_their_scores(coca) -> None:
    run = coca("caption", EXAMPLES / "moves.mp4", "--candidates", 3, "--rerank", "--min-score", 1, "--ban", "circle")
    record = json.loads(run.stdout)
    similarities = [candidate["similarity"] for candidate in record["candidates"]]
    assert len(similarities) == 3 and similarities == sorted(similarities, reverse=True)
    assert record["caption"] == record["candidates"][0]["caption"]
    assert not [said for said in record["candidates"] if "circle" in said["caption"]]
    assert record["weak"] is True


def test_progress_as_json_and_log_file(coca, tmp_path: Path) -> None:
    bad, log = tmp_path / "bad.mp4", tmp_path / "run.log"
    bad.write_bytes(b"no video")
    run = coca("caption", EXAMPLES / "moves.mp4", bad, "-o", tmp_path / "a.jsonl", "--json", "--log-file", log)
    events = [json.loads(line) for line in run.stderr.splitlines()]
    assert [event["done"] for event in events if event["event"] == "progress"] == [1, 2]
    assert [event["event"] for event in events].count("warning") == 1
    assert f"warning: {bad}: " in log.read_text()


def test_transient_failures_are_retried_by_the_next_run(coca, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FLAKY)
    command = ["caption", EXAMPLES / "moves.mp4", tmp_path / "broken.mp4", "-o", tmp_path / "out.jsonl"]
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
        assert coca(*command).returncode == 1
    flaky, broken = lines(tmp_path / "out.jsonl")
    assert (flaky["status"], flaky["error"], flaky["transient"]) == ("error", "too many open files", True)
    assert "transient" not in broken
    run = coca(*command)
    assert run.stderr.startswith("1 of 2 files already captioned ")
    assert [line["status"] for line in lines(tmp_path / "out.jsonl")] == ["error", "ok"]


FLAKY = """
import errno, os, pathlib

def open_file(self, *arguments, _open=pathlib.Path.open, **options):
    if self.name == "moves.mp4":
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return _open(self, *arguments, **options)

pathlib.Path.open = open_file
"""


def test_a_list_on_stdin_names_the_videos(coca, tmp_path: Path) -> None:
    run = coca("caption", "-", "--exclude", "grows*", input=f"{EXAMPLES}/moves.mp4\n{EXAMPLES}/grows.mp4\n")
    assert [Path(json.loads(line)["video"]).name for line in run.stdout.splitlines()] == ["moves.mp4"]


def test_missing_files_are_warned_of(coca, tmp_path: Path) -> None:
    for name in ("@eaDir/moves.mp4/thumb.jpg", "app.ts"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("const a = 1\n")
    (tmp_path / "moves.mp4").symlink_to(EXAMPLES / "moves.mp4")
    url, pattern = "nothing://example.com/a.mp4", f"{tmp_path}/**/*.mov"
    for command in (["caption"], ["embed", "-o", "-"]):
        run = coca(*command, tmp_path, url, pattern, "--engine", "torch", "--quiet")
        [record] = [json.loads(line) for line in run.stdout.splitlines()]
        assert record["video"] == f"{tmp_path}/moves.mp4"
        assert run.stderr.splitlines() == [
            "warning: files of nothing:// cannot be read; download them first",
            f"warning: {pattern!r} matches no file; name files, folders, or a pattern such as 'videos/**/*.mp4'",
        ]
        assert run.returncode == 1
        run = coca(*command, url, "--model", "no-such-model")
        assert run.stderr.splitlines() == [
            "error: files of nothing:// cannot be read",
            "hint: download them first",
        ]
        assert (run.stdout, run.returncode) == ("", 2)


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
        ["-o", "a.txt", "-o", "a.txt"],
        ["--template", "{caption!}"],
        ["--template", "{title}"],
        ["--segments", "often"],
        ["--since", "yesterday"],
        ["--candidates", "9"],
        ["--ban", " "],
        ["--max-cue", "0"],
        ["--engine", "mindspore", "--precision", "bf16"],
        ["--device", "gpu"],
        ["--threads", "-1"],
    ],
    ids=" ".join,
)
def test_invalid_options_fail_before_loading(coca, wrong: list[str]) -> None:
    run = coca("caption", EXAMPLES / "moves.mp4", "--model", "no-such-model", *wrong)
    assert run.stderr.startswith("error: ")
    assert len(run.stderr.splitlines()) <= 2
    assert (run.stdout, run.returncode) == ("", 2)


def test_options_are_checked_against_the_model_first(coca, tmp_path: Path) -> None:
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


def test_engines_say_the_same(coca, tmp_path: Path) -> None:
    said = []
    for engine in ("mindspore", "torch"):
        run = coca("caption", EXAMPLES, "--engine", engine, "--precision", "fp32", "--threads", 1, "--quiet")
        said.append([json.loads(line) for line in run.stdout.splitlines()])
    assert len(said[0]) == 5
    for one, other in zip(*said, strict=True):
        for number in ("logprob", "similarity"):
            assert one.pop(number) == pytest.approx(other.pop(number), abs=2e-4)
        assert one == other


def test_auto_tells_what_it_chose(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COCA_ENGINE", "COCA_PRECISION"):
        monkeypatch.delenv(name)
    run = coca("caption", EXAMPLES / "moves.mp4")
    assert json.loads(run.stdout)["caption"] == "a large yellow circle on a black background"
    assert re.fullmatch(r"using (openvino|torch) in \w+( on cuda)?", run.stderr.splitlines()[0])


def test_int8_is_made_once_and_says_the_same(coca, home: Path) -> None:
    exact = coca("caption", EXAMPLES, "--quiet")
    int8 = ["caption", EXAMPLES, "--precision", "int8", "--engine", "openvino", "--quiet"]
    for run in (coca(*int8), coca(*int8)):
        assert run.stderr == ""
        said, wanted = ([json.loads(line)["caption"] for line in one.stdout.splitlines()] for one in (run, exact))
        assert said == wanted
    assert len([*home.rglob("*-int8")]) == 1


def test_other_precision_captions_again(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COCA_PRECISION")
    command = ["caption", EXAMPLES / "moves.mp4", "-o", tmp_path / "out.jsonl", "--search", "greedy"]
    coca(*command)
    before = "1 of 1 files already captioned (use --overwrite to redo them)"
    assert coca(*command, "--engine", "torch").stderr.splitlines() == [before]
    exact = [*command, "--engine", "torch", "--precision", "fp32"]
    assert before not in coca(*exact).stderr
    assert coca(*exact).stderr.splitlines() == [before]


def test_flags_left_out_mean_what_the_library_means() -> None:
    flags = {name: parameter.default for name, parameter in inspect.signature(caption).parameters.items()}
    library = {field.name: field.default for field in dataclasses.fields(SearchOptions)}
    shared = flags.keys() & library.keys()
    assert {name: flags[name] or () for name in shared - {"ban"}} == {
        name: library[name] or () for name in shared - {"ban"}
    }
    assert len(shared) == 13
    assert (flags["frames"], flags["num_frames"]) == (Sampling().frames, Sampling().num_frames)


def coca_config_without_weights(folder: Path) -> Path:
    """A model whose config is right and whose weights cannot be read."""
    from cococli.catalog import CocaConfig

    (folder / "model.json").write_text(json.dumps(CocaConfig().to_open_clip()))
    weights = folder / "model.ckpt"
    weights.write_bytes(b"no weights")
    return weights


@pytest.mark.parametrize(
    ("columns", "term", "has_bar"), [(40, "xterm", True), (120, "vt220", True), (80, "dumb", False)]
)
def test_progress_fits_terminals(columns: int, term: str, has_bar: bool, tmp_path: Path) -> None:
    command = ["caption", "moves.mp4", "grows.mp4", "--model", "shapes", "-o", str(tmp_path / "out.jsonl")]
    lines = [line.rstrip() for line in on_terminal(command, EXAMPLES, columns, term).splitlines()]
    assert any(" captioning " in line and "2/2" in line for line in lines) is has_bar
    assert all(len(line) <= columns for line in lines)
    assert " ".join(" ".join(lines).split()).partition("captioned 2 of 2 in ")[2].endswith(" waiting for frames")


def on_terminal(arguments: list[str], folder: Path, columns: int = 80, term: str = "xterm") -> str:
    """What a terminal shows of a `coca` command, escape sequences taken out."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.pop("CI", None)
        os.environ |= {"COLUMNS": str(columns), "TERM": term, "PYTHONPATH": str(EXAMPLES.parent)}
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


def test_slides_get_cues_and_long_blanks_none(coca, tmp_path: Path) -> None:
    def slide(seed: int) -> np.ndarray:
        chance, image = np.random.default_rng(seed), Image.new("RGB", (640, 360), "white")
        for line in range(8):
            text = "".join(chance.choice(list("abcdefg    "), 60))
            ImageDraw.Draw(image).text((40, 30 + 38 * line), text, "black", ImageFont.load_default(18))
        return np.asarray(image)

    black = np.zeros((360, 640, 3), np.uint8)
    frames = [one for one in (slide(0), slide(1), black, slide(2), black) for _ in range(50)]
    make_video(tmp_path / "talk.mp4", frames=frames)
    output = tmp_path / "talk.srt"
    run = coca("caption", tmp_path / "talk.mp4", "--segments", "scene", "-o", output, "--engine", "torch")
    assert run.returncode == 0, run.stderr
    cues = [line for line in output.read_text().splitlines() if "-->" in line]
    times = np.array([[float(time[-6:].replace(",", ".")) for time in cue.split(" --> ")] for cue in cues])
    assert times[:, 0] == pytest.approx([0, 2, 6], abs=0.2)
    assert times[:, 1] == pytest.approx([2, 4, 8], abs=0.6)  # a cue stays a little longer, to be read
