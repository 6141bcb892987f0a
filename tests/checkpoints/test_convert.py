"""Conversion: bit-exact, complete, and whole or not at all."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.open_clip_state import SMALL, save, save_as_mindone, state_dict
from checkpoints.reporters import OnUpdate
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_engine import from_open_clip
from safetensors import safe_open
from safetensors.torch import load_file

from cococli.catalog import CLIP, UNSUPPORTED, VIT_L_14, CocaConfig, TextConfig, VisionConfig
from cococli.checkpoints import architecture, ckpt, tensors
from cococli.checkpoints.convert import OPEN_CLIP_CONFIG, default_destination, to_mindspore, to_open_clip
from cococli.errors import CocaError, ModelError, UsageError

TINY = Path(__file__).parents[1] / "data" / "goldens" / "tiny"
ASSUMED = "no preprocess_cfg found: pictures are prepared as for CLIP"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def expected(state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The parameters that a state dict must become, put together by other means than the table of names."""
    return from_open_clip({name: tensor.float().numpy() for name, tensor in state.items()})


def assert_holds(path: Path, state: dict[str, torch.Tensor], dtype: type[np.floating] = np.float32) -> None:
    written, wanted = ckpt.read(path), expected(state)
    assert written.keys() == wanted.keys()
    for name, array in wanted.items():
        assert (written[name].shape, written[name].dtype) == (array.shape, dtype), name
        assert written[name].tobytes() == array.astype(dtype).tobytes(), name


@st.composite
def configs(draw: st.DrawFn) -> CocaConfig:
    """Small CoCas, with the pooler's widths equal or not."""
    head, pooler_heads = draw(st.sampled_from([4, 8])), draw(st.sampled_from([1, 2]))
    dim, width = head * draw(st.integers(1, 3)) * 2, head * draw(st.integers(1, 4))
    patch, context, vocab = draw(st.integers(1, 3)), draw(st.integers(1, 6)), draw(st.integers(3, 20))
    vision = VisionConfig(
        patch * draw(st.integers(1, 3)), patch, width, draw(st.integers(1, 3)), head, 2.5, 3, pooler_heads
    )
    text = TextConfig(context, vocab, dim, 2, draw(st.integers(1, 3)))
    return CocaConfig(dim, vision, text, dataclasses.replace(text, layers=draw(st.integers(1, 2)), mlp_ratio=1.5))


@settings(max_examples=40, deadline=None)
@given(
    config=configs(),
    seed=st.integers(0, 9),
    dtype=st.sampled_from(sorted(DTYPES)),
    prefixed=st.booleans(),
    form=st.sampled_from(["a.bin", "wrapped.pt", "a.safetensors"]),
)
def test_every_format_is_converted_exactly(
    tmp_path_factory: pytest.TempPathFactory, config: CocaConfig, seed: int, dtype: str, prefixed: bool, form: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    state = state_dict(config, seed, DTYPES[dtype])
    source = save(state, folder / form, prefixed, wrapped=form == "wrapped.pt")
    made = to_mindspore(source, folder / "made.ckpt", config, verify=True)
    assert_holds(made.path, state)
    assert architecture.load_config(folder / "made.json") == config
    assert made.parameters == sum(tensor.numel() for tensor in state.values())


def test_golden_is_converted_with_config_beside_it(tmp_path: Path) -> None:
    made = to_mindspore(TINY / "open_clip_pytorch_model.bin", tmp_path / "tiny.ckpt", verify=True)
    assert_holds(made.path, torch.load(TINY / "open_clip_pytorch_model.bin", weights_only=True))
    assert made.config == CocaConfig.from_open_clip(json.loads((TINY / "config.json").read_text()))
    assert made.parameters == 379_697
    assert made.size == made.path.stat().st_size
    assert "config.json" in made.notes[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.ckpt", "tiny.json"]


def test_parameters_have_names_and_order_of_network(tmp_path: Path) -> None:
    made = to_mindspore(TINY / "open_clip_pytorch_model.bin", tmp_path / "tiny.ckpt")
    shapes = {name: array.shape for name, array in ckpt.read(made.path).items()}
    assert list(shapes.items()) == list(architecture.parameters(made.config).items())


def test_missing_config_is_noted(tmp_path: Path) -> None:
    made = to_mindspore(save(state_dict(SMALL), tmp_path / "a.bin"), tmp_path / "a.ckpt")
    assert made.config == SMALL
    assert made.notes[0].startswith("no config found: assuming heads of width 64")


def test_given_config_wins_over_config_beside_source(tmp_path: Path) -> None:
    other = dataclasses.replace(SMALL, quick_gelu=True)
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_open_clip()))
    made = to_mindspore(source, tmp_path / "b.ckpt", other)
    assert (made.config, made.notes) == (other, (ASSUMED,))
    assert architecture.load_config(tmp_path / "b.json") == other


