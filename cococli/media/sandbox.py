"""The sandbox of reader processes: rights that they drop before they decode files, which may be malicious.

On Linux, Landlock refuses to write files and to start programs; a seccomp filter refuses this, too, and new sockets and
processes, signals to other processes, and calls that administer the machine. Each works where the other is missing.
Other systems only have the limits of memory and CPU time. Everything stays readable: files to read may be anywhere.
"""

import ctypes
import math
import os
import platform
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

MEMORY_LIMIT = 1_900_000_000  # bytes: several times what 8K takes; a malicious file must not fill the machine
# Bytes of addresses. Limits shared memory, which MEMORY_LIMIT does not count; libraries take 0.3 GB, and Pillow maps
# files of up to 1 GB.
ADDRESS_LIMIT = MEMORY_LIMIT + 2_200_000_000

_NO_NEW_PRIVILEGES = 38  # of prctl
_CREATE_RULESET, _RESTRICT_SELF = 444, 446  # system calls of Landlock, the same on all architectures
_READ = 1 << 2 | 1 << 3  # READ_FILE and READ_DIR, which stay allowed
_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}  # how many rights on files each version of Landlock knows

# System calls that are refused: numbers on x86-64 and, from the slash on, aarch64, which lacks some.
_REFUSED = {
    "network, and what would evade the filter": "socket 41/198 io_uring_setup 425/425",
    "programs and processes": """execve 59/221 execveat 322/281 fork 57/ vfork 58/ ptrace 101/117 kcmp 312/272
        process_vm_readv 310/270 process_vm_writev 311/271 process_madvise 440/440 kill 62/129 tkill 200/130
        rt_sigqueueinfo 129/138 rt_tgsigqueueinfo 297/240 pidfd_send_signal 424/424 pidfd_getfd 438/438""",
    "changes of files": """creat 85/ mkdir 83/ mkdirat 258/34 mknod 133/ mknodat 259/33 rename 82/ renameat 264/38
        renameat2 316/276 link 86/ linkat 265/37 symlink 88/ symlinkat 266/36 unlink 87/ unlinkat 263/35 rmdir 84/
        truncate 76/45 chmod 90/ fchmod 91/52 fchmodat 268/53 fchmodat2 452/452 chown 92/ fchown 93/55 lchown 94/
        fchownat 260/54 setxattr 188/5 lsetxattr 189/6 fsetxattr 190/7 removexattr 197/14 lremovexattr 198/15
        fremovexattr 199/16 utime 132/ utimes 235/ futimesat 261/ utimensat 280/88 open_by_handle_at 304/265""",
    "the machine, of which only root may change most": """bpf 321/280 perf_event_open 298/241 userfaultfd 323/282
        add_key 248/217 request_key 249/218 keyctl 250/219 unshare 272/97 setns 308/268 chroot 161/51 pivot_root 155/41
        mount 165/40 umount2 166/39 fsopen 430/430 open_tree 428/428 move_mount 429/429 init_module 175/105
        finit_module 313/273 delete_module 176/106 kexec_load 246/104 kexec_file_load 320/294 reboot 169/142
        settimeofday 164/170 clock_settime 227/112 clock_adjtime 305/266 adjtimex 159/171 personality 135/92 iopl 172/
        ioperm 173/""",
}
_OPEN, _CLONE, _TGKILL = "open 2/ openat 257/56", "clone 56/220", "tgkill 234/131"
# Their arguments are in memory, which a filter cannot see; libraries then use the calls that came before.
_TOO_NEW = "openat2 437/437 clone3 435/435"
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_NEW_THREAD = 0x10000  # CLONE_THREAD

_ALLOW, _REFUSE, _UNKNOWN = 0x7FFF0000, 0x00050001, 0x00050026  # SECCOMP_RET_ALLOW; _ERRNO with EPERM, ENOSYS
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of classic BPF
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


def enter(limit_files: bool = True) -> tuple[str, ...]:
    """Give up, for good, what a reader does not need, as far as the system can. Call it before other threads start.

    Args:
        limit_files: Whether not even open files may grow.

    Returns:
        What enforces that no file is written, no program started and no connection opened: `Landlock`, `seccomp`, both
        or nothing.
    """
    _limit_resources(limit_files)
    if sys.platform != "linux":
        return ()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        return ()
    return tuple(name for name, works in (("Landlock", _use_landlock(libc)), ("seccomp", _use_seccomp(libc))) if works)


