"""The folder of a training run: its settings, metrics and checkpoints, which are complete or absent.

    run.json            settings that must not change, and the version of the program
    metrics.jsonl       a line for each step and each validation
    checkpoints/STEP/   model.ckpt and config.json, optimizer.ckpt, progress.json
    checkpoints/STEP.damaged/   a checkpoint that could not be loaded, kept for the user to restore or remove
    best/               the model of the best checkpoint, without its optimizer
    plot.png  README.md  events/

It is `COCA_HOME/runs/NAME`. Incomplete files have hidden names, `.coca-...`.
"""

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import FiniteFloat, NonNegativeInt

from .. import __version__
from ..catalog import CocaConfig
from ..checkpoints import ckpt
from ..checkpoints.architecture import load_config
from ..checkpoints.cache import free, list_folder, writing
from ..checkpoints.manifest import CONFIG, WEIGHTS
from ..checkpoints.store import RUN, run_folder, run_steps
from ..errors import CocaError, ModelError, UsageError
from ..files import (
    check_space,
    hash_file,
    io_errors,
    link_or_copy,
    publish_folder,
    sync_folder,
    unwinding_on_sigterm,
    write_atomically,
)
from ..journal import dump, write_all
from ..parsing import parse_json, read_json, validate
from ..portable import sync, undisturbed

KEEP = 2  # checkpoints, the newest
SETTINGS, METRICS, PLOT, CARD, EVENTS = "run.json", "metrics.jsonl", "plot.png", "README.md", "events"
_OPTIMIZER, _PROGRESS, _HIDDEN = "optimizer.ckpt", "progress.json", ".coca-"
_NAMED = 3  # differing settings in a message
_NAMES = {  # of settings, as users know them
    "data.source": "--data",
    "data.files": "the number of files",
    "data.captions": "the number of captions",
    "data.held_out": "the number of held-out files",
    "data.digest": "the digest of the data",
    "base.model": "--model",
    "base.identity": "the identity of the weights",
    "steps": "--steps",
    "batch_size": "--batch-size",
    "accumulate": "--accumulate",
    "rate": "--lr",
    "scheduler": "--scheduler",
    "warmup": "--warmup",
    "decay": "--weight-decay",
    "clip": "--grad-clip-norm",
    "loss.caption": "--caption-loss-weight",
    "loss.contrastive": "--contrastive-loss-weight",
    "frozen": "the locked tower",
    "unlocked_groups": "--unlocked-groups",
    "precision": "--precision",
    "lora": "--lora",
    "sampling.frames": "--frames",
    "sampling.num_frames": "--num-frames",
    "seed": "--seed",
    "ema": "--ema",
}

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """Everything that a run needs to resume from a step. Arrays are views of mapped files."""

    step: int
    config: CocaConfig
    weights: Arrays
    state: Arrays  # of the optimizer
    facts: dict[str, Any]


@dataclass(frozen=True)
class _ProgressFile:
    """Content of `progress.json`."""

    step: NonNegativeInt
    files: dict[str, int]  # sizes
    facts: dict[str, Any]
    sha256: dict[str, str] = field(default_factory=dict)  # earlier versions did not write it


@dataclass(frozen=True)
class _Best:
    """The part of the best model's `progress.json` that is read."""

    step: NonNegativeInt


@dataclass(frozen=True)
class _RunFile:
    """Content of `run.json`."""

    asked: dict[str, Any]


