"""The automatic choice after engines were measured."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from cococli.catalog import VIT_B_32, VIT_L_14, Preprocess
from cococli.engines import choice, measured
from cococli.engines.choice import Choice, resolve
from cococli.engines.measured import record

OPENVINO, TORCH, INT8 = (
    Choice("openvino", "cpu", "bf16", 2),
    Choice("torch", "cpu", "bf16", 2),
    Choice("openvino", "cpu", "int8", 2),
)


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with bf16 and all engines."""
    monkeypatch.setattr(choice, "find_spec", lambda name: True)
    monkeypatch.setattr(choice, "_has_bf16_instructions", lambda: True)
    monkeypatch.setattr(choice, "_DRIVERS", ())


def chosen(**options: object) -> str:
    return resolve(threads=2, config=VIT_L_14, **options).flags  # type: ignore[arg-type]


def test_faster_engine_is_chosen_once_measured() -> None:
    assert chosen() == OPENVINO.flags
    record(VIT_L_14, TORCH, 0.4)
    assert chosen() == OPENVINO.flags  # it has not been measured
    record(VIT_L_14, OPENVINO, 0.5)
    assert chosen() == chosen() == TORCH.flags
    note = resolve(threads=2, config=VIT_L_14).note
    assert note == "using torch in bf16 (coca bench: openvino bf16 0.5 s, torch bf16 0.4 s a caption)"


def test_small_differences_change_nothing() -> None:
    record(VIT_L_14, OPENVINO, 0.50)
    record(VIT_L_14, TORCH, 0.49)
    assert chosen() == OPENVINO.flags


def test_int8_is_never_chosen() -> None:
    record(VIT_L_14, OPENVINO, 0.5)
    record(VIT_L_14, INT8, 0.1)
    assert chosen() == OPENVINO.flags
    assert chosen(precision="int8") == INT8.flags


def test_flags_take_precedence_over_measurements() -> None:
    record(VIT_L_14, OPENVINO, 0.5)
    record(VIT_L_14, TORCH, 0.1)
    assert chosen(engine="openvino") == OPENVINO.flags
    assert chosen(precision="fp32") == "--engine openvino --precision fp32"


def test_measurements_are_of_one_machine_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    record(VIT_L_14, OPENVINO, 0.5)
    record(VIT_L_14, TORCH, 0.1)
    assert resolve(threads=2, config=VIT_B_32).engine == "openvino"
    assert resolve(threads=3, config=VIT_L_14).engine == "openvino"
    assert resolve(threads=2, config=replace(VIT_L_14, preprocess_cfg=Preprocess(mean=(0, 0, 0)))).engine == "torch"
    monkeypatch.setattr(measured, "_cpu", lambda: "another one")
    assert chosen() == OPENVINO.flags


@pytest.mark.parametrize("content", [b"", b"[]", b'{"x": "y"}', b"\xff"])
def test_damaged_measurements_are_ignored(home: Path, content: bytes) -> None:
    (home / "speeds.json").write_bytes(content)
    assert chosen() == OPENVINO.flags
    record(VIT_L_14, OPENVINO, 0.5)
    record(VIT_L_14, TORCH, 0.1)
    assert chosen() == TORCH.flags


def test_gpu_is_preferred_to_measured_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(choice, "_DRIVERS", (os.devnull,))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: (9, 0))
    record(VIT_L_14, OPENVINO, 0.5)
    record(VIT_L_14, TORCH, 0.1)
    assert chosen() == "--engine torch --device cuda --precision bf16"
