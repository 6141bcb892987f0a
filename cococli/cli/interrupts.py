"""Ctrl-C and `kill` as a KeyboardInterrupt, at a moment that libraries survive."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

_caught: list[int] = []  # signals that came
_holding = False


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
    if _caught:
        raise KeyboardInterrupt


def _on_signal(number: int, frame: object) -> None:
    _caught.append(number)
    if not _holding:
        raise KeyboardInterrupt