@dataclass(frozen=True)
class _MetricsLine:
    """The part of a line of the metrics that is read."""

    step: NonNegativeInt
    score: FiniteFloat | None = None
    held_out_loss: FiniteFloat | None = None
    scores: dict[str, FiniteFloat | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run that this process has locked, from `open_run_folder`."""

    name: str
    path: Path

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the metrics, without buffering.

        Raises:
            CocaError: The disk is full.
        """
        path = self.path / METRICS
        with io_errors("write", path), path.open("ab", buffering=0) as file:
            write_all(file, f"{dump(_plain(record))}\n".encode())

    def records(self) -> list[dict[str, Any]]:
        """Return the lines of the metrics.

        Raises:
            CocaError: The file cannot be read.
            UsageError: A line is not valid.
        """
        return [record for record, _ in self._lines()]

    def rewind(self, step: int) -> dict[int, Path]:
        """Drop the metrics after a step, or all with step -1, so that the steps can be repeated.

        Later checkpoints are renamed, never removed: after `last` they are the damaged ones.

        Returns:
            The new path of each of these checkpoints.

        Raises:
            CocaError: The disk is full.
            UsageError: A line of the metrics is not valid.
        """
        path, lines = self.path / METRICS, self._lines()
        with io_errors("write", path):
            aside = {later: _set_aside(self._checkpoint(later)) for later in run_steps(self.path) if later > step}
            with write_atomically(path) as (file,):
                file.writelines(line for record, line in lines if record["step"] <= step)
        return aside

    def save(
        self, step: int, weights: Arrays, state: Arrays, config: CocaConfig, facts: Mapping[str, Any], keep: int = KEEP
    ) -> None:
        """Write a checkpoint completely or not at all; then remove all but the newest few.

        The metrics up to its step are flushed to disk first.

        Args:
            weights: Read while they are written, never copied.
            state: State of the optimizer.
            facts: Other data for resuming; JSON.
            keep: Number of checkpoints to keep.

        Raises:
            CocaError: The disk is full; earlier checkpoints are kept.
        """
        with unwinding_on_sigterm(), self._writing(step), self._hidden() as part:
            check_space(self.path, sum(array.nbytes for array in (*weights.values(), *state.values())))
            _write_arrays(part / WEIGHTS, weights)
            _write_arrays(part / _OPTIMIZER, state)
            _write(part / CONFIG, config.to_file())
            sizes = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
            digests = {name: hash_file(part / name) for name in sizes}
            _write(part / _PROGRESS, {"step": step, "files": sizes, "sha256": digests, "facts": dict(facts)})
            destination = self._checkpoint(step)
            destination.parent.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):
                sync(self.path / METRICS)
            publish_folder(part, destination)
        for old in run_steps(self.path)[:-keep]:
            shutil.rmtree(self._put_away(self._checkpoint(old)), ignore_errors=True)

    def keep_best(self, step: int) -> None:
        """Make the model of a checkpoint the best one. It takes no space while the checkpoint exists.

        Raises:
            CocaError: The disk is full; the previous best model is kept.
        """
        best, source = self.path / "best", self._checkpoint(step)
        with io_errors("write", best), unwinding_on_sigterm(), self._hidden() as part:
            for name in (WEIGHTS, CONFIG, _PROGRESS):
                link_or_copy(source / name, part / name)
            sync_folder(part)
            best.mkdir(exist_ok=True)
            with undisturbed():
                for name in (WEIGHTS, CONFIG, _PROGRESS):
                    (part / name).replace(best / name)
            sync_folder(best)

    def best_step(self) -> int | None:
        """Return the step of the best model; None if there is none yet."""
        with suppress(OSError, ValueError, UsageError):
            path = self.path / "best" / _PROGRESS
            return validate(parse_json(path.read_bytes()), _Best, str(path)).step
        return None

    def last(self) -> tuple[Checkpoint | None, dict[int, str]]:
        """Return the newest intact checkpoint, None if the run has not saved any, and why newer ones are damaged.

        Raises:
            CocaError: All checkpoints are damaged, or one cannot be read at the moment.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self._steps()):
            try:
                return _load(self._checkpoint(step)), damaged
            except ModelError as error:
                damaged[step] = error.message
            except OSError as error:
                raise _unreadable(self._checkpoint(step), error) from None
        if not damaged and not self._has_saved():
            return None, {}
        reasons = "; ".join(f"step {step}: {why}" for step, why in damaged.items()) or "none is left"
        options = f"restore one in {self.path / 'checkpoints'}, restart with --overwrite, or choose another --name"
        raise CocaError(f"no checkpoint of the run {self.name} can be loaded: {reasons}", f"{options}; nothing changed")

    def _steps(self) -> list[int]:
        """Return the steps of all checkpoints, damaged ones included.

        Raises:
            CocaError: The folder cannot be read.
        """
        folder = self.path / "checkpoints"
        try:
            os.scandir(folder).close()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(folder, error) from None
        return run_steps(self.path)

    def _has_saved(self) -> bool:
        """Return whether a run without checkpoints has remains of some."""
        return (self.path / "best").exists() or any((self.path / "checkpoints").glob("*.damaged*"))

    def _lines(self) -> list[tuple[dict[str, Any], bytes]]:
        """Return the complete lines of the metrics, parsed and as bytes.

        Raises:
            CocaError: The file cannot be read.
            UsageError: A line is not valid.
        """
        path = self.path / METRICS
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(path, error) from None
        complete = (line for line in lines if line.endswith(b"\n"))
        return [(_record(line, f"line {number} of {path}"), line) for number, line in enumerate(complete, start=1)]

    def _checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / str(step)

    @contextmanager
    def _hidden(self) -> Iterator[Path]:
        """Create a hidden folder for the block, and remove it afterwards."""
        part = self.path / f"{_HIDDEN}{secrets.token_hex(8)}"
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Report which checkpoint is kept if this one cannot be written."""
        try:
            yield
        except OSError as error:
            steps = run_steps(self.path)
            kept = f"that of step {steps[-1]} is kept; " if steps else ""
            hint = f"{kept}free some space, then repeat the command to resume"
            raise CocaError(f"cannot write the checkpoint of step {step}: {error.strerror}", hint) from None

    def _put_away(self, folder: Path) -> Path:
        """Rename a folder to a hidden name in one step, if it exists."""
        away = self.path / f"{_HIDDEN}{secrets.token_hex(8)}"
        with suppress(FileNotFoundError):
            folder.rename(away)
        return away


