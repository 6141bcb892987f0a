"""What is recorded of a model in the cache: where it came from, and what each of its files must be."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ModelError
from ..parsing import parse_json

WEIGHTS, CONFIG, MANIFEST = "model.ckpt", "config.json", "manifest.json"  # all that a model's folder must hold
_PART_BYTES = 1 << 20  # read at a time
_MOST = 1 << 62  # of any number in a manifest


@dataclass(frozen=True)
class FileFacts:
    """What a file must be."""

    size: int  # bytes
    sha256: str

    def __post_init__(self) -> None:
        _check_facts(self.size, self.sha256)


@dataclass(frozen=True)
class Source:
    """The file that a model was made of."""

    repository: str  # on the hub; empty for a local file
    revision: str  # the commit
    file: str  # its path, in the repository or on the machine that read it
    sha256: str
    size: int  # bytes

    def __post_init__(self) -> None:
        _require(all(isinstance(text, str) for text in (self.repository, self.revision, self.file)), "source")
        _check_facts(self.size, self.sha256)

    @property
    def origin(self) -> str:
        """What to fetch to get the same file again."""
        return f"{self.repository}@{self.revision}:{self.file}" if self.repository else self.file

    def __str__(self) -> str:
        """As a person is told: `org/repo@1a2b3c4`, or the local file."""
        return f"{self.repository}@{self.revision[:7]}" if self.repository else self.file


@dataclass(frozen=True)
class Manifest:
    """The contents of a `manifest.json`."""

    source: Source
    files: Mapping[str, FileFacts]  # of WEIGHTS and CONFIG
    dtype: str  # of the weights: float32 or float16
    parameters: int  # numbers in all tensors
    program: str  # the version that wrote it
    date: str  # when, ISO 8601 in UTC

    def __post_init__(self) -> None:
        _require(self.files.keys() == {WEIGHTS, CONFIG}, "files")
        _require(self.dtype in ("float32", "float16"), "dtype")
        _require(type(self.parameters) is int and 0 < self.parameters <= _MOST, "parameters")
        _require(isinstance(self.program, str), "program")
        _require(isinstance(self.date, str), "date")
        _require(datetime.fromisoformat(self.date).utcoffset() == timedelta(0), "date")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Read what `to_json` wrote.

        Raises:
            ModelError: a field is missing, unknown or cannot be.
        """
        try:
            fields = _fields_of(cls, parse_json(text), "it")
            files = _object(fields["files"], "files")
            fields["files"] = {name: FileFacts(**_fields_of(FileFacts, files[name], f"files.{name}")) for name in files}
            fields["source"] = Source(**_fields_of(Source, fields["source"], "source"))
            return cls(**fields)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{MANIFEST} is damaged: {error}") from None


def record(
    folder: Path, source: Source, dtype: str, parameters: int, progress: Callable[[int], Any] | None = None
) -> Manifest:
    """Hash the files of the model in a folder, and write its manifest beside them.

    Args:
        progress: Called with the bytes of the weights that are through.
    """
    files = {CONFIG: measure(folder / CONFIG), WEIGHTS: measure(folder / WEIGHTS, progress)}
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(source, files, dtype, parameters, __version__, now)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def measure(path: Path, progress: Callable[[int], Any] | None = None) -> FileFacts:
    """Size and sha256 of a file.

    Args:
        progress: Called with the bytes that are through.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
            size += len(part)
            if progress:
                progress(size)
    return FileFacts(size, digest.hexdigest())


def read(folder: Path) -> Manifest:
    """The manifest of the model in a folder.

    Raises:
        ModelError: it is missing or damaged.
    """
    try:
        return Manifest.from_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise ModelError(_told(MANIFEST, error)) from None


def check(folder: Path, manifest: Manifest) -> None:
    """Look quickly at the model in a folder: is every file there, with its size?

    Raises:
        ModelError: the first that is not.
    """
    for name, facts in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise ModelError(_told(name, error)) from None
        if size != facts.size:
            raise ModelError(f"{name} has {size} bytes, not {facts.size}")


def verify(folder: Path, manifest: Manifest, progress: Callable[[int, int], Any]) -> list[str]:
    """What is wrong with each file of the model in a folder, all of it read again.

    Args:
        progress: Called with the bytes that are through, and those of all files.
    """
    total, before, problems = sum(facts.size for facts in manifest.files.values()), 0, []
    for name, facts in manifest.files.items():
        try:
            found = measure(folder / name, partial(_report, progress, before, total))
        except OSError as error:
            problems.append(_told(name, error))
        else:
            if found.size != facts.size:
                problems.append(f"{name} has {found.size} bytes, not {facts.size}")
            elif found != facts:
                problems.append(f"{name} has the sha256 {found.sha256}, not {facts.sha256}")
        before += facts.size
    return problems


def _report(progress: Callable[[int, int], Any], before: int, total: int, done: int) -> None:
    progress(before + done, total)


def _told(name: str, error: OSError) -> str:
    return f"{name} is missing" if isinstance(error, FileNotFoundError) else f"cannot read {name}: {error.strerror}"


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    return value


def _fields_of(kind: Any, value: Any, where: str) -> dict[str, Any]:
    """The fields of a dataclass in a JSON object, which must be there and no others."""
    names = {field.name for field in dataclasses.fields(kind)}
    if differing := names ^ _object(value, where).keys():
        name = min(differing)
        raise ValueError(f"{where} {'lacks' if name in names else 'has an unknown field'} {name[:60]!r}")
    return dict(value)


def _check_facts(size: object, sha256: object) -> None:
    _require(type(size) is int and 0 <= size <= _MOST, "size")
    _require(isinstance(sha256, str) and bool(re.fullmatch("[0-9a-f]{64}", sha256)), "sha256")


def _require(holds: bool, field: str) -> None:
    if not holds:
        raise ValueError(f"its {field} cannot be")
