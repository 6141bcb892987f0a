"""The folder of a training run: what was asked, what each step found, and checkpoints, each whole or not there.

    run.json            what was asked and must stay, and the version of the program
    metrics.jsonl       a line for each step and each evaluation
    checkpoints/STEP/   model.ckpt and config.json, optimizer.ckpt, progress.json
    checkpoints/STEP.damaged/   one that could not be loaded, kept for the user to restore or remove
    best/               the model of the best checkpoint, without its optimizer
    plot.png  README.md  events/

It lives in `COCA_HOME/runs/NAME`. What is being written has a hidden name, `.coca-...`, until it is whole.
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
from ..checkpoints.locks import free, writing
from ..checkpoints.manifest import CONFIG, WEIGHTS
from ..checkpoints.store import RUN, run_folder, run_steps
from ..errors import CocaError, ModelError, UsageError
from ..files import (
    check_space,
    hash_file,
    io_errors,
    publish_folder,
    undisturbed,
    unwinding_on_sigterm,
    write_atomically,
)
from ..journal import dump, write_all
from ..parsing import parse_json, read_json, validate

KEEP = 2  # checkpoints, the newest
ASKED, METRICS, PLOT, CARD, EVENTS = "run.json", "metrics.jsonl", "plot.png", "README.md", "events"
_OPTIMIZER, _PROGRESS, _HIDDEN = "optimizer.ckpt", "progress.json", ".coca-"
_NAMED = 3  # of the settings that differ

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on from a step. Its arrays are views of mapped files."""

    step: int
    config: CocaConfig
    weights: Arrays
    state: Arrays  # of the optimizer
    facts: dict[str, Any]


@dataclass(frozen=True)
class _ProgressFile:
    """What `progress.json` holds."""

    step: NonNegativeInt
    files: dict[str, int]  # sizes
    facts: dict[str, Any]
    sha256: dict[str, str] = field(default_factory=dict)  # earlier versions did not write it


@dataclass(frozen=True)
class _Best:
    """What is read of the `progress.json` of the best model."""

    step: NonNegativeInt


@dataclass(frozen=True)
class _RunFile:
    """What `run.json` holds."""

    asked: dict[str, Any]


