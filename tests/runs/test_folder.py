"""Run folders: intact checkpoints however the process ends, and metrics that resume exactly."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from checkpoints.stored_models import CONFIG
from hypothesis import given
from hypothesis import strategies as st

from cococli import __version__
from cococli.checkpoints import architecture
from cococli.errors import CocaError, ModelError, UsageError
from cococli.runs.folder import RunFolder, open_run_folder

TESTS = Path(__file__).parents[1]
SETTINGS = {"model": "shapes", "rate": 1e-5, "data": {"pictures": 80}}
SHAPES = architecture.parameters(CONFIG)


def arrays(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape, np.float32) for name, shape in SHAPES.items()}


def state(steps: int) -> dict[str, np.ndarray]:
    return {"steps": np.array(steps), "logit_scale.m": np.float32(0.5).reshape(()), "bias.v": np.arange(3.0)}


def save(run: RunFolder, step: int, keep: int = 2) -> None:
    run.save(step, arrays(step), state(step), CONFIG, {"epoch": 1, "order": [3, 1]}, keep)


@pytest.fixture
def run() -> Iterator[RunFolder]:
    with open_run_folder("mine", SETTINGS) as run:
        yield run


def inside(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


def assert_same(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        np.testing.assert_array_equal(array, other[name])


def test_a_run_says_what_was_asked(home: Path) -> None:
    with open_run_folder("mine", SETTINGS) as run:
        assert (run.name, run.path) == ("mine", home / "runs" / "mine")
    stored = json.loads((run.path / "run.json").read_text())
    assert stored["asked"] == SETTINGS
    assert stored["program"] == __version__
    with open_run_folder("mine", SETTINGS):
        assert json.loads((run.path / "run.json").read_text()) == stored


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**SETTINGS, "rate": 1e-4}, "--lr was 1e-05, is 0.0001"),
        ({**SETTINGS, "data": {"pictures": 79}, "seed": 1}, "data.pictures was 80, is 79; --seed was not set, is 1"),
        ({"rate": 1e-5}, 'model was "shapes", is not set; data.pictures was 80, is not set'),
        ({"a": 1, "b": 2}, 'model was "shapes", is not set; --lr was 1e-05, is not set; '
                           "data.pictures was 80, is not set, and 2 more"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_their_first_differences(settings: dict, message: str) -> None:
    with open_run_folder("mine", SETTINGS):
        pass
    with pytest.raises(UsageError) as caught, open_run_folder("mine", settings):
        pass
    assert caught.value.message == f"the run mine has other settings: {message}"
    assert caught.value.hint == (
        "use the same settings to resume, another --name for another run, or --overwrite to restart this one"
    )


def test_a_run_starts_anew_when_that_is_asked(run: RunFolder) -> None:
    with open_run_folder("other", SETTINGS) as other:
        save(other, 1)
        other.log({"step": 1})
    with open_run_folder("other", {"rate": 1}, overwrite=True) as other:
        assert inside(other.path) == ["run.json"]
    assert inside(other.path.parent) == ["mine", "other"]


@pytest.mark.parametrize("name", ["", "../x", ".x", "a b", "a@5", "a/b", "run:a", "x" * 151])
def test_names_that_no_run_can_have(name: str, home: Path) -> None:
    with pytest.raises(UsageError) as caught, open_run_folder(name, SETTINGS):
        pass
    assert caught.value.message == f"{name!r} is not a valid run name"
    assert not (home / "runs").exists()


def test_run_may_share_a_model_name() -> None:
    with open_run_folder("shapes", SETTINGS) as run:
        assert run.name == "shapes"


@pytest.mark.parametrize("content", ["", "[]", '{"asked": 1}', '{"a":' * 900 + "1" + "}" * 900])
def test_run_without_settings_is_not_touched(home: Path, content: str) -> None:
    path = home / "runs" / "mine" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(UsageError) as caught, open_run_folder("mine", SETTINGS):
        pass
    assert caught.value.message.startswith(f"{path}")
    assert caught.value.hint == "restore the file, choose another --name, or restart the run with --overwrite"
    assert path.read_text() == content


def test_a_checkpoint_is_read_as_it_was_written(run: RunFolder) -> None:
    save(run, 10)
    checkpoint, damaged = run.last()
    assert checkpoint and damaged == {}
    assert (checkpoint.step, checkpoint.config, checkpoint.facts) == (10, CONFIG, {"epoch": 1, "order": [3, 1]})
    assert_same(checkpoint.weights, arrays(10))
    assert_same(checkpoint.state, state(10))
    assert inside(run.path / "checkpoints" / "10") == ["config.json", "model.ckpt", "optimizer.ckpt", "progress.json"]
    assert inside(run.path) == ["checkpoints", "run.json"]


def test_a_new_run_has_no_checkpoint(run: RunFolder) -> None:
    assert run.last() == (None, {})
    assert run.best_step() is None
    assert run.records() == []


def test_metrics_reach_the_disk_before_their_checkpoint(run: RunFolder, flushed: list[str]) -> None:
    run.log({"step": 1})
    save(run, 1)
    assert flushed[0] == "metrics.jsonl"
    assert {"model.ckpt", "optimizer.ckpt", "progress.json", "checkpoints"} <= set(flushed)


def test_newest_checkpoints_are_kept(run: RunFolder) -> None:
    for step in (8, 9, 10, 100):
        save(run, step, keep=3)
    assert inside(run.path / "checkpoints") == ["10", "100", "9"]
    assert run.last()[0].step == 100


def test_checkpoint_replaces_one_of_its_step(run: RunFolder) -> None:
    save(run, 10)
    run.save(10, arrays(3), state(3), CONFIG, {})
    assert_same(run.last()[0].weights, arrays(3))


def test_damaged_checkpoints_are_set_aside(run: RunFolder) -> None:
    for step in range(1, 8):
        save(run, step, keep=9)
        run.log({"step": step})
    places = {step: run.path / "checkpoints" / str(step) for step in range(1, 8)}
    (places[7] / "progress.json").unlink()
    (places[6] / "model.ckpt").unlink()
    os.truncate(places[5] / "optimizer.ckpt", 100)
    size = (places[1] / "optimizer.ckpt").stat().st_size
    (places[4] / "progress.json").write_text("{")
    (places[3] / "progress.json").write_text('{"step": "three", "files": {}, "facts": {}}')
    with (places[2] / "model.ckpt").open("r+b") as file:
        file.seek(-9, os.SEEK_END)
        file.write(b"x")
    checkpoint, damaged = run.last()
    assert checkpoint and checkpoint.step == 1
    assert damaged == {
        7: "progress.json is missing",
        6: "model.ckpt is missing",
        5: f"optimizer.ckpt has 100 bytes, not {size}",
        4: "progress.json is damaged",
        3: "progress.json is damaged",
        2: "model.ckpt does not match its sha256",
    }
    assert run.rewind(1) == {step: places[step].with_name(f"{step}.damaged") for step in damaged}
    assert inside(run.path / "checkpoints") == ["1", *(f"{step}.damaged" for step in range(2, 8))]
    save(run, 2, keep=9)
    (places[2] / "model.ckpt").unlink()
    assert run.rewind(1) == {2: places[2].with_name("2.damaged-2")}


def test_run_with_lost_checkpoints_is_not_touched(run: RunFolder) -> None:
    save(run, 1)
    save(run, 2)
    run.keep_best(2)
    for step in (1, 2):
        (run.path / "checkpoints" / str(step) / "model.ckpt").unlink()
    with pytest.raises(CocaError) as caught:
        run.last()
    assert caught.value.message == (
        "no checkpoint of the run mine can be loaded: step 2: model.ckpt is missing; step 1: model.ckpt is missing"
    )
    folder = run.path / "checkpoints"
    assert caught.value.hint == (
        f"restore one in {folder}, restart with --overwrite, or choose another --name; nothing changed"
    )
    for step in (1, 2):
        (folder / str(step)).rename(run.path.parent / str(step))
    with pytest.raises(CocaError, match="none is left"):
        run.last()


@pytest.mark.usefixtures("as_nobody")
def test_what_cannot_be_read_now_is_not_damaged(tmp_path: Path) -> None:
    run = RunFolder("mine", tmp_path)
    save(run, 1)
    save(run, 2)
    run.log({"step": 2})
    place = run.path / "checkpoints" / "2"
    for path in (place / "model.ckpt", place / "progress.json", place, place.parent, run.path / "metrics.jsonl"):
        mode = path.stat().st_mode
        path.chmod(0)
        with pytest.raises(CocaError) as caught:
            run.last()
            run.records()
        path.chmod(mode)
        assert caught.value.message.startswith("cannot read ")
        assert caught.value.message.endswith(": Permission denied")
    assert run.last()[0].step == 2


# With every descriptor but a few taken, the newest checkpoint cannot be read.
MANY_FILES = """
import resource, sys
from pathlib import Path
from cococli.errors import CocaError
from cococli.runs.folder import RunFolder

