"""Shards: the inputs that one of several machines takes, and the manifest that a complete shard leaves.

An input belongs to the shard that the hash of its name selects, so that it stays there when others come or go, and
when machines list them differently. `coca merge` compares the manifests, which also hold the place of each input.
"""

import hashlib
import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from .errors import UsageError
from .files import digest, io_errors, temporary_folder, write_atomically
from .options import AUTO
from .stores import remove, upload
from .urls import RemotePath

MANIFEST, MANIFEST_SUFFIX = "shard.jsonl", ".shard"  # in an index; beside a file
VERSION = 1
_TAG = re.compile(r"-([0-9]{5,9})-of-([0-9]{5,9})(?=\.|$)")
_HINT = "write it as 3/16, from 0/16 to 15/16, as auto, or as auto/16"

# Variables of the index, the number of tasks and the first index, or the first index itself.
_SCHEDULERS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("RANK", "WORLD_SIZE", "0"),
    ("SLURM_PROCID", "SLURM_NTASKS", "0"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "0"),
    ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE", "0"),
    ("JOB_COMPLETION_INDEX", "", "0"),  # Kubernetes
    ("PBS_ARRAY_INDEX", "", "0"),
    ("SGE_TASK_ID", "", "1"),
    ("LSB_JOBINDEX", "", "1"),
)


@dataclass(frozen=True)
class Shard:
    """One of several disjoint parts of the inputs."""

    index: int  # from 0
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def takes(self, name: str) -> bool:
        """Return whether an input belongs to this shard."""
        return int(digest(name), 16) % self.count == self.index

    def file(self, path: Path) -> Path:
        """Return the file that this shard writes instead of one: `out-00003-of-00016.jsonl` for `out.jsonl`."""
        return path.with_name(f"{path.stem}{self._tag}{path.suffix}")

    def folder(self, path: Path) -> Path:
        """Return the folder that this shard fills instead of one: `index-00003-of-00016` for `index`."""
        if path.name in ("", os.pardir):
            raise UsageError(f"{path} cannot be the output of several shards", "name another folder, as -o index/")
        return path.with_name(f"{path.name}{self._tag}")

    @property
    def _tag(self) -> str:
        return f"-{self.index:05}-of-{self.count:05}"


def parse_shard(text: str | None, environment: Mapping[str, str] = os.environ) -> Shard | None:
    """Parse `3/16`, `auto`, which asks the batch scheduler, or `auto/16`, which asks it for the index alone.

    Raises:
        UsageError: The text is none of them, the index is too large, or the scheduler has set too little.
    """
    if text is None:
        return None
    if text == AUTO:
        return _scheduled(environment)
    match = re.fullmatch(r"(auto|[0-9]{1,9})/([1-9][0-9]{0,8})", text)
    if not match:
        raise UsageError(f"--shard {text!r} is not a shard", _HINT)
    index, count = _array_index(environment) if match[1] == AUTO else int(match[1]), int(match[2])
    if index >= count:
        here = f" is shard {index} here, which" if match[1] == AUTO else ""
        raise UsageError(
            f"--shard {text}{here} does not exist", f"shards are numbered from 0/{count} to {count - 1}/{count}"
        )
    return Shard(index, count)


def shard_of_name(path: Path) -> Shard | None:
    """Return the shard that the name of an output tells."""
    tag = _TAG.search(path.name)
    return Shard(int(tag[1]), int(tag[2])) if tag else None


def untagged(name: str) -> str:
    """Return the name of an output without that of its shard."""
    return _TAG.sub("", name)


def _scheduled(environment: Mapping[str, str]) -> Shard:
    variable, size, first = _scheduler(environment)
    if not size or size not in environment:
        raise UsageError(f"{variable} does not tell how many shards there are", "--shard auto/16 does")
    index, count = _number(environment, variable), _number(environment, size)
    start = _number(environment, first) if first in environment else 0
    last = _number(environment, "SLURM_ARRAY_TASK_MAX") if first in environment else start + count - 1
    if start > 1 or last - start != count - 1 or not 0 <= index - start < count:
        hint = "--shard auto/16 takes the indexes of an array as they are, from 0 to 15"
        raise UsageError(f"this array of {count} tasks is not numbered from 0 or 1 without gaps", hint)
    return Shard(index - start, count)