@dataclass(frozen=True)
class _MetricsLine:
    """What is read again of a line of the metrics."""

    step: NonNegativeInt
    score: FiniteFloat | None = None
    held_out_loss: FiniteFloat | None = None
    scores: dict[str, FiniteFloat | None] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """A run that this process holds. `open_run_folder` makes one."""

    name: str
    path: Path

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the metrics, at once.

        Raises:
            CocaError: the disk is full.
        """
        path = self.path / METRICS
        with io_errors("write", path), path.open("ab", buffering=0) as file:
            write_all(file, f"{dump(_plain(record))}\n".encode())

    def records(self) -> list[dict[str, Any]]:
        """The lines of the metrics.

        Raises:
            UsageError: a line was changed to something else.
        """
        return [record for record, _ in self._lines()]

    def rewind(self, step: int) -> dict[int, Path]:
        """Drop what was measured after a step, or all with step -1, so that it can be done again.

        Checkpoints after it are renamed, never removed: after `last` they are the damaged ones.

        Returns:
            Where each of these checkpoints is now.

        Raises:
            CocaError: the disk is full.
            UsageError: a line of the metrics was changed to something else.
        """
        path, lines = self.path / METRICS, self._lines()
        with io_errors("write", path):
            aside = {later: _set_aside(self._place(later)) for later in run_steps(self.path) if later > step}
            with write_atomically(path) as (file,):
                file.writelines(line for record, line in lines if record["step"] <= step)
        return aside

    def save(
        self, step: int, weights: Arrays, state: Arrays, config: CocaConfig, facts: Mapping[str, Any], keep: int = KEEP
    ) -> None:
        """Write a checkpoint, whole or not at all; then drop all but the newest few.

        Args:
            weights: Read while they are written, never copied.
            state: Of the optimizer.
            facts: Whatever else must be known to go on; JSON.
            keep: How many checkpoints stay.

        Raises:
            CocaError: the disk is full; the checkpoints before stay.
        """
        with unwinding_on_sigterm(), self._writing(step), self._hidden() as part:
            check_space(self.path, sum(array.nbytes for array in (*weights.values(), *state.values())))
            _write_arrays(part / WEIGHTS, weights)
            _write_arrays(part / _OPTIMIZER, state)
            _write(part / CONFIG, config.to_file())
            sizes = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
            digests = {name: hash_file(part / name) for name in sizes}
            _write(part / _PROGRESS, {"step": step, "files": sizes, "sha256": digests, "facts": dict(facts)})
            place = self._place(step)  # where an earlier attempt may have left one
            place.parent.mkdir(exist_ok=True)
            publish_folder(part, place)
        for old in run_steps(self.path)[:-keep]:
            shutil.rmtree(self._put_away(self._place(old)), ignore_errors=True)

    def keep_best(self, step: int) -> None:
        """Make the model of a checkpoint the best one. It takes no room while the checkpoint is there.

        Raises:
            CocaError: the disk is full; the best one before stays.
        """
        best, source = self.path / "best", self._place(step)
        with io_errors("write", best), unwinding_on_sigterm(), self._hidden() as part:
            for name in (WEIGHTS, CONFIG, _PROGRESS):
                _link(source / name, part / name)
            _sync(part)
            best.mkdir(exist_ok=True)
            with undisturbed():
                for name in (WEIGHTS, CONFIG, _PROGRESS):
                    (part / name).replace(best / name)
            _sync(best)

    def best_step(self) -> int | None:
        """The step of the best model; None: there is none yet."""
        with suppress(OSError, ValueError, UsageError):
            path = self.path / "best" / _PROGRESS
            return validate(parse_json(path.read_bytes()), _Best, str(path)).step
        return None

    def last(self) -> tuple[Checkpoint | None, dict[int, str]]:
        """Return the newest whole checkpoint, and why each newer one is damaged. None: the run has not saved any yet.

        Raises:
            CocaError: there are checkpoints, but none of them is whole, or one cannot be read at the moment.
        """
        damaged: dict[int, str] = {}
        for step in reversed(self._steps()):
            try:
                return _load(self._place(step)), damaged
            except ModelError as error:
                damaged[step] = error.message
            except OSError as error:
                raise _unreadable(self._place(step), error) from None
        if not damaged and not self._has_saved():
            return None, {}
        reasons = "; ".join(f"step {step}: {why}" for step, why in damaged.items()) or "there is none left"
        options = f"restore one in {self.path / 'checkpoints'}, start anew with --overwrite, or take another --name"
        raise CocaError(f"no checkpoint of the run {self.name} can be loaded: {reasons}", f"{options}; nothing changed")

    def _steps(self) -> list[int]:
        """Steps of all checkpoints, damaged ones included.

        Raises:
            CocaError: the folder cannot be read.
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
        """Whether something is left of the checkpoints of a run that has none."""
        return (self.path / "best").exists() or any((self.path / "checkpoints").glob("*.damaged*"))

    def _lines(self) -> list[tuple[dict[str, Any], bytes]]:
        """The whole lines of the metrics: what they say, and as they stand there.

        Raises:
            CocaError: the file cannot be read.
            UsageError: a line was changed to something else.
        """
        path = self.path / METRICS
        try:
            lines = path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(path, error) from None
        whole = (line for line in lines if line.endswith(b"\n"))  # the last one may have been cut
        return [(_record(line, f"line {number} of {path}"), line) for number, line in enumerate(whole, start=1)]

    def _place(self, step: int) -> Path:
        return self.path / "checkpoints" / str(step)

    @contextmanager
    def _hidden(self) -> Iterator[Path]:
        """An empty folder to put something together in, of which nothing stays at the end."""
        part = self.path / f"{_HIDDEN}{secrets.token_hex(8)}"
        part.mkdir()
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Tell what stays where a checkpoint cannot be written."""
        try:
            yield
        except OSError as error:
            steps = run_steps(self.path)
            kept = f"that of step {steps[-1]} is kept; " if steps else ""
            hint = f"{kept}make room, then the same command goes on"
            raise CocaError(f"cannot write the checkpoint of step {step}: {error.strerror}", hint) from None

    def _put_away(self, folder: Path) -> Path:
        """Take a folder, if it is there, out of sight in one step."""
        away = self.path / f"{_HIDDEN}{secrets.token_hex(8)}"
        with suppress(FileNotFoundError):
            folder.rename(away)
        return away


@contextmanager
def open_run_folder(name: str, asked: Mapping[str, Any], overwrite: bool = False) -> Iterator[RunFolder]:
    """Start a run or go on with it, and hold it against other processes.

    Args:
        asked: What must stay the same for as long as the run goes on; JSON.
        overwrite: Start anew, and remove what is there.

    Raises:
        UsageError: no run can be called so, another process works on it, or it was asked for something else.
        ModelError: it cannot be written to.
    """
    path = run_folder(name)
    with ExitStack() as stack:
        with writing():
            if not stack.enter_context(free(f"{RUN}{name}")):
                raise UsageError(f"another process works on the run {name}", "wait for it, or take another --name")
            _clear(path, overwrite)
            path.mkdir(parents=True, exist_ok=True)
            if not any(path.iterdir()):
                _start(path, asked)
        _check_asked(path, asked)
        yield RunFolder(name, path)


def _clear(path: Path, overwrite: bool) -> None:
    """Remove what killed processes left, and all of the run where it is to start anew."""
    away = path.with_name(f"{_HIDDEN}{path.name}")
    for left in (away, *path.glob(f"{_HIDDEN}*")):
        shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    if overwrite and path.exists():
        shutil.rmtree(path.rename(away))


def _start(path: Path, asked: Mapping[str, Any]) -> None:
    started = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"asked": dict(asked), "program": __version__, "started": started}, indent=2)
    with write_atomically(path / ASKED) as (file,):
        file.write(text.encode() + b"\n")


def asked_before(name: str) -> dict[str, Any]:
    """Return what a run was asked for when it was started, flattened; empty if there is no such run.

    Raises:
        UsageError: no run can be called so, or its `run.json` is damaged.
    """
    path = run_folder(name)
    return _asked(path) if (path / ASKED).exists() else {}


def _asked(path: Path) -> dict[str, Any]:
    hint = "restore the file, take another --name, or start the run anew with --overwrite"
    try:
        return flattened(validate(read_json(path / ASKED), _RunFile, str(path / ASKED), hint).asked)
    except (UsageError, RecursionError) as error:
        raise UsageError(getattr(error, "message", f"{path / ASKED} is nested too deeply"), hint) from None


def _check_asked(path: Path, asked: Mapping[str, Any]) -> None:
    before = _asked(path)
    now = flattened(json.loads(json.dumps(dict(asked))))
    changed = [
        f"{key} was {_value(before, key)}, is {_value(now, key)}"
        for key in {**before, **now}
        if _value(before, key) != _value(now, key)
    ]
    if changed:
        more = f", and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        hint = "the same settings go on, another --name starts another run, --overwrite starts this one anew"
        raise UsageError(f"the run {path.name} has other settings: {'; '.join(changed[:_NAMED])}{more}", hint)


def flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their path, as `data.pictures`."""
    flat: dict[str, Any] = {}
    for key, value in fields.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _value(settings: Mapping[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "not set"


def _load(place: Path) -> Checkpoint:
    """Read a checkpoint and compare every file with what was written.

    Raises:
        ModelError: it is damaged.
        OSError: it cannot be read, which may pass: too many open files, a network file system that is away.
    """
    try:
        progress = validate(parse_json((place / _PROGRESS).read_bytes()), _ProgressFile, _PROGRESS)
        for name, size in progress.files.items():
            if (found := (place / name).stat().st_size) != size:
                raise ModelError(f"{name} has {found} bytes, not {size}")
        for name, digest in progress.sha256.items():
            if hash_file(place / name) != digest:
                raise ModelError(f"{name} is not what was written")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise ModelError(f"{Path(error.filename).name} is missing") from None
    except (ValueError, UsageError):
        raise ModelError(f"{_PROGRESS} is damaged") from None
    try:
        config = load_config(place / CONFIG)
        weights, state = ckpt.read(place / WEIGHTS), ckpt.read(place / _OPTIMIZER)
    except ModelError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None
        raise
    return Checkpoint(progress.step, config, weights, state, progress.facts)


def _set_aside(place: Path) -> Path:
    """Rename a damaged checkpoint, beside others of its step that were damaged before."""
    names = (f"{place.name}.damaged{f'-{number}' if number > 1 else ''}" for number in count(1))
    away = next(path for path in map(place.with_name, names) if not path.exists())
    return place.rename(away)


def _unreadable(path: Path, error: OSError) -> CocaError:
    return CocaError(f"cannot read {path}: {error.strerror or error}", "nothing changed: the same command can go on")


def _record(line: bytes, where: str) -> dict[str, Any]:
    hint = "restore the line or remove it; the run goes on from its last checkpoint"
    try:
        record = parse_json(line)
    except ValueError as error:
        raise UsageError(f"{where} is not valid JSON: {error}", hint) from None
    valid = vars(validate(record, _MetricsLine, where, hint))
    return {name: valid.get(name, value) for name, value in record.items()}


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_arrays(path: Path, arrays: Arrays) -> None:
    with path.open("xb") as file:
        for name, array in arrays.items():
            ckpt.write(file, name, array.shape, [array], array.dtype.name)
    _sync(path)


def _write(path: Path, fields: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
    _sync(path)


def _link(source: Path, destination: Path) -> None:
    try:
        destination.hardlink_to(source)
    except OSError:  # a file system without links
        shutil.copyfile(source, destination)
        _sync(destination)


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