run = RunFolder("mine", Path(sys.argv[1]))
for room in range(8):
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    while True:
        try:
            held.append(open("/dev/null"))
        except OSError:
            break
    del held[:room]
    try:
        print(run.last()[0].step)
    except CocaError as error:
        print(error.message.rpartition(": ")[2])
"""


def test_too_many_open_files_are_no_damage(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    save(run, 1)
    save(run, 2)
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    process = subprocess.run([sys.executable, "-c", MANY_FILES, run.path], capture_output=True, text=True)
    assert process.stderr == ""
    assert {*process.stdout.splitlines()} == {"2", "Too many open files"}


def test_metrics_of_wrong_types_are_named_by_line(run: RunFolder) -> None:
    path = run.path / "metrics.jsonl"
    wrong = ("[]", '{"step": "x"}', '{"step": -1}', '{"score": 1}', "torn", "[" * 9999)
    for line in (*wrong, *(f'{{"step": 1, "score": {score}}}' for score in ("[1]", '"high"', "1e999", "NaN"))):
        path.write_text(f'{{"step": 1, "loss": null}}\n{line}\n')
        with pytest.raises(UsageError) as caught:
            run.rewind(0)
        assert caught.value.message.startswith(f"line 2 of {path}")
        assert path.read_text().endswith(f"{line}\n")


def test_best_model_outlives_its_checkpoint(run: RunFolder) -> None:
    save(run, 1)
    run.keep_best(1)
    best = run.path / "best"
    assert inside(best) == ["config.json", "model.ckpt", "progress.json"]
    assert (best / "model.ckpt").samefile(run.path / "checkpoints" / "1" / "model.ckpt")
    before = (best / "model.ckpt").read_bytes()
    save(run, 2)
    save(run, 3)
    assert (run.best_step(), (best / "model.ckpt").read_bytes()) == (1, before)
    for _ in range(2):  # the same again is no harm
        run.keep_best(3)
        assert run.best_step() == 3
        assert (best / "model.ckpt").read_bytes() == (run.path / "checkpoints" / "3" / "model.ckpt").read_bytes()
    assert inside(run.path) == ["best", "checkpoints", "run.json"]


def test_best_model_is_copied_without_hard_links(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(destination: Path, source: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    save(run, 1)
    run.keep_best(1)
    best, source = run.path / "best" / "model.ckpt", run.path / "checkpoints" / "1" / "model.ckpt"
    assert not best.samefile(source)
    assert best.read_bytes() == source.read_bytes()


def test_metrics_are_lines_of_json_without_nan(run: RunFolder) -> None:
    run.log({"step": 1, "loss": float("nan"), "rate": 0.1})
    run.log({"step": 1, "scores": {"CIDEr": float("inf")}, "samples": ["ein Würfel", "\udcff"]})
    first, second = (run.path / "metrics.jsonl").read_text().splitlines()
    assert first == '{"step": 1, "loss": null, "rate": 0.1}'
    assert second == '{"step": 1, "scores": {"CIDEr": null}, "samples": ["ein Würfel", "\\udcff"]}'
    assert run.records() == [json.loads(first), json.loads(second)]


@given(
    steps=st.lists(st.integers(0, 20)),
    losses=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1),
    step=st.integers(-1, 21),
    torn=st.binary(max_size=20),
)
def test_rewinding_leaves_what_an_uninterrupted_run_had(
    steps: list[int], losses: list[float], step: int, torn: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    run = RunFolder("mine", tmp_path_factory.mktemp("run"))
    for number, at in enumerate(sorted(steps)):
        run.log({"step": at, "loss": losses[number % len(losses)]})
    path = run.path / "metrics.jsonl"
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    with path.open("ab") as file:
        file.write(torn.replace(b"\n", b""))
    run.rewind(step)
    kept = sum(at <= step for at in steps)
    assert path.read_bytes() == b"".join(lines[:kept])
    run.rewind(step)
    assert len(run.records()) == kept


# Holds the run, saves step 1, and stops in the middle of step 2.
SAVING = """
import sys
from checkpoints.stored_models import CONFIG
from cococli.runs.folder import open_run_folder
from runs.test_folder import SETTINGS, arrays, save, state

