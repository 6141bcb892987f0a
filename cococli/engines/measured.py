"""Speeds of engines on this CPU, which `coca bench` measures and by which `auto` chooses."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, TypeVar

from .. import __version__
from ..catalog import CocaConfig
from ..errors import CocaError
from ..files import digest, io_errors, write_atomically
from ..parsing import read_json
from ..settings import home

MARGIN = 0.95  # of the time of the engine that is preferred: others must be faster than measurements differ


class Settings(Protocol):
    """Fields of a `choice.Choice` that affect speed."""

    @property
    def engine(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def threads(self) -> int: ...


C = TypeVar("C", bound=Settings)


def record(config: CocaConfig, choice: Settings, seconds: float) -> None:
    """Store the time of a caption.

    Raises:
        CocaError: The cache folder cannot be written.
    """
    with io_errors("write", _file()):
        home().mkdir(parents=True, exist_ok=True)
        content = _read() | {_key(config, choice): seconds}
        with write_atomically(_file()) as (file,):
            file.write(json.dumps(content, indent=1).encode())


def fastest(config: CocaConfig, choices: Sequence[C]) -> tuple[C, str]:
    """Return the fastest of some choices, and why; the first unless it and a faster one were measured.

    Args:
        choices: With their numbers of threads, the preferred one first.
    """
    found = _read()
    seconds = [found.get(_key(config, choice)) for choice in choices]
    measured = [(time, choice) for time, choice in zip(seconds, choices, strict=True) if time]
    if not seconds[0] or len(measured) < 2:
        return choices[0], ""
    best = min(measured, key=lambda pair: pair[0])
    if best[0] > MARGIN * seconds[0]:
        best = seconds[0], choices[0]
    others = ", ".join(f"{choice.engine} {choice.precision} {time:.2g} s" for time, choice in measured)
    return best[1], f"coca bench: {others} a caption"


def _file() -> Path:
    return home() / "speeds.json"


def _read() -> dict[str, float]:
    """Return the stored times; none if the file is missing or damaged, as it can be made again."""
    with suppress(CocaError):
        content = read_json(_file())
        if isinstance(content, dict):
            return {key: time for key, time in content.items() if isinstance(time, float) and time > 0}
    return {}


def _key(config: CocaConfig, choice: Settings) -> str:
    """Identify what a time depends on: CPU, threads, versions, architecture, engine and precision."""
    network = replace(config, preprocess_cfg=None)
    facts = (_cpu(), choice.threads, __version__, *_versions(choice.engine), repr(network))
    return f"{choice.engine} {choice.precision} {digest(repr(facts))}"


def _versions(engine: str) -> Iterator[str]:
    with suppress(PackageNotFoundError):
        yield version(engine)


def _cpu() -> str:
    """Return the model of the CPU; empty where the system does not say."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next((line for line in lines if line.startswith("model name")), "")
    return ""
