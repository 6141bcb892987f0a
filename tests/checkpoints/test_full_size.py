"""Conversion at vit-l-14 size: memory and time, with random weights in the hub's format."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from checkpoints.open_clip_state import save, state_dict

from cococli.catalog import VIT_L_14
from cococli.checkpoints import architecture, ckpt

MEASURED = """
import re, sys, time
from pathlib import Path
from cococli.checkpoints.convert import convert
start = time.perf_counter()
convert(Path(sys.argv[1]), Path(sys.argv[2]), verify=len(sys.argv) > 3)
# Not ru_maxrss: across a fork it counts the memory of the parent, which has just made the weights.
print(time.perf_counter() - start, 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]))
"""


@pytest.mark.full_size
@pytest.mark.parametrize(
    ("name", "dtype"),
    [("a.bin", torch.float32), ("a.safetensors", torch.float32), ("a.pt", torch.float16)],
    ids=["bin-fp32", "safetensors-fp32", "pt-fp16"],
)
def test_a_large_checkpoint_streams_in_less_than_its_own_size(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    source = save(state_dict(VIT_L_14, dtype=dtype), tmp_path / name)
    for verify in ([], ["verify"]):
        command = [sys.executable, "-c", MEASURED, source, tmp_path / "out.ckpt", *verify]
        run = subprocess.run(command, check=True, capture_output=True, text=True)
        seconds, peak = map(float, run.stdout.split())
        ratio = peak / source.stat().st_size
        print(f"{name} {dtype} {verify}: {seconds:.1f} s, {peak / 1e6:.0f} MB, {ratio:.2f} of the source")
        assert ratio < 1.3
    start = time.perf_counter()
    weights = ckpt.read(tmp_path / "out.ckpt")
    assert time.perf_counter() - start < 0.5
    assert {key: array.shape for key, array in weights.items()} == architecture.parameters(VIT_L_14)
    for path in (source, tmp_path / "out.ckpt"):
        path.unlink()