def limit_cpu_time(seconds: float) -> None:
    """Let this process compute for so many more seconds; then the system ends it with SIGXCPU."""
    if sys.platform == "win32":
        return
    import resource

    with suppress(ValueError, OSError, OverflowError):
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        soft = math.ceil(time.process_time() + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _limit_resources(limit_files: bool) -> None:
    if sys.platform == "win32":
        return
    import resource

    limits = {"RLIMIT_DATA": MEMORY_LIMIT, "RLIMIT_CORE": 0}
    if sys.platform == "linux":
        limits["RLIMIT_AS"] = ADDRESS_LIMIT
    if limit_files:
        limits["RLIMIT_FSIZE"] = 0
    for name, limit in limits.items():
        with suppress(AttributeError, ValueError, OSError):  # ValueError: the limit is lower already
            resource.setrlimit(getattr(resource, name), (limit, limit))


def _use_landlock(libc: ctypes.CDLL) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    known = _RIGHTS[max(key for key in _RIGHTS if key <= version)]
    connect_or_bind, abstract_sockets_and_signals = 3 if version >= 4 else 0, 3 if version >= 6 else 0
    rules = struct.pack("=3Q", (1 << known) - 1 & ~_READ, connect_or_bind, abstract_sockets_and_signals)
    rules = rules[: 24 if version >= 6 else 16 if version >= 4 else 8]
    ruleset = libc.syscall(_CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        return False
    try:
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _use_seccomp(libc: ctypes.CDLL) -> bool:
    """Install a filter of system calls: the rest of this process, and all its threads, run under it."""
    column = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
    if column is None or struct.calcsize("P") != 8:
        return False
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _filter(column))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))

    set_seccomp, filter_mode = 22, 2
    given = Program(len(program) // 8, program)
    return bool(libc.prctl(set_seccomp, filter_mode, ctypes.byref(given), 0, 0) == 0)


def _filter(column: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield instructions of classic BPF: operation, how many to skip if true and if false, operand."""

    def refuse(calls: str, result: int = _REFUSE) -> Iterator[tuple[int, int, int, int]]:
        for number in _numbers(calls, column):
            yield _EQUAL, 0, 1, number
            yield _RETURN, 0, 0, result

    def check(calls: str, argument: int, test: int, value: int, refused: bool) -> Iterator[tuple[int, int, int, int]]:
        """Refuse calls for which a test of an argument has this result."""
        for number in _numbers(calls, column):
            yield _EQUAL, 0, 4, number
            # The lower half of the argument: both architectures are little-endian.
            yield _LOAD, 0, 0, _ARGUMENTS + 8 * (argument - (number == 2))
            yield test, 0, 1, value
            yield _RETURN, 0, 0, _REFUSE if refused else _ALLOW
            yield _RETURN, 0, 0, _ALLOW if refused else _REFUSE

    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _EQUAL, 1, 0, (0xC000003E, 0xC00000B7)[column]
    yield _RETURN, 0, 0, _REFUSE  # 32-bit calls have other numbers
    yield _LOAD, 0, 0, _NUMBER
    yield _AT_LEAST, 0, 1, 0x40000000  # as those of x32 have
    yield _RETURN, 0, 0, _REFUSE
    for calls in _REFUSED.values():
        yield from refuse(calls)
    yield from refuse(_TOO_NEW, _UNKNOWN)
    yield from check(_OPEN, 2, _ANY_BIT, _WRITING, refused=True)
    yield from check(_CLONE, 0, _ANY_BIT, _NEW_THREAD, refused=False)
    yield from check(_TGKILL, 0, _EQUAL, os.getpid(), refused=False)  # as abort() does
    yield _RETURN, 0, 0, _ALLOW


def _numbers(calls: str, column: int) -> list[int]:
    found = (call.split("/")[column] for call in calls.split()[1::2])
    return [int(number) for number in found if number]
