"""The cache of models: `COCA_HOME/models/NAME/` with weights, config and manifest, each model whole or not there.

A model is put together in a hidden folder and takes its place in one step. What a killed process leaves stays hidden,
and nobody needs it once the lock of its name is free.
"""

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .. import settings
from ..catalog import MODELS
from ..errors import ModelError
from ..files import delete, hide_folder, publish_folder, remove_abandoned, unwinding_on_sigterm
from . import manifest as manifests
from .locks import check_name, free, is_name, locked, writing
from .manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from .writing import Progress

_USED = "used"  # an empty file in a model's folder; its time is that of the last use
_HIDDEN, _OLD = ".coca-", "~"  # .coca-NAME is being put together, .coca-NAME~ is going away


@dataclass(frozen=True)
class StoredModel:
    """A model in the cache, whole or damaged."""

    name: str
    folder: Path
    manifest: Manifest | None  # None: damaged, too
    size: int  # bytes that its folder takes
    added: datetime | None  # to this cache; None where that cannot be told
    used: datetime | None  # last; None: never
    problem: str  # what is wrong with it at a quick look; empty: nothing

    @property
    def mend(self) -> str:
        """The command that brings it back."""
        known, source = MODELS.get(self.name), self.manifest.source if self.manifest else None
        if not os.path.lexists(self.folder / MANIFEST):  # somebody put it there by hand
            weights = next(self.folder.glob("*.ckpt"), Path("FILE"))
            return f"coca fetch {shlex.quote(str(weights))} --name {self.name}"
        if known and (source is None or source.repository == known.repository):
            return f"coca fetch {self.name} --force"
        return f"coca fetch {shlex.quote(source.origin if source else 'FILE')} --name {self.name} --force"

    @property
    def damage(self) -> ModelError | None:
        """The error to raise for it, if it is damaged."""
        return ModelError(f"the model {self.name} is damaged: {self.problem}", self.mend) if self.problem else None


@dataclass(frozen=True)
class Removed:
    """What was removed from the cache."""

    path: Path  # where it was
    size: int  # bytes


def slug(name: str) -> str:
    """The name in the cache of a model of the hub: `org--repo@revision--file` for `org/repo@revision:file`."""
    return re.sub("[/:]", "--", name)


def names() -> list[str]:
    """Names of the models in the cache, damaged ones included."""
    with suppress(OSError):  # a cache that may not be read has nothing to offer
        return sorted(path.name for path in settings.models_folder().iterdir() if has(path.name))
    return []


def has(name: str) -> bool:
    """Whether a folder of the cache has this name."""
    return is_name(name) and os.path.isdir(settings.models_folder() / name)  # noqa: PTH112 (never raises)


def models() -> list[StoredModel]:
    """Every model in the cache, looked at quickly: is each file there, with its size?"""
    return [_look(name) for name in names()]


def find(name: str) -> StoredModel:
    """A model in the cache, which may be damaged, by its name there or on the hub.

    Raises:
        UsageError: no model can be called so.
        ModelError: there is none of this name.
    """
    kept = slug(name)
    check_name(kept)
    if not has(kept):
        close = difflib.get_close_matches(kept, names())
        hint = f"close: {', '.join(close)}" if close else "coca models shows what is there"
        raise ModelError(f"no model in the cache is called {name!r}", hint)
    return _look(kept)


def stored(name: str) -> StoredModel:
    """A model in the cache, whole as far as a quick look tells.

    Raises:
        ModelError: there is none of this name, or it is damaged; the hint is the command that mends it.
    """
    model = find(name)
    if model.damage:
        raise model.damage
    return model


def newest() -> str | None:
    """The name of the model that was added last, of those that are whole."""
    whole = {model.name: model.added for model in models() if model.added and not model.problem}
    return max(whole, key=whole.__getitem__, default=None)


def mark_used(name: str) -> None:
    """Note that a model is used now, where the cache may be written to."""
    with suppress(OSError):
        (settings.models_folder() / name / _USED).touch()


