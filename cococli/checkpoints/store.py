"""Find models that are ready to be loaded: bundled ones, those in the cache, those of training runs, and any path.

A training run is a folder `COCA_HOME/runs/NAME`, laid out by `runs.folder`.
"""

import atexit
import difflib
import functools
import json
import lzma
import math
import shlex
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import settings
from ..catalog import BUNDLED, CLIP, MODELS, SUGGESTED, CocaConfig, known_name
from ..errors import ModelError, UsageError
from ..files import (
    check_regular,
    delete,
    digest,
    format_size,
    hide_folder,
    os_reason,
    temporary_folder,
    write_atomically,
)
from ..reporting import SILENT, Reporter
from . import cache
from .architecture import find_config, load_config, parameters
from .cache import Removed, StoredModel, free, is_folder, is_name, list_folder, modified, writing
from .manifest import CONFIG, WEIGHTS

RUN = "run:"  # run:NAME is the best model of a training run, run:NAME@STEP that of a step

_ASSETS = Path(__file__).parent.parent / "assets" / "models"
_UNPACKED = {"shapes": 43_456_384}  # bytes of the .ckpt
_USED = ".used"  # an empty file in a run's folder, touched at each use


@dataclass(frozen=True)
class ModelFiles:
    """A converted model that is ready to be loaded."""

    name: str
    weights: Path  # a .ckpt
    config: CocaConfig
    # Changes with the weights (their SHA-256, or else size and modification time) and the preprocessing.
    identity: str = field(default="", compare=False)
    note: str = field(default="", compare=False)  # to show to the user


def with_preprocess(identity: str, config: CocaConfig) -> str:
    """Extend the identity of weights by the preprocessing of pictures, unless that is CLIP's."""
    if config.preprocess == CLIP:
        return identity
    return f"{identity} {digest(json.dumps(config.preprocess.to_open_clip(), sort_keys=True))}"


def model_names() -> list[str]:
    """Return the names that `find_model` finds: bundled, in the cache, of training runs. Imports nothing heavy."""
    bundled = [name for name, model in MODELS.items() if model.bundled]
    return bundled + [model.name for model in stored_models() if not model.problem]


def catalog() -> list[dict[str, Any]]:
    """Return the facts about all models with a short name, in the types of JSON."""
    here = model_names()
    models = [
        {"name": name, **asdict(model), "size": full_size(name), "here": name in here} for name, model in MODELS.items()
    ]
    for facts in models:
        del facts["config"]
    return models


def full_size(name: str) -> int:
    """Return the bytes of the weights of a catalog model, as float32."""
    config = MODELS[name].config or _bundled_config(name)
    return 4 * sum(map(math.prod, parameters(config).values()))


def find_model(name_or_path: str) -> ModelFiles:
    """Find the files of a model.

    Args:
        name_or_path: The bundled model's name, a name in the cache (`org/repo` too), `run:NAME` for the best model of
            a training run, `run:NAME@STEP` for that of a step, a `.ckpt` with its config beside it, or a folder that
            holds one.

    Raises:
        ModelError: There is no such model, it is damaged, or lacks its config; the hint is the command that repairs it.
        UsageError: The name is not valid for a run.
    """
    if name_or_path in MODELS and MODELS[name_or_path].bundled:
        return _bundled(name_or_path)
    if name_or_path.startswith(RUN):
        # A run is trained with the preprocessing that it is used with.
        return _as_for_clip(_with_config(_weights_of_run(name_or_path), name_or_path))
    if cache.has(cache.slug(name_or_path)):
        return _cached(name_or_path)
    if name_or_path in MODELS:
        raise ModelError(f"{name_or_path} is not on this machine", fetch_command(name_or_path))
    try:
        return _at_path(name_or_path)
    except (OSError, RuntimeError) as error:
        # The name may be too long, a folder closed, or a ~user unknown.
        reason = os_reason(error) if isinstance(error, OSError) else error
        raise ModelError(f"cannot open {name_or_path!r}: {reason}") from None


def default_model() -> str:
    """Return the name of the model fetched last.

    Raises:
        ModelError: None was fetched yet, those that were are damaged, or the cache cannot be read.
    """
    name = cache.newest()
    if name is None:
        for model in cache.models():
            if model.damage:
                raise model.damage
        hint = f"{fetch_command(SUGGESTED)}; or try the bundled demo: --model {BUNDLED}"
        raise ModelError("no model is here yet", hint)
    return name


def fetch_command(name: str) -> str:
    """Return the command that fetches a model, and its size."""
    return f"coca fetch {name} ({format_size(full_size(name))})"


def compiled_folder(model: ModelFiles) -> Path:
    """Return a folder for compiled graphs: beside a model in the cache, or else for this process only."""
    home = settings.home()
    inside = home in model.weights.parents
    name = digest(f"{'' if inside else model.weights.absolute()} {model.identity}")
    folder = (model.weights.parent if inside else home) / "compiled" / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # The cache is read-only or full.
        return _temporary_folder() / "compiled"
    return folder