def test_contradicting_config_is_refused(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    wrong = dataclasses.replace(SMALL, vision=dataclasses.replace(SMALL.vision, patch_size=4))
    with pytest.raises(ModelError, match=r"visual.positional_embedding has the shape \(5, 128\)"):
        to_mindspore(source, tmp_path / "a.ckpt", wrong)


def test_equivalent_config_is_kept(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    text = json.dumps({"model_cfg": SMALL.to_open_clip(), "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}})
    (tmp_path / "a.json").write_text(text)
    to_mindspore(source, tmp_path / "a.ckpt")
    assert (tmp_path / "a.json").read_text() == text


def test_masks_are_dropped_and_scale_is_scalar(tmp_path: Path) -> None:
    state = state_dict(SMALL)
    masks = {"text.attn_mask": torch.zeros(7, 7), "text_decoder.attn_mask": torch.zeros(6, 6)}
    save({**state, **masks, "logit_scale": state["logit_scale"].reshape(1)}, tmp_path / "a.bin")
    to_mindspore(tmp_path / "a.bin", tmp_path / "a.ckpt", verify=True)
    assert_holds(tmp_path / "a.ckpt", state)


def without(*starts: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state_dict(SMALL).items() if not name.startswith(starts)}


LAYER = "text.transformer.resblocks"
REFUSED = {
    "a CLIP": (without("text_decoder."), "is a CLIP, not a CoCa: it has no text_decoder"),
    "another model": ({"encoder.weight": torch.ones(1)}, "is not a CoCa: its tensors are encoder.weight"),
    "an unknown key": ({**state_dict(SMALL), "logit_shift": torch.ones(1)}, "no CoCa has tensors called logit_shift"),
    "no pooler": (without("visual.attn_pool."), UNSUPPORTED),
    "a missing key": (without("text_decoder.ln_final.bias"), "missing: text_decoder.ln_final.beta"),
    "a missing layer": (without(f"{LAYER}.0."), "no text.transformer.resblocks.0.mlp.c_fc.weight"),
    "a layer far out": ({**state_dict(SMALL), f"{LAYER}.999999999.ln_1.bias": torch.ones(64)}, "resblocks.2"),
    "a layer with zeros before": ({**state_dict(SMALL), f"{LAYER}.00.ln_1.bias": torch.ones(64)}, "resblocks.2"),
    "the same twice": (
        {**state_dict(SMALL), "visual.transformer.resblocks.0.attn.q_proj_weight": torch.ones(128, 128)},
        "both fill visual.transformer.resblocks.0.attn.q_proj.weight",
    ),
    "rows that do not split": (
        {**state_dict(SMALL), f"{LAYER}.0.attn.in_proj_bias": torch.ones(191)},
        "191 rows of text.transformer.resblocks.0.attn.in_proj_bias",
    ),
    "doubles": ({**state_dict(SMALL), "visual.proj": torch.ones(64, 64, dtype=torch.float64)}, "float64"),
    "a prefix on some keys": ({**without("visual.proj"), "module.visual.proj": torch.ones(1)}, "module.visual.proj"),
    "an odd name": ({**state_dict(SMALL), "a\nb": torch.ones(1)}, r"'a\nb'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_incomplete_or_foreign_models_are_refused(tmp_path: Path, case: str) -> None:
    state, reason = REFUSED[case]
    save(state, tmp_path / "a.bin")
    with pytest.raises(ModelError) as caught:
        to_mindspore(tmp_path / "a.bin", tmp_path / "out.ckpt")
    assert reason in caught.value.message
    assert "\n" not in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_logit_bias_is_reported_and_left_out(tmp_path: Path) -> None:
    state = state_dict(SMALL)
    save({**state, "logit_bias": torch.ones(1)}, tmp_path / "a.bin")
    conversion = to_mindspore(tmp_path / "a.bin", tmp_path / "a.ckpt", verify=True)
    assert conversion.notes[-1].startswith("logit_bias is left out")
    assert_holds(tmp_path / "a.ckpt", state)


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_checkpoint_of_mindone_converts_exactly(tmp_path: Path, prefix: str) -> None:
    state = state_dict(SMALL)
    save_as_mindone({**state, "text.attn_mask": torch.zeros(7, 7)}, tmp_path / "coca_model.ckpt", prefix)
    to_mindspore(tmp_path / "coca_model.ckpt", tmp_path / "a.ckpt", verify=True)
    assert_holds(tmp_path / "a.ckpt", state)
    to_open_clip(str(tmp_path / "coca_model.ckpt"), tmp_path / "a.safetensors", verify=True)
    assert load_file(tmp_path / "a.safetensors").keys() == state.keys()


def test_long_lists_of_names_are_abbreviated(tmp_path: Path) -> None:
    save({**state_dict(SMALL), **{f"extra.{i}": torch.ones(1) for i in range(9)}}, tmp_path / "a.bin")
    with pytest.raises(ModelError, match=r"extra.0, extra.1, extra.2, ... \(9 in all\)"):
        to_mindspore(tmp_path / "a.bin", tmp_path / "a.ckpt")


def test_invalid_destinations_are_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "taken.json").write_text('{"mine": true}')
    (tmp_path / "self.ckpt").write_bytes(b"x")
    for source, name, message in [
        ("none", "a.safetensors", "the name of a converted checkpoint must end in .ckpt"),
        ("none", "nowhere/a.ckpt", "there is no folder"),
        ("none", "folder.ckpt", "is a folder"),
        ("none", "taken.ckpt", "exists and is not a model config"),
        ("self.ckpt", "self.ckpt", "would be overwritten by its own conversion"),
    ]:
        with pytest.raises(UsageError, match=message):
            to_mindspore(tmp_path / source, tmp_path / name)


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("m.v2.bin", "m.v2.ckpt"),
        ("m.pt", "m.ckpt"),
        ("m.safetensors", "m.ckpt"),
        ("blob.12", "blob.12.ckpt"),
        ("m.ckpt", "m.ckpt"),  # itself, which is refused
    ],
)
def test_default_destination_is_beside_source(source: str, destination: str) -> None:
    assert default_destination(Path("folder") / source) == Path("folder") / destination


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_half_precision_rounds_with_a_note(tmp_path: Path, dtype: str) -> None:
    state = state_dict(SMALL, dtype=DTYPES[dtype])
    source = save(state, tmp_path / "a.bin")
    made = to_mindspore(source, tmp_path / "a.ckpt", SMALL, verify=True, dtype="float16")
    assert_holds(made.path, state, np.float16)
    assert made.size < 0.55 * to_mindspore(source, tmp_path / "b.ckpt", SMALL).size
    rounded = "weights rounded to half precision: each by at most 0.05%, or by 3e-8 if that is more"
    assert made.notes == ((ASSUMED,) if dtype == "fp16" else (ASSUMED, rounded))


@given(st.floats(-65504, 65504, width=32))
def test_rounding_error_is_within_stated_bounds(number: float) -> None:
    assert abs(float(np.float16(number)) - number) <= max(0.0005 * abs(number), 3e-8)


@pytest.mark.parametrize("number", [65505.0, -1e30])
def test_weight_beyond_float16_is_refused(tmp_path: Path, number: float) -> None:
    state = state_dict(SMALL)
    state["visual.proj"][7, 9] = number
    source = save(state, tmp_path / "a.bin")
    with pytest.raises(ModelError) as caught:
        to_mindspore(source, tmp_path / "a.ckpt", dtype="float16")
    assert caught.value.message == f"visual.proj holds {abs(number):g}, but float16 ends at 65504"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_half_precision_keeps_nan_infinity_and_maximum(tmp_path: Path) -> None:
    state = state_dict(SMALL)
    state["visual.proj"][0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -65504.0])
    made = to_mindspore(save(state, tmp_path / "a.bin"), tmp_path / "a.ckpt", verify=True, dtype="float16")
    assert_holds(made.path, state, np.float16)


def test_ckpt_is_converted_by_its_own_names(tmp_path: Path) -> None:
    state = state_dict(SMALL)
    to_mindspore(save(state, tmp_path / "a.bin"), tmp_path / "a.ckpt")
    half = to_mindspore(tmp_path / "a.ckpt", tmp_path / "half.ckpt", verify=True, dtype="float16")
    assert_holds(half.path, state, np.float16)
    assert half.notes[0] == f"config read from {tmp_path / 'a.json'}"
    copy = to_mindspore(tmp_path / "a.ckpt", tmp_path / "b.ckpt", verify=True)
    assert copy.path.read_bytes() == (tmp_path / "a.ckpt").read_bytes()
    wide = to_mindspore(half.path, tmp_path / "wide.ckpt", verify=True)
    assert_holds(wide.path, {name: tensor.half() for name, tensor in state.items()})
    assert len(wide.notes) == 1  # nothing was rounded


def test_ckpt_contradicting_its_config_is_refused(tmp_path: Path) -> None:
    to_mindspore(save(state_dict(SMALL), tmp_path / "a.bin"), tmp_path / "a.ckpt")
    deeper = dataclasses.replace(SMALL, decoder=dataclasses.replace(SMALL.decoder, layers=2))
    (tmp_path / "a.json").write_text(json.dumps(deeper.to_open_clip()))
    with pytest.raises(ModelError, match=r"a\.ckpt: parameters are missing: text_decoder\.resblocks\.1"):
        to_mindspore(tmp_path / "a.ckpt", tmp_path / "b.ckpt")


def test_ckpt_with_extra_parameters_is_refused(tmp_path: Path) -> None:
    made = to_mindspore(save(state_dict(SMALL), tmp_path / "a.bin"), tmp_path / "a.ckpt")
    with made.path.open("ab") as file:
        ckpt.write(file, "moments.visual.proj", (1,), [np.ones(1)])
    with pytest.raises(ModelError, match=r"the config has no parameters called moments\.visual\.proj"):
        to_mindspore(tmp_path / "a.ckpt", tmp_path / "b.ckpt")


def test_progress_covers_writing_and_verifying(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    made = to_mindspore(source, tmp_path / "a.ckpt", verify=True, reporter=OnUpdate(lambda *step: seen.append(step)))
    for stage in ("converting", "verifying"):
        done = [step[1:] for step in seen if step[0] == stage]
        assert done == sorted(done)
        assert done[-1] == (4 * made.parameters, 4 * made.parameters)


def test_verification_finds_a_wrong_bit(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")

    def spoil(stage: str, done: int, total: int) -> None:
        if stage == "converting" and done == total:
            (part,) = (path for path in tmp_path.glob(".coca-*.part") if path.stat().st_size > total)
            with part.open("r+b") as file:
                file.seek(-5, os.SEEK_END)
                byte = file.read(1)[0]
                file.seek(-5, os.SEEK_END)
                file.write(bytes([byte ^ 1]))

    with pytest.raises(ModelError, match=r"verification failed: text_decoder.text_projection"):
        to_mindspore(source, tmp_path / "a.ckpt", verify=True, reporter=OnUpdate(spoil))
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


# Converts argv[1] to argv[2]; argv[3] happens after the first bytes were written.
INTERRUPTED = """
import os, resource, signal, sys
from contextlib import contextmanager
from pathlib import Path
from cococli.checkpoints.convert import to_mindspore
from cococli.errors import CocaError
from cococli.reporting import Reporter

class Killing(Reporter):
    @contextmanager
    def progress(self, *_, **__):
        yield self

    def update(self, done):
        if sys.argv[3].startswith("SIG"):
            os.kill(os.getpid(), getattr(signal, sys.argv[3]))
        if sys.argv[3] == "truncated":
            os.truncate(sys.argv[1], 4096)

if sys.argv[3] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    to_mindspore(Path(sys.argv[1]), Path(sys.argv[2]), verify=True, reporter=Killing())
except CocaError as error:
    print(error.message)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "full", "truncated"])
@pytest.mark.parametrize("before", [False, True])
def test_interrupted_conversion_keeps_existing_files(tmp_path: Path, end: str, before: bool) -> None:
    source, old = (  # whose reading does not import torch
        to_mindspore(save(state_dict(SMALL, seed=seed), tmp_path / f"{seed}.bin"), tmp_path / f"{seed}.ckpt").path
        for seed in (0, 1)
    )
    if before:
        to_mindspore(old, tmp_path / "a.ckpt")
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    command = [sys.executable, "-c", INTERRUPTED, source, tmp_path / "a.ckpt", end]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    status = {"SIGTERM": 128 + signal.SIGTERM, "SIGINT": -signal.SIGINT}
    assert run.returncode == status.get(end, ModelError.exit_code), run.stderr
    assert ("File too large" in run.stdout) == (end == "full")
    assert ("the checkpoint was truncated while it was read" in run.stdout) == (end == "truncated")
    there |= {source.name: source.read_bytes()} if end == "truncated" else {}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there


def test_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    with pytest.raises(CocaError, match=r"/proc/a.ckpt"):
        to_mindspore(source, Path("/proc/a.ckpt"))


def test_odd_file_names_are_converted(tmp_path: Path) -> None:
    for name in ("é ü.bin", "new\nline.bin", "-v.bin", "x" * 245 + ".bin"):
        source = save(state_dict(SMALL), tmp_path / name)
        assert_holds(to_mindspore(source, default_destination(source)).path, state_dict(SMALL))


# Back to open_clip

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
    path = to_mindspore(source, folder / "a.ckpt").path
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
def test_round_trip_changes_no_bit(tmp_path_factory: pytest.TempPathFactory, config: CocaConfig, dtype: str) -> None:
    folder = tmp_path_factory.mktemp("any")
    state = any_bits(config, getattr(torch, dtype))
    to_mindspore(save(state, folder / "a.bin"), folder / "a.ckpt", config, dtype=dtype)
    made = to_open_clip(str(folder / "a.ckpt"), verify=True)
    assert made.path == folder / "a.safetensors"
    assert made.parameters == sum(tensor.numel() for tensor in state.values())
    assert_same_bits(made.path, state)
    assert architecture.load_config(folder / OPEN_CLIP_CONFIG) == config


@pytest.mark.parametrize("golden", ["tiny", "flat"])
def test_exported_tensors_equal_open_clips(tmp_path: Path, golden: str) -> None:
    source = GOLDENS / golden / "open_clip_pytorch_model.bin"
    to_mindspore(source, tmp_path / "a.ckpt")
    to_open_clip(str(tmp_path / "a.ckpt"), verify=True)
    assert_same_bits(tmp_path / "a.safetensors", torch.load(source, weights_only=True))


@settings(max_examples=30, deadline=None)
@given(config=configs())
def test_tensor_names_and_shapes_are_open_clips(config: CocaConfig) -> None:
    made = {tensor.name: tensor.shape for tensor in tensors.tensors_of(architecture.parameters(config))}
    assert made == {name: tuple(tensor.shape) for name, tensor in state_dict(config).items()}


def test_both_directions_of_the_table_of_names_agree() -> None:
    parameters = architecture.parameters(VIT_L_14)
    table = list(tensors.tensors_of(parameters))
    assert all(tensors.parameters_of(tensor.name) == tensor.parameters for tensor in table)
    assert sorted(name for tensor in table for name in tensor.parameters) == sorted(parameters)


def test_exported_config_is_read_again(tmp_path: Path) -> None:
    made = to_open_clip(converted(tmp_path), tmp_path / "b.safetensors")
    config = json.loads((tmp_path / OPEN_CLIP_CONFIG).read_text())
    assert config == {"model_cfg": SMALL.to_open_clip(), "preprocess_cfg": CLIP.to_open_clip()}
    again = to_mindspore(made.path, tmp_path / "again.ckpt")
    assert (again.config, again.notes) == (SMALL, (f"config read from {tmp_path / OPEN_CLIP_CONFIG}",))
    assert (tmp_path / "again.ckpt").read_bytes() == (tmp_path / "a.ckpt").read_bytes()


def test_header_marks_tensors_as_torch(tmp_path: Path) -> None:
    with safe_open(to_open_clip(converted(tmp_path)).path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_mixed_precision_tensors_stay_aligned(tmp_path: Path) -> None:
    state = state_dict(SMALL)
    weights = ckpt.read(Path(converted(tmp_path)))
    with (tmp_path / "mixed.ckpt").open("wb") as file:
        for name, array in weights.items():
            ckpt.write(file, name, array.shape, [array], "float16" if name == "logit_scale" else "float32")
    to_open_clip(str(tmp_path / "mixed.ckpt"), verify=True)
    assert_same_bits(tmp_path / "mixed.safetensors", {**state, "logit_scale": state["logit_scale"].half()})
    content = (tmp_path / "mixed.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    assert start % 8 == 0
    for name, tensor in json.loads(content[8:start]).items():
        if name != "__metadata__":
            assert tensor["data_offsets"][0] % {"F32": 4, "F16": 2}[tensor["dtype"]] == 0, name


def test_half_precision_is_written_on_request_and_noted(tmp_path: Path) -> None:
    made = to_open_clip(converted(tmp_path), verify=True, dtype="float16")
    assert made.notes[-1].startswith("weights rounded to half precision")
    assert_same_bits(made.path, {name: tensor.half() for name, tensor in state_dict(SMALL).items()})


def test_named_model_is_exported_into_current_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = to_open_clip("shapes")
    assert made.path == Path("shapes.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in load_file(made.path).items()} == {
        tensor.name: tensor.shape for tensor in tensors.tensors_of(architecture.parameters(made.config))
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == [OPEN_CLIP_CONFIG, "shapes.safetensors"]


def test_given_config_is_exported(tmp_path: Path) -> None:
    other = dataclasses.replace(SMALL, quick_gelu=True)
    assert to_open_clip(converted(tmp_path), config=other).config == other
    assert architecture.load_config(tmp_path / OPEN_CLIP_CONFIG) == other


@pytest.mark.parametrize("wrapped", [False, True])
def test_existing_config_entries_are_kept(tmp_path: Path, wrapped: bool) -> None:
    model = {**SMALL.to_open_clip(), "init_logit_scale": 3.0}
    there = {"model_cfg": model, "preprocess_cfg": {"size": 16, "fill_color": 0}} if wrapped else model
    (tmp_path / OPEN_CLIP_CONFIG).write_text(json.dumps(there))
    to_open_clip(converted(tmp_path))
    config = json.loads((tmp_path / OPEN_CLIP_CONFIG).read_text())
    assert config.items() >= there.items()
    assert CocaConfig.from_open_clip(config["model_cfg"]) == SMALL


@pytest.mark.parametrize(
    "there", ["{}", "not JSON", json.dumps({"model_cfg": {"vision_cfg": {}}}), json.dumps(VIT_L_14.to_open_clip())]
)
def test_config_of_another_model_is_refused(tmp_path: Path, there: str) -> None:
    source = converted(tmp_path)
    (tmp_path / OPEN_CLIP_CONFIG).write_text(there)
    with pytest.raises(UsageError) as caught:
        to_open_clip(source, config=SMALL)
    assert caught.value.message == f"{tmp_path / OPEN_CLIP_CONFIG} exists and describes another model"
    assert (tmp_path / OPEN_CLIP_CONFIG).read_text() == there
    assert not (tmp_path / "a.safetensors").exists()


def test_invalid_export_destinations_are_refused(tmp_path: Path) -> None:
    source = converted(tmp_path)
    (tmp_path / "folder.safetensors").mkdir()
    for name, message in {
        "b.bin": "the name of an exported model must end in .safetensors",
        "nowhere/b.safetensors": f"there is no folder {tmp_path / 'nowhere'}",
        "folder.safetensors": "is a folder",
    }.items():
        with pytest.raises(UsageError, match=message):
            to_open_clip(source, tmp_path / name)


def test_unconverted_source_is_refused(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    with pytest.raises(UsageError) as caught:
        to_open_clip(str(source))
    assert caught.value.message == f"{source} is not a converted model"
    assert caught.value.hint == "--to open_clip reverts what coca convert wrote"


@pytest.mark.parametrize("name", ["nothing", "nothing.ckpt", "x" * 5000])
def test_missing_model_is_an_error(name: str) -> None:
    with pytest.raises(ModelError) as caught:
        to_open_clip(name)
    assert "\n" not in caught.value.message


def test_export_verification_finds_a_wrong_bit(tmp_path: Path) -> None:
    def spoil(stage: str, done: int, total: int) -> None:
        if stage == "converting" and done == total:
            (part,) = (path for path in tmp_path.glob(".coca-*.part") if path.stat().st_size > total)
            with part.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                byte = file.read(1)[0]
                file.seek(-1, os.SEEK_END)
                file.write(bytes([byte ^ 1]))

    source = converted(tmp_path)
    with pytest.raises(ModelError, match=r"verification failed: text_decoder\.text_projection"):
        to_open_clip(source, verify=True, reporter=OnUpdate(spoil))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "a.json"]


FULL = """
import resource, sys
from cococli.checkpoints.convert import to_open_clip
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    to_open_clip(sys.argv[1])
except Exception as error:
    print(error)
"""


def test_full_disk_leaves_no_export(tmp_path: Path) -> None:
    source = converted(tmp_path)
    run = subprocess.run([sys.executable, "-c", FULL, source], capture_output=True, text=True, timeout=900)
    assert run.stdout == f"cannot write {tmp_path / 'a.safetensors'}: File too large\n", run.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt", "a.json"]
