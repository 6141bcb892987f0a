"""Whole runs: stopped anywhere they go on to the same bits, and what they come to is kept and of use."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media.video_fixtures import make_video
from numpy_engine import from_open_clip
from safetensors.numpy import load_file
from training.tiny_run import CONFIG, TEXT, RecordingReporter, captioned, config_file, request, write_list
from training.training_fixtures import pictures

from cococli.captioning.captioner import load_captioner
from cococli.catalog import CLIP, Preprocess
from cococli.checkpoints import ckpt
from cococli.checkpoints.convert import to_open_clip
from cococli.checkpoints.store import find_model
from cococli.datasets.pairs import Order
from cococli.decoding.search_options import SearchOptions
from cococli.errors import ModelError, UsageError, VideoError
from cococli.media.clips import Sampling, read_clip
from cococli.requests import FinetuneRequest
from cococli.runs.folder import open_run_folder
from cococli.training.data import find_data
from cococli.training.finetune import finetune
from cococli.training.loop import Diverged, TrainingPlan
from cococli.training.run import make_plan, open_base, run_facts

PLAN = TrainingPlan(steps=6, learning_rate=0.01, warmup=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return captioned(tmp_path_factory.mktemp("pictures") / "data")


def records(home: Path, name: str = "mine") -> list[dict[str, Any]]:
    """What a run measured, but for the time that it took."""
    lines = (home / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def train(request: FinetuneRequest, stop_after: int | None = None) -> RecordingReporter:
    reporter = RecordingReporter(stop_after)
    finetune(request, reporter)
    return reporter


KINDS: dict[str, dict[str, Any]] = {
    "plain": {"hold_out": 2, "validate_every": 2},
    "accumulate": {"accumulate": 2},
    "lora": {"model": "run:base", "lora": 2},
    "vision frozen": {"model": "run:base", "freeze": "vision"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_run_equals_uninterrupted_one(data: Path, home: Path, kind: str) -> None:
    if "model" in KINDS[kind]:
        train(request(data, name="base", steps=1))
    train(request(data, name="whole", steps=4, **KINDS[kind]))
    train(request(data, steps=4, **KINDS[kind]), stop_after=3)
    reporter = train(request(data, steps=4, **KINDS[kind]))
    assert [note for note in reporter.notes if "resuming" in note] == ["resuming run mine at step 3"]
    assert reporter.steps == [4]
    assert records(home) == records(home, "whole")
    mine, whole = (ckpt.read(home / "runs" / name / "checkpoints/4/model.ckpt") for name in ("mine", "whole"))
    for name, array in whole.items():
        np.testing.assert_array_equal(mine[name], array)


def test_mindspore_resumes_a_run_of_torch(data: Path, home: Path) -> None:
    pytest.importorskip("mindspore")
    wanted = request(data, steps=2, hold_out=2, validate_every=2)
    train(replace(wanted, name="whole"))
    train(wanted, stop_after=1)
    reporter = train(replace(wanted, engine="mindspore"))
    assert reporter.steps == [2]
    for one, other in zip(records(home), records(home, "whole"), strict=True):
        for number in one.keys() & {"loss", "norm", "held_out_loss"}:
            assert one[number] == pytest.approx(other[number], rel=1e-3), number


KILLED = """
import os, sys
from pathlib import Path
from cococli.reporting import Reporter
from cococli.requests import FinetuneRequest
from cococli.training.finetune import finetune

class Killer(Reporter):
    def record(self, record):
        if record["step"] == 3:
            os.kill(os.getpid(), 9)