def verify(name: str, progress: "Progress") -> list[str]:
    """What is wrong with each file of a model, all of it read again.

    Args:
        progress: Called with the stage `verify NAME`, the bytes that are through and those in all.

    Raises:
        ModelError: there is none of this name.
    """
    model = find(name)
    if not model.manifest:
        return [model.problem]
    return manifests.verify(model.folder, model.manifest, lambda *through: progress(f"verify {model.name}", *through))


@contextmanager
def adding(name: str, waiting: Callable[[], object] = lambda: None) -> Iterator[Path]:
    """Give an empty folder to put a model together in. When the block succeeds, it takes the name's place in one step.

    On any error, Ctrl-C and SIGTERM included, nothing of it stays, and what had the name before does.

    Raises:
        UsageError: no model can be called so.
        ModelError: the cache cannot be written to, or the folder does not hold a whole model at the end.
    """
    with unwinding_on_sigterm(), locked(name, waiting):
        with suppress(OSError):
            _discard_unheld(_half_added())
        folder = _hidden(name)
        try:
            with writing():
                delete(folder)
                folder.mkdir(parents=True)
            yield folder
            manifests.check(folder, manifests.read(folder))
            with writing():
                publish_folder(folder, settings.models_folder() / name)
        finally:
            with suppress(OSError):
                delete(folder)


def remove(name: str, waiting: Callable[[], object] = lambda: None) -> Removed:
    """Remove a model, damaged or not, in one step.

    Raises:
        ModelError: there is none of this name, or the cache cannot be written to.
    """
    name = find(name).name
    with locked(name, waiting):
        model = find(name)  # still
        with writing():
            delete(hide_folder(model.folder))
    return Removed(model.folder, model.size)


def prune() -> list[Removed]:
    """Remove what nobody needs: half-added models, unfinished downloads, unpacked models of other versions.

    Temporary files of killed processes go as well, wherever they are in the cache.

    What a living process works on stays.

    Raises:
        ModelError: the cache cannot be written to.
    """
    with writing():
        unheld = _discard_unheld([*_half_added(), *_downloads()])
        others = [_discard(path) for path in _other_unpackings()]
        folders = [
            settings.home(),
            *(path for path in settings.home().rglob("*") if path.is_dir()),
        ]
        return unheld + others + [Removed(*file) for folder in folders for file in remove_abandoned(folder).items()]


def _look(name: str) -> StoredModel:
    folder = settings.models_folder() / name
    manifest, problem = None, ""
    try:
        manifest = manifests.read(folder)
        manifests.check(folder, manifest)
    except ModelError as error:
        problem = error.message
    return StoredModel(name, folder, manifest, _size(folder), _time(folder / MANIFEST), _time(folder / _USED), problem)


def _time(file: Path) -> datetime | None:
    with suppress(OSError):
        return datetime.fromtimestamp(file.stat().st_mtime, UTC)
    return None


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    with suppress(OSError):  # gone meanwhile
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.lstat().st_size for file in files if not file.is_dir())
    return 0


def _hidden(name: str) -> Path:
    return settings.models_folder() / f"{_HIDDEN}{name}"


def _discard(path: Path) -> Removed:
    removed = Removed(path, _size(path))
    delete(path)
    return removed


def _half_added() -> Iterator[tuple[Path, str]]:
    """What is being added or removed, or was when a process was killed, and the name of the model."""
    for path in settings.models_folder().glob(f"{_HIDDEN}*"):
        yield path, path.name.removeprefix(_HIDDEN).removesuffix(_OLD)


def _downloads() -> Iterator[tuple[Path, str]]:
    """What is being downloaded or was not finished, and the name of the model."""
    for path in (settings.home() / "downloads").glob("*"):
        yield path, path.name


def _discard_unheld(found: Iterable[tuple[Path, str]]) -> list[Removed]:
    """Remove what belongs to names that no process holds."""
    removed = []
    for path, name in found:
        with free(name) as unheld:
            if unheld and os.path.lexists(path):
                removed.append(_discard(path))
    return removed


def _other_unpackings() -> list[Path]:
    """Bundled models that another version of the program unpacked."""
    ours = {digest[:16] for model in MODELS.values() if model.bundled for digest in model.sha256.values()}
    return [path for path in (settings.home() / "bundled").glob("*") if path.name not in ours]
