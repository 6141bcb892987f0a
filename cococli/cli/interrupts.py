"""Ctrl-C and `kill` as a KeyboardInterrupt, at a moment that libraries survive."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_caught: list[int] = []  # signals that came
_holding = False
_once: Callable[[], object] | None = None  # called at the first interrupt, which then only asks to stop


def catch() -> None:
    """Make Ctrl-C and a plain `kill` a KeyboardInterrupt.

    MindSpore takes over Ctrl-C while it computes and turns it into SIGTERM, so the two must be one.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup and background jobs have it
            signal.signal(number, _on_signal)


def came() -> bool:
    """Whether there was an interrupt. A library that was interrupted as it loaded may only say that it is broken."""
    return bool(_caught)


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
    _caught.append(number)
    if _once and len(_caught) == 1:
        _once()
    elif not _holding:
        raise KeyboardInterrupt
