"""Training runs as models: `COCA_HOME/runs/NAME`, as `training.folder` lays it out."""

import difflib
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from .. import settings
from ..catalog import MODELS
from ..errors import ModelError, UsageError
from .cache import Removed, StoredModel
from .locks import free, is_name, writing
from .manifest import WEIGHTS

RUN = "run:"  # run:NAME is the best model of a training run, run:NAME@STEP that of a step
_USED = ".used"  # an empty file in a run's folder; its time is that of the last use


def run_folder(name: str) -> Path:
    """Where a training run lives, which need not be there.

    Raises:
        UsageError: no run can be called so.
    """
    if "@" in name or not (is_name(name) or name in MODELS):
        allowed = "at most 150 letters, digits and ._-+, the first no dot or dash"
        raise UsageError(f"{name!r} cannot be the name of a run", allowed)
    return settings.home() / "runs" / name


def run_steps(folder: Path) -> list[int]:
    """Steps of which a run has a checkpoint, the newest last."""
    with suppress(OSError):  # it has none yet
        return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    return []


def runs() -> list[StoredModel]:
    """The training runs that have a model."""
    return [_stored_run(path, weights) for path in _run_folders() if (weights := _best_weights(path))]


def find_run(name: str) -> StoredModel:
    """A training run that has a model.

    Args:
        name: As `run:NAME`.

    Raises:
        UsageError: no run can be called so.
        ModelError: there is none of this name, or it has no model yet.
    """
    folder = run_folder(name.removeprefix(RUN))
    if not folder.is_dir():
        close = difflib.get_close_matches(folder.name, [path.name for path in _run_folders()])
        hint = f"close: {', '.join(f'{RUN}{run}' for run in close)}" if close else "coca models shows what is there"
        raise ModelError(f"there is no run {folder.name!r}", hint)
    weights = _best_weights(folder)
    if weights is None:
        raise ModelError(f"the run {folder.name} has no checkpoint yet", f"see how far it is: {folder}")
    return _stored_run(folder, weights)


def remove_run(name: str) -> Removed:
    """Remove all of a training run, unless a process works on it.

    Args:
        name: As `run:NAME`.

    Raises:
        UsageError: it is under way.
        ModelError: there is none of this name, or it cannot be removed.
    """
    run = find_run(name)
    away = run.folder.with_name(f".coca-{run.folder.name}")
    with writing(), free(run.name) as unheld:
        if not unheld:
            raise UsageError(f"the run {run.folder.name} is under way", "stop it first")
        shutil.rmtree(away, ignore_errors=True)
        shutil.rmtree(run.folder.rename(away))
    return Removed(run.folder, run.size)


def weights_of_run(name: str) -> Path:
    """The weights of a training run, which is marked as used.

    Args:
        name: As `run:NAME` for the best model, or the newest while none is best; or `run:NAME@STEP`.

    Raises:
        UsageError: no run can be called so.
        ModelError: there is none of this name, or it has no checkpoint, or none of this step.
    """
    run, at, step = name.partition("@")
    folder, weights = find_run(run).folder, None
    if not at:
        weights = _best_weights(folder)
    elif step.isdecimal() and int(step) in run_steps(folder):
        weights = folder / "checkpoints" / str(int(step)) / WEIGHTS
    if weights is None:
        steps = ", ".join(map(str, run_steps(folder)))
        raise ModelError(f"the run {folder.name} has no checkpoint of step {step!r}", f"it has those of: {steps}")
    with suppress(OSError):
        (folder / _USED).touch()
    return weights


def _run_folders() -> list[Path]:
    with suppress(OSError):  # there are none
        return sorted(path for path in (settings.home() / "runs").iterdir() if not path.name.startswith("."))
    return []


def _best_weights(folder: Path) -> Path | None:
    """Those of the best model of a run, or of the newest checkpoint while none is best."""
    newest = [folder / "checkpoints" / str(step) for step in reversed(run_steps(folder))]
    return next((place / WEIGHTS for place in (folder / "best", *newest) if (place / WEIGHTS).is_file()), None)


def _stored_run(folder: Path, weights: Path) -> StoredModel:
    saved, used = _time(weights), _time(folder / _USED)
    return StoredModel(f"{RUN}{folder.name}", folder, None, _size(folder), saved, used, "")


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, those of several names counted once."""
    with suppress(OSError):  # gone meanwhile
        files = [path.stat() for path in folder.rglob("*") if path.is_file()]
        return sum({file.st_ino: file.st_size for file in files}.values())
    return 0


def _time(file: Path) -> datetime | None:
    with suppress(OSError):
        return datetime.fromtimestamp(file.stat().st_mtime, UTC)
    return None
