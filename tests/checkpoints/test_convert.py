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
from checkpoints.open_clip_state import SMALL, save, state_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_engine import from_open_clip

from cococli.catalog import CocaConfig, TextConfig, VisionConfig
from cococli.checkpoints import architecture, ckpt
from cococli.checkpoints.convert import convert, default_destination
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
def test_every_form_of_every_coca_is_converted_exactly(
    tmp_path_factory: pytest.TempPathFactory, config: CocaConfig, seed: int, dtype: str, prefixed: bool, form: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    state = state_dict(config, seed, DTYPES[dtype])
    source = save(state, folder / form, prefixed, wrapped=form == "wrapped.pt")
    made = convert(source, folder / "made.ckpt", config, verify=True)
    assert_holds(made.path, state)
    assert architecture.load_config(folder / "made.json") == config
    assert made.parameters == sum(tensor.numel() for tensor in state.values())


def test_the_golden_is_converted_with_the_config_beside_it(tmp_path: Path) -> None:
    made = convert(TINY / "open_clip_pytorch_model.bin", tmp_path / "tiny.ckpt", verify=True)
    assert_holds(made.path, torch.load(TINY / "open_clip_pytorch_model.bin", weights_only=True))
    assert made.config == CocaConfig.from_open_clip(json.loads((TINY / "config.json").read_text()))
    assert made.parameters == 379_697
    assert made.size == made.path.stat().st_size
    assert "config.json" in made.notes[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.ckpt", "tiny.json"]


def test_parameters_come_in_the_networks_order_and_by_its_names(tmp_path: Path) -> None:
    made = convert(TINY / "open_clip_pytorch_model.bin", tmp_path / "tiny.ckpt")
    shapes = {name: array.shape for name, array in ckpt.read(made.path).items()}
    assert list(shapes.items()) == list(architecture.parameters(made.config).items())


def test_without_a_config_heads_are_assumed_and_the_note_says_so(tmp_path: Path) -> None:
    made = convert(save(state_dict(SMALL), tmp_path / "a.bin"), tmp_path / "a.ckpt")
    assert made.config == SMALL
    assert made.notes[0].startswith("heads assumed to be 64 wide")


def test_a_config_given_wins_over_the_one_beside_the_source(tmp_path: Path) -> None:
    other = dataclasses.replace(SMALL, quick_gelu=True)
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_open_clip()))
    made = convert(source, tmp_path / "b.ckpt", other)
    assert (made.config, made.notes) == (other, (ASSUMED,))
    assert architecture.load_config(tmp_path / "b.json") == other


