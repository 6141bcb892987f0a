"""Computation on several devices: a process with an engine for each, which take batches in turn.

Such a process is `python -m cococli.devices FD`, where FD is a socket to its parent.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from queue import Empty, SimpleQueue
from subprocess import Popen
from threading import Thread
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from .checkpoints.store import ModelFiles
from .engines.base import Engine
from .engines.choice import Choice, open_engine
from .engines.sizes import GPU_FRAMES, Sizes, free_memory
from .errors import CocaError
from .media.compute import Computer, FittingComputer
from .processes import Channel, parent_channel, start_process
from .reporting import Reporter

T = TypeVar("T")
MakeComputer = Callable[[Engine[Any]], Computer[Any]]  # a partial of a function at the top of a module

_PATIENCE = 0.005  # seconds to wait for results while there may be new frames


def spread(choice: Choice, clips: float) -> list[Choice]:
    """Return a choice for each device that a run uses: all GPUs, but none without a batch to compute.

    `COCA_DEVICES=cpu,cpu` names stand-ins for tests.

    Args:
        clips: Number of clips, or infinity if there may be many.
    """
    if stand_ins := os.environ.get("COCA_DEVICES"):
        names = stand_ins.split(",")
    elif choice.device == "cuda":
        import torch

        count = int(min(torch.cuda.device_count(), max(1, clips / GPU_FRAMES)))
        names = [f"cuda:{number}" for number in range(count)] if count > 1 else ["cuda"]
    else:
        return [choice]
    return [replace(choice, device=name, threads=max(1, choice.threads // len(names))) for name in names]


class _Clip(NamedTuple):
    """A clip that is not computed."""

    key: Any
    pixels: np.ndarray  # [F, S, S, 3] uint8
    seed: int


@dataclass(eq=False)
class _Process:
    """The process of one device."""

    device: str
    process: "Popen[bytes]"
    channel: Channel
    memory: float = 0.0  # bytes that the device has left
    clips: dict[int, _Clip] = field(default_factory=dict)  # that it computes, by number

    def fileno(self) -> int:
        return self.channel.fileno()


@contextmanager
def open_devices(model: ModelFiles, choices: Sequence[Choice], reporter: Reporter) -> "Iterator[Devices[Any]]":
    """Load a model on several devices, for the block.

    Raises:
        ModelError: The weights are damaged.
        CocaError: The model could be loaded on none of them.
    """
    devices: Devices[Any] = Devices(reporter)
    try:
        for note in filter(None, (choices[0].note, model.note)):
            reporter.note(note)
        with reporter.progress(f"loading {model.name} on {len(choices)} devices"):
            devices.start(model, choices)
        yield devices
    finally:
        devices.close()


class Devices(Generic[T]):
    """Processes of several devices. Implements `media.compute.Computer`.

    When one of them ends, the others compute its clips.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._processes: list[_Process] = []
        self._capacity = 1  # clips that a device has at most, those in its queue included
        self._waiting: deque[_Clip] = deque()
        self._batch = 1
        self._count = 0

    def start(self, model: ModelFiles, choices: Sequence[Choice]) -> None:
        """Start a process for each choice, and wait until each has loaded the model."""
        for choice in choices:
            self._processes.append(_Process(choice.device, *start_process("cococli.devices")))
            self._send(self._processes[-1], (model, choice))
        for process in list(self._processes):
            if (memory := self._receive(process)) is not None:
                process.memory = memory

    def close(self) -> None:
        """End all processes."""
        for process in self._processes:
            process.process.kill()
        for process in self._processes:
            process.process.wait()
            process.channel.close()
        self._processes.clear()

    @property
    def memory(self) -> float:
        """Memory that each device has left, in bytes."""
        return min(process.memory for process in self._processes)

    def prepare(self, make: MakeComputer, sizes: Sizes) -> "Devices[T]":
        """Say what to compute, before any clip is submitted."""
        self._batch, self._capacity = sizes.batch, sizes.batch + sizes.slots
        for process in list(self._processes):
            self._send(process, make)
        return self

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or any(process.clips for process in self._processes)

    def submit(self, keys: Sequence[Any], pixels: np.ndarray, seeds: list[int]) -> None:
        self._waiting += map(_Clip, keys, pixels, seeds)
        self._distribute()

    def step(self) -> dict[Any, T]:
        """Wait for results; only for a moment if devices are free for more clips."""
        values: dict[Any, T] = {}
        for process in wait(self._processes, None if self._waiting else _PATIENCE):  # type: ignore[arg-type]
            message = self._receive(process)  # type: ignore[arg-type]
            if isinstance(message, str):
                self._reporter.note(f"{process.device}: {message}")  # type: ignore[union-attr]
            elif message:
                values |= {process.clips.pop(number).key: value for number, value in message.items()}  # type: ignore
        self._distribute()
        return values

    def shrink(self) -> int:
        return 0  # each process does so itself

    def _distribute(self) -> None:
        """Send batches of waiting clips to the devices with the fewest clips, as long as these have room."""
        while self._waiting:
            process = min(self._processes, key=lambda process: len(process.clips))
            frames = len(self._waiting[0].pixels)
            if process.clips and len(process.clips) + self._batch > self._capacity:
                return
            clips: dict[int, _Clip] = {}
            while self._waiting and len(clips) < self._batch and len(self._waiting[0].pixels) == frames:
                self._count += 1
                clips[self._count] = self._waiting.popleft()
            process.clips |= clips
            pixels = np.stack([clip.pixels for clip in clips.values()])
            self._send(process, ([*clips], pixels, [clip.seed for clip in clips.values()]))

    def _send(self, process: _Process, message: object) -> None:
        try:
            process.channel.send(message)
        except OSError:
            self._lose(process)

    def _receive(self, process: _Process) -> Any:
        """Return the next message of a process; None if it has ended."""
        try:
            message = process.channel.receive()
        except (EOFError, OSError):
            self._lose(process)
            return None
        if isinstance(message, CocaError):
            raise message
        return message

    def _lose(self, process: _Process) -> None:
        """Let the other devices compute the clips of a process that has ended."""
        if process not in self._processes:
            return
        self._processes.remove(process)
        process.process.kill()
        process.channel.close()
        why = f"{process.device}: its process ended with exit code {process.process.wait()}"
        if not self._processes:
            raise CocaError(why, "COCA_DEBUG=1 shows why")
        self._reporter.warning(f"{why}; the other devices compute its clips")
        self._waiting.extendleft(reversed(process.clips.values()))


def main() -> None:
    """Load an engine, and compute batches on it until the parent is gone."""
    parent = parent_channel()
    messages: SimpleQueue[Any] = SimpleQueue()
    Thread(target=_receive, args=(parent, messages), daemon=True).start()
    try:
        model, choice = messages.get()
        engine = open_engine(model, choice)
        parent.send(free_memory(choice.device))
        computer: Computer[Any] = FittingComputer(messages.get()(engine), parent.send)
        while True:
            for batch in _new(messages, block=not computer.busy):
                computer.submit(*batch)
            if values := computer.step():
                parent.send(values)
    except CocaError as error:
        parent.send(error)


def _receive(parent: Channel, messages: "SimpleQueue[Any]") -> None:
    """Receive messages until the parent is gone; then end, even while the engine computes."""
    try:
        while True:
            messages.put(parent.receive())
    except (EOFError, OSError):
        os._exit(0)


def _new(messages: "SimpleQueue[Any]", block: bool) -> Iterator[Any]:
    """Yield the messages that are there, at least one if `block`."""
    try:
        while True:
            yield messages.get(block)
            block = False
    except Empty:
        return


if __name__ == "__main__":
    main()
