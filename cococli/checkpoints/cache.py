"""Cache of models: `COCA_HOME/models/NAME/` with weights, config and manifest, each model complete or absent.

A model is assembled in a hidden folder, which then takes its place in one step. Leftovers of killed processes stay
hidden, and are removed once the lock of their name is free: one process at a time adds or removes a model.
"""

import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import settings
from ..catalog import MODELS
from ..errors import ModelError, UsageError
from ..files import delete, hide_folder, os_reason, publish_folder, remove_abandoned, unwinding_on_sigterm
from ..reporting import SILENT, Reporter
from . import manifest as manifests
from .manifest import MANIFEST, Manifest

if TYPE_CHECKING:
    from filelock import BaseFileLock

_CHECK_HOME = "check its permissions, or set COCA_HOME to another folder"
_USED = "used"  # an empty file in a model's folder, touched at each use
_MAX_LENGTH = 150  # characters of a name; a tar header has room for 155
_NAME = re.compile(rf"[A-Za-z0-9_@+][A-Za-z0-9_@+.-]{{0,{_MAX_LENGTH - 1}}}")
_HIDDEN, _OLD = ".coca-", "~"  # .coca-NAME is being assembled, .coca-NAME~ is being removed


@dataclass(frozen=True)
class StoredModel:
    """A model in the cache, intact or damaged; that of a training run; or a bundled one."""

    name: str
    folder: Path
    manifest: Manifest | None  # None: of a run, bundled, or damaged
    size: int  # bytes of its folder
    added: datetime | None  # to this cache; None if unknown
    used: datetime | None  # last; None: never
    problem: str  # found without reading its weights; empty: none

    @property
    def origin(self) -> str:
        """Short description of its source."""
        if self.manifest:
            return str(self.manifest.source)
        if self.problem:
            return "unknown"
        return "run" if self.name.startswith("run:") else "the program"

    def facts(self) -> dict[str, Any]:
        """Return it in the types of JSON, with the same keys for every model."""
        fields = asdict(self.manifest) if self.manifest else dict.fromkeys(Manifest.__dataclass_fields__)
        return {
            "name": self.name,
            "path": str(self.folder),
            "size": self.size,
            "added": self.added and self.added.isoformat(),
            "used": self.used and self.used.isoformat(),
            "problem": self.problem or None,
            "mend": self.remedy if self.problem else None,
            **fields,
        }

    @property
    def remedy(self) -> str:
        """The command that restores it."""
        known, origin = MODELS.get(self.name), self.manifest.source if self.manifest else None
        # Without a manifest, somebody put the model there by hand.
        if not os.path.lexists(self.folder / MANIFEST):
            weights = next(self.folder.glob("*.ckpt"), Path("FILE"))
            return f"coca fetch {shlex.quote(str(weights))} --name {self.name}"
        if known and (origin is None or origin.repository == known.repository):
            return f"coca fetch {self.name} --force"
        return f"coca fetch {shlex.quote(origin.address if origin else 'FILE')} --name {self.name} --force"

    @property
    def damage(self) -> ModelError | None:
        """The error to raise for it, if it is damaged."""
        return ModelError(f"the model {self.name} is damaged: {self.problem}", self.remedy) if self.problem else None


@dataclass(frozen=True)
class Removed:
    """A file or folder that was removed."""

    path: Path
    size: int  # bytes


def slug(name: str) -> str:
    """Return the name in the cache of a model on the hub: `org--repo@revision--file` for `org/repo@revision:file`."""
    return re.sub("[/:]", "--", name)


def is_name(name: str) -> bool:
    """Return whether a model in the cache may have this name."""
    return bool(_NAME.fullmatch(name)) and not (name in MODELS and MODELS[name].bundled)


def check_name(name: str) -> None:
    """Raise a UsageError for a name that no model in the cache may have."""
    if name in MODELS and MODELS[name].bundled:
        raise UsageError(f"the model {name} comes with the program and is not in the cache")
    if not is_name(name):
        allowed = f"use at most {_MAX_LENGTH} letters, digits and ._-@+; a dot or dash cannot come first"
        raise UsageError(f"{name!r} is not a valid model name", allowed)


