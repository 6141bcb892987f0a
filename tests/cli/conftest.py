"""The `coca` command in a process of its own, as a user runs it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli import fork_server


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """Use the engine that starts fastest, and none of the variables that libraries have set in this process.

    With one of these, such as torch's TORCHINDUCTOR_CACHE_DIR, each command would be a fresh process instead of a fork.
    """
    with pytest.MonkeyPatch.context() as environment:
        for name in fork_server.differing(os.environ):
            if name in fork_server.ENVIRONMENT:
                environment.setenv(name, fork_server.ENVIRONMENT[name])
            else:
                environment.delenv(name)
        environment.setenv("COCA_ENGINE", "torch")
        environment.setenv("COCA_PRECISION", "fp32")
        yield


@pytest.fixture
def coca() -> "Callable[..., subprocess.CompletedProcess[str]]":
    """Run `coca` with these arguments, stdout and stderr in pipes."""
    return fork_server.run


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A folder of 30 identical clips."""
    folder = tmp_path / "many"
    folder.mkdir()
    clip = Path(__file__).parents[2] / "examples" / "grows.mp4"
    for i in range(30):
        (folder / f"{i:02}.mp4").write_bytes(clip.read_bytes())
    return folder
