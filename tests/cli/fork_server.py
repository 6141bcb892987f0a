"""Run `coca` in forks of a process that has imported what takes longest, which act as fresh processes do."""

import atexit
import ctypes
import gc
import importlib
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LIMIT = 900  # seconds, against a hang alone: a loaded machine is slow
COMMAND = [sys.executable, "-m", "cococli"]

# Not MindSpore, OpenVINO and decord, whose threads a fork loses, nor huggingface_hub, which reads variables at import.
PRELOADED = (
    "av", "filelock", "ftfy", "httpx2", "numpy", "PIL.Image", "pydantic.dataclasses", "pydantic.type_adapter",
    "pysubs2", "regex", "rich.progress", "rich.table", "torch", "cococli.captioning.job", "cococli.captioning.outputs",
    "cococli.cli.main", "cococli.engines.torch", "cococli.evaluation.evaluate", "cococli.retrieval.embed",
    "cococli.retrieval.search",
)  # fmt: skip
# Variables that Python, or what is preloaded, reads when it starts. Not LD_LIBRARY_PATH, which MindSpore sets in tests.
READ_EARLY = re.compile(
    "(PYTHON|LANG|LC_|TZ|MKL_|OPENBLAS_|NPY_|TORCH|PYTORCH_|CUDA_|PYDANTIC_|_TYPER_|PY_COLORS).*"
    "|LD_PRELOAD|TERMINAL_WIDTH|FORCE_COLOR|NO_COLOR|GITHUB_ACTIONS"
)
PYTHONPATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
# No library is to start threads when it is imported; those of torch spin as coca has it.
ENVIRONMENT = os.environ | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
LARGEST_REQUEST = 1 << 17
PR_SET_CHILD_SUBREAPER = 36


def run(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run `coca` with these arguments, stdout and stderr in pipes, as `subprocess.run` would."""
    if options.pop("capture_output", True):
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    typed = options.pop("input", None)
    if typed is not None:
        options["stdin"] = subprocess.PIPE
    with start(*arguments, **options) as process:
        try:
            results, notes = process.communicate(typed, timeout=LIMIT)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, results, notes)


def start(*arguments: object, **options: Any) -> "subprocess.Popen[str]":
    """Start `coca` with these arguments, as `subprocess.Popen` would.

    In a fresh process where variables differ that Python or a library reads when it starts.
    """
    environment = options.get("env") or os.environ
    same = not differing(environment) and os.geteuid() == os.getuid()
    process = Fork if same and sys.platform == "linux" else subprocess.Popen
    return process([*COMMAND, *map(str, arguments)], **{"text": True, **options})


def differing(environment: Mapping[str, str]) -> set[str]:
    """Return the variables that matter when a process starts and that have another value in the server."""
    names = {name for name in environment.keys() | ENVIRONMENT.keys() if READ_EARLY.fullmatch(name)}
    return {name for name in names if environment.get(name) != ENVIRONMENT.get(name)}


class Fork(subprocess.Popen):
    """A fork of the server with the interface of `Popen`, which has no public place where a process is started."""

    def _execute_child(self, *settings: Any) -> None:
        command, cwd, environment, pipes = settings[0], settings[5], settings[6], settings[10:16]
        streams = [default if given == -1 else given for default, given in enumerate((pipes[0], pipes[3], pipes[5]))]
        env, cwd = dict(environment or os.environ), str(Path(cwd or "").absolute())
        request = json.dumps({"arguments": command[len(COMMAND) :], "cwd": cwd, "env": env}).encode()
        server, _ = start_server()
        # The child is to be ours: the process between it and the server ends, and we are given its children.
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        try:
            socket.send_fds(server, [request], streams)
            self.pid = int(server.recv(LARGEST_REQUEST))
        finally:
            prctl(PR_SET_CHILD_SUBREAPER, 0)
        self._child_created = True
        self._close_pipe_fds(*pipes)


def prctl(option: int, value: int) -> None:
    """Change an attribute of this process."""
    assert ctypes.CDLL(None).prctl(option, value, 0, 0, 0) == 0


@cache
def start_server() -> "tuple[socket.socket, subprocess.Popen[bytes]]":
    """Start the server of this process, which ends with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, __file__]
        return ours, subprocess.Popen(command, env=ENVIRONMENT, stdin=theirs, stdout=subprocess.DEVNULL)


def serve() -> None:
    """Answer each request with the number of a process. Return in each of those; end with the client."""
    requests = socket.socket(fileno=os.dup(0))
    for name in PRELOADED:
        importlib.import_module(name)
    assert len([*Path("/proc/self/task").iterdir()]) == 1, "a library started threads, which a fork would lose"
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined] # of torch: 30 ms at every exit
        finalizer.atexit = False
    gc.freeze()
    while True:
        request, streams, *_ = socket.recv_fds(requests, LARGEST_REQUEST, 3)
        if not request:
            os._exit(0)
        if not (number := fork_orphan()):
            break
        requests.send(str(number).encode())
        for stream in streams:
            os.close(stream)
    requests.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    begin(streams, **json.loads(request))


def fork_orphan() -> int:
    """Fork a process whose parent has ended. Return its number, 0 in it."""
    results, result = os.pipe()
    if not (parent := os.fork()):
        if not (number := os.fork()):
            os.close(results)
            os.close(result)
            return 0
        os.write(result, str(number).encode())
        os._exit(0)
    os.waitpid(parent, 0)
    number = int(os.read(results, 99))
    os.close(results)
    os.close(result)
    return number


def begin(streams: list[int], arguments: list[str], cwd: str, env: dict[str, str]) -> None:
    """Take over what a fresh process is given."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    for stream in streams:
        os.close(stream)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.argv[1:] = arguments
    sys.path[0] = cwd
    importlib.invalidate_caches()


def leave(code: int) -> None:
    """Exit as Python does, but do not free what was preloaded, which takes 0.2 s. There is no public way."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
    code = 0
    try:
        runpy.run_module("cococli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code or 0
    leave(code)
