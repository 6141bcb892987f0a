"""Find converted models: the bundled one, those in the user's cache folder, and any path."""

import atexit
import difflib
import functools
import hashlib
import lzma
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .. import settings
from ..catalog import MODELS, CocaConfig
from ..errors import ModelError
from .architecture import find_config, load_config
from .whole import written_whole

_ASSETS = Path(__file__).parent.parent / "assets" / "models"


@dataclass(frozen=True)
class ModelFiles:
    """A converted model that is ready to be loaded."""

    name: str
    weights: Path  # a .ckpt
    config: CocaConfig


def model_names() -> list[str]:
    """Names that `find_model` finds, without importing anything heavy: the bundled model, then those in the cache."""
    bundled = [name for name, model in MODELS.items() if not model.repository]
    try:
        cached = sorted(folder.parent.name for folder in settings.models_folder().glob("[!.]*/*.ckpt"))
    except OSError:  # a cache that may not be read has nothing to offer
        cached = []
    return list(dict.fromkeys(bundled + cached))


def find_model(name_or_path: str) -> ModelFiles:
    """The files of a model.

    Args:
        name_or_path: The bundled model's name, a name in the cache, a `.ckpt` with its config beside it, or a folder
            that holds one.

    Raises:
        ModelError: there is no such model, or it lacks its config; the hint is the command that mends it.
    """
    if name_or_path in MODELS and (_ASSETS / name_or_path).is_dir():
        return _bundled(name_or_path)
    if name_or_path in model_names():
        return _in_folder(settings.models_folder() / name_or_path, name_or_path)
    if name_or_path in MODELS:
        raise _not_here(name_or_path)
    try:
        return _at_path(name_or_path)
    except (OSError, RuntimeError) as error:  # too long a name, a closed folder, no such ~user
        raise ModelError(f"cannot open {name_or_path!r}: {error}") from None


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
    page = f"huggingface.co/{MODELS[name].repository}"
    steps = f"download open_clip_pytorch_model.bin from {page}, then: coca convert FILE {name}.ckpt --config {name}"
    return ModelError(f"{name} is not on this machine", steps)


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
    return ModelFiles(name, weights, load_config(config))


def _bundled(name: str) -> ModelFiles:
    """Unpack a model that ships with the package: once, into the cache, or else for this process only."""
    packed = (_ASSETS / name / f"{name}.ckpt.xz").read_bytes()
    version = hashlib.sha256(packed).hexdigest()[:16]
    config = load_config(_ASSETS / name / f"{name}.json")
    try:
        weights = _unpacked(packed, settings.home() / "bundled" / version / f"{name}.ckpt")
    except OSError:  # the cache is read-only or full
        weights = _unpacked(packed, _temporary_folder() / f"{name}.ckpt")
    return ModelFiles(name, weights, config)


def _unpacked(packed: bytes, destination: Path) -> Path:
    """Unpack to a file, unless it stands there already. Two processes at once both write the whole file."""
    if not destination.exists():
        destination.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(destination) as (file,):
            file.write(lzma.decompress(packed))
    return destination


@functools.cache
def _temporary_folder() -> Path:
    """A private folder that lives as long as the process."""
    folder = tempfile.mkdtemp(prefix="coca-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)
