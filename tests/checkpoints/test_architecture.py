"""Configs: found, read, recognised from shapes, and checked against them."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from checkpoints.open_clip_state import SMALL

from cococli.catalog import VIT_B_32, VIT_L_14, CocaConfig
from cococli.checkpoints import architecture
from cococli.errors import ModelError


@pytest.mark.parametrize("config", [VIT_L_14, VIT_B_32, SMALL], ids=["vit-l-14", "vit-b-32", "small"])
def test_a_config_is_recognised_from_the_shapes_of_its_parameters(config: CocaConfig) -> None:
    assert architecture.recognise(architecture.parameters(config)) == config


@pytest.mark.parametrize("hidden", [1, 63, 177, 4304])
def test_any_mlp_width_is_recognised(hidden: int) -> None:
    vision = dataclasses.replace(SMALL.vision, mlp_ratio=(hidden + 0.5) / SMALL.vision.width)
    shapes = architecture.parameters(dataclasses.replace(SMALL, vision=vision))
    assert shapes["visual.transformer.resblocks.0.mlp.c_fc.bias"] == (hidden,)
    assert architecture.parameters(architecture.recognise(shapes)) == shapes


def test_vit_l_14_has_the_parameters_of_the_published_model() -> None:
    numbers = sum(math.prod(shape) for shape in architecture.parameters(VIT_L_14).values())
    assert numbers == 638_450_177  # `sum(p.numel() for p in open_clip.create_model("coca_ViT-L-14").parameters())`


def test_widths_that_do_not_split_into_heads_of_64_ask_for_a_config() -> None:
    shapes = {**architecture.parameters(SMALL), "visual.conv1.weight": (100, 3, 8, 8)}
    with pytest.raises(ModelError, match="number of heads") as caught:
        architecture.recognise(shapes)
    assert "--config" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "shape"),
    [("visual.conv1.weight", (64, 3)), ("visual.conv1.weight", (64, 3, 0, 0)), ("visual.attn_pool.query", ())],
)
def test_shapes_that_no_coca_has_are_refused_by_name(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=name):
        architecture.recognise({**architecture.parameters(SMALL), name: shape})


def test_the_first_contradiction_between_config_and_shapes_is_named() -> None:
    with pytest.raises(ModelError, match=r"visual.conv1.weight has the shape \(768, 3, 32, 32\)") as caught:
        architecture.check(VIT_L_14, {**architecture.parameters(VIT_L_14), "visual.conv1.weight": (768, 3, 32, 32)})
    assert "(1024, 3, 14, 14)" in caught.value.message


def test_layers_too_many_and_too_few_are_named_and_counted() -> None:
    deeper = dataclasses.replace(SMALL, text=dataclasses.replace(SMALL.text, layers=3))
    with pytest.raises(ModelError, match=r"missing: text.transformer.resblocks.2.*\(16 in all\)"):
        architecture.check(deeper, architecture.parameters(SMALL))
    with pytest.raises(ModelError, match=r"knows nothing of: text.transformer.resblocks.2.*\(16 in all\)"):
        architecture.check(SMALL, architecture.parameters(deeper))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_config_file_is_read_in_both_of_open_clips_forms(tmp_path: Path, wrapped: bool) -> None:
    inner = SMALL.to_open_clip()
    (tmp_path / "a.json").write_text(json.dumps({"model_cfg": inner, "preprocess_cfg": {}} if wrapped else inner))
    assert architecture.load_config(tmp_path / "a.json") == SMALL


def test_a_catalog_name_is_a_config() -> None:
    assert architecture.load_config("vit-b-32-coco") == VIT_B_32


def test_an_unknown_config_name_lists_close_ones() -> None:
    with pytest.raises(ModelError, match="vit-l14") as caught:
        architecture.load_config("vit-l14")
    assert "vit-l-14" in caught.value.hint
    with pytest.raises(ModelError):
        architecture.load_config("x" * 5000)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"a": 1}', "[" * 100_000, "\xff"])
def test_a_file_that_is_no_config_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"a\.json"):
        architecture.load_config(tmp_path / "a.json")


def test_the_config_beside_weights_is_found_in_order_and_foreign_ones_are_passed_over(tmp_path: Path) -> None:
    weights = tmp_path / "m.bin"
    (tmp_path / "m.json").write_text('{"model_type": "bert"}')
    assert architecture.find_config(weights) is None
    for name in ("config.json", "open_clip_config.json", "m.json"):
        (tmp_path / name).write_text(json.dumps(SMALL.to_open_clip()))
        assert architecture.find_config(weights) == tmp_path / name
