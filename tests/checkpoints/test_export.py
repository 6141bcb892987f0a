"""Export: back to open_clip, to the last bit."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints.open_clip_state import SMALL, save, state_dict
from checkpoints.test_convert import configs
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from cococli.catalog import CLIP, VIT_L_14, CocaConfig
from cococli.checkpoints import architecture, ckpt, names
from cococli.checkpoints.convert import convert
from cococli.checkpoints.export import CONFIG_NAME, export
from cococli.errors import ModelError, UsageError

GOLDENS = Path(__file__).parents[1] / "data" / "goldens"
BITS = {torch.float32: torch.int32, torch.float16: torch.int16}


def assert_same_bits(path: Path, state: dict[str, torch.Tensor]) -> None:
    exported = load_file(path)
    assert exported.keys() == state.keys()
    for name, tensor in state.items():
        assert (exported[name].shape, exported[name].dtype) == (tensor.shape, tensor.dtype), name
        assert torch.equal(exported[name].view(BITS[tensor.dtype]), tensor.view(BITS[tensor.dtype])), name


def converted(folder: Path, state: dict[str, torch.Tensor] | None = None) -> str:
    """Path of a converted model, by default a small one."""
    source = save(state or state_dict(SMALL), folder / "a.bin")
    path = convert(source, folder / "a.ckpt").path
    source.unlink()
    return str(path)


def any_bits(config: CocaConfig, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights of every bit pattern: NaNs that carry a payload, infinities, denormals, -0."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in state_dict(config).items()}
    bits, limits = BITS[dtype], torch.iinfo(BITS[dtype])
    return {
        name: torch.randint(limits.min, limits.max, shape, generator=generator, dtype=bits).view(dtype)
        for name, shape in shapes.items()
    }


@settings(max_examples=30, deadline=None)
@given(config=configs(), dtype=st.sampled_from(["float32", "float16"]))
def test_there_and_back_changes_no_bit_of_any_coca(
    tmp_path_factory: pytest.TempPathFactory, config: CocaConfig, dtype: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    state = any_bits(config, getattr(torch, dtype))
    convert(save(state, folder / "a.bin"), folder / "a.ckpt", config, dtype=dtype)
    made = export(str(folder / "a.ckpt"), verify=True)
    assert made.path == folder / "a.safetensors"
    assert made.parameters == sum(tensor.numel() for tensor in state.values())
    assert_same_bits(made.path, state)
    assert architecture.load_config(folder / CONFIG_NAME) == config


@pytest.mark.parametrize("golden", ["tiny", "flat"])
def test_what_open_clip_wrote_comes_back_with_its_names_and_shapes(tmp_path: Path, golden: str) -> None:
    source = GOLDENS / golden / "open_clip_pytorch_model.bin"
    convert(source, tmp_path / "a.ckpt")
    export(str(tmp_path / "a.ckpt"), verify=True)
    assert_same_bits(tmp_path / "a.safetensors", torch.load(source, weights_only=True))


@settings(max_examples=30, deadline=None)
@given(config=configs())
def test_tensors_are_those_that_open_clip_has(config: CocaConfig) -> None:
    made = {tensor.name: tensor.shape for tensor in names.tensors_of(architecture.parameters(config))}
    assert made == {name: tuple(tensor.shape) for name, tensor in state_dict(config).items()}


def test_both_directions_of_the_table_of_names_agree() -> None:
    parameters = architecture.parameters(VIT_L_14)
    tensors = list(names.tensors_of(parameters))
    assert all(names.parameters_of(tensor.name) == tensor.parameters for tensor in tensors)
    assert sorted(name for tensor in tensors for name in tensor.parameters) == sorted(parameters)


def test_the_config_is_open_clips_and_conversion_reads_it_again(tmp_path: Path) -> None:
    made = export(converted(tmp_path), tmp_path / "b.safetensors")
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    assert config == {"model_cfg": SMALL.to_open_clip(), "preprocess_cfg": CLIP.to_open_clip()}
    again = convert(made.path, tmp_path / "again.ckpt")
    assert (again.config, again.notes) == (SMALL, (f"config read from {tmp_path / CONFIG_NAME}",))
    assert (tmp_path / "again.ckpt").read_bytes() == (tmp_path / "a.ckpt").read_bytes()


def test_the_header_says_that_tensors_are_torchs(tmp_path: Path) -> None:
    with safe_open(export(converted(tmp_path)).path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_a_checkpoint_of_both_precisions_keeps_them_aligned(tmp_path: Path) -> None:
    state = state_dict(SMALL)
    weights = ckpt.read(Path(converted(tmp_path)))
    with (tmp_path / "mixed.ckpt").open("wb") as file:
        for name, array in weights.items():
            ckpt.write(file, name, array.shape, [array], "float16" if name == "logit_scale" else "float32")
    export(str(tmp_path / "mixed.ckpt"), verify=True)
    assert_same_bits(tmp_path / "mixed.safetensors", {**state, "logit_scale": state["logit_scale"].half()})
    content = (tmp_path / "mixed.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert start % 8 == 0
    for name, tensor in json.loads(content[8:start]).items():
        if name != "__metadata__":
            assert tensor["data_offsets"][0] % {"F32": 4, "F16": 2}[tensor["dtype"]] == 0, name


def test_half_precision_is_written_on_request_and_noted(tmp_path: Path) -> None:
    made = export(converted(tmp_path), verify=True, dtype="float16")
    assert made.notes[-1].startswith("weights rounded to half precision")
    assert_same_bits(made.path, {name: tensor.half() for name, tensor in state_dict(SMALL).items()})


def test_a_model_is_exported_by_its_name_into_the_current_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = export("shapes")
    assert made.path == Path("shapes.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in load_file(made.path).items()} == {
        tensor.name: tensor.shape for tensor in names.tensors_of(architecture.parameters(made.config))
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [CONFIG_NAME, "shapes.safetensors"]


def test_a_config_given_wins_and_is_written(tmp_path: Path) -> None:
    other = dataclasses.replace(SMALL, quick_gelu=True)
    assert export(converted(tmp_path), config=other).config == other
    assert architecture.load_config(tmp_path / CONFIG_NAME) == other


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_config_that_says_more_keeps_what_it_says(tmp_path: Path, wrapped: bool) -> None:
    model = {**SMALL.to_open_clip(), "init_logit_scale": 3.0}
    there = {"model_cfg": model, "preprocess_cfg": {"size": 16, "fill_color": 0}} if wrapped else model
    (tmp_path / CONFIG_NAME).write_text(json.dumps(there))
    export(converted(tmp_path))
    config = json.loads((tmp_path / CONFIG_NAME).read_text())
    assert config.items() >= there.items()
    assert CocaConfig.from_open_clip(config["model_cfg"]) == SMALL


@pytest.mark.parametrize(
    "there", ["{}", "not JSON", json.dumps({"model_cfg": {"vision_cfg": {}}}), json.dumps(VIT_L_14.to_open_clip())]
)
def test_a_config_of_another_model_is_in_the_way(tmp_path: Path, there: str) -> None:
    source = converted(tmp_path)
    (tmp_path / CONFIG_NAME).write_text(there)
    with pytest.raises(UsageError) as caught:
        export(source, config=SMALL)
    assert caught.value.message == f"{tmp_path / CONFIG_NAME} is in the way: it describes another model"
    assert (tmp_path / CONFIG_NAME).read_text() == there
    assert not (tmp_path / "a.safetensors").exists()


def test_destinations_that_cannot_be_are_refused(tmp_path: Path) -> None:
    source = converted(tmp_path)
    (tmp_path / "folder.safetensors").mkdir()
    for name, message in {
        "b.bin": "the name of an exported model must end in .safetensors",
        "nowhere/b.safetensors": f"there is no folder {tmp_path / 'nowhere'}",
        "folder.safetensors": "is a folder",
    }.items():
        with pytest.raises(UsageError, match=message):
            export(source, tmp_path / name)


def test_what_is_open_clips_already_is_refused(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    with pytest.raises(UsageError) as caught:
        export(str(source))
    assert caught.value.message == f"{source} is not a converted model"
    assert caught.value.hint == "--to open_clip turns back what coca convert has made"


@pytest.mark.parametrize("name", ["nothing", "nothing.ckpt", "x" * 5000])
def test_a_model_that_is_not_there_is_told(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        export(name)
    assert "\n" not in caught.value.message


def test_verification_finds_a_single_wrong_bit_and_leaves_nothing(tmp_path: Path) -> None:
    def spoil(stage: str, done: int, total: int) -> None:
        if stage == "convert" and done == total:
            (part,) = (path for path in tmp_path.glob(".coca-*.part") if path.stat().st_size > total)
            with part.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_END)
                file.write(bytes([byte ^ 1]))

    source = converted(tmp_path)
    with pytest.raises(ModelError, match=r"verification failed: text_decoder\.text_projection"):
        export(source, verify=True, progress=spoil)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "a.json"]


FULL = """
import resource, sys
from cococli.checkpoints.export import export
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    export(sys.argv[1])
except Exception as error:
    print(error)
"""


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    source = converted(tmp_path)
    run = subprocess.run([sys.executable, "-c", FULL, source], capture_output=True, text=True, timeout=900)
    assert run.stdout == f"cannot write {tmp_path / 'a.safetensors'}: File too large\n", run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "a.json"]
