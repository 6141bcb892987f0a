"""Choice of the engine, its device, precision and number of threads."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..catalog import CocaConfig
from ..checkpoints.store import ModelFiles, compiled_folder
from ..errors import UsageError
from ..options import EngineOptions
from ..reporting import Progress
from .base import Engine
from .measured import fastest

AUTO = "auto"
MAX_THREADS = 1024  # with several thousand, OpenMP crashes or runs out of memory
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")  # NVIDIA, AMD, and both in WSL
_ASCEND_DRIVER = "/dev/davinci_manager"
_GET_OPENVINO = "pip install 'cococli[openvino]'"


@dataclass(frozen=True)
class Choice:
    """An engine and its settings, from `resolve`."""

    engine: str  # mindspore, torch, openvino
    device: str  # as torch names it: cpu, cuda, cuda:1, mps; or ascend, ascend:1
    precision: str  # fp32, tf32, bf16, fp16, int8
    threads: int = 1
    note: str = field(default="", compare=False)  # explains an automatic choice to the user

    @property
    def flags(self) -> str:
        """Flags that select it."""
        device = "" if self.device == "cpu" else f" --device {self.device}"
        return f"--engine {self.engine}{device} --precision {self.precision}"


def resolve(
    engine: str = AUTO, device: str = AUTO, precision: str = AUTO, threads: int = 0, config: CocaConfig | None = None
) -> Choice:
    """Return the best choice that this machine supports. Loads torch only if there is a GPU driver, MindSpore likewise.

    Args:
        threads: 0 for OMP_NUM_THREADS, or else the number of cores that this process may use.
        config: Architecture of the model, to choose among engines on the CPU by what `coca bench` measured.

    Raises:
        UsageError: This machine does not support the request.
    """
    _check(engine, device, precision)
    threads = threads or _cores()
    if not 0 < threads <= MAX_THREADS:
        raise UsageError(f"--threads must be from 0 to {MAX_THREADS}, not {threads}", "0 takes all cores")
    choices = [
        choice
        for choice in available(device, engine)
        if engine in (AUTO, choice.engine) and precision in (AUTO, choice.precision)
    ]
    if not choices:
        raise _unsupported(engine, device, precision)
    choices = [replace(choice, threads=threads) for choice in choices]
    best, why = choices[0], ""
    exact = [choice for choice in choices if choice.device == "cpu" and choice.precision != "int8"]
    if config and best in exact[:1] and len(exact) > 1:
        best, why = fastest(config, exact)
    note = _note(best) if len(choices) > 1 or engine == AUTO else ""
    return replace(best, note=f"{note} ({why})" if why else note)


def resolve_options(options: EngineOptions, config: CocaConfig | None = None) -> Choice:
    """Return the choice for the options of a command. See `resolve`."""
    return resolve(options.engine, options.device, options.precision, options.threads, config)


def available(device: str = AUTO, engine: str = AUTO) -> Iterator[Choice]:
    """Yield everything that this machine supports, best first, but int8, which is less exact, last of its engine.

    Args:
        engine: Look only for devices of this engine.
    """
    if device != "cpu" and engine in (AUTO, "mindspore"):
        yield from _on_ascend(device)
    if device != "cpu" and engine in (AUTO, "torch"):
        yield from _on_gpus(device)
    if device not in (AUTO, "cpu"):
        return
    floats = ("bf16", "fp32") if _has_bf16_instructions() else ("fp32",)
    if find_spec("openvino"):
        yield from (Choice("openvino", "cpu", precision) for precision in floats)
        if find_spec("nncf"):
            yield Choice("openvino", "cpu", "int8")
    yield from (Choice("torch", "cpu", precision) for precision in floats)
    if find_spec("mindspore"):
        yield Choice("mindspore", "cpu", "fp32")


def open_engine(model: ModelFiles, choice: Choice, progress: Progress | None = None) -> Engine[Any]:
    """Load the weights of a model.

    Args:
        progress: Describes slow steps that are needed only once.

    Raises:
        ModelError: The weights are damaged.
    """
    if choice.engine == "mindspore":
        with _on_cores(choice.threads):
            from .mindspore import MindSporeEngine, start

            start(choice.device)
        return MindSporeEngine.open(model.weights, model.config)
    if choice.engine == "torch":
        # OpenMP reads this when it loads. Threads that keep spinning while they wait slow down video readers and each
        # other, on shared cores tenfold; threads that never spin double the time of a step.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
        import torch

        torch.set_num_threads(choice.threads)
        if choice.device.startswith("cuda") and torch.version.cuda:
            from .cuda import CudaEngine

            return CudaEngine.open(model.weights, model.config, choice.device, choice.precision)
        from .torch import TorchEngine

        return TorchEngine.open(model.weights, model.config, choice.device, choice.precision)
    from .openvino import OpenVinoEngine

    cache = compiled_folder(model)
    return OpenVinoEngine.open(
        model.weights, model.config, choice.precision, cache, progress or Progress(), choice.threads
    )


def check_options(options: EngineOptions) -> None:
    """Refuse values that no machine supports, for another machine than this.

    Raises:
        UsageError: A value is invalid.
    """
    _check(options.engine, options.device, options.precision)


def _check(engine: str, device: str, precision: str) -> None:
    """Refuse values that no machine supports."""
    if engine not in (AUTO, "mindspore", "torch", "openvino"):
        raise UsageError(f"--engine cannot be {engine!r}", "choose auto, mindspore, torch or openvino")
    kind, _, number = device.partition(":")
    numbered = kind in ("cuda", "ascend") and number.isdecimal()
    if kind not in (AUTO, "cpu", "cuda", "mps", "ascend") or (":" in device and not numbered):
        hint = "choose auto, cpu, cuda, mps, ascend, or one GPU, such as cuda:0"
        raise UsageError(f"--device cannot be {device!r}", hint)
    if precision not in (AUTO, "fp32", "tf32", "bf16", "fp16", "int8"):
        raise UsageError(f"--precision cannot be {precision!r}", "choose auto, fp32, tf32, bf16, fp16 or int8")


def _unsupported(engine: str, device: str, precision: str) -> UsageError:
    """Explain why nothing matches, and suggest what would."""
    if device not in (AUTO, "cpu") and not any(available(device)):
        finder, kind = ("MindSpore", "device") if device.startswith("ascend") else ("torch", "GPU")
        return UsageError(f"--device {device}: {finder} finds no such {kind} here", "leave the flag out")
    if engine not in (AUTO, "torch") and not find_spec(engine):
        if engine == "mindspore":
            return no_mindspore("--engine mindspore")
        return UsageError(f"--engine {engine} is not installed", _GET_OPENVINO)
    if precision == "int8" and engine in (AUTO, "openvino") and device in (AUTO, "cpu"):
        return UsageError("--precision int8 needs openvino and nncf, which are not installed", _GET_OPENVINO)
    given = {"engine": engine, "device": device, "precision": precision}
    flags = " ".join(f"--{flag} {value}" for flag, value in given.items() if value != AUTO)
    others = [choice.flags for choice in available() if choice.precision == precision]
    precisions = ", ".join(dict.fromkeys(choice.precision for choice in available()))
    return UsageError(
        f"this machine does not support {flags}",
        f"use {' or '.join(others)}" if others else f"it supports {precisions}",
    )


def no_mindspore(needing: str) -> UsageError:
    """Return an error that says what needs MindSpore, and how to install it."""
    has_wheels = sys.version_info < (3, 13)
    hint = "pip install mindspore" if has_wheels else "MindSpore runs on Python 3.11 and 3.12"
    return UsageError(f"{needing} needs MindSpore, which is not installed", hint)


def _note(choice: Choice) -> str:
    gpu = "" if choice.device == "cpu" else f" on {choice.device}"
    more = "" if gpu or find_spec("openvino") else f"; {_GET_OPENVINO} makes it faster"
    return f"using {choice.engine} in {choice.precision}{gpu}{more}"


def _on_ascend(device: str) -> Iterator[Choice]:
    """Yield what MindSpore supports on Ascend."""
    kind, _, number = device.partition(":")
    if kind not in (AUTO, "ascend") or not Path(_ASCEND_DRIVER).exists() or not find_spec("mindspore"):
        return
    from mindspore import hal

    if hal.is_available("Ascend") and int(number or 0) < hal.device_count("Ascend"):
        yield Choice("mindspore", device.replace(AUTO, "ascend"), "fp32")


def _on_gpus(device: str) -> Iterator[Choice]:
    """Yield what torch supports on GPUs."""
    if not has_gpu_driver():
        return
    import torch

    kind, _, number = device.partition(":")
    if kind in (AUTO, "cuda") and int(number or 0) < torch.cuda.device_count():
        has_bf16 = torch.cuda.get_device_capability(int(number or 0)) >= (8, 0)
        precisions = ("bf16", "fp16", "tf32", "fp32") if has_bf16 else ("fp16", "fp32")
        found = device.replace(AUTO, "cuda")
    elif kind in (AUTO, "mps") and torch.backends.mps.is_available():
        precisions, found = ("fp16", "fp32"), "mps"
    else:
        return
    yield from (Choice("torch", found, precision) for precision in precisions)


def has_gpu_driver() -> bool:
    """Return whether torch may find a GPU, without importing it."""
    return sys.platform == "darwin" or any(Path(driver).exists() for driver in _DRIVERS)


def _has_bf16_instructions() -> bool:
    """Return whether the CPU multiplies bfloat16 itself; otherwise float32 is at least as fast."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16"})


def _cores() -> int:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() and int(threads) else usable_cores()


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(_affinity()) or os.cpu_count() or 1


def _affinity() -> set[int]:
    """Return the cores that this process may use; none if the system does not say."""
    if sys.platform != "linux":
        return set()
    return os.sched_getaffinity(0)


@contextmanager
def _on_cores(count: int) -> Iterator[None]:
    """Limit threads that start in this block to this number of cores: MindSpore has no setting for it."""
    cores = _affinity()
    if sys.platform != "linux" or count >= len(cores):
        yield
        return
    os.sched_setaffinity(0, sorted(cores)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