class Endless(dict):
    def items(self):
        yield from super().items()
        print("saving", flush=True)
        sys.stdin.readline()

with open_run_folder("mine", SETTINGS) as run:
    save(run, 1)
    print("saved", flush=True)
    run.save(2, Endless(arrays(2)), state(2), CONFIG, {})
"""


@pytest.fixture
def saving(monkeypatch: pytest.MonkeyPatch) -> Iterator["subprocess.Popen[str]"]:
    """A process in the middle of writing its second checkpoint."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen([sys.executable, "-c", SAVING], stdin=pipe, stdout=pipe, stderr=nothing, text=True)
    assert process.stdout
    assert [process.stdout.readline() for _ in range(2)] == ["saved\n", "saving\n"]
    yield process
    process.kill()
    process.communicate()


def test_a_run_is_held_against_other_processes(saving: "subprocess.Popen[str]") -> None:
    with pytest.raises(UsageError) as caught, open_run_folder("mine", SETTINGS):
        pass
    assert caught.value.message == "another process works on the run mine"
    assert caught.value.hint == "wait for it, or choose another --name"
    with open_run_folder("other", SETTINGS):
        pass


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_save_keeps_last_checkpoint(saving: "subprocess.Popen[str]", home: Path, end: signal.Signals) -> None:
    path = home / "runs" / "mine"
    saving.send_signal(end)
    saving.wait()
    assert inside(path / "checkpoints") == ["1"]
    with open_run_folder("mine", SETTINGS) as run:
        assert inside(path) == ["checkpoints", "run.json"]
        checkpoint, damaged = run.last()
        assert (checkpoint.step, damaged) == (1, {})
        assert_same(checkpoint.weights, arrays(1))
        save(run, 2)
        assert run.last()[0].step == 2


