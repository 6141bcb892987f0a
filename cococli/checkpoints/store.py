"""Find converted models: the bundled one, those in the user's cache folder, those of training runs, and any path."""

import atexit
import difflib
import functools
import hashlib
import json
import lzma
import math
import shlex
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import settings
from ..catalog import BUNDLED, CLIP, MODELS, SUGGESTED, CocaConfig, known_name
from ..errors import ModelError
from ..files import check_regular, format_size, temporary_folder, write_atomically
from . import cache
from .architecture import find_config, load_config, parameters
from .manifest import CONFIG, WEIGHTS
from .runs import RUN, runs, weights_of_run

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
    )  # changes when the weights do: sha256, or else size and time of change; and see `with_preprocess`
    note: str = field(default="", compare=False)  # what its user should know


def with_preprocess(identity: str, config: CocaConfig) -> str:
    """Extend the identity of weights by how pictures are prepared for them, unless that is as for CLIP."""
    if config.preprocess == CLIP:
        return identity
    entry = json.dumps(config.preprocess.to_open_clip(), sort_keys=True)
    return f"{identity} {hashlib.sha256(entry.encode()).hexdigest()[:16]}"


def model_names() -> list[str]:
    """Names that `find_model` finds, without importing anything heavy: bundled, in the cache, of training runs."""
    bundled = [name for name, model in MODELS.items() if model.bundled]
    return bundled + [model.name for model in (*cache.models(), *runs()) if not model.problem]


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
        return _as_for_clip(_with_config(weights_of_run(name_or_path), name_or_path))  # trained as it is used
    if cache.has(cache.slug(name_or_path)):
        return _cached(name_or_path)
    if name_or_path in MODELS:
        raise _not_here(name_or_path)
    try:
        return _at_path(name_or_path)
    except (OSError, RuntimeError) as error:  # too long a name, a closed folder, no such ~user
        reason = getattr(error, "strerror", None) or error
        raise ModelError(f"cannot open {name_or_path!r}: {reason}") from None


def default_model() -> str:
    """Return the name of the model fetched last.

    Raises:
        ModelError: None was fetched yet, or those that were are damaged.
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
    """A folder for what is compiled of a model: beside it in the cache, to go with it; else for this process only."""
    home = settings.home()
    inside = home in model.weights.parents
    digest = hashlib.sha256(f"{'' if inside else model.weights.absolute()} {model.identity}".encode()).hexdigest()
    folder = (model.weights.parent if inside else home) / "compiled" / digest[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # the cache is read-only or full
        return _temporary_folder() / "compiled"
    return folder


def _cached(name: str) -> ModelFiles:
    model = cache.stored(name)
    cache.mark_used(model.name)
    assert model.manifest  # as every whole model has
    config = load_config(model.folder / CONFIG)
    identity = with_preprocess(model.manifest.files[WEIGHTS].sha256, config)
    source = model.manifest.source
    known = any(source.repository == known.repository for known in MODELS.values() if not known.bundled)
    note = _note(model.name, config, f"coca fetch {shlex.quote(source.origin)} --name {model.name} --force")
    files = ModelFiles(model.name, model.folder / WEIGHTS, config, identity, note)
    return _as_for_clip(files) if known else files


def _at_path(name: str) -> ModelFiles:
    path = Path(name).expanduser()
    if not name or not path.exists():
        if known := known_name(name):
            return find_model(known)
        raise _unknown(name)
    if path.is_dir():
        return _in_folder(path, path.resolve().name)
    if not path.is_file():
        raise ModelError(f"{path} is not a regular file")
    if path.suffix != ".ckpt":
        raise ModelError(f"{path} is not converted yet", f"coca convert {shlex.quote(str(path))}")
    return _with_config(path, path.stem)


def _not_here(name: str) -> ModelError:
    return ModelError(f"{name} is not on this machine", fetch_command(name))


def _unknown(name: str) -> ModelError:
    names = list(dict.fromkeys([*model_names(), *MODELS]))
    close = difflib.get_close_matches(name, names)
    return ModelError(
        f"no model or file is called {name!r}", f"{'close' if close else 'known'}: {', '.join(close or names)}"
    )


def _in_folder(folder: Path, name: str) -> ModelFiles:
    from .source import find_checkpoint

    found = sorted(folder.glob("[!.]*.ckpt"))
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
    config = find_config(weights)
    if config is None:
        raise ModelError(
            f"{weights} has no config beside it", f"put open_clip's config there as {weights.with_suffix('.json').name}"
        )
    check_regular(weights)
    known, status = load_config(config), weights.stat()
    identity = with_preprocess(f"{status.st_size} {status.st_mtime_ns}", known)
    return ModelFiles(name, weights, known, identity, _note(name, known, f"`preprocess_cfg` in {config}"))


def _as_for_clip(files: ModelFiles) -> ModelFiles:
    """A model of which it is sure that it wants pictures as CLIP does, unless its config says otherwise."""
    return replace(files, config=replace(files.config, preprocess_cfg=files.config.preprocess), note="")


def _note(name: str, config: CocaConfig, mend: str) -> str:
    """A note for a model that was converted before configs said how pictures are prepared."""
    if config.preprocess_cfg:
        return ""
    return f"{name} does not say how to prepare pictures, so that is done as for CLIP; to record it: {mend}"


def _bundled_config(name: str) -> CocaConfig:
    return load_config(_ASSETS / name / f"{name}.json")


def _bundled(name: str) -> ModelFiles:
    """Unpack a model that ships with the package: once, into the cache, or else for this process only."""
    (digest,) = MODELS[name].sha256.values()
    try:
        weights = _unpacked(name, settings.home() / "bundled" / digest[:16])
    except OSError:  # the cache is read-only or full
        weights = _unpacked(name, _temporary_folder())
    return _as_for_clip(ModelFiles(name, weights, _bundled_config(name), digest))


def _unpacked(name: str, folder: Path) -> Path:
    """Unpack a model, unless it is in the folder already. Two processes at once both write the whole file."""
    weights = folder / f"{name}.ckpt"
    if not weights.exists() or weights.stat().st_size != _UNPACKED[name]:
        packed = (_ASSETS / name / f"{name}.ckpt.xz").read_bytes()
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(weights) as (file,):
            try:
                file.write(lzma.decompress(packed))
            except lzma.LZMAError:
                hint = "pip install --force-reinstall cococli"
                raise ModelError(f"the model {name} that comes with the program is damaged", hint) from None
    return weights


@functools.cache
def _temporary_folder() -> Path:
    """A private folder that lives as long as the process."""
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(temporary_folder())
