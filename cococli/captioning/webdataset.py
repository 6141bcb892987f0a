"""WebDataset shards of captions: tars of pictures and videos with their captions, records and embeddings.

A shard holds the samples of as many consecutive inputs, and is written once all of them are done. A comment in its
header identifies its content, so that a later run writes only the shards that would differ.
"""

import io
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UsageError
from ..files import digest, io_errors, open_binary, sample_key
from ..journal import Task, dump
from ..media.discover import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..media.remote import local_copy
from ..media.tars import open_tar
from ..overwrite import write_output
from ..urls import RemotePath
from .records import Outcome, Record

SHARD_SIZE = 10_000  # samples

NUMBER = re.compile(r"%0?[0-9]{0,2}d")


def check_shards(output: Path) -> None:
    """Raise a UsageError if a name has several numbers."""
    if len(NUMBER.findall(output.name)) > 1:
        raise UsageError(f"{output} has several numbers", "write it as in shards/%06d.tar")


def shard_paths(output: Path, inputs: int, size: int) -> list[Path]:
    """Return the shards of a name as `shards/%06d.tar`; one without a number is a single tar."""
    if not (number := NUMBER.search(output.name)):
        return [output]
    before, after = output.name[: number.start()], output.name[number.end() :]
    return [output.with_name(f"{before}{number[0] % index}{after}") for index in range(-(-inputs // size))]


def surplus_shards(output: Path, count: int) -> list[Path]:
    """Return the existing shards from this number on, apart from those in stores: a run with `count` has no such."""
    if not (number := NUMBER.search(output.name)) or isinstance(output, RemotePath):
        return []
    before, after = output.name[: number.start()], output.name[number.end() :]
    named = re.compile(f"{re.escape(before)}([0-9]{{1,18}}){re.escape(after)}")
    matches = [(path, match) for path in output.parent.iterdir() if (match := named.fullmatch(path.name))]
    return sorted(path for path, match in matches if int(match[1]) >= count and number[0] % int(match[1]) == match[1])


class Shards:
    """The shards of an output.

    Args:
        size: Inputs of a shard.
        done: Names of tasks for which nothing is left to compute.
        outcomes: Records of the tasks that are done, which may grow.
        vectors: Returns the embeddings [K, D] of the K records of a task.
    """

    def __init__(
        self,
        output: Path,
        tasks: Sequence[Task],
        size: int,
        done: Container[str],
        outcomes: Mapping[str, list[Outcome]],
        vectors: Callable[[str], np.ndarray],
    ) -> None:
        size = size if NUMBER.search(output.name) else max(len(tasks), 1)
        self.paths = shard_paths(output, len(tasks), size)
        self._parts = [tasks[start : start + size] for start in range(0, len(tasks), size)]
        self._part_of = {task.name: index // size for index, task in enumerate(tasks)}
        self._keys = _sample_keys(tasks)
        self._outcomes, self._vectors = outcomes, vectors
        self._left = [sum(task.name not in done for task in part) for part in self._parts]
        self._pool = ThreadPoolExecutor(1, "shards")
        self._written: dict[int, Future[None]] = {}

    def take(self, name: str) -> None:
        """Start to write the shard of a task, in a thread, if the task was the last one of it.

        Raises:
            CocaError: An earlier shard could not be written.
        """
        index = self._part_of[name]
        self._left[index] -= 1
        if self._left[index] == 0:
            self._written[index] = self._pool.submit(self._write, index)
        for written in [written for written in self._written.values() if written.done()]:
            written.result()

    def finish(self) -> None:
        """Write complete shards that differ from the existing ones, and wait for those being written.

        Raises:
            CocaError: One cannot be written.
        """
        for index, left in enumerate(self._left):
            if not left and index not in self._written and not self.is_current(index):
                self._written[index] = self._pool.submit(self._write, index)
        for written in self._written.values():
            written.result()
        self._pool.shutdown()

    def is_current(self, index: int) -> bool:
        """Return whether a shard is complete and exists with the content that it should have."""
        with suppress(OSError, tarfile.TarError):
            if not self._left[index]:
                with open_tar(self.paths[index]) as (file, _), tarfile.open(fileobj=file, mode="r:") as tar:
                    expected = self._headers(index)
                    return tar.pax_headers == expected if expected else tar.next() is None
        return False

    def _samples(self, index: int) -> list[tuple[Task, list[Record]]]:
        """Return the tasks of a shard that did not fail, and their records."""
        found = ((task, self._outcomes[task.name]) for task in self._parts[index])
        samples = ((task, [one for one in outcomes if isinstance(one, Record)]) for task, outcomes in found)
        return [(task, records) for task, records in samples if records]

    def _headers(self, index: int) -> dict[str, str]:
        """Return what identifies the content of a shard; nothing for an empty one, where readers expect no header."""
        described = "\n".join(f"{self._keys[task.name]} {task.name} {task.key}" for task, _ in self._samples(index))
        return {"comment": f"coca {digest(described)}"} if described else {}

    def _write(self, index: int) -> None:
        path = self.paths[index]
        with io_errors("write", path), write_output(path) as (file,):
            headers = self._headers(index)
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
                for task, records in self._samples(index):
                    with local_copy(task.path) as source:
                        _add(tar, self._keys[task.name], source, records, self._vectors(task.name))
                    tar.members.clear()  # type: ignore[attr-defined]  # headers of what is written fill the memory


def _sample_keys(tasks: Sequence[Task]) -> dict[str, str]:
    """Return WebDataset's key of each task: that in its tar, or the file's name; with a hash if several share it."""
    keys = {task.name: sample_key(task.name) or Path(task.name).stem.replace(".", "_").lstrip("_") for task in tasks}
    counts = Counter(keys.values())
    return {name: key if key and counts[key] == 1 else f"{key}-{digest(name, 8)}" for name, key in keys.items()}


def _add(tar: tarfile.TarFile, key: str, source: Path, records: Sequence[Record], vectors: np.ndarray) -> None:
    """Add a sample. A video of several segments has a line of text, an object and a vector for each."""
    suffix = source.suffix.lower()
    if suffix not in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
        suffix = ".mp4" if records[0].end else ".jpg"
    with io_errors("read", source), open_binary(source) as file:
        _add_file(tar, key + suffix, file)
    text = "\n".join(" ".join(record.caption.split()) for record in records)
    fields = [dump(record.fields()) for record in records]
    vector = io.BytesIO()
    np.save(vector, vectors if len(records) > 1 else vectors[0])
    _add_file(tar, f"{key}.txt", io.BytesIO(text.encode()))
    _add_file(tar, f"{key}.json", io.BytesIO((fields[0] if len(fields) == 1 else f"[{', '.join(fields)}]").encode()))
    _add_file(tar, f"{key}.npy", io.BytesIO(vector.getvalue()))


def _add_file(tar: tarfile.TarFile, name: str, file: BinaryIO) -> None:
    member = tarfile.TarInfo(name)  # of no time and no owner, so that equal samples make equal tars
    member.size = file.seek(0, io.SEEK_END)
    file.seek(0)
    tar.addfile(member, file)
