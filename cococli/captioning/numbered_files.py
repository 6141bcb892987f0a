"""Numbered files of an output, each with the results of as many consecutive inputs, as `shards/%06d.tar`."""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import InitVar, dataclass
from pathlib import Path

from ..errors import UsageError
from ..journal import Task
from ..shards import MANIFEST_SUFFIX
from ..stores import version_of
from ..urls import RemotePath
from .records import Outcome

SHARD_SIZE = 10_000  # inputs

NUMBER = re.compile(r"%0?[0-9]{0,2}d")


def check_number(output: Path) -> None:
    """Raise a UsageError if a name has several numbers."""
    if len(NUMBER.findall(output.name)) > 1:
        raise UsageError(f"{output} has several numbers", "write it as in shards/%06d.tar")


def shard_paths(output: Path, inputs: int, size: int) -> list[Path]:
    """Return the shards of a name as `shards/%06d.tar`; one without a number is a single tar."""
    if not NUMBER.search(output.name):
        return [output]
    return [output.with_name(numbered_name(output, index)) for index in range(-(-inputs // size))]


def numbered_name(output: Path, index: int) -> str:
    """Return the name of one of the numbered files of an output."""
    return NUMBER.sub(lambda number: number[0] % index, output.name)


def shard_manifest(output: Path) -> Path:
    """Return what declares the numbered files of `--shard` complete: `manifest-00003-of-00016.tar.shard`."""
    return output.with_name(NUMBER.sub("manifest", output.name) + MANIFEST_SUFFIX)


def size_of(path: Path) -> int:
    """Return the size of a file in bytes; -1 if there is none."""
    if isinstance(path, RemotePath):
        return int((version_of(path.url) or "-1").split()[0])
    with suppress(OSError, ValueError):
        return path.stat().st_size
    return -1


def surplus_shards(output: Path, count: int) -> list[Path]:
    """Return the existing shards with numbers from `count` on, which a run with fewer inputs leaves; none in stores."""
    if not (number := NUMBER.search(output.name)) or isinstance(output, RemotePath):
        return []
    before, after = output.name[: number.start()], output.name[number.end() :]
    named = re.compile(f"{re.escape(before)}([0-9]{{1,18}}){re.escape(after)}")
    matches = [(path, match) for path in output.parent.iterdir() if (match := named.fullmatch(path.name))]
    return sorted(path for path, match in matches if int(match[1]) >= count and number[0] % int(match[1]) == match[1])


@dataclass(eq=False)
class NumberedFiles(ABC):
    """The numbered files of an output. Each is written in a thread, once all of its inputs are done.

    Attributes:
        size: Inputs of a file.
        done: Whether nothing is left to compute for each task.
        outcomes: Records of the tasks that are done, which may grow.
    """

    output: Path
    tasks: Sequence[Task]
    size: int
    done: InitVar[Sequence[int]]
    outcomes: Mapping[str, list[Outcome]]

    def __post_init__(self, done: Sequence[int]) -> None:
        count = len(self.tasks)
        self.size = self.size if NUMBER.search(self.output.name) else max(count, 1)
        self.paths = shard_paths(self.output, count, self.size)
        self._left = [sum(not one for one in done[start : start + self.size]) for start in range(0, count, self.size)]
        self._pool = ThreadPoolExecutor(1, "shards")
        self._written: dict[int, Future[None]] = {}

    def take(self, place: int) -> None:
        """Start to write the file of a task if the task was the last one of it.

        Args:
            place: Index of the task.

        Raises:
            CocaError: An earlier file could not be written.
        """
        index = place // self.size
        self._left[index] -= 1
        if self._left[index] == 0:
            self._written[index] = self._pool.submit(self._write, index)
        for written in [written for written in self._written.values() if written.done()]:
            written.result()

    def finish(self) -> None:
        """Write complete files that differ from the existing ones, and wait for those being written.

        Raises:
            CocaError: One cannot be written.
        """
        for index, left in enumerate(self._left):
            if not left and index not in self._written and not self.is_current(index):
                self._written[index] = self._pool.submit(self._write, index)
        for written in self._written.values():
            written.result()
        self._pool.shutdown()

    def part(self, index: int) -> Sequence[Task]:
        """Return the tasks of a file."""
        return self.tasks[index * self.size : (index + 1) * self.size]

    @abstractmethod
    def is_current(self, index: int) -> bool:
        """Return whether a file is complete and exists with the content that it should have."""

    @abstractmethod
    def _write(self, index: int) -> None:
        """Write a file.

        Raises:
            CocaError: It cannot be written.
        """