def _cached(name: str) -> ModelFiles:
    model = cache.stored(name)
    cache.mark_used(model.name)
    assert model.manifest
    config = load_config(model.folder / CONFIG)
    identity = with_preprocess(model.manifest.files[WEIGHTS].sha256, config)
    origin = model.manifest.source
    known = any(origin.repository == known.repository for known in MODELS.values() if not known.bundled)
    note = _note(model.name, config, f"coca fetch {shlex.quote(origin.address)} --name {model.name} --force")
    files = ModelFiles(model.name, model.folder / WEIGHTS, config, identity, note)
    return _as_for_clip(files) if known else files


def _at_path(name: str) -> ModelFiles:
    path = Path(name).expanduser()
    if not name or not path.exists():
        if known := known_name(name):
            return find_model(known)
        names = list(dict.fromkeys([*model_names(), *MODELS]))
        close = difflib.get_close_matches(name, names)
        hint = f"{'close' if close else 'known'}: {', '.join(close or names)}"
        raise ModelError(f"no model or file is called {name!r}", hint)
    if path.is_dir():
        return _in_folder(path, path.resolve().name)
    if not path.is_file():
        raise ModelError(f"{path} is not a regular file")
    if path.suffix != ".ckpt":
        raise ModelError(f"{path} is not converted yet", f"coca convert {shlex.quote(str(path))}")
    return _with_config(path, path.stem)


def _in_folder(folder: Path, name: str) -> ModelFiles:
    from .source import find_checkpoint

    found = sorted(path for path in folder.iterdir() if path.suffix == ".ckpt" and not path.name.startswith("."))
    if len(found) == 1:
        return _with_config(found[0], name)
    if found:
        raise ModelError(f"{folder} holds {len(found)} models", f"name one of them: {shlex.quote(str(found[0]))}")
    try:
        hint = f"coca convert {shlex.quote(str(find_checkpoint(folder, 'coca convert')))}"
    except ModelError as error:
        hint = error.hint
    raise ModelError(f"{folder} holds no converted model (.ckpt)", hint)


def _with_config(weights: Path, name: str) -> ModelFiles:
    path = find_config(weights)
    if path is None:
        fetch = f"coca fetch {shlex.quote(str(weights))}"
        hint = f"{fetch}, or put open_clip's config there as {weights.with_suffix('.json').name}"
        raise ModelError(f"{weights} has no config beside it", hint)
    check_regular(weights)
    config, status = load_config(path), weights.stat()
    identity = with_preprocess(f"{status.st_size} {status.st_mtime_ns}", config)
    return ModelFiles(name, weights, config, identity, _note(name, config, f"`preprocess_cfg` in {path}"))


def _as_for_clip(files: ModelFiles) -> ModelFiles:
    """Mark a model as one that needs CLIP's preprocessing, unless its config has another."""
    return replace(files, config=replace(files.config, preprocess_cfg=files.config.preprocess), note="")


def _note(name: str, config: CocaConfig, remedy: str) -> str:
    """Return a note for a model that was converted before configs contained the preprocessing."""
    if config.preprocess_cfg:
        return ""
    return f"the config of {name} does not set the preprocessing; CLIP's is used; to record it: {remedy}"


# Bundled models


def _bundled_config(name: str) -> CocaConfig:
    return load_config(_ASSETS / name / f"{name}.json")


def _bundled(name: str) -> ModelFiles:
    """Unpack a model that ships with the package: once, into the cache, or else for this process only."""
    (sha256,) = MODELS[name].sha256.values()
    try:
        weights = _unpacked(name, settings.home() / "bundled" / sha256[:16])
    except OSError:
        # The cache is read-only or full.
        weights = _unpacked(name, _temporary_folder())
    return _as_for_clip(ModelFiles(name, weights, _bundled_config(name), sha256))


def _unpacked(name: str, folder: Path) -> Path:
    """Unpack a model, unless it is in the folder already. Of concurrent processes, each writes the complete file."""
    weights = folder / f"{name}.ckpt"
    if not weights.exists() or weights.stat().st_size != _UNPACKED[name]:
        packed = (_ASSETS / name / f"{name}.ckpt.xz").read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(weights) as (file,):
            try:
                file.write(lzma.decompress(packed))
            except lzma.LZMAError:
                hint = "pip install --force-reinstall cococli"
                raise ModelError(f"the bundled model {name} is damaged", hint) from None
    return weights


