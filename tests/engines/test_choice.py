"""What computes, on machines that have this and that."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cococli.checkpoints.store import compiled_folder, find_model
from cococli.engines import choice
from cococli.engines.choice import Choice, offers, open_engine, resolve
from cococli.engines.openvino import OpenVinoEngine
from cococli.errors import UsageError

Machine = Callable[..., None]

ROOT = Path(__file__).parents[2]
EVERYTHING = ("mindspore", "torch", "openvino", "nncf")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Say what is installed, and what the processor and the graphics cards can do. At first: no card, else all."""

    def be(*installed: str, bf16: bool = True, cards: int = 0, capability: tuple[int, int] = (9, 0)) -> None:
        monkeypatch.setattr(choice, "find_spec", lambda name: name in installed or None)
        monkeypatch.setattr(choice, "_multiplies_bf16", lambda: bf16)
        monkeypatch.setattr(choice, "_DRIVERS", (os.devnull,) if cards else ())
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
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
        ((EVERYTHING, {"cards": 1}), "--engine torch --device cuda --precision bf16"),
        ((EVERYTHING, {"cards": 1, "capability": (7, 5)}), "--engine torch --device cuda --precision fp16"),
    ],
)
def test_auto_takes_the_best_that_is_there(machine: Machine, has: tuple, flags: str) -> None:
    installed, can = has
    machine(*installed, **can)
    assert resolve().flags == flags


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        ({"engine": "mindspore"}, "--engine mindspore --precision fp32"),
        ({"engine": "torch"}, "--engine torch --device cuda --precision bf16"),
        ({"engine": "torch", "device": "cpu"}, "--engine torch --precision bf16"),
        ({"engine": "openvino"}, "--engine openvino --precision bf16"),
        ({"device": "cpu"}, "--engine openvino --precision bf16"),
        ({"device": "cuda:1"}, "--engine torch --device cuda:1 --precision bf16"),
        ({"precision": "int8"}, "--engine openvino --precision int8"),
        ({"precision": "fp16"}, "--engine torch --device cuda --precision fp16"),
        ({"precision": "fp32", "device": "cpu"}, "--engine openvino --precision fp32"),
    ],
    ids=str,
)
def test_what_is_asked_for_is_taken_and_auto_is_the_rest(machine: Machine, asked: dict, flags: str) -> None:
    machine(*EVERYTHING, cards=2)
    assert resolve(**asked).flags == flags


CARDS = "torch finds no such graphics card here"
GET = "pip install 'cococli[openvino]'"
CPU = ("mindspore", "torch")