# Files may be as large as the model, but the optimizer is larger.
FULL = """
import resource
import numpy as np
from checkpoints.stored_models import CONFIG
from cococli.errors import CocaError
from cococli.runs.folder import open_run_folder
from runs.test_folder import SETTINGS, arrays, save

with open_run_folder("mine", SETTINGS) as run:
    save(run, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000, 4_000_000))
    try:
        run.save(2, arrays(2), {"m": np.zeros(2_000_000, np.float32)}, CONFIG, {})
    except CocaError as error:
        print(error.message, error.hint, sep="\\n")
"""


def test_a_full_disk_keeps_the_last_whole_checkpoint(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
    process = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True)
    assert process.stdout.splitlines() == [
        "cannot write the checkpoint of step 2: File too large",
        "that of step 1 is kept; free some space, then repeat the command to resume",
    ]
    assert inside(home / "runs" / "mine") == ["checkpoints", "run.json"]
    with open_run_folder("mine", SETTINGS) as run:
        assert_same(run.last()[0].weights, arrays(1))


def test_too_large_checkpoint_is_not_started(run: RunFolder) -> None:
    huge = np.broadcast_to(np.float32(0), (1 << 50,))  # 4 PB, of 4 bytes
    with pytest.raises(CocaError) as caught:
        run.save(1, {"huge": huge}, state(1), CONFIG, {})
    assert caught.value.message.startswith("cannot write the checkpoint of step 1: it needs 4503599.63 GB, but ")
    assert caught.value.hint == "free some space, then repeat the command to resume"
    assert inside(run.path) == ["run.json"]


def test_unreadable_run_folder_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request) -> None:
    monkeypatch.setenv("COCA_HOME", str(tmp_path))
    with open_run_folder("mine", SETTINGS) as run:
        pass
    run.path.chmod(0o300)
    request.getfixturevalue("as_nobody")
    with pytest.raises(ModelError) as caught, open_run_folder("mine", SETTINGS):
        pass
    assert caught.value.message == f"cannot read {run.path}: Permission denied"
    run.path.chmod(0o700)


def test_unwritable_home_is_reported(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("COCA_HOME", str(home / "file"))  # root may write to any folder, but not into a file
    with pytest.raises(ModelError) as caught, open_run_folder("mine", SETTINGS):
        pass
    assert caught.value.message == f"cannot write to {home}/file: Not a directory"
