"""Manifest of a model in the cache: its origin, and the size and SHA-256 of each of its files."""

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ModelError
from ..files import hash_file, os_reason
from ..parsing import parse_json
from ..reporting import SILENT, Progress, Reporter

WEIGHTS, CONFIG, MANIFEST = "model.ckpt", "config.json", "manifest.json"  # the files of a model
_LARGEST = 1 << 62  # number in a manifest


@dataclass(frozen=True)
class FileFacts:
    """Size in bytes and SHA-256 of a file."""

    size: int
    sha256: str

    def __post_init__(self) -> None:
        _check_facts(self.size, self.sha256)


@dataclass(frozen=True)
class Origin:
    """The file that a model was converted from."""

    repository: str  # on the hub; empty for a local file
    revision: str  # the commit
    file: str  # its path, in the repository or on the machine that read it
    sha256: str
    size: int  # bytes

    def __post_init__(self) -> None:
        _require(all(isinstance(text, str) for text in (self.repository, self.revision, self.file)), "source")
        _check_facts(self.size, self.sha256)

    @property
    def address(self) -> str:
        """The argument with which `coca fetch` gets the same file."""
        return f"{self.repository}@{self.revision}:{self.file}" if self.repository else self.file

    def __str__(self) -> str:
        """Return `org/repo@1a2b3c4`, or the path of a local file."""
        return f"{self.repository}@{self.revision[:7]}" if self.repository else self.file


@dataclass(frozen=True)
class Manifest:
    """Content of a `manifest.json`."""

    source: Origin
    files: Mapping[str, FileFacts]  # of WEIGHTS and CONFIG
    dtype: str  # of the weights: float32 or float16
    parameters: int  # values in all tensors
    program: str  # version that wrote it
    date: str  # ISO 8601 in UTC

    def __post_init__(self) -> None:
        _require(self.files.keys() == {WEIGHTS, CONFIG}, "files")
        _require(self.dtype in ("float32", "float16"), "dtype")
        _require(type(self.parameters) is int and 0 < self.parameters <= _LARGEST, "parameters")
        _require(isinstance(self.program, str), "program")
        _require(isinstance(self.date, str), "date")
        _require(datetime.fromisoformat(self.date).utcoffset() == timedelta(0), "date")

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> "Manifest":
        """Read what `to_json` wrote.

        Raises:
            ModelError: A field is missing, unknown or invalid.
        """
        try:
            fields = _fields_of(cls, parse_json(text), "it")
            files = _object(fields["files"], "files")
            fields["files"] = {name: FileFacts(**_fields_of(FileFacts, files[name], f"files.{name}")) for name in files}
            fields["source"] = Origin(**_fields_of(Origin, fields["source"], "source"))
            return cls(**fields)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{MANIFEST} is damaged: {error}") from None


def record(folder: Path, origin: Origin, dtype: str, parameters: int, reporter: Reporter = SILENT) -> Manifest:
    """Hash the files of the model in a folder, and write its manifest beside them."""
    sizes = {name: (folder / name).stat().st_size for name in (CONFIG, WEIGHTS)}
    with reporter.progress("hashing", sizes[WEIGHTS], unit="bytes") as progress:
        files = {
            CONFIG: FileFacts(sizes[CONFIG], hash_file(folder / CONFIG)),
            WEIGHTS: FileFacts(sizes[WEIGHTS], hash_file(folder / WEIGHTS, progress)),
        }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    manifest = Manifest(origin, files, dtype, parameters, __version__, now)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def read(folder: Path) -> Manifest:
    """Read the manifest of the model in a folder.

    Raises:
        ModelError: It is missing, damaged or unreadable.
    """
    try:
        return Manifest.from_json((folder / MANIFEST).read_bytes())
    except OSError as error:
        raise ModelError(_problem(MANIFEST, error)) from None


def check(folder: Path, manifest: Manifest) -> None:
    """Check that every file of the model in a folder is there with the right size.

    Raises:
        ModelError: One is not.
    """
    for name, facts in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError as error:
            raise ModelError(_problem(name, error)) from None
        if size != facts.size:
            raise ModelError(f"{name} has {size} bytes, not {facts.size}")


def verify(folder: Path, manifest: Manifest, progress: Progress) -> list[str]:
    """Read the files of the model in a folder, and return the problem of each that differs from the manifest.

    Args:
        progress: Updated with the bytes that were read of all files together.
    """
    done, problems = 0, []
    for name, facts in manifest.files.items():
        try:
            size = (folder / name).stat().st_size
            if size != facts.size:
                problems.append(f"{name} has {size} bytes, not {facts.size}")
            elif (sha256 := hash_file(folder / name, progress, done)) != facts.sha256:
                problems.append(f"{name} has the sha256 {sha256}, not {facts.sha256}")
        except OSError as error:
            problems.append(_problem(name, error))
        done += facts.size
        progress.update(done)
    return problems


def _problem(name: str, error: OSError) -> str:
    return f"{name} is missing" if isinstance(error, FileNotFoundError) else f"cannot read {name}: {os_reason(error)}"


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is not an object")
    return value


def _fields_of(kind: Any, value: Any, where: str) -> dict[str, Any]:
    """Return the fields of a JSON object, which must be exactly those of a dataclass."""
    names = {field.name for field in dataclasses.fields(kind)}
    if differing := names ^ _object(value, where).keys():
        name = min(differing)
        raise ValueError(f"{where} {'lacks' if name in names else 'has an unknown field'} {name[:60]!r}")
    return dict(value)


def _check_facts(size: object, sha256: object) -> None:
    _require(type(size) is int and 0 <= size <= _LARGEST, "size")
    _require(isinstance(sha256, str) and bool(re.fullmatch("[0-9a-f]{64}", sha256)), "sha256")


def _require(holds: bool, field: str) -> None:
    if not holds:
        raise ValueError(f"its {field} is invalid")