@pytest.mark.parametrize(
    ("installed", "asked", "message", "hint"),
    [
        (EVERYTHING, {"device": "cuda"}, f"--device cuda: {CARDS}", "leave the flag out"),
        (EVERYTHING, {"device": "mps", "engine": "torch"}, f"--device mps: {CARDS}", "leave the flag out"),
        (CPU, {"engine": "openvino"}, "--engine openvino: it is not installed", GET),
        (
            ("torch",),
            {"engine": "mindspore"},
            "--engine mindspore needs MindSpore, which is not installed",
            "pip install mindspore",
        ),
        (CPU, {"precision": "int8"}, "--precision int8 takes openvino and nncf, which are not installed", GET),
        (
            EVERYTHING,
            {"engine": "mindspore", "precision": "bf16"},
            "nothing here computes with --engine mindspore --precision bf16",
            "--engine openvino --precision bf16 or --engine torch --precision bf16",
        ),
        (
            EVERYTHING,
            {"engine": "torch", "precision": "int8"},
            "nothing here computes with --engine torch --precision int8",
            "--engine openvino --precision int8",
        ),
        (
            EVERYTHING,
            {"precision": "fp16"},
            "nothing here computes with --precision fp16",
            "it can be bf16, fp32, int8",
        ),
        (EVERYTHING, {"engine": "numpy"}, "--engine cannot be 'numpy'", "choose auto, mindspore, torch or openvino"),
        (
            EVERYTHING,
            {"device": "gpu"},
            "--device cannot be 'gpu'",
            "choose auto, cpu, cuda, mps, or one card, as cuda:0",
        ),
        (EVERYTHING, {"device": "cuda:x"}, "--device cannot be 'cuda:x'", None),
        (EVERYTHING, {"precision": "fp8"}, "--precision cannot be 'fp8'", "choose auto, fp32, bf16, fp16 or int8"),
        (EVERYTHING, {"threads": -1}, "--threads must be from 0 to 1024, not -1", "0 takes all cores"),
        (EVERYTHING, {"threads": 100_000}, "--threads must be from 0 to 1024, not 100000", "0 takes all cores"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_what_can(
    machine: Machine, installed: tuple, asked: dict, message: str, hint: str | None
) -> None:
    machine(*installed)
    with pytest.raises(UsageError) as refused:
        resolve(**asked)
    assert refused.value.message == message
    assert hint is None or refused.value.hint == hint


def test_a_card_past_the_last_one_is_refused(machine: Machine) -> None:
    machine(*EVERYTHING, cards=1)
    with pytest.raises(UsageError, match="--device cuda:1: torch finds no such graphics card here"):
        resolve(device="cuda:1")


def test_a_note_tells_what_auto_chose(machine: Machine) -> None:
    assert resolve().note == "openvino computes in bf16"
    assert resolve(engine="openvino").note == "openvino computes in bf16"
    assert resolve(engine="openvino", precision="int8").note == ""
    assert resolve(engine="mindspore").note == ""  # there was nothing to choose
    machine("mindspore", "torch")
    assert resolve().note == "torch computes in bf16; pip install 'cococli[openvino]' makes it faster"
    machine("mindspore", "torch", cards=1)
    assert resolve().note == "torch computes in bf16 on cuda"


def test_threads_are_those_asked_for_or_of_the_environment_or_one_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve().threads == len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert resolve().threads == 3
    assert resolve(threads=1).threads == 1


def test_int8_is_offered_and_never_chosen(machine: Machine) -> None:
    machine(*EVERYTHING, bf16=False)
    assert [one.flags for one in offers()] == [
        "--engine openvino --precision fp32",
        "--engine openvino --precision int8",
        "--engine torch --precision fp32",
        "--engine mindspore --precision fp32",
    ]


def test_this_machine_has_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert resolve() in [Choice(one.engine, one.device, one.precision, resolve().threads) for one in offers()]


@pytest.mark.parametrize(("engine", "kind"), [("mindspore", "MindSporeEngine"), ("torch", "TorchEngine")])
def test_an_engine_has_the_threads_it_was_given(engine: str, kind: str) -> None:
    """In a process of its own: MindSpore starts its threads once."""
    code = f"""
import os
from cococli.checkpoints.store import find_model
from cococli.engines.choice import open_engine, resolve
before, others = os.sched_getaffinity(0), set(os.listdir("/proc/self/task"))
engine = open_engine(find_model("shapes"), resolve("{engine}", precision="fp32", threads=1))
assert os.sched_getaffinity(0) == before  # readers of videos may use them all
if "{engine}" == "torch":
    import torch
    print(type(engine).__name__, torch.get_num_threads())
else:
    started = map(int, set(os.listdir("/proc/self/task")) - others)
    print(type(engine).__name__, max(len(os.sched_getaffinity(thread)) for thread in started))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.split() == [kind, "1"], run.stderr


def test_openvino_is_told_all_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    monkeypatch.setattr(OpenVinoEngine, "open", lambda *given: told.append(given))
    model = find_model("shapes")
    open_engine(model, resolve("openvino", precision="int8", threads=1), print)
    assert told == [(model.weights, model.config, "int8", compiled_folder(model), print, 1)]


def test_what_is_compiled_lies_beside_the_model_in_the_cache_and_in_the_cache_for_a_path(
    home: Path, tmp_path: Path
) -> None:
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


def test_a_cache_that_cannot_be_written_to_is_done_without(home: Path) -> None:
    model = find_model("shapes")
    (model.weights.parent / "compiled").write_text("in the way")
    folder = compiled_folder(model)
    assert home not in folder.parents
