"""The `coca` command in a process of its own, as a user runs it."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli import fork_server


@pytest.fixture(scope="module", autouse=True)
def engine() -> Iterator[None]:
    """Use the same engine on every machine, the one that starts fastest."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COCA_ENGINE", "torch")
        environment.setenv("COCA_PRECISION", "fp32")
        environment.setenv("PYTHONPATH", fork_server.PYTHONPATH)
        assert not fork_server.differing(os.environ), "a library set them, so that no command of a test can be a fork"
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
