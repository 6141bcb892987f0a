"""A reporter that passes updates of progress to a function."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cococli.reporting import Progress, Reporter


class OnUpdate(Reporter):
    """Calls a function with the description, what is done and the total; keeps notes."""

    def __init__(self, call: Callable[[str, int, int | None], object] = lambda *_: None) -> None:
        self.notes: list[str] = []
        self._call = call

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def progress(self, description: str, total: int | None = None, **_: Any) -> Iterator[Progress]:
        yield _Stage(lambda done: self._call(description, done, total))


class _Stage(Progress):
    def __init__(self, call: Callable[[int], object]) -> None:
        self._call = call

    def update(self, done: int, total: int | None = None, detail: str = "") -> None:
        self._call(done)
