"""Ctrl-C, `kill` and a closed terminal as a KeyboardInterrupt, at a moment that libraries survive."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_caught: list[int] = []  # signals that came
_holding = False
_once: Callable[[], object] | None = None  # called at the first interrupt, which then only asks to stop


def catch() -> None:
    """Make Ctrl-C, a plain `kill` and a closed terminal a KeyboardInterrupt.

    MindSpore takes over Ctrl-C while it computes and turns it into SIGTERM, so the two must be one.
    """
    sys.unraisablehook = _on_unraisable
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and background jobs have it
            signal.signal(number, _on_signal)


def release() -> None:
    """Let signals end the process on the spot: the work is over, and a traceback would tell nothing."""
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def came() -> bool:
    """Whether there was an interrupt. A library that was interrupted as it loaded may only say that it is broken."""
    return bool(_caught)


def hung_up() -> bool:
    """Whether the first interrupt was the end of the terminal."""
    return _caught[:1] == [signal.SIGHUP]


@contextmanager
def held() -> Iterator[None]:
    """Put an interrupt off to the end of the block: where a library would crash of it, or a count go wrong."""
    global _holding
    _holding = True
    try:
        yield
    finally:
        _holding = False
    if len(_caught) > (1 if _once else 0):
        raise KeyboardInterrupt


@contextmanager
def patiently(told: Callable[[], object]) -> Iterator[Callable[[], bool]]:
    """Let the first interrupt only ask to stop; a second one is a KeyboardInterrupt.

    Args:
        told: Called at the first interrupt.

    Yields:
        A function that tells whether to stop.
    """
    global _once
    _once = told
    try:
        yield came
    finally:
        _once = None


def _on_signal(number: int, frame: object) -> None:
    if number == signal.SIGHUP and hung_up():
        return  # a closing terminal sends it twice: the kernel does, and then the shell
    _caught.append(number)
    if _once and len(_caught) == 1:
        _once()
    elif not _holding:
        raise KeyboardInterrupt


def _on_unraisable(problem: "sys.UnraisableHookArgs") -> None:
    """Say nothing of an interrupt that came in a destructor, where Python prints it and goes on."""
    if problem.exc_type is not KeyboardInterrupt:
        sys.__unraisablehook__(problem)
