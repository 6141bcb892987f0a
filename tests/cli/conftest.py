"""The `coca` command in a process of its own, as a user runs it."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LIMIT = 900  # seconds, against a hang alone: a loaded machine is slow
Coca = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    """Use the same engine on every machine, the one that starts fastest."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COCA_ENGINE", "torch")
        environment.setenv("COCA_PRECISION", "fp32")
        yield


@pytest.fixture
def coca(monkeypatch: pytest.MonkeyPatch) -> Coca:
    """Run `coca` with these arguments, stdout and stderr in pipes."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)

    def run(*arguments: object, **options: object) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "cococli", *map(str, arguments)]
        return subprocess.run(command, text=True, timeout=LIMIT, **{"capture_output": True, **options})

    return run
