"""Isolated child processes: a crash or a hang in one does not affect this process."""

import os
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe

from .settings import debugging


def start_process(module: str, **environment: str) -> "tuple[subprocess.Popen[bytes], Connection]":
    """Run `python -m MODULE FD`, where FD is the number of a socket to this process, which is returned.

    Ctrl-C does not reach the process, and its output is discarded unless COCA_DEBUG=1.

    Args:
        environment: Variables that are set in addition to those of this process.
    """
    # Imports like this process but with absolute paths: the working folder may contain an av.py.
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    ours, theirs = Pipe()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, str(theirs.fileno())],
            env=os.environ | {"PYTHONPATH": path, **environment},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=None if debugging() else subprocess.DEVNULL,
            process_group=0,
        )
    return process, ours
