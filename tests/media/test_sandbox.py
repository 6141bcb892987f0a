"""A decoder that a file has taken over tries everything that readers may not do."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cococli.doctor import _sandbox
from cococli.media.clips import ReadRequest, Sampling, Segments
from cococli.media.pool import VideoFailed, VideoReader, read_videos
from cococli.processes import start_process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems only limit memory and CPU time")

# A package `av` that runs what the file says instead of decoding it.
DECODER = """
import mmap, os, pickle, signal, socket, struct, subprocess, sys, threading
from pathlib import Path
class FFmpegError(Exception): pass
class ArgumentError(FFmpegError): pass
def open(file, **options):
    exec(file.read().decode().partition(chr(10))[2])
    raise FFmpegError("it could")
"""

REFUSED = {
    "connect": "socket.create_connection(('127.0.0.1', {port}))",
    "create a socket of the system": "socket.socket(socket.AF_UNIX)",
    "create a file": "Path(r'{folder}/new').write_text('')",
    "append to a file": "os.open(r'{folder}/mine', os.O_WRONLY | os.O_APPEND)",
    "remove a file": "os.unlink(r'{folder}/mine')",
    "rename a file": "os.rename(r'{folder}/mine', r'{folder}/other')",
    "make a file executable": "os.chmod(r'{folder}/mine', 0o777)",
    "start a program": "os.execv('/bin/true', ['true'])",
    "start a process": "os.fork()",
    "signal its parent": "os.kill(os.getppid(), 0)",
}
TOO_LARGE = {
    "memory": "bytearray(2_000_000_000)",
    "shared memory": "mmap.mmap(-1, 4_200_000_000)",
}
PICKLE = """
content = pickle.dumps(([], b"cposix\\nsystem\\n(S'touch {folder}/new'\\ntR."))
os.write(int(sys.argv[1]), struct.pack("=QQ", len(content), 0) + content)
threading.Event().wait()
"""


def request(timeout: float = 900) -> ReadRequest:
    return ReadRequest(Sampling(), Segments("none"), 40, timeout=timeout)


@pytest.fixture
def taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a decoder that does what files say, and a file of the user."""
    (tmp_path / "av").mkdir()
    (tmp_path / "av" / "__init__.py").write_text(DECODER)
    (tmp_path / "av" / "stream.py").write_text("Disposition = None")
    (tmp_path / "mine").write_text("content")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def attack(folder: Path, name: str, code: str) -> Path:
    path = folder / f"{name}.mp4"
    path.write_text(f"\n{code.strip()}\n")
    return path


def test_what_readers_need_not_is_refused(taken_over: Path, port: int):
    if _sandbox().status != "ok":
        pytest.skip("this system or container has neither Landlock nor seccomp")
    codes = {name: code.format(folder=taken_over, port=port) for name, code in (REFUSED | TOO_LARGE).items()}
    paths = [attack(taken_over, name, code) for name, code in codes.items()]
    harmless = attack(taken_over, "harmless", "threading.Thread(target=len, args=('',)).start()")
    events = list(read_videos([(path, request()) for path in [*paths, harmless]], processes=1))
    reasons = {path.stem: event.error for path, event in zip(paths, events, strict=False)}
    assert {name: reasons[name] for name in REFUSED} == dict.fromkeys(REFUSED, "not a video: operation not permitted")
    assert reasons["memory"] == "needs too much memory"
    assert reasons["shared memory"] == "cannot allocate memory"
    assert events[-1] == VideoFailed(len(paths), "not a video: it could")
    assert (taken_over / "mine").read_text() == "content"
    assert not (taken_over / "new").exists()


ALONE = """
import os, subprocess, sys
from cococli.media import sandbox
setattr(sandbox, sys.argv[1], lambda libc: False)
print(*sandbox.enter())
for attempt in (lambda: open(sys.argv[2], "w"), lambda: os.execv("/bin/true", ["true"])):
    try:
        attempt()
        print("it could")
    except PermissionError:
        pass
"""


@pytest.mark.parametrize(("missing", "left"), [("_use_seccomp", "Landlock"), ("_use_landlock", "seccomp")])
def test_each_mechanism_works_alone(missing: str, left: str, tmp_path: Path):
    command = [sys.executable, "-c", ALONE, missing, str(tmp_path / "new")]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    if not run.stdout.strip():
        pytest.skip(f"no {left} here")
    assert run.stdout == f"{left}\n"


def test_spinning_decoders_are_given_up(taken_over: Path):
    spin = attack(taken_over, "spin", "while True: pass")
    harmless = attack(taken_over, "harmless", "")
    failures = list(read_videos([(spin, request(1)), (harmless, request())], processes=1))
    assert failures == [VideoFailed(0, "gave up after 1 s"), VideoFailed(1, "not a video: it could")]


def test_spinning_decoders_end_beside_stopped_parents(taken_over: Path):
    process, channel = start_process("cococli.media.worker", trusted=False)
    with channel:
        channel.receive()
        channel.send((attack(taken_over, "spin", "while True: pass"), request(1)))
        assert process.wait(900) == -signal.SIGXCPU


def test_objects_of_readers_are_not_unpickled(taken_over: Path):
    reader = VideoReader()
    (failure,) = reader.read(0, attack(taken_over, "pickle", PICKLE.format(folder=taken_over)), request())
    assert failure == VideoFailed(0, "unexpected: UnpicklingError: posix.system is not accepted")
    assert not (taken_over / "new").exists()
    reader.close()
