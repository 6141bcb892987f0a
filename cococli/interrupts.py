"""Ctrl-C, `kill` and a closed terminal as a KeyboardInterrupt, at a moment that libraries survive."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .portable import ENDING, HANG_UP

_SIGNALS = (signal.SIGINT, *ENDING)

_received: list[int] = []  # signals, in order
_held = False
_on_request: Callable[[], object] | None = None  # called at the first interrupt, which then only requests a stop


def catch() -> None:
    """Raise KeyboardInterrupt at Ctrl-C, a plain `kill` and the end of the terminal.

    MindSpore takes over Ctrl-C while it computes and turns it into SIGTERM, so the two must be one.
    """
    sys.unraisablehook = _on_unraisable
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def release() -> None:
    """Let signals end the process at once: the work is over, and a traceback would tell nothing."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def came() -> bool:
    """Return whether there was an interrupt. A library interrupted while loading may only say that it is broken."""
    return bool(_received)


def forget() -> None:
    """Treat an interrupt as handled: it was the usual end of what ran."""
    _received.clear()


def hung_up() -> bool:
    """Return whether the first interrupt was the end of the terminal."""
    return _received[:1] == [HANG_UP]


@contextmanager
def held() -> Iterator[None]:
    """Delay interrupts to the end of the block, in which a library would crash or a count go wrong."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
    if len(_received) > (1 if _on_request else 0):
        raise KeyboardInterrupt


@contextmanager
def graceful(on_request: Callable[[], object]) -> Iterator[None]:
    """Let the first interrupt of the block only request a stop, see `came`; the second raises KeyboardInterrupt.

    Args:
        on_request: Called at the first interrupt.
    """
    global _on_request
    outer, _on_request = _on_request, on_request
    try:
        yield
    finally:
        _on_request = outer


def _on_signal(number: int, frame: object) -> None:
    if number == HANG_UP and hung_up():
        return  # a closing terminal sends it twice: the kernel does, and then the shell
    _received.append(number)
    if _on_request and len(_received) == 1:
        _on_request()
    elif not _held:
        raise KeyboardInterrupt


def _on_unraisable(problem: "sys.UnraisableHookArgs") -> None:
    """Ignore an interrupt in a destructor, where Python prints it and continues."""
    if problem.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(problem)