def _array_index(environment: Mapping[str, str]) -> int:
    """Return the index, from 0, that a scheduler gives. That of SLURM counts from 0, as parts of an array may run."""
    variable, _, first = _scheduler(environment)
    index = _number(environment, variable) - (int(first) if first.isdigit() else 0)
    if index < 0:
        raise UsageError(f"{variable} is {environment[variable]}, which is no index of an array")
    return index


def _scheduler(environment: Mapping[str, str]) -> tuple[str, str, str]:
    for names in _SCHEDULERS:
        if environment.get(names[0], "undefined") != "undefined":  # as SGE calls it outside of arrays
            return names
    known = ", ".join(index for index, *_ in _SCHEDULERS[:3])
    raise UsageError(f"--shard auto found no batch scheduler: {known} and the like are not set", _HINT)


def _number(environment: Mapping[str, str], variable: str) -> int:
    if not re.fullmatch("[0-9]{1,9}", environment[variable]):
        raise UsageError(f"{variable} is {environment[variable]!r}, not a number", _HINT)
    return int(environment[variable])


@dataclass(frozen=True)
class Header:
    """First line of a manifest."""

    coca_shard: int  # version of the format
    shard: str  # as 3/16
    inputs: int  # of this shard: the number of lines that follow
    listed: int  # inputs of all shards
    listing: str  # hash of their names
    options: str  # hash of what affects the records besides the inputs
    numbered: str = ""  # name of the numbered files, as `%06d-00003-of-00016.tar`; empty for other outputs
    files: dict[str, int] = field(default_factory=dict)  # their sizes in bytes, in order


@dataclass(frozen=True)
class Listing:
    """All inputs of a run, of which this process computes one shard."""

    shard: Shard
    names: Sequence[str]  # in the order of an unsharded run
    options: str  # hash of everything besides the inputs that affects the records

    @cached_property
    def own(self) -> "array[int]":
        """The places of the inputs of the shard among all."""
        return array("q", (place for place, name in enumerate(self.names) if self.shard.takes(name)))

    def describe(self) -> str:
        """Return how many inputs the shard has, for a person."""
        return f"shard {self.shard} has {len(self.own)} of {len(self.names)} inputs"

    def write_manifest(
        self, path: Path, kept: Callable[[str], str] = str, numbered: str = "", files: Mapping[str, int] | None = None
    ) -> None:
        """Declare that an output holds the records of all inputs of the shard.

        Args:
            kept: Returns the name of an input as the records spell it.
            numbered: Name of the output if it consists of numbered files.
            files: The sizes of these files.

        Raises:
            CocaError: The file cannot be written.
        """
        hashed = hashlib.sha256()
        for name in self.names:
            hashed.update(name.encode("utf-8", "surrogateescape") + b"\n")
        listing = hashed.hexdigest()[:16]
        header = Header(VERSION, str(self.shard), len(self.own), len(self.names), listing, self.options)
        fields = asdict(header) | {"numbered": numbered, "files": files or {}}
        if not numbered:
            del fields["numbered"], fields["files"]
        lines = (json.dumps([place, kept(self.names[place])]) for place in self.own)
        with io_errors("write", path):
            if isinstance(path, RemotePath):
                with temporary_folder() as folder:
                    _write_lines(folder / "manifest", json.dumps(fields), lines)
                    upload(folder / "manifest", path.url)
            else:
                _write_lines(path, json.dumps(fields), lines)


def _write_lines(path: Path, first: str, others: Iterable[str]) -> None:
    with write_atomically(path) as (file,):
        file.write(f"{first}\n".encode())
        file.writelines(f"{line}\n".encode() for line in others)


def manifest_of(output: Path) -> Path:
    """Return the manifest of a JSONL file or an index."""
    return output / MANIFEST if output.is_dir() else output.with_name(output.name + MANIFEST_SUFFIX)


def withdraw_manifest(path: Path) -> None:
    """Remove the manifest of an earlier run: the shard is incomplete until this one ends.

    Raises:
        CocaError: It cannot be removed.
    """
    with io_errors("write", path):
        if isinstance(path, RemotePath):
            remove(path.url)
        else:
            path.unlink(missing_ok=True)