def test_a_config_that_contradicts_the_shapes_is_refused_by_name(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    wrong = dataclasses.replace(SMALL, vision=dataclasses.replace(SMALL.vision, patch_size=4))
    with pytest.raises(ModelError, match=r"visual.positional_embedding has the shape \(5, 128\)"):
        convert(source, tmp_path / "a.ckpt", wrong)


def test_a_config_that_says_more_is_kept_as_it_is(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    text = json.dumps({"model_cfg": SMALL.to_open_clip(), "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}})
    (tmp_path / "a.json").write_text(text)
    convert(source, tmp_path / "a.ckpt")
    assert (tmp_path / "a.json").read_text() == text


def test_masks_are_dropped_and_a_scale_of_one_number_is_a_scalar(tmp_path: Path) -> None:
    state = state_dict(SMALL)
    masks = {"text.attn_mask": torch.zeros(7, 7), "text_decoder.attn_mask": torch.zeros(6, 6)}
    save({**state, **masks, "logit_scale": state["logit_scale"].reshape(1)}, tmp_path / "a.bin")
    convert(tmp_path / "a.bin", tmp_path / "a.ckpt", verify=True)
    assert_holds(tmp_path / "a.ckpt", state)


def without(*starts: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state_dict(SMALL).items() if not name.startswith(starts)}


LAYER = "text.transformer.resblocks"
REFUSED = {
    "a CLIP": (without("text_decoder."), "is a CLIP, not a CoCa: it has no text_decoder"),
    "another model": ({"encoder.weight": torch.ones(1)}, "is no CoCa: its tensors are encoder.weight"),
    "an unknown key": ({**state_dict(SMALL), "logit_bias": torch.ones(1)}, "no CoCa has tensors called logit_bias"),
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
def test_what_is_no_whole_coca_is_refused_by_name_and_nothing_is_left(tmp_path: Path, case: str) -> None:
    state, reason = REFUSED[case]
    save(state, tmp_path / "a.bin")
    with pytest.raises(ModelError) as caught:
        convert(tmp_path / "a.bin", tmp_path / "out.ckpt")
    assert reason in caught.value.message
    assert "\n" not in caught.value.message
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_many_names_are_cut_short_and_counted(tmp_path: Path) -> None:
    save({**state_dict(SMALL), **{f"extra.{i}": torch.ones(1) for i in range(9)}}, tmp_path / "a.bin")
    with pytest.raises(ModelError, match=r"extra.0, extra.1, extra.2, ... \(9 in all\)"):
        convert(tmp_path / "a.bin", tmp_path / "a.ckpt")


def test_destinations_that_cannot_be_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "taken.json").write_text('{"mine": true}')
    (tmp_path / "self.ckpt").write_bytes(b"x")
    for source, name, message in [
        ("none", "a.safetensors", "the name of a converted checkpoint must end in .ckpt"),
        ("none", "nowhere/a.ckpt", "there is no folder"),
        ("none", "folder.ckpt", "is a folder"),
        ("none", "taken.ckpt", "is in the way and not a model's config"),
        ("self.ckpt", "self.ckpt", "would be overwritten by its own conversion"),
    ]:
        with pytest.raises(UsageError, match=message):
            convert(tmp_path / source, tmp_path / name)


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
def test_the_default_destination_stands_beside_the_source(source: str, destination: str) -> None:
    assert default_destination(Path("folder") / source) == Path("folder") / destination


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_half_precision_rounds_every_weight_and_says_so(tmp_path: Path, dtype: str) -> None:
    state = state_dict(SMALL, dtype=DTYPES[dtype])
    source = save(state, tmp_path / "a.bin")
    made = convert(source, tmp_path / "a.ckpt", SMALL, verify=True, dtype="float16")
    assert_holds(made.path, state, np.float16)
    assert made.size < 0.55 * convert(source, tmp_path / "b.ckpt", SMALL).size
    rounded = "weights rounded to half precision: each by at most 0.05 %, or by 3e-8 where that is more"
    assert made.notes == ((ASSUMED,) if dtype == "fp16" else (ASSUMED, rounded))


@given(st.floats(-65504, 65504, width=32))
def test_the_rounding_is_no_worse_than_the_note_says(number: float) -> None:
    assert abs(float(np.float16(number)) - number) <= max(0.0005 * abs(number), 3e-8)


@pytest.mark.parametrize("number", [65505.0, -1e30])
def test_a_weight_that_half_precision_cannot_hold_is_refused_by_name(tmp_path: Path, number: float) -> None:
    state = state_dict(SMALL)
    state["visual.proj"][7, 9] = number
    source = save(state, tmp_path / "a.bin")
    with pytest.raises(ModelError) as caught:
        convert(source, tmp_path / "a.ckpt", dtype="float16")
    assert caught.value.message == f"visual.proj holds {abs(number):g}, but float16 ends at 65504"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_half_precision_holds_what_is_no_number_and_the_largest_one(tmp_path: Path) -> None:
    state = state_dict(SMALL)
    state["visual.proj"][0, :4] = torch.tensor([torch.nan, torch.inf, -torch.inf, -65504.0])
    made = convert(save(state, tmp_path / "a.bin"), tmp_path / "a.ckpt", verify=True, dtype="float16")
    assert_holds(made.path, state, np.float16)


def test_a_ckpt_is_converted_by_its_own_names(tmp_path: Path) -> None:
    state = state_dict(SMALL)
    convert(save(state, tmp_path / "a.bin"), tmp_path / "a.ckpt")
    half = convert(tmp_path / "a.ckpt", tmp_path / "half.ckpt", verify=True, dtype="float16")
    assert_holds(half.path, state, np.float16)
    assert half.notes[0] == f"config read from {tmp_path / 'a.json'}"
    copy = convert(tmp_path / "a.ckpt", tmp_path / "b.ckpt", verify=True)
    assert copy.path.read_bytes() == (tmp_path / "a.ckpt").read_bytes()
    wide = convert(half.path, tmp_path / "wide.ckpt", verify=True)
    assert_holds(wide.path, {name: tensor.half() for name, tensor in state.items()})
    assert len(wide.notes) == 1  # nothing was rounded


def test_a_ckpt_that_contradicts_the_config_beside_it_is_refused_by_name(tmp_path: Path) -> None:
    convert(save(state_dict(SMALL), tmp_path / "a.bin"), tmp_path / "a.ckpt")
    deeper = dataclasses.replace(SMALL, decoder=dataclasses.replace(SMALL.decoder, layers=2))
    (tmp_path / "a.json").write_text(json.dumps(deeper.to_open_clip()))
    with pytest.raises(ModelError, match=r"a\.ckpt: parameters are missing: text_decoder\.resblocks\.1"):
        convert(tmp_path / "a.ckpt", tmp_path / "b.ckpt")


def test_a_ckpt_of_training_is_refused_by_what_it_holds_besides(tmp_path: Path) -> None:
    made = convert(save(state_dict(SMALL), tmp_path / "a.bin"), tmp_path / "a.ckpt")
    with made.path.open("ab") as file:
        ckpt.write(file, "moments.visual.proj", (1,), [np.ones(1)])
    with pytest.raises(ModelError, match=r"the config knows nothing of: moments\.visual\.proj"):
        convert(tmp_path / "a.ckpt", tmp_path / "b.ckpt")


def test_progress_covers_writing_and_verifying(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    made = convert(source, tmp_path / "a.ckpt", verify=True, progress=lambda *step: seen.append(step))
    for stage in ("convert", "verify"):
        done = [step[1:] for step in seen if step[0] == stage]
        assert done == sorted(done)
        assert done[-1] == (4 * made.parameters, 4 * made.parameters)


def test_verification_finds_a_single_wrong_bit_and_leaves_nothing(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")

    def spoil(stage: str, done: int, total: int) -> None:
        if stage == "convert" and done == total:
            (part,) = (path for path in tmp_path.glob(".coca-*.part") if path.stat().st_size > total)
            with part.open("r+b") as file:
                file.seek(-5, os.SEEK_END)
                byte = file.read(1)[0]
                file.seek(-5, os.SEEK_END)
                file.write(bytes([byte ^ 1]))

    with pytest.raises(ModelError, match=r"verification failed: text_decoder.text_projection"):
        convert(source, tmp_path / "a.ckpt", verify=True, progress=spoil)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


# Converts argv[1] to argv[2]; argv[3] happens after the first bytes were written.
INTERRUPTED = """
import os, resource, signal, sys
from pathlib import Path
from cococli.checkpoints.convert import convert
from cococli.errors import CocaError

def progress(stage, done, total):
    if sys.argv[3].startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, sys.argv[3]))

if sys.argv[3] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    convert(Path(sys.argv[1]), Path(sys.argv[2]), progress=progress)
except CocaError as error:
    print(error.message)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("end", ["SIGTERM", "SIGINT", "full"])
@pytest.mark.parametrize("before", [False, True])
def test_an_interrupted_conversion_leaves_what_was_there(tmp_path: Path, end: str, before: bool) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    old = save(state_dict(SMALL, seed=1), tmp_path / "old.bin")
    if before:
        convert(old, tmp_path / "a.ckpt")
    there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    command = [sys.executable, "-c", INTERRUPTED, source, tmp_path / "a.ckpt", end]
    run = subprocess.run(command, capture_output=True, text=True, timeout=900)
    status = {"SIGTERM": 128 + signal.SIGTERM, "SIGINT": -signal.SIGINT, "full": ModelError.exit_code}
    assert run.returncode == status[end], run.stderr
    assert ("File too large" in run.stdout) == (end == "full")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == there


def test_a_folder_that_may_not_be_written_to_is_told(tmp_path: Path) -> None:
    source = save(state_dict(SMALL), tmp_path / "a.bin")
    with pytest.raises(CocaError, match=r"/proc/a.ckpt"):
        convert(source, Path("/proc/a.ckpt"))


def test_odd_file_names_are_converted(tmp_path: Path) -> None:
    for name in ("é ü.bin", "new\nline.bin", "-v.bin", "x" * 245 + ".bin"):
        source = save(state_dict(SMALL), tmp_path / name)
        assert_holds(convert(source, default_destination(source)).path, state_dict(SMALL))
