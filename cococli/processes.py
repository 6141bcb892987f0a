"""Isolated child processes: a crash or a hang in one does not affect this process."""

import hmac
import os
import pickle
import secrets
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any

from .settings import debugging

_SIZES = struct.Struct("=QQ")  # bytes of the pickled object, and of its arrays
_SECRET, _SECRET_BYTES = "COCA_CHANNEL", 32  # the variable by which a child shows that it is one
_MAX_PLAIN = 1 << 31  # bytes of what an untrusted process may send: more than its memory


class Channel:
    """A socket to another process for objects with arrays, which are received in place and in one piece.

    In a busy process every wake-up waits for the interpreter's lock, and a pickle of 2 MB takes a dozen.
    """

    def __init__(self, number: int, trusted: bool = True) -> None:
        """Take over the socket of this file descriptor.

        Args:
            trusted: Whether to receive any objects. Else only numbers, texts, tuples and the like, and buffers: an
                object in a pickle can run code.
        """
        self._socket = socket.socket(fileno=number)
        self._trusted = trusted

    def __enter__(self) -> "Channel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Return the file descriptor, by which `multiprocessing.connection.wait` accepts it."""
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def send(self, message: object) -> None:
        """Send an object.

        Raises:
            OSError: The other end is closed.
        """
        arrays: list[pickle.PickleBuffer] = []
        pickled = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
        views = [array.raw() for array in arrays]
        sizes = [view.nbytes for view in views]
        pickled = pickle.dumps((sizes, pickled))
        self._send([_SIZES.pack(len(pickled), sum(sizes)), pickled, *views])

    def receive(self) -> Any:
        """Return the next object.

        Raises:
            EOFError: The other end is closed.
            pickle.UnpicklingError: The other end is not trusted, and sent what it must not.
        """
        header = bytearray(_SIZES.size)
        self._fill([memoryview(header)])
        length, total = _SIZES.unpack(header)
        if not self._trusted and length + total > _MAX_PLAIN:
            raise pickle.UnpicklingError("the message is too large")
        content, arrays = bytearray(length), memoryview(bytearray(total))
        self._fill([memoryview(content), arrays])
        unpickler = pickle.Unpickler if self._trusted else _PlainUnpickler
        sizes, pickled = unpickler(BytesIO(content)).load()
        ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
        buffers = [arrays[end - size : end] for size, end in zip(sizes, ends, strict=True)]
        return unpickler(BytesIO(pickled), buffers=buffers).load()

    def wait(self) -> None:
        """Wait until there is something to receive, or the other end is closed."""
        self._socket.recv(1, socket.MSG_PEEK)

    def _send(self, parts: Sequence[bytes | memoryview]) -> None:
        left = [memoryview(part) for part in parts if len(part)]
        while left:
            if sys.platform == "win32":
                count = self._socket.send(left[0])
            else:
                count = self._socket.sendmsg(left)
            left = _without(left, count)

    def _fill(self, buffers: Sequence[memoryview]) -> None:
        """Receive as much as fits into the buffers."""
        left = [buffer for buffer in buffers if len(buffer)]
        while left:
            if sys.platform == "win32":
                count = self._socket.recv_into(left[0])
            else:
                count = self._socket.recvmsg_into(left, 0, socket.MSG_WAITALL)[0]
            if not count:
                raise EOFError
            left = _without(left, count)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles what needs no class and no function."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is not accepted")


def _without(parts: list[memoryview], count: int) -> list[memoryview]:
    """Drop the first bytes."""
    while parts and count >= len(parts[0]):
        count -= len(parts.pop(0))
    return [parts[0][count:], *parts[1:]] if parts else []


def start_process(module: str, trusted: bool = True, **environment: str) -> "tuple[subprocess.Popen[bytes], Channel]":
    """Run `python -m MODULE PLACE`, where `parent_channel` returns the channel whose other end is returned.

    Ctrl-C does not reach the process, and its output is discarded unless COCA_DEBUG=1.

    Args:
        trusted: See `Channel`.
        environment: Variables that are set in addition to those of this process.
    """
    # Imports like this process but with absolute paths: the working folder may contain an av.py.
    path = os.pathsep.join(map(os.path.abspath, sys.path))
    command = [sys.executable, "-P", "-m", module]
    stderr = None if debugging() else subprocess.DEVNULL
    files: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": stderr}
    variables = os.environ | {"PYTHONPATH": path, **environment}
    if sys.platform == "win32":  # whose processes inherit no sockets
        with socket.create_server(("127.0.0.1", 0)) as server:
            secret = secrets.token_bytes(_SECRET_BYTES)
            process = subprocess.Popen(
                [*command, f":{server.getsockname()[1]}"],
                env=variables | {_SECRET: secret.hex()},
                creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
                **files,
            )
            return process, Channel(_accept(server, process, secret).detach(), trusted)
    ours, theirs = socket.socketpair()
    with theirs:
        number = theirs.fileno()
        process = subprocess.Popen([*command, str(number)], env=variables, pass_fds=[number], process_group=0, **files)
    return process, Channel(ours.detach(), trusted)


def parent_channel() -> Channel:
    """Return the channel to the process that started this one with `start_process`."""
    place = sys.argv[1]
    if not place.startswith(":"):
        return Channel(int(place))
    connection = socket.create_connection(("127.0.0.1", int(place[1:])))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(bytes.fromhex(os.environ.pop(_SECRET)))
    return Channel(connection.detach())


def _accept(server: socket.socket, process: "subprocess.Popen[bytes]", secret: bytes) -> socket.socket:
    """Return the connection of a process that knows the secret; a closed one if the process ends before."""
    server.settimeout(0.1)
    while process.poll() is None:
        with suppress(OSError):
            connection, _ = server.accept()
            connection.settimeout(10)
            if hmac.compare_digest(connection.recv(_SECRET_BYTES, socket.MSG_WAITALL), secret):
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
            connection.close()
    ours, theirs = socket.socketpair()
    theirs.close()
    return ours
