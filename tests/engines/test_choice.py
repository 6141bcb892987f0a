"""Choice of the engine on different machines."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cococli.checkpoints.store import compiled_folder, find_model
from cococli.engines import choice
from cococli.engines.choice import available, open_engine, resolve
from cococli.engines.openvino import OpenVinoEngine
from cococli.errors import UsageError
from cococli.reporting import Progress

Machine = Callable[..., None]

ROOT = Path(__file__).parents[2]
EVERYTHING = ("mindspore", "torch", "openvino", "nncf")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Set what is installed and what the hardware supports. By default everything, but no GPU."""

    def be(
        *installed: str, bf16: bool = True, gpus: int = 0, capability: tuple[int, int] = (9, 0), ascends: int = 0
    ) -> None:
        monkeypatch.setattr(choice, "find_spec", lambda name: name in installed or None)
        monkeypatch.setattr(choice, "_has_bf16_instructions", lambda: bf16)
        monkeypatch.setattr(choice, "_DRIVERS", (os.devnull,) if gpus else ())
        monkeypatch.setattr(choice, "_ASCEND_DRIVER", os.devnull if ascends else "")
        if ascends:
            hal = pytest.importorskip("mindspore.hal")
            monkeypatch.setattr(hal, "is_available", lambda kind: kind == "Ascend")
            monkeypatch.setattr(hal, "device_count", lambda kind: ascends)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: capability)

    be(*EVERYTHING)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return be


@pytest.mark.parametrize(
    ("has", "flags"),
    [
        ((EVERYTHING, {}), "--engine openvino --precision bf16"),
        ((EVERYTHING, {"bf16": False}), "--engine openvino --precision fp32"),
        ((("mindspore", "torch"), {}), "--engine torch --precision bf16"),
        ((("torch",), {}), "--engine torch --precision bf16"),
        ((("torch",), {"bf16": False}), "--engine torch --precision fp32"),
        ((EVERYTHING, {"gpus": 1}), "--engine torch --device cuda --precision bf16"),
        ((EVERYTHING, {"gpus": 1, "capability": (7, 5)}), "--engine torch --device cuda --precision fp16"),
        ((EVERYTHING, {"gpus": 1, "ascends": 1}), "--engine mindspore --device ascend --precision fp32"),
        ((("torch",), {"ascends": 1}), "--engine torch --precision bf16"),
    ],
)
def test_auto_takes_the_best_available(machine: Machine, has: tuple, flags: str) -> None:
    installed, can = has
    machine(*installed, **can)
    assert resolve().flags == flags


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"engine": "mindspore"}, "--engine mindspore --precision fp32"),
        ({"engine": "torch"}, "--engine torch --device cuda --precision bf16"),
        ({"engine": "torch", "device": "cpu"}, "--engine torch --precision bf16"),
        ({"engine": "openvino"}, "--engine openvino --precision bf16"),
        ({"device": "cpu"}, "--engine openvino --precision bf16"),
        ({"device": "cuda:1"}, "--engine torch --device cuda:1 --precision bf16"),
        ({"precision": "int8"}, "--engine openvino --precision int8"),
        ({"precision": "fp16"}, "--engine torch --device cuda --precision fp16"),
        ({"precision": "tf32"}, "--engine torch --device cuda --precision tf32"),
        ({"precision": "fp32", "device": "cpu"}, "--engine openvino --precision fp32"),
    ],
    ids=str,
)
def test_explicit_values_limit_the_choice(machine: Machine, given: dict, flags: str) -> None:
    machine(*EVERYTHING, gpus=2)
    assert resolve(**given).flags == flags


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"engine": "mindspore"}, "--engine mindspore --device ascend --precision fp32"),
        ({"device": "ascend:1"}, "--engine mindspore --device ascend:1 --precision fp32"),
        ({"device": "cpu"}, "--engine openvino --precision bf16"),
        ({"precision": "bf16"}, "--engine openvino --precision bf16"),
    ],
    ids=str,
)
def test_ascend_runs_mindspore(machine: Machine, given: dict, flags: str) -> None:
    machine(*EVERYTHING, ascends=2)
    assert resolve(**given).flags == flags
    with pytest.raises(UsageError, match="--device ascend:2: MindSpore finds no such device here"):
        resolve(device="ascend:2")


def test_mindspore_sets_its_device(monkeypatch: pytest.MonkeyPatch) -> None:
    mindspore = pytest.importorskip("mindspore")
    devices = []
    monkeypatch.setattr(mindspore, "set_device", lambda kind, number: devices.append((kind, number)))
    for device in ("cpu", "ascend", "ascend:3"):
        open_engine(find_model("shapes"), choice.Choice("mindspore", device, "fp32", os.cpu_count() or 1))
    assert devices == [("Ascend", None), ("Ascend", 3)]  # it starts on the CPU


NO_GPU = "torch finds no such GPU here"
GET = "pip install 'cococli[openvino]'"
CPU = ("mindspore", "torch")