@contextmanager
def open_run_folder(name: str, settings: Mapping[str, Any], overwrite: bool = False) -> Iterator[RunFolder]:
    """Create or open the folder of a run, and lock it against other processes.

    Args:
        settings: Settings that must not change while the run resumes; JSON.
        overwrite: Remove an existing run.

    Raises:
        UsageError: The name is not valid, another process uses the run, or it has other settings.
        ModelError: The folder cannot be read or written.
    """
    path = run_folder(name)
    with ExitStack() as stack:
        with writing():
            if not stack.enter_context(free(f"{RUN}{name}")):
                raise UsageError(f"another process works on the run {name}", "wait for it, or choose another --name")
            _clear(path, overwrite)
            path.mkdir(parents=True, exist_ok=True)
        if not list_folder(path):
            with writing():
                _start(path, settings)
        _check_settings(path, settings)
        yield RunFolder(name, path)


def _clear(path: Path, overwrite: bool) -> None:
    """Remove leftovers of killed processes, and the whole run if it is to be overwritten."""
    away = path.with_name(f"{_HIDDEN}{path.name}")
    for left in (away, *path.glob(f"{_HIDDEN}*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    if overwrite and path.exists():
        shutil.rmtree(path.rename(away))


def _start(path: Path, settings: Mapping[str, Any]) -> None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"asked": dict(settings), "program": __version__, "started": started}, indent=2)
    with write_atomically(path / SETTINGS) as (file,):
        file.write(text.encode() + b"\n")


def stored_settings(name: str) -> dict[str, Any]:
    """Return the settings that a run was started with, flattened; empty if it does not exist.

    Raises:
        UsageError: The name is not valid, or `run.json` is damaged.
    """
    path = run_folder(name)
    return _settings(path) if (path / SETTINGS).exists() else {}


def _settings(path: Path) -> dict[str, Any]:
    hint = "restore the file, choose another --name, or restart the run with --overwrite"
    try:
        return flattened(validate(read_json(path / SETTINGS), _RunFile, str(path / SETTINGS), hint).asked)
    except (UsageError, RecursionError) as error:
        raise UsageError(getattr(error, "message", f"{path / SETTINGS} is nested too deeply"), hint) from None


def _check_settings(path: Path, settings: Mapping[str, Any]) -> None:
    before = _settings(path)
    now = flattened(json.loads(json.dumps(dict(settings))))
    changed = [
        f"{_NAMES.get(key, key)} was {_value(before, key)}, is {_value(now, key)}"
        for key in {**before, **now}
        if _value(before, key) != _value(now, key)
    ]
    if changed:
        more = f", and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        hint = "use the same settings to resume, another --name for another run, or --overwrite to restart this one"
        raise UsageError(f"the run {path.name} has other settings: {'; '.join(changed[:_NAMED])}{more}", hint)


def flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings, with keys such as `data.pictures`."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _value(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not set"


def _load(folder: Path) -> Checkpoint:
    """Read a checkpoint and verify the size and sha256 of every file.

    Raises:
        ModelError: It is damaged.
        OSError: It cannot be read, perhaps only temporarily, as with too many open files or a lost network drive.
    """
    try:
        progress = validate(parse_json((folder / _PROGRESS).read_bytes()), _ProgressFile, _PROGRESS)
        for name, size in progress.files.items():
            if (found := (folder / name).stat().st_size) != size:
                raise ModelError(f"{name} has {found} bytes, not {size}")
        for name, digest in progress.sha256.items():
            if hash_file(folder / name) != digest:
                raise ModelError(f"{name} does not match its sha256")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ModelError(f"{Path(error.filename).name} is missing") from None
    except (ValueError, UsageError):
        raise ModelError(f"{_PROGRESS} is damaged") from None
    try:
        config = load_config(folder / CONFIG)
        weights, state = ckpt.read(folder / WEIGHTS), ckpt.read(folder / _OPTIMIZER)
    except ModelError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    return Checkpoint(progress.step, config, weights, state, progress.facts)


def _set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint; names of other damaged ones of its step are not reused."""
    names = (f"{folder.name}.damaged{f'-{number}' if number > 1 else ''}" for number in count(1))
    return folder.rename(next(path for path in map(folder.with_name, names) if not path.exists()))


def _unreadable(path: Path, error: OSError) -> CocaError:
    return CocaError(f"cannot read {path}: {error.strerror or error}", "nothing changed: repeat the command to resume")


def _record(line: bytes, where: str) -> dict[str, Any]:
    hint = "restore the line or remove it; the run resumes from its last checkpoint"
    try:
        record = parse_json(line)
    except ValueError as error:
        raise UsageError(f"{where} is not valid JSON: {error}", hint) from None
    valid = vars(validate(record, _MetricsLine, where, hint))
    return {name: valid.get(name, value) for name, value in record.items()}


def _plain(value: Any) -> Any:
    """Replace NaN and infinity, which JSON cannot express, by None."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_arrays(path: Path, arrays: Arrays) -> None:
    with path.open("xb") as file:
        for name, array in arrays.items():
            ckpt.write(file, name, array.shape, [array], array.dtype.name)


def _write(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
