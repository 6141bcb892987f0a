"""The `coca` command in a process of its own, as a user runs it."""

import os
import subprocess
from collections.abc import Callable, Iterator

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
