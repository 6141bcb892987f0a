"""Numbered files of records, as `out/%05d.parquet`, with a manifest of those that are complete.

The manifest is replaced after each file, as stores cannot append. Readers that take the files it lists never see a part
of a run's file, nor one of an earlier run with other options.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..files import digest, io_errors
from ..journal import Failure
from ..overwrite import write_output
from ..parsing import parse_json
from ..stores import read_file
from ..urls import RemotePath
from .formats import write
from .numbered_files import NUMBER, NumberedFiles, size_of

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
    return bool(read_manifest(path))


class RecordShards(NumberedFiles):
    """The numbered files of records of an output. See `NumberedFiles`."""

    def __post_init__(self, done: Sequence[int]) -> None:
        super().__post_init__(done)
        self._path = manifest_path(self.output)
        self._listed = read_manifest(self._path).get("files", {})
        before = self._listed
        self._listed = {path.name: before[path.name] for i, path in enumerate(self.paths) if self.is_current(i)}
        self._is_written = before == self._listed

    def is_current(self, index: int) -> bool:
        path = self.paths[index]
        listed = self._listed.get(path.name)
        return not self._left[index] and listed is not None and listed == self._entry(index, size_of(path))

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
        self._listed[path.name] = self._entry(index, size_of(path))
        self._write_manifest()

    def _write_manifest(self) -> None:
        is_complete = len(self._listed) == len(self.paths)
        with io_errors("write", self._path), write_output(self._path) as (file,):
            file.write(manifest_content(self._listed, is_complete, self.size))
        self._is_written = True


def manifest_content(files: Mapping[str, Any], complete: bool, size: int) -> bytes:
    """Return the content of a manifest.

    Args:
        files: What is known of each file, by name.
        size: Inputs of a file.
    """
    fields = {"coca_shards": 1, "complete": complete, "shard_size": size, "files": dict(sorted(files.items()))}
    return json.dumps(fields, indent=1).encode()


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the fields of a manifest; nothing if there is none."""
    with suppress(OSError, ValueError, UsageError):
        content = parse_json(read_file(path.url) if isinstance(path, RemotePath) else path.read_bytes())
        if isinstance(content, dict) and "coca_shards" in content and isinstance(content.get("files"), dict):
            return content
    return {}
