"""Names of models in the cache, and which process works on which: the system frees a lock when its process ends."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .. import settings
from ..catalog import MODELS
from ..errors import ModelError, UsageError

if TYPE_CHECKING:
    from filelock import BaseFileLock

_LONGEST = 150  # characters of a name; a tar's header has room for 155
_NAME = re.compile(rf"[A-Za-z0-9_@+][A-Za-z0-9_@+.-]{{0,{_LONGEST - 1}}}")


def is_name(name: str) -> bool:
    """Whether a model in the cache can be called so."""
    return bool(_NAME.fullmatch(name)) and not (name in MODELS and MODELS[name].bundled)


def check_name(name: str) -> None:
    """Raise a UsageError for what no model in the cache can be called."""
    if name in MODELS and MODELS[name].bundled:
        raise UsageError(f"the model {name} comes with the program and is not in the cache")
    if not is_name(name):
        allowed = f"at most {_LONGEST} letters, digits and ._-@+, the first no dot or dash"
        raise UsageError(f"{name!r} cannot be the name of a model", allowed)


@contextmanager
def locked(name: str, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Hold the name of a model: any other process that adds or removes it waits. Its holder may take it again.

    Args:
        name: Of a model that may not be there yet.
        waiting: Called once if another process holds the name.

    Raises:
        UsageError: no model can be called so.
        ModelError: the cache cannot be written to.
    """
    check_name(name)
    with writing():
        lock = _lock(name)
        acquire(lock, waiting)
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
    """Hold a name if nobody does, this process included; tell whether that is so."""
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
    """Tell what to do where the cache cannot be written to."""
    try:
        yield
    except OSError as error:
        hint = "set COCA_HOME to another folder"
        raise ModelError(f"cannot write to {settings.home()}: {error.strerror}", hint) from None


def _lock(name: str) -> "BaseFileLock":
    """The lock of a name, whose file stays when nobody holds it: to remove it is not safe."""
    from filelock import FileLock

    folder = settings.home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{name}.lock", is_singleton=True)  # one for a whole thread, who may take it again
