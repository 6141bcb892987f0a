"""Diagnosis of an installation: what is installed and works, where files go, and how to fix what does not work."""

import importlib.metadata
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Literal, NamedTuple

from . import __version__
from .errors import CocaError
from .files import format_size, os_reason
from .reporting import SILENT, Reporter
from .settings import home

# `missing` is optional; `problem` limits the program; with `broken` it cannot caption anything.
Status = Literal["ok", "missing", "problem", "broken"]

HUB_TIMEOUT = 5.0  # seconds
LITTLE_SPACE = 6_000_000_000  # bytes: a download of the largest model of open_clip, and the converted copy
_IMPORT_TIMEOUT = 120.0  # seconds
_OPTIONAL = ("mindspore", "decord")  # required packages without which most of the program works
_VARIABLES = (
    *("COCA_HOME", "COCA_CONFIG", "COCA_MODEL", "COCA_ENGINE", "COCA_PRECISION", "COCA_DEBUG"),
    *("HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"),
    *("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "all_proxy", "no_proxy"),
    *("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"),
)
# Modules that crash or fail where a library of the system is missing, and the expressions of their versions.
_MODULES = {
    "torch": "torch.__version__",
    "openvino": "openvino.__version__.partition('-')[0]",
    "mindspore": "mindspore.__version__",
    "av": "f'{av.__version__}, FFmpeg {av.ffmpeg_version_info}'",
    "decord": "decord.__version__",
    "PIL": "PIL.__version__",
    "pillow_heif": "pillow_heif.__version__",
}


@dataclass(frozen=True)
class Check:
    """A fact about the installation."""

    section: str
    name: str
    value: str
    status: Status = "ok"
    fix: str = ""  # what to do about a problem, or the command that installs what is missing


class _Import(NamedTuple):
    """Result of importing a module in a separate process."""

    version: str  # empty if it is not installed, or fails
    error: str


def diagnose(reporter: Reporter = SILENT) -> list[Check]:
    """Check everything that does not depend on the flags of a command. Takes seconds: it imports all engines.

    The texts are safe to publish: see `without_secrets`.
    """
    with reporter.progress("checking"), ThreadPoolExecutor() as pool:
        imports = dict(zip(_MODULES, pool.map(_import, _MODULES), strict=True))
        sections: dict[str, Callable[[], Iterator[Check]]] = {
            "versions": _versions,
            "engines": lambda: _engines(imports),
            "devices": lambda: _devices(imports),
            "decoders": lambda: _decoders(imports),
            "programs": _programs,
            "folders": _folders,
            "environment": _environment,
            "hub": _hub,
            "extras": _extras,
        }
        return [public(check) for name, checks in sections.items() for check in _completed(name, checks)]


def _completed(section: str, checks: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Yield the checks of a section, and one more if it fails itself."""
    try:
        yield from checks()
    except ModuleNotFoundError as error:
        yield Check(
            section, "error", f"needs {error.name}, which is not installed", "broken", f"pip install {error.name}"
        )
    except Exception as error:
        yield Check(section, "error", f"{type(error).__name__}: {error}", "problem", "COCA_DEBUG=1 shows more")


def public(check: Check) -> Check:
    """Return a check without secrets."""
    return replace(check, value=without_secrets(check.value), fix=without_secrets(check.fix))


def without_secrets(text: str) -> str:
    """Remove home folders and the names of their owners, access tokens, and passwords in URLs."""
    token = os.environ.get("HF_TOKEN", "")
    text = text.replace(token, "...") if len(token) > 3 else text
    text = re.sub(r"hf_\w{8,}", "hf_...", text)
    text = re.sub(r"//[^\s'\"]*@", "//...@", text)
    with suppress(RuntimeError):
        for folder in {str(Path.home()), os.path.realpath(Path.home())} - {"/"}:
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", "~", text)
            text = re.sub(rf"(?<=/){re.escape(Path(folder).name)}(?![\w.-])", "...", text)
    return re.sub(r"(/home|/Users)/[^/\s'\":]+", r"\1/...", text)


def _import(module: str) -> _Import:
    """Import a module elsewhere: a broken one may end its process."""
    if not find_spec(module):
        return _Import("", "not installed")
    command = [sys.executable, "-c", f"import {module}; print('coca:', {_MODULES[module]})"]
    try:
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_IMPORT_TIMEOUT)
    except subprocess.TimeoutExpired:
        return _Import("", f"was not imported within {_IMPORT_TIMEOUT:.0f} s, which also happens on a busy machine")
    except OSError as error:
        return _Import("", f"cannot be imported: {os_reason(error)}")
    if run.returncode < 0:
        return _Import("", f"cannot be imported: it crashes ({signal.Signals(-run.returncode).name})")
    if run.returncode:
        return _Import("", f"cannot be imported: {(run.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return _Import(run.stdout.rpartition("coca: ")[2].strip(), "")


def _versions() -> Iterator[Check]:
    wsl = " in WSL" if "microsoft" in platform.release().lower() else ""
    yield Check("versions", "coca", __version__)
    yield Check("versions", "python", f"{platform.python_version()} in {sys.prefix}")
    yield Check("versions", "system", f"{platform.platform()}{wsl}")
    for name, found, wanted in _required(""):
        if not found:
            optional = name in _OPTIONAL
            yield Check("versions", name, "not installed", "missing" if optional else "broken", f"pip install {name}")
        elif wanted:
            yield Check(
                "versions", name, f"{found}, but coca needs {wanted}", "problem", f"pip install '{name}{wanted}'"
            )
        else:
            yield Check("versions", name, found)


def _required(extra: str) -> Iterator[tuple[str, str, str]]:
    """Yield the name of each package that coca or an extra needs, its version, and what is needed if that differs."""
    from packaging.requirements import Requirement

    with suppress(importlib.metadata.PackageNotFoundError):  # run from a folder of sources
        for line in importlib.metadata.requires("cococli") or ():
            needed = Requirement(line)
            applies = needed.marker is None or needed.marker.evaluate({"extra": extra})
            if not applies or bool(extra) != ("extra ==" in str(needed.marker)):
                continue
            found = ""
            with suppress(importlib.metadata.PackageNotFoundError):
                found = importlib.metadata.version(needed.name)
            fits = not found or needed.specifier.contains(found, prereleases=True)
            yield needed.name, found, "" if fits else str(needed.specifier)


def _engines(imports: dict[str, _Import]) -> Iterator[Check]:
    from .engines.choice import available, no_mindspore, resolve

    working = [name for name in ("torch", "openvino", "mindspore") if imports[name].version]
    for name in ("torch", "openvino", "mindspore"):
        version, error = imports[name]
        if error:
            install = "'cococli[openvino]'" if name == "openvino" else name
            fix = f"pip install {'' if error == 'not installed' else '--force-reinstall '}{install}"
            fix = no_mindspore("").hint if (name, error) == ("mindspore", "not installed") else fix
            yield Check("engines", name, error, "missing" if error == "not installed" else "problem", fix)
            continue
        try:
            choices = [choice for choice in available(engine=name) if choice.engine == name]
        except Exception as failure:  # of a driver
            reason = f"{type(failure).__name__}: {failure}".splitlines()[0]
            yield Check("engines", name, reason, "problem", "update the driver, or use --device cpu")
            continue
        devices = [f"{device}: {', '.join(one.precision for one in group)}" for device, group in
                   groupby(choices, lambda choice: choice.device)]  # fmt: skip
        yield Check("engines", name, f"{version} on {'; '.join(devices)}")
    if not working:
        yield Check("engines", "auto", "no engine works", "broken", "pip install --force-reinstall torch")
        return
    with suppress(Exception):
        choice = resolve(device="auto" if imports["torch"].version else "cpu")
        yield Check("engines", "auto", choice.flags)


def _devices(imports: dict[str, _Import]) -> Iterator[Check]:
    from .engines.choice import has_gpu_driver, usable_cores
    from .engines.sizes import free_ram

    yield Check("devices", "cpu", f"{usable_cores()} of {os.cpu_count()} cores, {_size(free_ram())} of memory free")
    if not has_gpu_driver() or not imports["torch"].version:
        yield Check("devices", "gpu", "none found", "missing")
        return
    import torch

    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        yield Check("devices", f"cuda:{number}", f"{properties.name}, {_size(properties.total_memory)}")
    if not torch.cuda.device_count():
        if torch.backends.mps.is_available():
            yield Check("devices", "mps", "available")
        elif sys.platform != "darwin":
            fix = "check nvidia-smi, and install PyTorch for this GPU: https://pytorch.org/get-started/locally"
            yield Check(
                "devices", "gpu", f"PyTorch {torch.__version__} finds none, but a driver is here", "problem", fix
            )


def _decoders(imports: dict[str, _Import]) -> Iterator[Check]:
    no_video = not imports["av"].version and not imports["decord"].version
    for module, package, use in (
        ("av", "av", "video"),
        ("decord", "decord", "video"),
        ("PIL", "pillow", "pictures"),
        ("pillow_heif", "pillow-heif", "HEIC pictures"),
    ):
        version, error = imports[module]
        if not error:
            yield Check("decoders", package, f"{version} ({use})")
        elif module == "decord" and error == "not installed":
            yield Check("decoders", package, "not installed: av reads everything", "missing")
        else:
            status: Status = "broken" if module == "PIL" or (no_video and use == "video") else "problem"
            yield Check("decoders", package, error, status, f"pip install --force-reinstall {package}")
    yield _sandbox()


def _sandbox() -> Check:
    """Check what reader processes can give up. Only a process that does so finds out."""
    with suppress(OSError, subprocess.TimeoutExpired):
        command = [sys.executable, "-c", "from cococli.media.sandbox import enter; print('coca:', *enter())"]
        run = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_IMPORT_TIMEOUT)
        if mechanisms := run.stdout.rpartition("coca:")[2].split():
            value = f"readers cannot write files, start programs or connect ({' and '.join(mechanisms)})"
            return Check("decoders", "sandbox", value)
    fix = "Linux 5.13 or newer can take more from readers, if the container lets it"
    return Check("decoders", "sandbox", "readers have limits of time and memory only", "missing", fix)


def _programs() -> Iterator[Check]:
    yield _program("ffmpeg", "for the commands of coca search --cut")
    yield _program("java", "for METEOR and SPICE of coca evaluate")


def _program(name: str, use: str) -> Check:
    """Check a program on the PATH."""
    if not shutil.which(name):
        return Check("programs", name, "not found", "missing", f"needed {use}")
    try:
        run = subprocess.run(
            [name, "-version"], capture_output=True, text=True, errors="replace", timeout=_IMPORT_TIMEOUT
        )
        version = (run.stdout or run.stderr).splitlines()[0]
    except (OSError, subprocess.TimeoutExpired, IndexError):
        return Check("programs", name, "does not start", "problem", f"reinstall it {use}")
    return Check("programs", name, version)


def _folders() -> Iterator[Check]:
    from .checkpoints.store import default_model, stored_models

    try:
        folder = home()
    except CocaError as error:
        yield Check("folders", "cache", error.message, "broken", error.hint)
        return
    yield _writable("cache", folder)
    yield _writable("temporary", Path(tempfile.gettempdir()))
    try:
        models = stored_models()
        yield Check("folders", "models", f"{len(models)}, {format_size(sum(model.size for model in models))}")
        for model in models:
            if model.problem:
                yield Check("folders", model.name, f"damaged: {model.problem}", "problem", model.remedy)
        yield Check("folders", "default model", default_model())
    except CocaError as error:
        status: Status = "missing" if "no model is here" in error.message else "problem"
        yield Check("folders", "default model", error.message, status, error.hint)


def _writable(name: str, folder: Path) -> Check:
    """Check that files can be written in a folder, or where it would be made, and the space there."""
    place = next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), folder)
    fix = (
        "check its permissions, or set COCA_HOME to another folder"
        if name == "cache"
        else "set TMPDIR to another folder"
    )
    try:
        with tempfile.TemporaryFile(dir=place):
            free = shutil.disk_usage(place).free
    except OSError as error:
        return Check("folders", name, f"cannot write to {place}: {os_reason(error)}", "broken", fix)
    found = f"{folder}{'' if place == folder else ', not there yet'}, {format_size(free)} free"
    if name == "cache" and free < LITTLE_SPACE:
        fix = f"a large model takes up to {format_size(LITTLE_SPACE)}: make room, or set COCA_HOME to another disk"
        return Check("folders", name, found, "problem", fix)
    return Check("folders", name, found)


def variables() -> dict[str, str]:
    """Return the environment variables that coca and its libraries read, without tokens and passwords."""
    found = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    # A proxy may stand without a scheme.
    shown = {name: re.sub(r"(//|^)[^/\s]*@", r"\1...@", value) for name, value in found.items()}
    return shown | {name: "set" for name in found if "TOKEN" in name}


def _environment() -> Iterator[Check]:
    return (Check("environment", name, value) for name, value in variables().items())


def _hub() -> Iterator[Check]:
    from .checkpoints.hub import check_hub

    started = time.perf_counter()
    try:
        address = check_hub(HUB_TIMEOUT)
        yield Check("hub", address, f"reachable, answered in {time.perf_counter() - started:.1f} s")
    except CocaError as error:
        offline = "HF_HUB_OFFLINE" in error.message
        yield Check("hub", "connection", error.message, "missing" if offline else "problem", error.hint)


def _extras() -> Iterator[Check]:
    names: Sequence[str] = ()
    with suppress(importlib.metadata.PackageNotFoundError):
        names = importlib.metadata.metadata("cococli").get_all("Provides-Extra") or ()
    for extra in names:
        if extra in ("dev", "docs"):
            continue
        fix = f"pip install 'cococli[{extra}]'"
        needed = [*_required(extra)]
        wrong = [f"{name} {found}, but coca needs {wanted}" for name, found, wanted in needed if wanted]
        if wrong:
            yield Check("extras", extra, "; ".join(wrong), "problem", fix)
        elif all(found for _, found, _ in needed):
            yield Check("extras", extra, ", ".join(f"{name} {found}" for name, found, _ in needed))
        else:
            yield Check("extras", extra, "not installed", "missing", fix)


def _size(count: float) -> str:
    return "unknown" if count == float("inf") else format_size(int(count))