@functools.cache
def _temporary_folder() -> Path:
    """Create a private folder that lives as long as the process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(temporary_folder())


# Training runs


def run_folder(name: str) -> Path:
    """Return the folder of a training run, which need not exist.

    Raises:
        UsageError: The name is not valid for a run.
    """
    if "@" in name or not (is_name(name) or name in MODELS):
        allowed = "use at most 150 letters, digits and ._-+; a dot or dash cannot come first"
        raise UsageError(f"{name!r} is not a valid run name", allowed)
    return settings.home() / "runs" / name


def run_steps(folder: Path) -> list[int]:
    """Return the steps of which a run has a checkpoint, the newest last.

    Raises:
        ModelError: The folder cannot be read.
    """
    return sorted(int(path.name) for path in list_folder(folder / "checkpoints") if path.name.isdecimal())


def find_run(name: str) -> StoredModel:
    """Find a training run that has a model, by its name `run:NAME`.

    Raises:
        UsageError: The name is not valid for a run.
        ModelError: There is no such run, or it has no checkpoint yet.
    """
    folder = run_folder(name.removeprefix(RUN))
    if not is_folder(folder):
        close = difflib.get_close_matches(folder.name, [path.name for path in _run_folders()])
        hint = f"close: {', '.join(f'{RUN}{run}' for run in close)}" if close else "coca models lists them"
        raise ModelError(f"there is no run {folder.name!r}", hint)
    weights = _best_weights(folder)
    if weights is None:
        raise ModelError(f"the run {folder.name} has no checkpoint yet", f"its folder: {folder}")
    return _stored_run(folder, weights)


def _weights_of_run(name: str) -> Path:
    """Return the weights of a run's best model, of its newest if none is best, or of a step; mark the run as used."""
    run, at, step = name.partition("@")
    folder, weights = find_run(run).folder, None
    if not at:
        weights = _best_weights(folder)
    elif step.lstrip("0") in map(str, run_steps(folder)):
        weights = folder / "checkpoints" / step.lstrip("0") / WEIGHTS
    if weights is None:
        steps = ", ".join(map(str, run_steps(folder)))
        raise ModelError(f"the run {folder.name} has no checkpoint of step {step!r}", f"it has steps {steps}")
    with suppress(OSError):
        (folder / _USED).touch()
    return weights


def _run_folders() -> list[Path]:
    return [path for path in list_folder(settings.home() / "runs") if not path.name.startswith(".")]


def _best_weights(folder: Path) -> Path | None:
    newest = [folder / "checkpoints" / str(step) for step in reversed(run_steps(folder))]
    return next((place / WEIGHTS for place in (folder / "best", *newest) if (place / WEIGHTS).is_file()), None)


def _stored_run(folder: Path, weights: Path) -> StoredModel:
    added, used = modified(weights), modified(folder / _USED)
    return StoredModel(f"{RUN}{folder.name}", folder, None, _run_size(folder), added, used, "")


def _run_size(folder: Path) -> int:
    """Return the bytes of all files in a folder; hard links count once."""
    # A file may be removed meanwhile.
    with suppress(OSError):
        files = [path.stat() for path in folder.rglob("*") if path.is_file()]
        return sum({file.st_ino: file.st_size for file in files}.values())
    return 0


# Models of the cache and of runs, for `coca models`


def stored_models() -> list[StoredModel]:
    """Return every model in the cache, and the training runs that have a model.

    Raises:
        ModelError: A folder cannot be read.
    """
    runs = [_stored_run(path, weights) for path in _run_folders() if (weights := _best_weights(path))]
    return [*cache.models(), *runs]


def find_stored(name: str) -> StoredModel:
    """Find a model in the cache, which may be damaged, a training run, or a bundled model.

    Raises:
        UsageError: The name is not valid.
        ModelError: There is none of this name.
    """
    if name in MODELS and MODELS[name].bundled:
        files = [path.stat().st_size for path in (_ASSETS / name).iterdir()]
        return StoredModel(name, _ASSETS / name, None, sum(files), None, None, "")
    return find_run(name) if name.startswith(RUN) else cache.find(name)


def find_removable(name: str) -> StoredModel:
    """Find a model in the cache, which may be damaged, or a training run.

    Raises:
        UsageError: The name is not valid, or that of a bundled model.
        ModelError: There is none of this name.
    """
    model = find_stored(name)
    if model.folder == _ASSETS / name:
        raise UsageError(f"the model {name} comes with the program and cannot be removed")
    return model


def find_in_cache(names: Iterable[str]) -> list[StoredModel]:
    """Find models in the cache, which may be damaged. Runs are refused: they have no manifest to compare with.

    Raises:
        UsageError: One of them is a run, or a name is not valid.
        ModelError: There is none of this name.
    """
    models = []
    for name in names:
        if name.startswith(RUN):
            weights = shlex.quote(str(find_model(name).weights))
            hint = f"coca fetch {weights} --name {name.removeprefix(RUN)} adds its model to the cache"
            raise UsageError(f"{name} is a training run, not a model in the cache", hint)
        models.append(cache.find(name))
    return models


def remove_stored(models: Sequence[StoredModel], reporter: Reporter = SILENT) -> list[Removed]:
    """Remove models from the cache, and training runs with everything in them.

    Raises:
        UsageError: A run is in progress.
        ModelError: One cannot be removed.
    """
    return [
        _remove_run(model) if model.name.startswith(RUN) else cache.remove(model.name, reporter) for model in models
    ]


def _remove_run(run: StoredModel) -> Removed:
    with writing(), free(run.name) as unheld:
        if not unheld:
            raise UsageError(f"the run {run.folder.name} is in progress", "stop it first")
        delete(hide_folder(run.folder))
    return Removed(run.folder, run.size)
