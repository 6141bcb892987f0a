"""The processes of a cluster: tasks read clips, and actors compute them. Rows of Ray Data are pickled objects."""

import os
import pickle
import platform
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..checkpoints.store import ModelFiles, find_model
from ..engines.base import Engine
from ..engines.choice import open_engine, resolve_options
from ..engines.sizes import Sizes
from ..errors import CocaError, ModelError
from ..files import container_of
from ..media.clips import Clip, ReadRequest
from ..media.compute import Computer, FittingComputer, clip_seed
from ..media.pool import ClipRead, NotReady, VideoFailed, VideoRead, VideoReader
from ..options import ModelOptions
from ..urls import RemotePath

MakeComputer = Callable[[Engine[Any], Sizes], Computer[Any]]  # can be pickled
ChooseSizes = Callable[..., Sizes]  # of a choice


@dataclass(frozen=True, slots=True)
class Item:
    """A clip, or a video without any."""

    video: int  # its index
    index: int  # of the clip in its video
    seed: int
    clip: Clip | None
    content: Any  # pixels [F, S, S, 3] uint8, and once computed the value
    end: VideoRead | VideoFailed | None  # after the last clip of the video
    reader: str
    seconds: float  # that reading took
    missing: str = ""  # name of the node if the file is not there


class Batch(NamedTuple):
    """Results of an actor for a batch of clips."""

    items: list[Item]
    engine: str
    seconds: float
    notes: tuple[str, ...]
    error: CocaError | None = None


def to_rows(values: Sequence[Any]) -> Any:
    """Return a table with a row for each value."""
    import pyarrow

    pickled = [pickle.dumps(value, protocol=5) for value in values]
    return pyarrow.table({"row": pyarrow.array(pickled, pyarrow.large_binary())})


def from_rows(table: Any) -> list[Any]:
    return [pickle.loads(row.as_buffer()) for row in table["row"]]


def pack_videos(start: int, paths: Sequence[Path]) -> bytes:
    """Return a row for the videos from a number on. Their paths have much in common: compressed, a tenth is left."""
    return pickle.dumps((start, zlib.compress(pickle.dumps([*paths]), 1)))


def unpack_videos(table: Any) -> Iterator[tuple[int, Path]]:
    """Yield the numbers and paths of the videos of such rows."""
    for start, packed in from_rows(table):
        yield from enumerate(pickle.loads(zlib.decompress(packed)), start)


def _identity() -> str:
    return f"{platform.node()}:{os.getpid()}"


@cache
def _reader() -> VideoReader:
    """Return the reader of this process, which tasks share."""
    return VideoReader()


def _enter(folder: str) -> None:
    """Let relative paths lead where they lead for the command, if this machine has its working folder."""
    with suppress(OSError):
        os.chdir(folder)


def read_task(table: Any, request: ReadRequest, folder: str) -> Iterator[Any]:
    """Read the clips of some videos. A task of Ray Data.

    Args:
        folder: Working folder of the command.
    """
    _enter(folder)
    for number, path in unpack_videos(table):
        for item in _read_video(number, path, request):
            yield to_rows([item])


def _read_video(number: int, path: Path, request: ReadRequest) -> Iterator[Item]:
    held: ClipRead | None = None  # until it is known whether it is the last
    started = time.perf_counter()
    for count, event in enumerate(_reader().read(number, path, request)):
        last = None if isinstance(event, ClipRead | NotReady) else event
        if held or last:
            clip, pixels = (held.clip, held.pixels) if held else (None, None)
            seed, seconds = clip_seed(path, count - 1), time.perf_counter() - started
            missing = "" if clip or is_here(path) else platform.node()
            yield Item(number, count - 1, seed, clip, pixels, last, _identity(), seconds, missing)
            started = time.perf_counter()
        held = event if isinstance(event, ClipRead) else None


def is_here(path: Path) -> bool:
    """Return whether a file is on this machine, as far as it should be."""
    return isinstance(path, RemotePath) or container_of(path).exists()


class Actor:
    """A process with the model."""

    def __init__(
        self, model: ModelFiles, options: ModelOptions, choose_sizes: ChooseSizes, make: MakeComputer, folder: str
    ) -> None:
        _enter(folder)
        self._notes: list[str] = []
        self._error: CocaError | None = None
        try:
            model = _here(model)
            choice = resolve_options(options, model.config)
            self._notes += filter(None, (choice.note, model.note))
            engine = open_engine(model, choice)
            self._sizes = choose_sizes(choice=choice)
            self._computer: Computer[Any] = FittingComputer(make(engine, self._sizes), self._notes.append)
        except CocaError as error:  # as a value: an actor that fails to start would be started again
            self._error = error

    def __call__(self, table: Any) -> Any:
        started = time.perf_counter()
        items: list[Item] = from_rows(table)
        if self._error:
            return to_rows([Batch([], _identity(), 0.0, (), self._error)])
        try:
            values = self._compute([item for item in items if item.clip])
        except CocaError as error:
            return to_rows([Batch([], _identity(), 0.0, (), error)])
        items = [replace(item, content=values.get((item.video, item.index))) for item in items]
        notes, self._notes[:] = tuple(self._notes), ()
        return to_rows([Batch(items, _identity(), time.perf_counter() - started, notes)])

    def _compute(self, items: list[Item]) -> dict[tuple[int, int], Any]:
        computer = self._computer
        values: dict[tuple[int, int], Any] = {}
        for batch in _alike(items, self._sizes.batch):
            keys = [(item.video, item.index) for item in batch]
            computer.submit(keys, np.stack([item.content for item in batch]), [item.seed for item in batch])
            values |= computer.step()
            while computer.queued:
                values |= computer.step()
        while computer.busy:
            values |= computer.step()
        return values


def _alike(items: list[Item], size: int) -> Iterator[list[Item]]:
    """Yield batches of clips with equally many frames."""
    groups: dict[int, list[Item]] = {}
    for item in items:
        groups.setdefault(len(item.content), []).append(item)
    for group in groups.values():
        yield from (group[start : start + size] for start in range(0, len(group), size))


def _here(model: ModelFiles) -> ModelFiles:
    """Return the files of a model on this machine: at the same path, or in its own cache.

    Raises:
        ModelError: They are not here, or are others.
    """
    if model.weights.exists():
        return model
    found = find_model(model.name)
    if found.identity != model.identity:
        raise ModelError(f"{model.name} on {platform.node()} is another one than here", "fetch it there again")
    return found
