"""The folder of a training run: what was asked, what each step found, and checkpoints, each whole or not there.

    run.json            what was asked and must stay, and the version of the program
    metrics.jsonl       a line for each step and each evaluation
    checkpoints/STEP/   model.ckpt and config.json, optimizer.ckpt, progress.json
    best/               the model of the best checkpoint, without its optimizer
    plot.png  README.md  events/

It lives in `COCA_HOME/runs/NAME`. What is being written has a hidden name, `.coca-...`, until it is whole.
"""

import errno
import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..catalog import CocaConfig
from ..checkpoints import ckpt
from ..checkpoints.architecture import load_config
from ..checkpoints.locks import free, writing
from ..checkpoints.manifest import CONFIG, WEIGHTS, humanized
from ..checkpoints.runs import RUN, run_folder, run_steps
from ..errors import CocaError, ModelError, UsageError
from ..files import undisturbed, unwinding_on_sigterm, write_atomically
from ..journal import dump, told, write_all

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
class RunFolder:
    """A run that this process holds. `open_run` makes one."""

    name: str
    path: Path

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a line to the metrics, at once.

        Raises:
            CocaError: the disk is full.
        """
        path = self.path / METRICS
        with told(path), path.open("ab", buffering=0) as file:
            write_all(file, f"{dump(_plain(record))}\n".encode())

    def records(self) -> list[dict[str, Any]]:
        """The lines of the metrics."""
        return [record for record, _ in self._lines()]

    def rewind(self, step: int) -> None:
        """Drop what was measured and kept after a step, or all with step -1, so that it can be done again.

        Raises:
            CocaError: the disk is full.
        """
        path = self.path / METRICS
        with told(path), write_atomically(path) as (file,):
            file.writelines(line for record, line in self._lines() if record["step"] <= step)
        self._discard(later for later in run_steps(self.path) if later > step)

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
            _check_room(self.path, sum(array.nbytes for array in (*weights.values(), *state.values())))
            _write_arrays(part / WEIGHTS, weights)
            _write_arrays(part / _OPTIMIZER, state)
            _write(part / CONFIG, config.to_file())
            sizes = {path.name: path.stat().st_size for path in sorted(part.iterdir())}
            _write(part / _PROGRESS, {"step": step, "files": sizes, "facts": dict(facts)})
            self._take_place(part, self._place(step))
        self._discard(run_steps(self.path)[:-keep])

    def keep_best(self, step: int) -> None:
        """Make the model of a checkpoint the best one. It takes no room while the checkpoint is there.

        Raises:
            CocaError: the disk is full; the best one before stays.
        """
        best, source = self.path / "best", self._place(step)
        with told(best), unwinding_on_sigterm(), self._hidden() as part:
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
        with suppress(OSError, ValueError, KeyError):
            return int(json.loads((self.path / "best" / _PROGRESS).read_bytes())["step"])
        return None

    def last(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest whole checkpoint, and a note on each newer one, which is damaged."""
        notes: list[str] = []
        for step in reversed(run_steps(self.path)):
            try:
                return _load(self._place(step)), notes
            except ModelError as error:
                notes.append(f"the checkpoint of step {step} is damaged and passed over: {error.message}")
        return None, notes

    def _lines(self) -> list[tuple[dict[str, Any], bytes]]:
        """The whole lines of the metrics: what they say, and as they stand there."""
        try:
            lines = (self.path / METRICS).read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        return [(record, line) for line in lines if line.endswith(b"\n") and (record := _record(line))]

    def _discard(self, steps: Iterable[int]) -> None:
        """Remove the checkpoints of some steps."""
        for step in steps:
            shutil.rmtree(self._put_away(self._place(step)), ignore_errors=True)

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

    def _take_place(self, part: Path, place: Path) -> None:
        """Move a folder to its place, where there may be one of an earlier attempt."""
        _sync(part)
        place.parent.mkdir(exist_ok=True)
        with undisturbed():
            before = self._put_away(place)
            part.rename(place)
        _sync(place.parent)
        shutil.rmtree(before, ignore_errors=True)

    def _put_away(self, folder: Path) -> Path:
        """Take a folder, if it is there, out of sight in one step."""
        away = self.path / f"{_HIDDEN}{secrets.token_hex(8)}"
        with suppress(FileNotFoundError):
            folder.rename(away)
        return away


@contextmanager
def open_run(name: str, asked: Mapping[str, Any], overwrite: bool = False) -> Iterator[RunFolder]:
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


def _check_asked(path: Path, asked: Mapping[str, Any]) -> None:
    try:
        before = flattened(json.loads((path / ASKED).read_bytes())["asked"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path / ASKED} is missing or damaged", "--overwrite starts the run anew") from None
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
    try:
        progress = json.loads((place / _PROGRESS).read_bytes())
        step, files, facts = progress["step"], progress["files"], progress["facts"]
        for name, size in files.items():
            if (found := (place / name).stat().st_size) != size:
                raise ModelError(f"{name} has {found} bytes, not {size}")
    except FileNotFoundError as error:
        raise ModelError(f"{Path(error.filename).name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise ModelError(f"{_PROGRESS} is damaged") from None
    return Checkpoint(
        step, load_config(place / CONFIG), ckpt.read(place / WEIGHTS), ckpt.read(place / _OPTIMIZER), facts
    )


def _record(line: bytes) -> dict[str, Any] | None:
    with suppress(ValueError):
        record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            return record
    return None


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_room(folder: Path, size: int) -> None:
    if (room := shutil.disk_usage(folder).free) < size:
        raise OSError(errno.ENOSPC, f"it takes {humanized(size)}, but {humanized(room)} are free")


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
