"""Find converted models: the bundled one, those in the user's cache folder, those of training runs, and any path."""

import atexit
import difflib
import functools
import lzma
import math
import shlex
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from .. import settings
from ..catalog import MODELS, CocaConfig
from ..errors import ModelError, UsageError
from . import cache
from .architecture import find_config, load_config, parameters
from .cache import Removed, StoredModel
from .locks import free, is_name, writing
from .manifest import CONFIG, WEIGHTS, humanized
from .whole import written_whole

RUN = "run:"  # run:NAME is the best model of a training run, run:NAME@STEP that of a step
_USED = ".used"  # an empty file in a run's folder; its time is that of the last use
_ASSETS = Path(__file__).parent.parent / "assets" / "models"
_UNPACKED = {"shapes": 43_456_384}  # bytes of the .ckpt


@dataclass(frozen=True)
class ModelFiles:
    """A converted model that is ready to be loaded."""

    name: str
    weights: Path  # a .ckpt
    config: CocaConfig
    identity: str = field(
        default="", compare=False
    )  # changes when the weights do: sha256, or else size and time of change


def model_names() -> list[str]:
    """Names that `find_model` finds, without importing anything heavy: bundled, in the cache, of training runs."""
    bundled = [name for name, model in MODELS.items() if model.bundled]
    return bundled + [model.name for model in (*cache.models(), *runs()) if not model.problem]


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


def full_size(name: str) -> int:
    """Bytes of the weights of a model of the catalog, as float32."""
    config = MODELS[name].config or _bundled_config(name)
    return 4 * sum(map(math.prod, parameters(config).values()))


def find_model(name_or_path: str) -> ModelFiles:
    """The files of a model.

    Args:
        name_or_path: The bundled model's name, a name in the cache (`org/repo` too), `run:NAME` for the best model of
            a training run, `run:NAME@STEP` for that of a step, a `.ckpt` with its config beside it, or a folder that
            holds one.

    Raises:
        ModelError: there is no such model, it is damaged, or lacks its config; the hint is the command that mends it.
        UsageError: no run can be called so.
    """
    if name_or_path in MODELS and MODELS[name_or_path].bundled:
        return _bundled(name_or_path)
    if name_or_path.startswith(RUN):
        return _of_run(name_or_path)
    if cache.has(cache.slug(name_or_path)):
        return _cached(name_or_path)
    if name_or_path in MODELS:
        raise _not_here(name_or_path)
    try:
        return _at_path(name_or_path)
    except (OSError, RuntimeError) as error:  # too long a name, a closed folder, no such ~user
        raise ModelError(f"cannot open {name_or_path!r}: {error}") from None


def _cached(name: str) -> ModelFiles:
    model = cache.stored(name)
    cache.mark_used(model.name)
    assert model.manifest  # as every whole model has
    identity = model.manifest.files[WEIGHTS].sha256
    return ModelFiles(model.name, model.folder / WEIGHTS, load_config(model.folder / CONFIG), identity)


def _of_run(name: str) -> ModelFiles:
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
    return _with_config(weights, name)


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


def _at_path(name: str) -> ModelFiles:
    path = Path(name).expanduser()
    if not name or not path.exists():
        raise _unknown(name)
    if path.is_dir():
        return _in_folder(path, path.resolve().name)
    if path.suffix != ".ckpt":
        raise ModelError(f"{path} is not converted yet", f"coca convert {shlex.quote(str(path))}")
    return _with_config(path, path.stem)


def _not_here(name: str) -> ModelError:
    return ModelError(f"{name} is not on this machine", f"coca fetch {name} ({humanized(full_size(name))})")


def _unknown(name: str) -> ModelError:
    names = list(dict.fromkeys([*model_names(), *MODELS]))
    close = difflib.get_close_matches(name, names)
    return ModelError(
        f"no model or file is called {name!r}", f"{'close' if close else 'known'}: {', '.join(close or names)}"
    )


def _in_folder(folder: Path, name: str) -> ModelFiles:
    from .source import SUFFIXES

    found = sorted(folder.glob("[!.]*.ckpt"))
    if len(found) == 1:
        return _with_config(found[0], name)
    if found:
        raise ModelError(f"{folder} holds {len(found)} models", f"name one of them: {shlex.quote(str(found[0]))}")
    sources = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)
    hint = f"coca convert {shlex.quote(str(sources[0]))}" if sources else ""
    raise ModelError(f"{folder} holds no converted model (.ckpt)", hint)


def _with_config(weights: Path, name: str) -> ModelFiles:
    config = find_config(weights)
    if config is None:
        raise ModelError(
            f"{weights} has no config beside it", f"put open_clip's config there as {weights.with_suffix('.json').name}"
        )
    status = weights.stat()
    return ModelFiles(name, weights, load_config(config), f"{status.st_size} {status.st_mtime_ns}")


def _bundled_config(name: str) -> CocaConfig:
    return load_config(_ASSETS / name / f"{name}.json")


def _bundled(name: str) -> ModelFiles:
    """Unpack a model that ships with the package: once, into the cache, or else for this process only."""
    (digest,) = MODELS[name].sha256.values()
    try:
        weights = _unpacked(name, settings.home() / "bundled" / digest[:16])
    except OSError:  # the cache is read-only or full
        weights = _unpacked(name, _temporary_folder())
    return ModelFiles(name, weights, _bundled_config(name), digest)


def _unpacked(name: str, folder: Path) -> Path:
    """Unpack a model, unless it is in the folder already. Two processes at once both write the whole file."""
    weights = folder / f"{name}.ckpt"
    if not weights.exists() or weights.stat().st_size != _UNPACKED[name]:
        packed = (_ASSETS / name / f"{name}.ckpt.xz").read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        with written_whole(weights) as (file,):
            try:
                file.write(lzma.decompress(packed))
            except lzma.LZMAError:
                hint = "pip install --force-reinstall cococli"
                raise ModelError(f"the model {name} that comes with the program is damaged", hint) from None
    return weights


@functools.cache
def _temporary_folder() -> Path:
    """A private folder that lives as long as the process."""
    folder = tempfile.mkdtemp(prefix="coca-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
