"""`coca convert`, as a user runs it."""

from pathlib import Path

import pytest
import torch
from checkpoints.stored_models import add_run
from safetensors.torch import load_file

from cococli.checkpoints.architecture import load_config
from cococli.checkpoints.convert import to_mindspore

TINY = Path(__file__).parents[1] / "data/goldens/tiny"


def test_convert_prints_path_of_new_file(coca, tmp_path: Path) -> None:
    written = tmp_path / "tiny.ckpt"
    run = coca("convert", TINY / "open_clip_pytorch_model.bin", written, "--verify")
    assert run.stdout == f"{written}\n"
    assert "million parameters" in run.stderr and "verified" in run.stderr
    assert run.returncode == 0
    assert written.stat().st_size > 1_000_000
    assert load_config(tmp_path / "tiny.json") == load_config(TINY / "config.json")


def test_invalid_checkpoint_is_exit_code_3(coca, tmp_path: Path) -> None:
    source = tmp_path / "notes.bin"
    source.write_text("not weights")
    run = coca("convert", source)
    assert run.stderr.startswith("error: ")
    assert (run.stdout, run.returncode) == ("", 3)
    assert list(tmp_path.iterdir()) == [source]


def test_unknown_config_fails_before_reading_weights(coca) -> None:
    run = coca("convert", "no-such-file.bin", "--config", "vit-l-15")
    assert "vit-l-14" in run.stderr
    assert run.returncode == 3


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A converted model."""
    return to_mindspore(TINY / "open_clip_pytorch_model.bin", tmp_path / "tiny.ckpt").path


def test_round_trip_is_the_same_model(coca, tiny: Path) -> None:
    run = coca("convert", tiny, "--to", "open_clip", "--verify")
    written = tiny.with_suffix(".safetensors")
    assert (run.stdout, run.returncode) == (f"{written}\n", 0)
    assert "verified" in run.stderr
    back, state = load_file(written), torch.load(TINY / "open_clip_pytorch_model.bin", weights_only=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
    assert load_config(tiny.with_name("open_clip_config.json")) == load_config(TINY / "config.json")


def test_named_model_is_converted_to_half_precision(coca, tmp_path: Path) -> None:
    run = coca("convert", "shapes", "--to", "open_clip", "--half", cwd=tmp_path)
    assert (run.stdout, run.returncode) == ("shapes.safetensors\n", 0)
    rounded, numbers = run.stderr.splitlines()
    assert rounded == "weights rounded to half precision: each by at most 0.05%, or by 3e-8 if that is more"
    assert numbers == "10.9 million parameters, 21.7 MB"


@pytest.mark.parametrize("name", ["better", "better@7"])
def test_run_model_is_converted_to_open_clip(coca, tmp_path: Path, name: str) -> None:
    add_run("better", 7)
    run = coca("convert", f"run:{name}", "--to", "open_clip", "--verify", cwd=tmp_path)
    assert (run.stdout, run.returncode) == (f"{name}.safetensors\n", 0)
    state = torch.load(TINY / "open_clip_pytorch_model.bin", weights_only=True)
    assert load_file(tmp_path / f"{name}.safetensors").keys() == state.keys()


def test_ckpt_is_converted_to_half_precision(coca, tiny: Path) -> None:
    half = tiny.with_name("half.ckpt")
    run = coca("convert", tiny, half, "--half", "--verify")
    assert (run.stdout, run.returncode) == (f"{half}\n", 0)
    assert half.stat().st_size < 0.55 * tiny.stat().st_size


OPEN_CLIP = TINY / "open_clip_pytorch_model.bin"
WRONG = {
    "a .ckpt without a destination": (
        ["tiny.ckpt"],
        "error: tiny.ckpt would be overwritten by its own conversion\n"
        "hint: give another destination, or --to open_clip for its format\n",
    ),
    "a .ckpt to a .safetensors without --to": (
        ["tiny.ckpt", "a.safetensors"],
        "error: a.safetensors: the name of a converted checkpoint must end in .ckpt\n"
        "hint: for open_clip's format: --to open_clip\n",
    ),
    "open_clip's to open_clip": (
        [OPEN_CLIP, "--to", "open_clip"],
        f"error: {OPEN_CLIP} is not a converted model\nhint: --to open_clip reverts what coca convert wrote\n",
    ),
    "a .ckpt to a .ckpt with --to": (
        ["tiny.ckpt", "a.ckpt", "--to", "open_clip"],
        "error: a.ckpt: the name of an exported model must end in .safetensors\n",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_direction_is_refused_with_hint(coca, tiny: Path, case: str) -> None:
    arguments, message = WRONG[case]
    run = coca("convert", *arguments, cwd=tiny.parent)
    assert (run.stderr, run.stdout, run.returncode) == (message, "", 2)
    assert sorted(path.name for path in tiny.parent.iterdir()) == ["tiny.ckpt", "tiny.json"]
