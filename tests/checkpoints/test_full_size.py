"""Conversion and export at vit-l-14 size: memory and time, with random weights in the hub's format."""

import subprocess
import sys
from mmap import mmap
from pathlib import Path

import pytest
import torch
from checkpoints.open_clip_state import save, state_dict
from safetensors.torch import load_file

from cococli.catalog import VIT_L_14
from cococli.checkpoints import architecture, ckpt

MEASURED = """
import re, sys, time
from pathlib import Path
from cococli.checkpoints.convert import to_mindspore, to_open_clip
work, source, destination = {"convert": to_mindspore, "export": to_open_clip}[sys.argv[1]], *map(Path, sys.argv[2:4])
half = {"dtype": "float16"} if "half" in sys.argv else {}
start = time.perf_counter()
work(source, destination, verify="verify" in sys.argv, **half)
# Not ru_maxrss: across a fork it counts the memory of the parent, which has just made the weights.
print(time.perf_counter() - start, 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


def measured(work: str, source: Path, destination: Path, *options: str) -> float:
    """Convert or export in a process of its own, and return its peak of memory as a share of the source."""
    command = [sys.executable, "-c", MEASURED, work, source, destination, *options]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, peak = map(float, run.stdout.split())
    ratio = peak / source.stat().st_size
    print(f"{work} {source.name} {options}: {seconds:.1f} s, {peak / 1e6:.0f} MB, {ratio:.2f} of the source")
    return ratio


@pytest.mark.full_size
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.bin", torch.float32), ("a.safetensors", torch.float32), ("a.pt", torch.float16)],
    ids=["bin-fp32", "safetensors-fp32", "pt-fp16"],
)
def test_large_checkpoint_is_converted_as_a_stream(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    source = save(state_dict(VIT_L_14, dtype=dtype), tmp_path / name)
    for verify in ([], ["verify"]):
        assert measured("convert", source, tmp_path / "out.ckpt", *verify) < 1.3
    weights = ckpt.read(tmp_path / "out.ckpt")
    assert all(isinstance(array.base, mmap) for array in weights.values())  # mapped, not read
    assert {key: array.shape for key, array in weights.items()} == architecture.parameters(VIT_L_14)
    for path in (source, tmp_path / "out.ckpt"):
        path.unlink()


@pytest.mark.full_size
def test_round_trip_takes_little_memory(tmp_path: Path) -> None:
    source = save(state_dict(VIT_L_14), tmp_path / "a.bin")
    converted, half, exported = (tmp_path / name for name in ("a.ckpt", "half.ckpt", "a.safetensors"))
    measured("convert", source, converted)
    assert measured("convert", converted, half, "half", "verify") < 0.3
    assert measured("export", half, tmp_path / "half.safetensors", "verify") < 0.5
    half.unlink()
    assert measured("export", converted, exported, "verify") < 0.3
    state, back = torch.load(source, mmap=True, weights_only=True), load_file(exported)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())
