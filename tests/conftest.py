"""Every test has a cache folder and a config file of its own, and no test hangs."""

import faulthandler
import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jsonschema import Draft202012Validator
from remote_servers import S3, WebServer, s3_server, web_server

from cococli.captioning.records import json_schema
from cococli.catalog import BUNDLED
from cococli.checkpoints.store import find_model

# Each of several test processes, and what it starts, computes on a core of its own: threads that spin while they wait,
# such as MindSpore's, slow down no other process. numpy and torch read the variable when they are imported.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# Commands that tests interrupt would inherit an ignored SIGINT, as background jobs of a script have it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("coca", deadline=None)  # how long an example takes says nothing about it
settings.load_profile("coca")

WRITTEN = re.compile(rb'"status": "(ok|error)".*, "key": "[0-9a-f]{16}"}$')
STDERR = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Limit the time of the process that waits for those that run the tests."""
    config.stash[STDERR] = os.dup(2)  # the real one: output is not captured yet
    if config.getoption("numprocesses", None):
        faulthandler.dump_traceback_later(3600, file=config.stash[STDERR], exit=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put training first: it takes longest."""
    items.sort(key=lambda item: item.path.parent.name != "training")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Limit the time of teardown: pytest's own limit, `faulthandler_timeout`, ends when a test fails."""
    limit = float(item.config.getini("faulthandler_timeout"))
    faulthandler.dump_traceback_later(limit, file=item.config.stash[STDERR], exit=True)
    return (yield)


@pytest.fixture(scope="session", autouse=True)
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The weights of the bundled model: unpacking them for each test would take a fifth of the time of all.

    Their cache folder is that of fixtures that several tests share, which would use the developer's otherwise.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("COCA_HOME", str(tmp_path_factory.mktemp("unpacked")))
        environment.setenv("COCA_CONFIG", str(tmp_path_factory.mktemp("config") / "config.toml"))
        yield find_model(BUNDLED).weights


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `COCA_HOME` with the bundled model, no config file, and no model or debugging chosen by whoever runs the tests.

    Tests must not write into the file of weights, which all share.
    """
    folder = tmp_path_factory.mktemp("home")
    weights = folder.joinpath("bundled", *unpacked.parts[-2:])
    weights.parent.mkdir(parents=True)
    weights.hardlink_to(unpacked)
    monkeypatch.setenv("COCA_HOME", str(folder))
    monkeypatch.setenv("COCA_CONFIG", str(tmp_path_factory.mktemp("config") / "config.toml"))
    for name in ("COCA_MODEL", "COCA_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def validator() -> Draft202012Validator:
    """The schema of records, which allows no other fields here."""
    schema = json_schema()
    for kind in schema["$defs"].values():
        kind["additionalProperties"] = False
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture(autouse=True)
def written_records_follow_the_schema(
    request: pytest.FixtureRequest, validator: Draft202012Validator
) -> Iterator[None]:
    """Validate what a test has written: each line of JSONL with the key of a record, apart from indexes."""
    folder = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    for path in filter(Path.is_file, folder.rglob("*.jsonl")) if folder else ():  # a pipe would block
        for line in path.read_bytes().splitlines() if path.name != "entries.jsonl" else ():
            if WRITTEN.search(line):
                validator.validate(json.loads(line))


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files and folders that are flushed to disk from now on, in order."""
    if sys.platform != "linux":
        pytest.skip("only /proc names open files")
    names, flush = [], os.fsync

    def record(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        flush(descriptor)

    monkeypatch.setattr("os.fsync", record)
    return names


@pytest.fixture(scope="module")
def s3_of_module() -> Iterator[S3]:
    """An S3 server with the example clips."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3(s3_of_module: S3, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The S3 server of the module, to which the environment leads."""
    for name, value in s3_of_module.environment.items():
        monkeypatch.setenv(name, value)
    return s3_of_module


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server of the example clips."""
    with web_server() as server:
        yield server


@pytest.fixture
def as_nobody(tmp_path: Path) -> Iterator[None]:
    """Lay down root's rights, where the tests run as root, so that a closed folder is closed."""
    if os.geteuid() != 0:
        yield
        return
    for place in (tmp_path, *tmp_path.rglob("*")):
        os.chown(place, 65534, 65534, follow_symlinks=False)
    opened = [parent for parent in tmp_path.parents if parent.stat().st_mode & 0o005 != 0o005]
    modes = [parent.stat().st_mode for parent in opened]
    for parent in opened:
        parent.chmod(0o755)
    os.seteuid(65534)
    yield
    os.seteuid(0)
    for parent, mode in zip(opened, modes, strict=True):
        parent.chmod(mode)
