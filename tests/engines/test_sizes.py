"""Sizes of a run on different machines."""

from pathlib import Path

import pytest

from cococli.catalog import VIT_L_14
from cococli.engines import sizes
from cococli.engines.choice import Choice
from cococli.engines.sizes import Sizes, choose_sizes, free_ram
from cococli.options import ModelOptions

GB = 1_000_000_000
CPU = Choice("torch", "cpu", "bf16", 2)
GPU = Choice("torch", "cuda:1", "bf16", 16)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "usable_cores", lambda: 16)
    monkeypatch.setattr(sizes, "free_memory", lambda device: 78 * GB)


def chosen(choice: Choice, frames: int = 1, videos: int = 1000, **options: int) -> Sizes:
    return choose_sizes(VIT_L_14, choice, ModelOptions(**options), videos, frames, beams=6, max_length=30)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (CPU, Sizes(8, 32, 8)),
        (Choice("openvino", "cpu", "fp32", 32), Sizes(8, 64, 2)),
        (GPU, Sizes(64, 128, 14)),
        (Choice("torch", "mps", "fp16", 8), Sizes(16, 32, 14)),
    ],
    ids=str,
)
def test_sizes_depend_on_the_device(choice: Choice, expected: Sizes) -> None:
    assert chosen(choice) == expected


def test_numbers_take_precedence_over_auto() -> None:
    assert chosen(GPU, batch_size=5, readers=20) == Sizes(5, 5, 20)


def test_there_are_no_more_readers_than_videos() -> None:
    assert chosen(GPU, videos=3).readers == 3
    assert chosen(GPU, videos=0).readers == 1


def test_batches_of_several_frames_are_smaller() -> None:
    assert chosen(GPU, frames=8) == Sizes(8, 128, 14)
    assert chosen(CPU, frames=16) == Sizes(1, 32, 8)


def test_sizes_fit_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for free in (40 * GB, 8 * GB, 2 * GB, GB // 2, 0):
        monkeypatch.setattr(sizes, "free_memory", lambda device, free=free: free)
        found.append((chosen(GPU).batch, chosen(GPU).slots))
    assert found == sorted(found, reverse=True)
    assert found[0] == (64, 128)
    assert found[2][1] < 32
    assert found[-1] == (1, 1)


def test_control_groups_limit_the_memory(tmp_path: Path) -> None:
    assert free_ram(tmp_path) < float("inf")  # that of the machine, by another way
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable:       50 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/a/b\n1:cpu:/\n0::/c\n")
    assert free_ram(tmp_path) == 50 * 1024
    first = tmp_path / "sys/fs/cgroup/memory/a"
    first.mkdir(parents=True)
    (first / "memory.limit_in_bytes").write_text("40000")
    (first / "memory.usage_in_bytes").write_text("5000")
    (first / "memory.stat").write_text("rss 1000\ninactive_file 3000\nactive_file 1000\n")
    assert free_ram(tmp_path) == 39_000
    second = tmp_path / "sys/fs/cgroup/c"
    second.mkdir()
    (second / "memory.max").write_text("max\n")
    assert free_ram(tmp_path) == 39_000
    (second / "memory.max").write_text("20000\n")
    (second / "memory.current").write_text("15000\n")
    (second / "memory.stat").write_text("anon 15000\n")
    assert free_ram(tmp_path) == 5000


def test_this_machine_has_free_memory() -> None:
    assert 0 < free_ram() < 10_000 * GB
