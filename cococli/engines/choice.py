"""Which engine computes, where, how exactly, and with how many threads."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..checkpoints.store import ModelFiles, compiled_folder
from ..errors import UsageError
from .base import Engine

AUTO = "auto"
MOST_THREADS = 1024  # with several thousand OpenMP crashes or fills the memory
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # of NVIDIA, of AMD, and of either under Windows
_GET_OPENVINO = "pip install 'cococli[openvino]'"


@dataclass(frozen=True)
class Choice:
    """What computes. `resolve` makes one."""

    engine: str  # mindspore, torch, openvino
    device: str  # cpu, or as torch calls a graphics card: cuda, cuda:1, mps
    precision: str  # fp32, bf16, fp16, int8
    threads: int = 1
    note: str = field(default="", compare=False)  # what there is to tell of it

    @property
    def flags(self) -> str:
        """What asks for it."""
        device = "" if self.device == "cpu" else f" --device {self.device}"
        return f"--engine {self.engine}{device} --precision {self.precision}"


def resolve(engine: str = AUTO, device: str = AUTO, precision: str = AUTO, threads: int = 0) -> Choice:
    """The best choice that this machine has. Nothing heavy is loaded, unless there is a graphics card.

    Args:
        threads: 0 takes OMP_NUM_THREADS, or else as many as there are cores for this process.

    Raises:
        UsageError: this machine does not have what is asked for.
    """
    _check(engine, device, precision)
    threads = threads or _cores()
    if not 0 < threads <= MOST_THREADS:
        raise UsageError(f"--threads must be from 0 to {MOST_THREADS}, not {threads}", "0 takes all cores")
    in_vain = device == AUTO and engine in ("mindspore", "openvino")  # to look for cards
    where = "cpu" if in_vain else device
    fitting = [one for one in offers(where) if engine in (AUTO, one.engine) and precision in (AUTO, one.precision)]
    if not fitting:
        raise _refusal(engine, device, precision)
    note = _note(fitting[0]) if len(fitting) > 1 or engine == AUTO else ""
    return replace(fitting[0], threads=threads, note=note)


def offers(device: str = AUTO) -> Iterator[Choice]:
    """All that this machine can compute with, best first, but for int8, which is less exact: the last of its engine."""
    if device != "cpu":
        yield from _on_cards(device)
    if device not in (AUTO, "cpu"):
        return
    floats = ("bf16", "fp32") if _multiplies_bf16() else ("fp32",)
    if find_spec("openvino"):
        yield from (Choice("openvino", "cpu", precision) for precision in floats)
        if find_spec("nncf"):
            yield Choice("openvino", "cpu", "int8")
    yield from (Choice("torch", "cpu", precision) for precision in floats)
    if find_spec("mindspore"):
        yield Choice("mindspore", "cpu", "fp32")


def open_engine(model: ModelFiles, choice: Choice, say: Callable[[str], object] = lambda doing: None) -> Engine[Any]:
    """Load the weights of a model.

    Args:
        say: Told of what takes long and is done once.

    Raises:
        ModelError: the weights are damaged.
    """
    if choice.engine == "mindspore":
        with _on_cores(choice.threads):
            from .mindspore import MindSporeEngine, start_threads

            start_threads()
        return MindSporeEngine.open(model.weights, model.config)
    if choice.engine == "torch":
        # Read when OpenMP loads. Threads that spin where they wait take the time of those that read videos, and of each
        # other: where the cores are shared, a frame takes ten times as long. Those that never do wake up too late: a
        # step takes twice as long. A thousand turns are a few microseconds.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        import torch

        from .torch import TorchEngine

        torch.set_num_threads(choice.threads)
        return TorchEngine.open(model.weights, model.config, choice.device, choice.precision)
    from .openvino import OpenVinoEngine

    return OpenVinoEngine.open(
        model.weights, model.config, choice.precision, compiled_folder(model), say, choice.threads
    )


def _check(engine: str, device: str, precision: str) -> None:
    """Refuse what no machine has."""
    if engine not in (AUTO, "mindspore", "torch", "openvino"):
        raise UsageError(f"--engine cannot be {engine!r}", "choose auto, mindspore, torch or openvino")
    kind, _, number = device.partition(":")
    if kind not in (AUTO, "cpu", "cuda", "mps") or (":" in device and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"--device cannot be {device!r}", "choose auto, cpu, cuda, mps, or one card, as cuda:0")
    if precision not in (AUTO, "fp32", "bf16", "fp16", "int8"):
        raise UsageError(f"--precision cannot be {precision!r}", "choose auto, fp32, bf16, fp16 or int8")


def _refusal(engine: str, device: str, precision: str) -> UsageError:
    """Why nothing fits, and what to do."""
    if device not in (AUTO, "cpu") and not any(offers(device)):
        return UsageError(f"--device {device}: torch finds no such graphics card here", "leave the flag out")
    if engine not in (AUTO, "torch") and not find_spec(engine):
        if engine == "mindspore":
            return no_mindspore("--engine mindspore")
        return UsageError(f"--engine {engine}: it is not installed", _GET_OPENVINO)
    if precision == "int8" and engine in (AUTO, "openvino") and device in (AUTO, "cpu"):
        return UsageError("--precision int8 takes openvino and nncf, which are not installed", _GET_OPENVINO)
    named = {"engine": engine, "device": device, "precision": precision}
    asked = " ".join(f"--{flag} {value}" for flag, value in named.items() if value != AUTO)
    others = [one.flags for one in offers() if one.precision == precision]
    precisions = ", ".join(dict.fromkeys(one.precision for one in offers()))
    return UsageError(f"nothing here computes with {asked}", " or ".join(others) or f"it can be {precisions}")


def no_mindspore(needing: str) -> UsageError:
    """Say that something needs MindSpore, and how to get it."""
    has_wheels = sys.version_info < (3, 13)
    hint = "pip install mindspore" if has_wheels else "MindSpore runs on Python 3.11 and 3.12"
    return UsageError(f"{needing} needs MindSpore, which is not installed", hint)


def _note(choice: Choice) -> str:
    where = "" if choice.device == "cpu" else f" on {choice.device}"
    more = "" if where or find_spec("openvino") else f"; {_GET_OPENVINO} makes it faster"
    return f"{choice.engine} computes in {choice.precision}{where}{more}"


def _on_cards(device: str) -> Iterator[Choice]:
    """What torch can compute with on a graphics card."""
    if sys.platform != "darwin" and not any(Path(driver).exists() for driver in _DRIVERS):
        return
    import torch

    kind, _, number = device.partition(":")
    if kind in (AUTO, "cuda") and int(number or 0) < torch.cuda.device_count():
        newer = torch.cuda.get_device_capability(int(number or 0)) >= (8, 0)
        precisions, found = ("bf16", "fp16", "fp32") if newer else ("fp16", "fp32"), device.replace(AUTO, "cuda")
    elif kind in (AUTO, "mps") and torch.backends.mps.is_available():
        precisions, found = ("fp16", "fp32"), "mps"
    else:
        return
    yield from (Choice("torch", found, precision) for precision in precisions)


def _multiplies_bf16() -> bool:
    """Whether the processor has instructions for it; without, it is slower than float32, or that in disguise."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})


def _cores() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else len(_affinity()) or os.cpu_count() or 1


def _affinity() -> set[int]:
    """The cores that this process may use; none where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Keep the threads that start in this block on so many cores: MindSpore takes all, whatever it is told."""
    cores = _affinity()
    if count >= len(cores):
        yield
        return
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