@pytest.mark.parametrize(
    ("installed", "given", "message", "hint"),
    [
        (EVERYTHING, {"device": "cuda"}, f"--device cuda: {NO_GPU}", "leave the flag out"),
        (EVERYTHING, {"device": "mps", "engine": "torch"}, f"--device mps: {NO_GPU}", "leave the flag out"),
        (
            EVERYTHING,
            {"device": "ascend"},
            "--device ascend: MindSpore finds no such device here",
            "leave the flag out",
        ),
        (CPU, {"engine": "openvino"}, "--engine openvino is not installed", GET),
        (
            ("torch",),
            {"engine": "mindspore"},
            "--engine mindspore needs MindSpore, which is not installed",
            "pip install mindspore",
        ),
        (CPU, {"precision": "int8"}, "--precision int8 needs openvino and nncf, which are not installed", GET),
        (
            EVERYTHING,
            {"engine": "mindspore", "precision": "bf16"},
            "this machine does not support --engine mindspore --precision bf16",
            "use --engine openvino --precision bf16 or --engine torch --precision bf16",
        ),
        (
            EVERYTHING,
            {"engine": "torch", "precision": "int8"},
            "this machine does not support --engine torch --precision int8",
            "use --engine openvino --precision int8",
        ),
        (
            EVERYTHING,
            {"precision": "fp16"},
            "this machine does not support --precision fp16",
            "it supports bf16, fp32, int8",
        ),
        (EVERYTHING, {"engine": "numpy"}, "--engine cannot be 'numpy'", "choose auto, mindspore, torch or openvino"),
        (
            EVERYTHING,
            {"device": "gpu"},
            "--device cannot be 'gpu'",
            "choose auto, cpu, cuda, mps, ascend, or one GPU, such as cuda:0",
        ),
        (EVERYTHING, {"device": "cuda:x"}, "--device cannot be 'cuda:x'", None),
        (
            EVERYTHING,
            {"precision": "fp8"},
            "--precision cannot be 'fp8'",
            "choose auto, fp32, tf32, bf16, fp16 or int8",
        ),
        (EVERYTHING, {"threads": -1}, "--threads must be from 0 to 1024, not -1", "0 takes all cores"),
        (EVERYTHING, {"threads": 100_000}, "--threads must be from 0 to 1024, not 100000", "0 takes all cores"),
    ],
    ids=str,
)
def test_unsupported_requests_are_rejected_with_a_hint(
    machine: Machine, installed: tuple, given: dict, message: str, hint: str | None
) -> None:
    machine(*installed)
    with pytest.raises(UsageError) as refused:
        resolve(**given)
    assert refused.value.message == message
    assert hint is None or refused.value.hint == hint


def test_gpu_index_out_of_range_is_rejected(machine: Machine) -> None:
    machine(*EVERYTHING, gpus=1)
    with pytest.raises(UsageError, match="--device cuda:1: torch finds no such GPU here"):
        resolve(device="cuda:1")


def test_note_explains_the_automatic_choice(machine: Machine) -> None:
    assert resolve().note == "using openvino in bf16"
    assert resolve(engine="openvino").note == "using openvino in bf16"
    assert resolve(engine="openvino", precision="int8").note == ""
    assert resolve(engine="mindspore").note == ""  # there was nothing to choose
    machine("mindspore", "torch")
    assert resolve().note == "using torch in bf16; pip install 'cococli[openvino]' makes it faster"
    machine("mindspore", "torch", gpus=1)
    assert resolve().note == "using torch in bf16 on cuda"


def test_threads_from_flag_environment_or_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve().threads == len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert resolve().threads == 3
    assert resolve(threads=1).threads == 1


def test_int8_is_available_but_never_automatic(machine: Machine) -> None:
    machine(*EVERYTHING, bf16=False)
    assert [choice.flags for choice in available()] == [
        "--engine openvino --precision fp32",
        "--engine openvino --precision int8",
        "--engine torch --precision fp32",
        "--engine mindspore --precision fp32",
    ]


def test_this_machine_supports_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert resolve() in [replace(choice, threads=resolve().threads) for choice in available()]


@pytest.mark.parametrize(("engine", "kind"), [("mindspore", "MindSporeEngine"), ("torch", "TorchEngine")])
def test_engines_use_the_given_threads(engine: str, kind: str) -> None:
    """Run in a new process, as MindSpore starts its threads only once."""
    code = f"""
import os
from cococli.checkpoints.store import find_model
from cococli.engines.choice import open_engine, resolve
before, others = os.sched_getaffinity(0), set(os.listdir("/proc/self/task"))
engine = open_engine(find_model("shapes"), resolve("{engine}", precision="fp32", threads=1))
assert os.sched_getaffinity(0) == before  # video readers may use all
if "{engine}" == "torch":
    import torch
    print(type(engine).__name__, torch.get_num_threads())
else:
    started = map(int, set(os.listdir("/proc/self/task")) - others)
    print(type(engine).__name__, max(len(os.sched_getaffinity(thread)) for thread in started))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.split() == [kind, "1"], run.stderr


def test_openvino_receives_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(OpenVinoEngine, "open", lambda *arguments: calls.append(arguments))
    model, progress = find_model("shapes"), Progress()
    open_engine(model, resolve("openvino", precision="int8", threads=1), progress)
    assert calls == [(model.weights, model.config, "int8", compiled_folder(model), progress, 1)]


def test_graphs_are_stored_in_the_cache(home: Path, tmp_path: Path) -> None:
    model = find_model("shapes")
    assert compiled_folder(model).parent == model.weights.parent / "compiled"
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes(model.weights.read_bytes())
    copy.with_suffix(".json").write_bytes(
        (Path(choice.__file__).parents[1] / "assets/models/shapes/shapes.json").read_bytes()
    )
    first = compiled_folder(find_model(str(copy)))
    assert first.parent == home / "compiled"
    os.utime(copy, (1, 1))
    assert compiled_folder(find_model(str(copy))) != first


def test_unwritable_cache_is_replaced_by_another_folder(home: Path) -> None:
    model = find_model("shapes")
    (model.weights.parent / "compiled").write_text("in the way")
    folder = compiled_folder(model)
    assert home not in folder.parents
