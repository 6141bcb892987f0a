"""Pictures are prepared as a checkpoint's `preprocess_cfg` says, whatever the command."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

import cococli
from cococli.catalog import CLIP
from cococli.checkpoints.convert import to_open_clip

ENGINE = ("--engine", "torch", "--precision", "fp32")
COLORS = ("red", "green", "blue", "yellow", "purple", "white")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Squares, each in a folder that is named by its color."""
    folder = tmp_path / "pictures"
    for color in COLORS:
        (folder / color).mkdir(parents=True)
        picture = Image.new("RGB", (128, 128), "gray")
        ImageDraw.Draw(picture).rectangle((30, 30, 98, 98), fill=color)
        picture.save(folder / color / "square.png")
    return folder


def checkpoint(folder: Path, entry: dict[str, Any], mean: float | None = None) -> Path:
    """The bundled model as open_clip saves it, with this `preprocess_cfg`.

    Args:
        mean: Pixels have this mean and deviation. The first layer is changed so that the model says the same as before.
    """
    folder.mkdir()
    path = to_open_clip("shapes", folder / "open_clip_model.safetensors").path
    state = load_file(path)
    if mean is not None:  # (x - m) / s = ((x - mean) / mean) * (mean / s) + (mean - m) / s
        weight, m, s = state["visual.conv1.weight"].clone(), torch.tensor(CLIP.mean), torch.tensor(CLIP.std)
        state["visual.conv1.weight"] = weight * (mean / s)[None, :, None, None]
        state["visual.positional_embedding"][1:] += (weight * ((mean - m) / s)[None, :, None, None]).sum((1, 2, 3))
    save_file(state, path)
    config = json.loads((folder / "open_clip_config.json").read_text())
    (folder / "open_clip_config.json").write_text(json.dumps({**config, "preprocess_cfg": entry}))
    return path


def test_every_command_prepares_pictures_as_configured(coca, tmp_path: Path, pictures: Path) -> None:
    path = checkpoint(tmp_path / "half", {"mean": [0.5, 0.5, 0.5], "std": 0.5}, mean=0.5)
    made = coca("fetch", path, "--name", "half")
    assert "pictures are prepared with mean [0.5, 0.5, 0.5], std [0.5, 0.5, 0.5]" in made.stderr

    vectors, captions, reports = {}, {}, {}
    for model in ("shapes", "half"):
        files, index = ("--model", model, "-q"), tmp_path / f"{model}-index"
        assert coca("embed", pictures, *files, *ENGINE, "-o", index).returncode == 0
        entries = [json.loads(line) for line in (index / "entries.jsonl").read_text().splitlines()]
        order = sorted(range(len(entries)), key=lambda row: entries[row]["video"])
        vectors[model] = np.load(index / "vectors.npy")[order]
        run = coca("search", pictures / "red" / "square.png", index, *ENGINE, "-q", "--json")
        assert json.loads(run.stdout)[0]["score"] > 0.999
        run = coca("caption", pictures, *files, *ENGINE)
        captions[model] = sorted((line["video"], line["caption"]) for line in map(json.loads, run.stdout.splitlines()))
        run = coca("evaluate", "--classes", pictures, *files, *ENGINE, "--json")
        reports[model] = json.loads(run.stdout)["scores"]
    assert (vectors["shapes"] * vectors["half"]).sum(1).min() > 0.9999
    assert captions["half"] == captions["shapes"]
    assert reports["half"] == pytest.approx(reports["shapes"], abs=1e-3)


def test_configured_preprocessing_travels_with_models(coca, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "wide", {"resize_mode": "squash"})
    picture = Image.new("RGB", (600, 200), "black")
    ImageDraw.Draw(picture).ellipse((10, 50, 160, 150), fill="yellow")
    picture.save(tmp_path / "wide.png")
    coca("fetch", path, "--name", "wide", "--half")
    coca("models", "export", "wide", tmp_path / "wide.tar")
    coca("models", "import", tmp_path / "wide.tar", "--name", "again")
    coca("convert", "again", tmp_path / "back.safetensors", "--to", "open_clip")
    coca("convert", tmp_path / "back.safetensors", tmp_path / "back.ckpt")
    assert json.loads((tmp_path / "open_clip_config.json").read_text())["preprocess_cfg"]["resize_mode"] == "squash"
    coca_ = cococli.load(str(tmp_path / "back.ckpt"), engine="torch", precision="fp32")
    assert "circle" in coca_.caption(tmp_path / "wide.png").text


def test_models_converted_earlier_are_noted_once(coca, tmp_path: Path, pictures: Path) -> None:
    coca("convert", checkpoint(tmp_path / "half", {"mean": 0.5}), tmp_path / "old.ckpt")
    config = json.loads((tmp_path / "old.json").read_text())
    (tmp_path / "old.json").write_text(json.dumps(config["model_cfg"]))
    run = coca("caption", pictures, "--model", tmp_path / "old.ckpt", *ENGINE)
    assert run.stderr.count("the config of old does not set the preprocessing; CLIP's is used") == 1
    assert run.returncode == 0
