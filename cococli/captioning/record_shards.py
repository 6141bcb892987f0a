"""Numbered files of records, as `out/%05d.parquet`, with a manifest of those that are complete.

The manifest is replaced after each file, as stores cannot append. Readers that take the files it lists never see a part
of a run's file, nor one of an earlier run with other options.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import digest, io_errors
from ..journal import Failure
from ..overwrite import write_output
from ..parsing import parse_json
from ..stores import read_file, version_of
from ..urls import RemotePath
from .formats import write
from .numbered_files import NUMBER, NumberedFiles

FORMATS = (".jsonl", ".parquet", ".csv")


def is_numbered(output: str) -> bool:
    """Return whether an output stands for numbered files of records."""
    path = Path(output)
    return path.suffix.lower() in FORMATS and NUMBER.search(path.name) is not None


def manifest_path(output: Path) -> Path:
    """Return the manifest of numbered files: `out/manifest.json` for `out/%05d.parquet`."""
    stem = NUMBER.sub("manifest", output.name).removesuffix(output.suffix)
    return output.with_name(f"{stem}.json")


def is_manifest(path: Path) -> bool:
    """Return whether a file is a manifest of coca."""
    return bool(_read(path))


class RecordShards(NumberedFiles):
    """The numbered files of records of an output. See `NumberedFiles`."""

    def __post_init__(self, done: Sequence[int]) -> None:
        super().__post_init__(done)
        self._path = manifest_path(self.output)
        self._listed = _read(self._path).get("files", {})
        before = self._listed
        self._listed = {path.name: before[path.name] for i, path in enumerate(self.paths) if self.is_current(i)}
        self._is_written = before == self._listed

    def is_current(self, index: int) -> bool:
        path = self.paths[index]
        listed = self._listed.get(path.name)
        return not self._left[index] and listed is not None and listed == self._entry(index, _bytes(path))

    def finish(self) -> None:
        super().finish()
        if not self._is_written:
            self._write_manifest()

    def _entry(self, index: int, size: int) -> dict[str, Any]:
        described, records, part = [], 0, self.part(index)
        for task in part:
            outcomes = self.outcomes[task.name]
            records += len(outcomes)
            errors = [outcome.error for outcome in outcomes if isinstance(outcome, Failure)]
            described.append(f"{task.name} {task.key} {errors}")
        key = digest("\n".join(described))
        return {"inputs": len(part), "records": records, "bytes": size, "key": key}

    def _write(self, index: int) -> None:
        path = self.paths[index]
        write(path, (outcome for task in self.part(index) for outcome in self.outcomes[task.name]))
        self._listed[path.name] = self._entry(index, _bytes(path))
        self._write_manifest()

    def _write_manifest(self) -> None:
        fields = {
            "coca_shards": 1,
            "complete": len(self._listed) == len(self.paths),
            "shard_size": self.size,
            "files": dict(sorted(self._listed.items())),
        }
        with io_errors("write", self._path), write_output(self._path) as (file,):
            file.write(json.dumps(fields, indent=1).encode())
        self._is_written = True


def _bytes(path: Path) -> int:
    """Return the size of a file; -1 if there is none."""
    if isinstance(path, RemotePath):
        return int((version_of(path.url) or "-1").split()[0])
    with suppress(OSError):
        return path.stat().st_size
    return -1


def _read(path: Path) -> dict[str, Any]:
    """Return the fields of a manifest; nothing if there is none."""
    with suppress(OSError, ValueError, UsageError):
        content = parse_json(read_file(path.url) if isinstance(path, RemotePath) else path.read_bytes())
        if isinstance(content, dict) and "coca_shards" in content and isinstance(content.get("files"), dict):
            return content
    return {}