def names() -> list[str]:
    """Return the names of the models in the cache, including damaged ones.

    Raises:
        ModelError: The cache cannot be read.
    """
    return [path.name for path in list_folder(settings.models_folder()) if has(path.name)]


def list_folder(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted; nothing if it does not exist.

    Raises:
        ModelError: The folder cannot be read.
    """
    with _reading(folder), suppress(FileNotFoundError):
        return sorted(folder.iterdir())
    return []


def has(name: str) -> bool:
    """Return whether the cache has a model of this name.

    Raises:
        ModelError: The cache cannot be read.
    """
    return is_name(name) and is_folder(settings.models_folder() / name)


def is_folder(folder: Path) -> bool:
    """Return whether a folder exists.

    Raises:
        ModelError: It is in a folder that cannot be read.
    """
    with _reading(folder):
        return folder.is_dir()


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """Report that a folder cannot be read.

    Raises:
        ModelError: An OSError came out of the block.
    """
    try:
        yield
    except OSError as error:
        raise ModelError(f"cannot read {folder}: {os_reason(error)}", _CHECK_HOME) from None


def models() -> list[StoredModel]:
    """Return every model in the cache, each checked for missing files and wrong sizes.

    Raises:
        ModelError: The cache cannot be read.
    """
    return [_inspect(name) for name in names()]


def find(name: str) -> StoredModel:
    """Find a model in the cache, which may be damaged, by its name there or on the hub.

    Raises:
        UsageError: The name is not valid.
        ModelError: There is none of this name, or the cache cannot be read.
    """
    kept = slug(name)
    check_name(kept)
    if not has(kept):
        close = difflib.get_close_matches(kept, names())
        hint = f"close: {', '.join(close)}" if close else "coca models lists them"
        raise ModelError(f"no model in the cache is called {name!r}", hint)
    return _inspect(kept)


def stored(name: str) -> StoredModel:
    """Find a model in the cache whose files are there with the right sizes.

    Raises:
        ModelError: There is none of this name, or it is damaged; the hint is the command that restores it.
    """
    model = find(name)
    if model.damage:
        raise model.damage
    return model


def newest() -> str | None:
    """Return the name of the model that was added last; damaged ones do not count."""
    added = {model.name: model.added for model in models() if model.added and not model.problem}
    return max(added, key=added.__getitem__, default=None)


def mark_used(name: str) -> None:
    """Record that a model is used now, if the cache is writable."""
    with suppress(OSError):
        (settings.models_folder() / name / _USED).touch()


def verify(name: str, reporter: Reporter = SILENT) -> list[str]:
    """Read all of a model again and return the problem of each file that differs from its manifest.

    Raises:
        ModelError: There is none of this name.
    """
    model = find(name)
    if not model.manifest:
        return [model.problem]
    total = sum(facts.size for facts in model.manifest.files.values())
    with reporter.progress(f"verifying {model.name}", total, unit="bytes") as progress:
        return manifests.verify(model.folder, model.manifest, progress)


@contextmanager
def adding(name: str, reporter: Reporter = SILENT) -> Iterator[Path]:
    """Yield an empty folder for a new model, which takes the place of the name in one step when the block succeeds.

    On any error, Ctrl-C and SIGTERM included, the folder is removed, and an earlier model of the name stays.

    Raises:
        UsageError: The name is not valid.
        ModelError: The cache cannot be written, or the folder does not hold a complete model at the end.
    """
    with unwinding_on_sigterm(), locked(name, reporter):
        remove_half_added(name)
        folder = settings.models_folder() / f"{_HIDDEN}{name}"
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


def remove_half_added(name: str) -> None:
    """Remove what killed processes left of models that they were adding.

    Args:
        name: Model whose lock this process holds.
    """
    with suppress(OSError):
        _discard_unheld(_half_added())
    with suppress(OSError):
        delete(settings.models_folder() / f"{_HIDDEN}{name}")


def remove(name: str, reporter: Reporter = SILENT) -> Removed:
    """Remove a model, damaged or not, in one step.

    Raises:
        ModelError: There is none of this name, or the cache cannot be written.
    """
    name = find(name).name
    with locked(name, reporter):
        # Another process may have removed it meanwhile.
        model = find(name)
        with writing():
            delete(hide_folder(model.folder))
    return Removed(model.folder, model.size)


def prune() -> list[Removed]:
    """Remove leftovers: half-added models, unfinished downloads, and models unpacked by other versions.

    Temporary files of killed processes, anywhere in the cache, are removed as well. Whatever a living process works on
    stays.

    Raises:
        ModelError: The cache cannot be read or written.
    """
    home = settings.home()
    with _reading(home):
        leftovers, others = [*_half_added(), *_downloads()], _other_unpackings()
    with writing():
        removed = [*_discard_unheld(leftovers), *map(_discard, others)]
    with _reading(home):
        folders = [home, *(path for path in home.rglob("*") if path.is_dir())]
    return removed + [Removed(*file) for folder in folders for file in remove_abandoned(folder).items()]


# Locks, which the system frees when a process ends


@contextmanager
def locked(name: str, reporter: Reporter = SILENT) -> Iterator[None]:
    """Hold the lock of a model, which need not exist, while other processes wait. Its holder may take it again.

    Raises:
        UsageError: The name is not valid.
        ModelError: The cache cannot be written.
    """
    check_name(name)
    with writing():
        lock = _lock(name)
        acquire(lock, lambda: reporter.note(f"waiting for another process that adds or removes {name}"))
    try:
        yield
    finally:
        lock.release()


def acquire(lock: "BaseFileLock", waiting: Callable[[], object]) -> None:
    """Take a lock; `waiting` is called once if another process holds it."""
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        waiting()
        lock.acquire()


@contextmanager
def free(name: str) -> Iterator[bool]:
    """Hold the lock of a model if it is free, also in this process. Yield whether it was."""
    from filelock import Timeout

    lock = _lock(name)
    taken = False
    if not lock.is_locked:
        with suppress(Timeout):
            lock.acquire(blocking=False)
            taken = True
    try:
        yield taken
    finally:
        if taken:
            lock.release()


@contextmanager
def writing() -> Iterator[None]:
    """Report that the cache cannot be written. The block must not read what may be unreadable.

    Raises:
        ModelError: An OSError came out of the block.
    """
    try:
        yield
    except OSError as error:
        hint = "set COCA_HOME to another folder"
        raise ModelError(f"cannot write to {settings.home()}: {os_reason(error)}", hint) from None


def _lock(name: str) -> "BaseFileLock":
    """Return the lock of a name. Its file is kept, as removing it would not be safe."""
    from filelock import FileLock

    folder = settings.home() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    # Each thread has one lock, which it may take again.
    return FileLock(folder / f"{name}.lock", is_singleton=True)


# Helpers


def modified(file: Path) -> datetime | None:
    """Return when a file was modified; None if it does not exist."""
    with suppress(OSError):
        return datetime.fromtimestamp(file.stat().st_mtime, UTC)
    return None


def _inspect(name: str) -> StoredModel:
    folder = settings.models_folder() / name
    manifest, problem = None, ""
    try:
        manifest = manifests.read(folder)
        manifests.check(folder, manifest)
    except ModelError as error:
        problem = error.message
    added, used = modified(folder / MANIFEST), modified(folder / _USED)
    return StoredModel(name, folder, manifest, _size(folder), added, used, problem)


def _size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    # A file may be removed meanwhile.
    with suppress(OSError):
        files = path.rglob("*") if path.is_dir() else [path]
        return sum(file.lstat().st_size for file in files if not file.is_dir())
    return 0


def _discard(path: Path) -> Removed:
    removed = Removed(path, _size(path))
    delete(path)
    return removed


def _half_added() -> Iterator[tuple[Path, str]]:
    """Yield the hidden folders of models and runs that are or were being added or removed, with their names."""
    for folder, prefix in ((settings.models_folder(), ""), (settings.home() / "runs", "run:")):
        for path in folder.glob(f"{_HIDDEN}*"):
            yield path, prefix + path.name.removeprefix(_HIDDEN).removesuffix(_OLD)


def _downloads() -> Iterator[tuple[Path, str]]:
    """Yield downloads that are in progress or unfinished, with the names of their models."""
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
    """Return the bundled models that other versions of the program unpacked."""
    ours = {digest[:16] for model in MODELS.values() if model.bundled for digest in model.sha256.values()}
    return [path for path in (settings.home() / "bundled").glob("*") if path.name not in ours]
