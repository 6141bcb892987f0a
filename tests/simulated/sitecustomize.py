"""Make coca see another system than Linux, as far as that can be simulated; other packages see the real one.

COCA_SIMULATE is `windows` or `darwin`. Modules of coca then import modules that lack what that system lacks. On
Windows, in addition, files that are open can neither be moved nor removed, processes inherit no descriptors, and locks
are those of msvcrt. On both, there is no /proc.
"""

import builtins
import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import types
from typing import Any

SYSTEM = os.environ["COCA_SIMULATE"]
PLATFORM = {"windows": "win32", "darwin": "darwin"}[SYSTEM]
LINUX_ONLY = {"os": ["sched_getaffinity", "sched_setaffinity"]}
POSIX_ONLY = {
    "os": [
        *("fork", "forkpty", "fchmod", "fchown", "pread", "pwrite", "uname", "sysconf", "getuid", "geteuid", "killpg"),
        *(
            "setsid",
            "getpgid",
            "setpgid",
            "mkfifo",
            "O_NOFOLLOW",
            "O_NONBLOCK",
            "O_DIRECTORY",
            "statvfs",
            "sync",
            "wait",
        ),
        *("WNOHANG", "getloadavg", "nice", "posix_fallocate", "posix_fadvise", "sendfile", "copy_file_range"),
    ],
    "signal": [
        "SIGHUP",
        "SIGKILL",
        "SIGXCPU",
        "SIGPIPE",
        "SIGCHLD",
        "SIGALRM",
        "alarm",
        "pthread_sigmask",
        "SIG_BLOCK",
    ],
    "socket": ["AF_UNIX"],
}
MISSING_MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}


class Seen(types.ModuleType):
    """A module without some of its names, and with others in place of its own."""

    def __init__(self, real: types.ModuleType, missing: list[str], changed: dict[str, Any]) -> None:
        self.__dict__.update(_real=real, _missing=frozenset(missing), _changed=changed)

    def __getattr__(self, name: str) -> Any:
        if name in self._missing:
            raise AttributeError(f"{SYSTEM} has no {self._real.__name__}.{name}")
        return self._changed[name] if name in self._changed else getattr(self._real, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._real, name, value)


class Socket(socket.socket):
    """A socket that cannot send several buffers at once."""

    sendmsg = recvmsg = recvmsg_into = property(lambda self: self._lacks())  # type: ignore[assignment]

    def _lacks(self) -> None:
        raise AttributeError("Windows has no such method")


class Popen(subprocess.Popen):  # type: ignore[type-arg]
    """Starts a process that inherits no descriptors."""

    def __init__(self, *arguments: Any, creationflags: int = 0, **options: Any) -> None:
        unknown = options.keys() & {"pass_fds", "process_group", "preexec_fn", "start_new_session", "user", "umask"}
        if unknown:
            raise ValueError(f"not supported on Windows: {unknown}")
        super().__init__(*arguments, **options)


def locking(descriptor: int, mode: int, size: int) -> None:
    """Lock an open file, of which msvcrt would lock some bytes."""
    import fcntl

    assert size == 1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if mode == msvcrt.LK_LOCK else fcntl.LOCK_NB))
    except BlockingIOError:
        raise PermissionError(13, "Permission denied") from None


msvcrt = types.ModuleType("msvcrt")
msvcrt.__dict__.update(locking=locking, LK_LOCK=1, LK_NBLCK=2, LK_UNLCK=0)


class Ctypes(Seen):
    def CDLL(self, name: str | None, **options: Any) -> Any:
        if name is None:
            raise TypeError("on Windows, a library has a name")
        return self._real.CDLL(name, **options)


seen = {"sys": Seen(sys, [], {"platform": PLATFORM}), "os": Seen(os, LINUX_ONLY["os"], {})}
if SYSTEM == "windows":
    seen |= {
        "os": Seen(os, LINUX_ONLY["os"] + POSIX_ONLY["os"], {"name": "nt"}),
        "signal": Seen(signal, POSIX_ONLY["signal"], {}),
        "socket": Seen(socket, POSIX_ONLY["socket"], {"socket": Socket}),
        "subprocess": Seen(subprocess, [], {"Popen": Popen, "CREATE_NEW_PROCESS_GROUP": 0x200}),
        "msvcrt": msvcrt,
    }
real_import = builtins.__import__


def import_seen(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
    if level == 0 and str((globals or {}).get("__package__") or "").partition(".")[0] == "cococli":
        if SYSTEM == "windows" and name in MISSING_MODULES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name == "ctypes" and SYSTEM == "windows":
            return Ctypes(real_import(name), [], {})
        if name in seen:
            return seen[name]
    return real_import(name, globals, locals, fromlist, level)


builtins.__import__ = import_seen


def by_coca() -> bool:
    """Return whether a module of coca called the function that calls this one, perhaps through the standard library."""
    frame = sys._getframe(2)
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in ("pathlib", "shutil", "contextlib", "os"):
        frame = frame.f_back  # type: ignore[assignment]
    return str(frame.f_globals.get("__package__") or "").partition(".")[0] == "cococli"


def on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and str(arguments[0]).startswith(("/proc/", "/sys/")) and by_coca():
        raise FileNotFoundError(2, "No such file or directory", arguments[0])
    if SYSTEM == "windows" and event in ("os.rename", "os.remove") and by_coca():
        for path in arguments[:2] if event == "os.rename" else arguments[:1]:
            if is_open(path):
                raise PermissionError(13, "The process cannot access the file because it is being used", str(path))


def is_open(path: Any) -> bool:
    """Return whether this process has a file open."""
    for entry in pathlib.Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if entry.samefile(path):
                return True
    return False


sys.addaudithook(on_event)