finetune(eval(sys.argv[1]), Killer())
"""


def test_killed_run_resumes_to_identical_output(data: Path, home: Path) -> None:
    whole = request(data, name="whole", steps=4)
    mine = replace(whole, name="mine")
    source = repr(mine).replace("PosixPath", "Path")
    assert subprocess.run([sys.executable, "-c", KILLED, source]).returncode == -9
    assert [record["step"] for record in records(home)] == [1, 2, 3]
    assert train(mine).steps == [3, 4]
    train(whole)
    assert records(home) == records(home, "whole")


def test_pictures_are_prepared_as_the_base_wants_them(data: Path, home: Path, tmp_path: Path) -> None:
    """A base for pixels of another mean and deviation, whose first layer undoes that, trains as the original does."""
    train(request(data, name="base", steps=1))
    weights = dict(ckpt.read(find_model("run:base").weights))
    kernel, mean, std = weights["visual.conv1.weight"], np.float32(CLIP.mean), np.float32(CLIP.std)
    shift = (kernel * ((0.5 - mean) / std)[:, None, None]).sum((1, 2, 3))
    weights["visual.conv1.weight"] = kernel * (0.5 / std)[:, None, None]
    weights["visual.positional_embedding"] = weights["visual.positional_embedding"] + np.r_[[[0]], [[1]] * 4] * shift
    with (tmp_path / "half.ckpt").open("wb") as file:
        for name, array in weights.items():
            ckpt.write(file, name, array.shape, [array])
    half = replace(CONFIG, preprocess_cfg=Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3))
    (tmp_path / "half.json").write_text(json.dumps(half.to_file()))
    found = {}
    for base in ("run:base", str(tmp_path / "half.ckpt")):
        for frozen in ("none", "vision"):
            name = f"{Path(base).stem.replace(':', '-')}-{frozen}"
            train(request(data, name=name, model=base, freeze=frozen, steps=1, hold_out=2, validate_every=1))
            found[name] = [record["loss"] for record in records(home, name) if "loss" in record]
            assert find_model(f"run:{name}").config.preprocess == find_model(base).config.preprocess
    for frozen in ("none", "vision"):
        assert found[f"half-{frozen}"] == pytest.approx(found[f"run-base-{frozen}"], rel=1e-4)


def test_run_yields_model_card_and_plot(data: Path, home: Path) -> None:
    reporter = train(request(data, hold_out=2, validate_every=6, tensorboard=True))
    folder = home / "runs" / "mine"
    assert [*map(str, sorted(child.name for child in folder.iterdir()))] == [
        "README.md", "best", "checkpoints", "events", "metrics.jsonl", "plot.png", "run.json"
    ]  # fmt: skip
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["4", "6"]
    best = max(reporter.validations, key=lambda record: record["score"])
    model = find_model("run:mine")
    assert model.config == CONFIG
    clip = read_clip(data / "0.png", Sampling(), 16)[1]
    (caption,) = load_captioner(model, SearchOptions(max_length=12), "joint").caption_batch(clip[None], [0])
    assert caption.text and np.isfinite(caption.embedding).all()
    assert json.loads((folder / "best" / "progress.json").read_text())["step"] == best["step"]
    card = (folder / "README.md").read_text()
    assert f"| {best['scores']['ROUGE-L'] * 100:.1f} |" in card
    assert "| files | 8 |" in card and "| rate | 0.01 |" in card
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert [path.suffix for path in (folder / "events").iterdir()]
    assert reporter.notes[:2] == ["train: 8 files, 16 captions", "val: 2 files, 4 captions"]


def test_a_handful_of_pictures_is_learned_by_heart(data: Path, home: Path) -> None:
    train(request(data, steps=40, save_every=40, contrastive_loss=0.0))
    losses = [record["caption"] for record in records(home)]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_lora_run_exports_plain_weights(data: Path, home: Path, tmp_path: Path) -> None:
    train(request(data, name="base", steps=1))
    train(request(data, model="run:base", lora=2))
    base, merged = (ckpt.read(find_model(f"run:{name}").weights) for name in ("base", "mine"))
    changed = {name for name, array in merged.items() if not np.array_equal(array, base[name])}
    assert merged.keys() == base.keys()
    assert changed and all(".attn." in name and name.endswith("_proj.weight") for name in changed)
    to_open_clip("run:mine", tmp_path / "mine.safetensors")
    exported = from_open_clip(load_file(tmp_path / "mine.safetensors"))
    for name, array in merged.items():
        np.testing.assert_array_equal(exported[name], array)


def test_divergence_names_the_files_of_its_batch(data: Path, home: Path) -> None:
    reporter = RecordingReporter()
    with pytest.raises(Diverged) as caught:
        finetune(request(data, learning_rate=1e9, warmup=0, hold_out=2, validate_every=100), reporter)
    *steps, last = records(home)
    assert caught.value.message.startswith(f"step {last['step']}: the loss is ")
    assert caught.value.message.endswith("; the model before it is saved")
    files = last["diverged"]
    assert 2 <= len(files) <= 4 and {*files} <= {str(data / f"{number}.png") for number in range(8)}
    assert reporter.warnings[-1:] == [
        f"step {last['step']} trained on {', '.join(files[:3])}; {home / 'runs/mine/metrics.jsonl'} lists all its files"
    ]
    weights = ckpt.read(find_model("run:mine").weights)
    assert all(np.isfinite(array).all() for array in weights.values())
    assert [record["step"] for record in steps] == [*range(1, last["step"])]
    assert (home / "runs" / "mine" / "plot.png").exists()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"batch_size": 2}, "--batch-size was 4, is 2"),
        ({"contrastive_loss": 0.5, "seed": 5, "weight_decay": 0.5},
         'the identity of the weights was "noise 0", is "noise 5"; --weight-decay was 0.1, is 0.5; '
         "--contrastive-loss-weight was 1.0, is 0.5, and 1 more"),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_name(data: Path, home: Path, changed: dict[str, Any], message: str) -> None:
    train(request(data, steps=1))
    with pytest.raises(UsageError) as caught:
        train(request(data, steps=1, **changed))
    assert caught.value.message == f"the run mine has other settings: {message}"


def test_another_architecture_is_another_run(data: Path, tmp_path: Path) -> None:
    train(request(data, steps=1))
    other = replace(CONFIG, vision=replace(CONFIG.vision, head_width=16))  # of the same shapes
    with pytest.raises(UsageError) as caught:
        train(request(data, steps=1, config=config_file(tmp_path, other)))
    assert caught.value.message == ("the run mine has other settings: base.config.vision_cfg.head_width was 8, is 16")


def test_other_captions_are_other_data(data: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    train(request(folder, steps=1))
    text = (folder / "captions.jsonl").read_text()
    (folder / "captions.jsonl").write_text(text.replace("red", "crimson"))
    with pytest.raises(UsageError) as caught:
        train(request(folder, steps=1))
    assert caught.value.message.startswith("the run mine has other settings: the digest of the data was ")


def test_a_run_starts_anew_when_that_is_request(data: Path, home: Path) -> None:
    train(request(data, steps=2))
    train(request(data, steps=1, overwrite=True))
    assert [record["step"] for record in records(home)] == [1]


def test_two_processes_do_not_work_on_one_run(data: Path) -> None:
    with open_run_folder("mine", {}), pytest.raises(UsageError) as caught:
        train(request(data))
    assert caught.value.message == "another process works on the run mine"
    assert caught.value.hint == "wait for it, or choose another --name"


def test_tensorboard_is_asked_for_before_anything_is_trained(
    data: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX.event_file_writer", None)
    reporter = RecordingReporter()
    with pytest.raises(UsageError) as caught:
        finetune(request(data, tensorboard=True), reporter)
    assert caught.value.message == "--report-to tensorboard needs tensorboardX"
    assert reporter.steps == []


def test_patience_ends_the_run(data: Path, home: Path) -> None:
    stuck = request(data, steps=9, learning_rate=1e-9, hold_out=2, validate_every=1, patience=2)
    reporter = train(stuck)
    assert reporter.steps == [1, 2, 3]
    assert [record["held_out_loss"] for record in reporter.validations] == [
        reporter.validations[0]["held_out_loss"]
    ] * 3
    assert train(stuck).steps == []


def test_broken_files_are_reported_once(data: Path, home: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    (folder / "3.png").write_bytes(b"no picture")
    reporter = train(request(folder, steps=8))
    assert reporter.warnings == [f"{folder / '3.png'}: not a video or picture in a supported format"]
    assert [record["step"] for record in records(home)] == [*range(1, 9)]
    with pytest.raises(VideoError) as caught:
        train(request(folder, name="strict", steps=8, strict=True))
    assert caught.value.message == f"{folder / '3.png'}: not a video or picture in a supported format"


def test_videos_and_pictures_train_together(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pictures(folder, 3)
    for name in ("a", "b"):
        make_video(folder / f"{name}.mp4", frames=12)
    names = ("0.png", "a.mp4", "1.png", "b.mp4", "2.png")
    write_list(folder, [{"path": name, "caption": f"this is {name}"} for name in names])
    train(request(folder, frames="multi", num_frames=3, hold_out=1, validate_every=6))
    losses = [record["loss"] for record in records(home) if "loss" in record]
    assert len(losses) == 6 and losses[-1] < losses[0]


def test_the_frozen_tower_looks_once_for_all_runs(data: Path, home: Path) -> None:
    train(request(data, name="base", steps=1))
    frozen = request(data, model="run:base", freeze="vision")
    first, second = train(frozen), train(replace(frozen, name="second"))
    assert [done for stage, done, *_ in first.moves if stage == "encoding"] == [*range(1, 9)]
    assert not [stage for stage, *_ in second.moves if stage == "encoding"]
    assert records(home) == records(home, "second")


@pytest.mark.parametrize(
    ("changed", "steps", "rate", "warmup", "every"),
    [
        ({}, 6, 1e-3, 1, 50),
        ({"steps": None, "epochs": 2.0}, 8, 1e-3, 1, 50),
        ({"steps": None, "epochs": 0.1}, 1, 1e-3, 0, 50),
        ({"steps": 950, "model": "mine"}, 950, 1e-5, 95, 95),
        ({"steps": 950, "model": "mine", "lora": 4}, 950, 1e-4, 95, 95),
        ({"learning_rate": 0.5, "warmup": 5, "validate_every": 4}, 6, 0.5, 5, 4),
    ],
)
def test_what_is_left_open_suits_the_rest(
    data: Path, changed: dict[str, Any], steps: int, rate: float, warmup: int, every: int
) -> None:
    wanted = request(data, **{"learning_rate": None, **changed})
    plan = make_plan(wanted, Order(0, np.ones(16), 4), find_data(request(data, hold_out=2), 12))
    assert (plan.steps, plan.learning_rate, plan.warmup, plan.validate_every) == (steps, rate, warmup, every)


def test_gradients_may_be_as_long_as_they_are(data: Path) -> None:
    alone = find_data(request(data), 12)
    assert make_plan(request(data, clip_grad_norm=0.0), Order(0, np.ones(16), 4), alone).max_norm == np.inf


def test_the_model_to_start_from_must_be_there(data: Path) -> None:
    with pytest.raises(ModelError):
        open_base(request(data, model="run:none"))


def test_other_vocabularies_cannot_be_trained(data: Path) -> None:
    wanted, text = request(data), replace(TEXT, vocab_size=300)
    config_file(data.parent, replace(CONFIG, text=text, decoder=text))
    with pytest.raises(ModelError, match="this model has 300 tokens, but CLIP's vocabulary has 49408"):
        open_base(wanted)


def test_a_batch_needs_as_many_captions(data: Path) -> None:
    with pytest.raises(UsageError) as caught:
        train(request(data, batch_size=8, accumulate=3))
    assert caught.value.message == "one step needs 24 captions (8 x --accumulate 3), but there are only 16"
    assert caught.value.hint == "--batch-size 5 or --accumulate 2 or less"


@pytest.mark.parametrize("warmup", [6, 1000])
def test_warmup_must_be_shorter_than_run(data: Path, home: Path, warmup: int) -> None:
    with pytest.raises(UsageError) as caught:
        train(request(data, warmup=warmup))
    assert caught.value.message == f"--warmup {warmup} must be less than the 6 steps of the run"
    assert not (home / "runs").exists()


def test_a_run_of_an_earlier_version_goes_on(home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write_list(folder, [{"path": path.name, "caption": "a thing"} for path in pictures(folder, 16)])
    wanted = request(folder, steps=6, hold_out=9, validate_every=2)
    reporter = train(wanted, stop_after=3)
    assert reporter.notes[1].endswith("4 of 16 files are held out")
    run = home / "runs" / "mine"
    settings_then = json.loads((run / "run.json").read_text())
    old = find_data(request(folder, hold_out=9), CONFIG.context_length, before=1)
    settings_then["asked"]["data"] = run_facts(wanted, open_base(wanted), old, PLAN)["data"]
    (run / "run.json").write_text(json.dumps(settings_then))
    lines = (run / "metrics.jsonl").read_text().replace('"held_out_loss"', '"unknown"')
    (run / "metrics.jsonl").write_text(lines)
    progress = run / "checkpoints" / "3" / "progress.json"
    progress.write_text(
        json.dumps({key: it for key, it in json.loads(progress.read_text()).items() if key != "sha256"})
    )
    reporter = train(wanted)
    assert "resuming run mine at step 3" in reporter.notes
    assert reporter.notes[1].endswith("1 of 16 files are held out")
    assert [record["step"] for record in reporter.validations] == [4, 6]


def test_one_held_out_picture_keeps_the_learned_model(home: Path, tmp_path: Path) -> None:
    folder = captioned(tmp_path / "data", train=7, val=1)
    text = (folder / "captions.jsonl").read_text()
    (folder / "captions.jsonl").write_text(text.replace("grey", "red"))
    shutil.copy(folder / "0.png", folder / "7.png")
    reporter = train(request(folder, steps=24, hold_out=9, validate_every=6, contrastive_loss=0.0))
    assert {record["scores"]["CIDEr"] for record in reporter.validations} == {0}
    losses = {record["step"]: record["held_out_loss"] for record in reporter.validations}
    best = json.loads((home / "runs/mine/best/progress.json").read_text())["step"]
    assert best == min(losses, key=losses.__getitem__) > 6
    assert [warning.partition(";")[0] for warning in reporter.warnings] == [
        "scores of 1 held-out examples are not reliable"
    ]


def test_overwrite_does_not_remove_the_base(data: Path, home: Path) -> None:
    train(request(data, steps=1))
    for model in ("run:mine", "run:mine@1"):
        with pytest.raises(UsageError, match=r"^--overwrite would remove the run mine, which this run starts from\n"):
            train(request(data, model=model, overwrite=True))
    assert find_model("run:mine")


def test_useless_validation_options_are_warned_of(data: Path) -> None:
    reporter = train(request(data, steps=2, hold_out=2, validate_every=3, patience=1))
    assert reporter.warnings[1:] == [
        "--val-frequency 3 has no effect: the run has 2 steps",
        "--patience 1 has no effect: there are 1 validations in 2 steps; for more, use --val-frequency",
    ]
