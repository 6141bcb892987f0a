"""WebDataset shards of captions: tars of pictures and videos with their captions, records and embeddings.

A shard holds the samples of as many consecutive inputs, and is written once all of them are done. A comment in its
header identifies its content, so that a later run writes only the shards that would differ.
"""

import io
import tarfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..files import digest, io_errors, open_binary, sample_key
from ..journal import Task, dump
from ..media.discover import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..media.remote import local_copy
from ..media.tars import open_tar
from ..overwrite import write_output
from ..packed import Table
from .numbered_files import NumberedFiles
from .records import Record


@dataclass(eq=False)
class WebDatasetShards(NumberedFiles):
    """The shards of an output. See `NumberedFiles`.

    Attributes:
        vectors: Returns the embeddings [K, D] of the K records of a task.
        names: Names of all inputs, those of other machines included: no two samples share a key.
    """

    vectors: Callable[[str], np.ndarray]
    names: InitVar[Sequence[str]]

    def __post_init__(self, done: Sequence[int], names: Sequence[str]) -> None:
        super().__post_init__(done)
        self._shared_keys = _shared_keys(names)

    def is_current(self, index: int) -> bool:
        with suppress(OSError, tarfile.TarError):
            if not self._left[index]:
                with open_tar(self.paths[index]) as (file, _), tarfile.open(fileobj=file, mode="r:") as tar:
                    expected = self._headers(self._samples(index))
                    return tar.pax_headers == expected if expected else tar.next() is None
        return False

    def _samples(self, index: int) -> list[tuple[Task, list[Record]]]:
        """Return the tasks of a shard that did not fail, and their records."""
        found = ((task, self.outcomes[task.name]) for task in self.part(index))
        samples = ((task, [one for one in outcomes if isinstance(one, Record)]) for task, outcomes in found)
        return [(task, records) for task, records in samples if records]

    def _key(self, name: str) -> str:
        """Return WebDataset's key of a task: that in its tar, or the file's name; with a hash if several share it."""
        key = _plain_key(name)
        return key if key and key not in self._shared_keys else f"{key}-{digest(name, 8)}"

    def _headers(self, samples: Sequence[tuple[Task, list[Record]]]) -> dict[str, str]:
        """Return what identifies the content of a shard; nothing for an empty one, where readers expect no header."""
        described = "\n".join(f"{self._key(task.name)} {task.name} {task.key}" for task, _ in samples)
        return {"comment": f"coca {digest(described)}"} if described else {}

    def _write(self, index: int) -> None:
        path, samples = self.paths[index], self._samples(index)
        with io_errors("write", path), write_output(path) as (file,):
            headers = self._headers(samples)
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
                for task, records in samples:
                    with local_copy(task.path) as source:
                        _add(tar, self._key(task.name), source, records, self.vectors(task.name))
                    tar.members.clear()  # type: ignore[attr-defined]  # headers of what is written fill the memory


def _shared_keys(names: Sequence[str]) -> set[str]:
    """Return the keys that several inputs would have."""
    shared, table = set(), Table()
    for index, name in enumerate(names):
        key = _plain_key(name)
        if is_shared := any(_plain_key(names[number]) == key for number in table.candidates(key)):
            shared.add(key)
        table.add(index if is_shared else key)  # a key that all have would be found slowly
    return shared


def _plain_key(name: str) -> str:
    return sample_key(name) or Path(name).stem.replace(".", "_").lstrip("_")


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
