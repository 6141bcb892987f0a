"""Names of models, and their locks: one process at a time adds or removes a model.

The system frees a lock when its process ends.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .. import settings
from ..catalog import MODELS
from ..errors import ModelError, UsageError
from ..files import os_reason
from ..reporting import SILENT, Reporter

if TYPE_CHECKING:
    from filelock import BaseFileLock

_MAX_LENGTH = 150  # characters of a name; a tar header has room for 155
_NAME = re.compile(rf"[A-Za-z0-9_@+][A-Za-z0-9_@+.-]{{0,{_MAX_LENGTH - 1}}}")


def is_name(name: str) -> bool:
    """Return whether a model in the cache may have this name."""
    return bool(_NAME.fullmatch(name)) and not (name in MODELS and MODELS[name].bundled)


def check_name(name: str) -> None:
    """Raise a UsageError for a name that no model in the cache may have."""
    if name in MODELS and MODELS[name].bundled:
        raise UsageError(f"the model {name} comes with the program and is not in the cache")
    if not is_name(name):
        allowed = f"use at most {_MAX_LENGTH} letters, digits and ._-@+; a dot or dash cannot come first"
        raise UsageError(f"{name!r} is not a valid model name", allowed)


@contextmanager
def locked(name: str, reporter: Reporter = SILENT) -> Iterator[None]:
    """Hold the lock of a model, which need not exist, while other processes wait. Its holder may take it again.

    Raises:
        UsageError: The name is not valid.
        ModelError: The cache cannot be written.
    """
    check_name(name)
    with writing():
        lock = _lock(name)
        acquire(lock, lambda: reporter.note(f"waiting for another process that adds or removes {name}"))
    try:
        yield
    finally:
        lock.release()


def acquire(lock: "BaseFileLock", waiting: Callable[[], object]) -> None:
    """Take a lock; `waiting` is called once if another process holds it."""
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting()
        lock.acquire()


@contextmanager
def free(name: str) -> Iterator[bool]:
    """Hold the lock of a model if it is free, also in this process. Yield whether it was."""
    from filelock import Timeout

    lock = _lock(name)
    taken = False
    if not lock.is_locked:
        with suppress(Timeout):
            lock.acquire(blocking=False)
            taken = True
    try:
        yield taken
    finally:
        if taken:
            lock.release()


@contextmanager
def writing() -> Iterator[None]:
    """Report that the cache cannot be written. The block must not read what may be unreadable.

    Raises:
        ModelError: An OSError came out of the block.
    """
    try:
        yield
    except OSError as error:
        hint = "set COCA_HOME to another folder"
        raise ModelError(f"cannot write to {settings.home()}: {os_reason(error)}", hint) from None


def _lock(name: str) -> "BaseFileLock":
    """Return the lock of a name. Its file is kept, as removing it would not be safe."""
    from filelock import FileLock

    folder = settings.home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock", is_singleton=True)  # one per thread, which may take it again
