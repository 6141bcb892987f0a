"""Configs: found, read, recognized from shapes, and checked against them."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from checkpoints.open_clip_state import SMALL

from cococli.catalog import UNSUPPORTED, VIT_B_32, VIT_L_14, CocaConfig
from cococli.checkpoints import architecture
from cococli.errors import ModelError


@pytest.mark.parametrize("config", [VIT_L_14, VIT_B_32, SMALL], ids=["vit-l-14", "vit-b-32", "small"])
def test_config_is_recognized_from_parameter_shapes(config: CocaConfig) -> None:
    assert architecture.recognize(architecture.parameters(config)) == config


@pytest.mark.parametrize("hidden", [1, 63, 177, 4304])
def test_any_mlp_width_is_recognized(hidden: int) -> None:
    vision = dataclasses.replace(SMALL.vision, mlp_ratio=(hidden + 0.5) / SMALL.vision.width)
    shapes = architecture.parameters(dataclasses.replace(SMALL, vision=vision))
    assert shapes["visual.transformer.resblocks.0.mlp.c_fc.bias"] == (hidden,)
    assert architecture.parameters(architecture.recognize(shapes)) == shapes


def test_vit_l_14_has_published_parameter_count() -> None:
    numbers = sum(math.prod(shape) for shape in architecture.parameters(VIT_L_14).values())
    assert numbers == 638_450_177  # `sum(p.numel() for p in open_clip.create_model("coca_ViT-L-14").parameters())`


def test_odd_widths_ask_for_a_config() -> None:
    shapes = {**architecture.parameters(SMALL), "visual.conv1.weight": (100, 3, 8, 8)}
    with pytest.raises(ModelError, match="number of heads") as caught:
        architecture.recognize(shapes)
    assert "--config" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "shape"),
    [("visual.conv1.weight", (64, 3)), ("visual.conv1.weight", (64, 3, 0, 0)), ("visual.attn_pool.query", ())],
)
def test_invalid_shapes_are_refused_by_name(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=name):
        architecture.recognize({**architecture.parameters(SMALL), name: shape})


def test_first_contradicting_shape_is_named() -> None:
    with pytest.raises(ModelError, match=r"visual.conv1.weight has the shape \(768, 3, 32, 32\)") as caught:
        architecture.check(VIT_L_14, {**architecture.parameters(VIT_L_14), "visual.conv1.weight": (768, 3, 32, 32)})
    assert "(1024, 3, 14, 14)" in caught.value.message


def test_missing_and_extra_layers_are_named() -> None:
    deeper = dataclasses.replace(SMALL, text=dataclasses.replace(SMALL.text, layers=3))
    with pytest.raises(ModelError, match=r"missing: text.transformer.resblocks.2.*\(16 in all\)"):
        architecture.check(deeper, architecture.parameters(SMALL))
    with pytest.raises(ModelError, match=r"has no parameters called text.transformer.resblocks.2.*\(16 in all\)"):
        architecture.check(SMALL, architecture.parameters(deeper))


@pytest.mark.parametrize("wrapped", [False, True])
def test_both_open_clip_config_formats_are_read(tmp_path: Path, wrapped: bool) -> None:
    inner = SMALL.to_open_clip()
    (tmp_path / "a.json").write_text(json.dumps({"model_cfg": inner, "preprocess_cfg": {}} if wrapped else inner))
    assert architecture.load_config(tmp_path / "a.json") == SMALL


def test_yaml_of_mindone_is_read(tmp_path: Path) -> None:
    text = json.dumps(VIT_L_14.to_open_clip())
    (tmp_path / "coca_vit-l-14.yaml").write_text(text.removesuffix("}") + ",}")
    assert architecture.load_config(tmp_path / "coca_vit-l-14.yaml") == VIT_L_14


BOMB = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else 'x'] * 9)}]\n" for i in range(9))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{", "is not YAML"),
        ("[" * 2_000, "is not YAML"),
        ("a: !!bool x", "is not YAML"),
        ("a: !!timestamp x", "is not YAML"),
        ("a: 2026-13-45", "is not YAML"),
        (f"{BOMB}preprocess_cfg: *a8", r"preprocess_cfg is not an object but \["),
    ],
    ids=["open", "nested", "bool", "timestamp", "date", "bomb"],
)
def test_invalid_yaml_is_refused(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(content)
    with pytest.raises(ModelError, match=rf"a\.yaml:? {problem}"):
        architecture.load_preprocess(path) or architecture.load_config(path)


def test_configs_without_pooler_are_explained() -> None:
    model = VIT_B_32.to_open_clip()
    del model["vision_cfg"]["attentional_pool"]
    with pytest.raises(ModelError) as caught:
        CocaConfig.from_open_clip(model)
    assert caught.value.message == UNSUPPORTED
    assert UNSUPPORTED in (Path(__file__).parents[2] / "docs" / "open-clip.md").read_text()


def test_catalog_name_is_a_config() -> None:
    assert architecture.load_config("coca_ViT-B-32") == VIT_B_32
    assert architecture.load_config("vit-b-32-coco") == VIT_B_32


def test_unknown_config_name_lists_close_ones() -> None:
    with pytest.raises(ModelError, match="vit-l15") as caught:
        architecture.load_config("vit-l15")
    assert "vit-l-14" in caught.value.hint
    with pytest.raises(ModelError):
        architecture.load_config("x" * 5000)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"a": 1}', "[" * 100_000, "\xff"])
def test_invalid_config_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"a\.json"):
        architecture.load_config(tmp_path / "a.json")


IMPOSSIBLE = {
    "vision_cfg": ([], "it needs embed_dim, vision_cfg"),
    "vision_cfg.layers": (1e9, "vision_cfg.layers = 1000000000.0 is too large"),
    "text_cfg.layers": (2000, "text_cfg.layers = 2000 is out of range: 1 to 1024"),
    "text_cfg.heads": (0, "text_cfg.heads = 0 is out of range"),
    "text_cfg.width": (-64, "text_cfg.width = -64 is out of range"),
    "text_cfg.context_length": (10**400, "text_cfg.context_length = 1000"),
    "text_cfg.vocab_size": ("many", "text_cfg.vocab_size = 'many' is not a whole number"),
    "vision_cfg.image_size": ([224, 224], "vision_cfg.image_size = [224, 224] is not a whole number"),
    "vision_cfg.patch_size": (14.5, "vision_cfg.patch_size = 14.5 is not a whole number"),
    "vision_cfg.head_width": (True, "vision_cfg.head_width = True is not a whole number"),
    "multimodal_cfg.vocab_size": (300, "have the same vocabulary, but this config has text 30, decoder 300"),
    "multimodal_cfg.mlp_ratio": (1e999, "multimodal_cfg.mlp_ratio = inf is too large"),
    "embed_dim": ({}, "embed_dim = {} is not a whole number"),
    "preprocess_cfg": ([], "preprocess_cfg is not an object but []"),
    "preprocess_cfg.mean": ([0.5, 0.5], "preprocess_cfg.mean = [0.5, 0.5] is not one finite number, or three"),
    "preprocess_cfg.std": ([1, 0, 1], "preprocess_cfg.std holds 0"),
    "preprocess_cfg.fill_color": (256, "preprocess_cfg.fill_color = 256 is not a number from 0 to 255"),
    "preprocess_cfg.mode": ("RGBA", "preprocess_cfg.mode = 'RGBA' is not supported"),
    "preprocess_cfg.resize_mode": (["squash"], "preprocess_cfg.resize_mode = ['squash'] is not supported"),
}


@pytest.mark.parametrize("field", IMPOSSIBLE)
def test_impossible_values_are_named_with_their_file(tmp_path: Path, field: str) -> None:
    value, problem = IMPOSSIBLE[field]
    config = SMALL.to_open_clip() | {"preprocess_cfg": {}}
    part, _, key = field.partition(".")
    if key:
        config[part][key] = value
    else:
        config[part] = value
    (tmp_path / "a.json").write_text(json.dumps(config).replace("Infinity", "1e999"))
    with pytest.raises(ModelError) as caught:
        architecture.load_config(tmp_path / "a.json")
    assert caught.value.message.startswith(f"{tmp_path / 'a.json'}: ") and problem in caught.value.message
    assert len(caught.value.message) < 300


def test_config_beside_weights_is_found_in_order(tmp_path: Path) -> None:
    weights = tmp_path / "m.bin"
    (tmp_path / "m.json").write_text('{"model_type": "bert"}')
    assert architecture.find_config(weights) is None
    for name in ("config.json", "open_clip_config.json", "m.json"):
        (tmp_path / name).write_text(json.dumps(SMALL.to_open_clip()))
        assert architecture.find_config(weights) == tmp_path / name


def test_unreadable_config_is_not_skipped(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_open_clip()))
    (tmp_path / "config.json").chmod(0)
    request.getfixturevalue("as_nobody")
    with pytest.raises(ModelError, match=f"cannot read {tmp_path}/config.json: Permission denied"):
        architecture.find_config(tmp_path / "m.bin")
