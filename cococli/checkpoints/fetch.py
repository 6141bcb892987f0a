"""Bring a checkpoint into the cache: download it, check it, convert it, verify it, and only then give it its name."""

import difflib
import math
import os
import re
import shlex
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import settings
from ..catalog import CLIP, MODELS, CocaConfig, known_name
from ..errors import ModelError, UsageError
from ..files import check_regular
from . import architecture, cache, hub
from .convert import convert
from .locks import check_name, locked
from .manifest import CONFIG, WEIGHTS, FileFacts, Manifest, Source, measure, record
from .source import HUB_NAMES, INDEX, INDEX_NAMES, find_checkpoint, read_index
from .writing import Dtype, Progress

HUB_CONFIG = "open_clip_config.json"
_LOCAL = "local-dir:"  # how open_clip marks a folder
_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@\s]+))?(:(?P<file>[^:\s]+))?")


@dataclass(frozen=True)
class Request:
    """What to fetch, and what to call it."""

    name: str  # in the cache
    path: Path | None = None  # of a local file; None: from the hub
    repository: str = ""
    revision: str = "main"
    files: tuple[str, ...] = (*HUB_NAMES, *INDEX_NAMES)  # the first that the repository has
    config: CocaConfig | None = None  # None: the one beside the file, else what the shapes tell
    sha256: dict[str, str] = field(default_factory=dict)  # pinned, by the name of the file


@dataclass(frozen=True)
class Fetched:
    """A model that is now in the cache."""

    name: str
    folder: Path
    manifest: Manifest
    added: bool  # False: it was there before
    notes: tuple[str, ...] = ()


def read_request(
    model: str, name: str | None = None, source: Path | None = None, config: CocaConfig | None = None
) -> Request:
    """Understand what a user wants to fetch.

    Args:
        model: A name of the catalog or open_clip's name of the same model, `org/repo[@revision][:file]` of the hub or
            a pasted address of it, or the path of a checkpoint or of a folder that holds one.
        name: What to call it; by default the catalog's name, else one made of `model`.
        source: A local file to take for a model of the hub.
        config: The architecture, where the user knows better.

    Raises:
        UsageError: it is nothing that can be fetched, or the name cannot be.
    """
    request = _request(model, source)
    request = replace(request, name=name or request.name, config=config or request.config)
    check_name(request.name)
    return request


def _request(model: str, source: Path | None) -> Request:
    if source:
        _check_regular(source)
        source = find_checkpoint(source, f"coca fetch {shlex.quote(model)} --from")
    elif model not in MODELS and _is_path(model):
        path = Path(model.removeprefix(_LOCAL)).expanduser()
        _check_regular(path)
        name = path.resolve().name if path.is_dir() else path.stem
        return Request(
            re.sub(r"[^\w@+.-]+", "-", name, flags=re.ASCII).strip(".-"), find_checkpoint(path, "coca fetch")
        )
    model = hub.unpasted(model)
    if known := MODELS.get(named := known_name(model) or model):
        check_name(named)  # says that a bundled one needs no fetching
        config = known.config and replace(known.config, preprocess_cfg=CLIP)
        return Request(named, source, known.repository, config=config, sha256=dict(known.sha256))
    if found := _HUB.fullmatch(model):
        repository, revision, file = found["repository"], found["revision"] or "main", found["file"]
        return Request(cache.slug(model), source, repository, revision, (file,) if file else (*HUB_NAMES, *INDEX_NAMES))
    if "://" in model:
        hint = "download it, then: coca fetch FILE; of the hub, name ORG/REPO, ORG/REPO@REVISION or ORG/REPO:FILE"
        raise UsageError(f"{model} is not an address on the model hub", hint)
    names = {name.lower(): name for name, known in MODELS.items() if not known.bundled}
    names |= {known.repository.partition("/")[2].lower(): name for name, known in MODELS.items() if not known.bundled}
    close = dict.fromkeys(names[match] for match in difflib.get_close_matches(model.lower(), names))
    hint = f"close: {', '.join(close)}" if close else "coca models available shows all; or name ORG/REPO, or a file"
    raise UsageError(f"no model or file is called {model!r}", hint)


def _check_regular(file: Path | None) -> None:
    try:
        if file and file.exists():
            check_regular(file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~", _LOCAL)) or "\\" in model or os.path.lexists(model)


def fetch(
    request: Request,
    dtype: Dtype = "float32",
    keep_download: bool = False,
    force: bool = False,
    progress: Progress = lambda stage, done, total: None,
    waiting: Callable[[], object] = lambda: None,
) -> Fetched:
    """Put a model into the cache, whole or not at all. Of two processes at once one works and the other waits.

    Args:
        dtype: Of the weights in the cache.
        keep_download: Download into the shared cache of the hub (HF_HOME), where other programs find the file, too;
            else into COCA_HOME, until it is converted.
        force: Fetch what is there already.
        progress: Called with a stage, the bytes that are through and those in all.
        waiting: Called once if another process works on a model of this name.

    Raises:
        ModelError: it is not to be had, not a CoCa, not what was promised, or there is no room. An interrupted
            download continues at the next call.
        UsageError: another model has this name.
    """
    with locked(request.name, waiting):
        if not force and (present := _present(request, dtype)):
            return present
        if request.path:
            return _add(request, request.path, _local_source(request.path, progress), dtype, progress)
        return _fetch_from_hub(request, dtype, keep_download, progress)


def _present(request: Request, dtype: Dtype) -> Fetched | None:
    """The model, if it is in the cache and whole. A damaged one is fetched again."""
    if not cache.has(request.name) or (model := cache.find(request.name)).damage or not (manifest := model.manifest):
        return None
    source = manifest.source
    other = source.file != str(request.path.resolve()) if request.path else source.repository != request.repository
    if other:
        hint = f"--force replaces it, --name gives another name, or: coca models rm {request.name}"
        raise UsageError(f"a model called {request.name} is here already, made of {source}", hint)
    notes = () if manifest.dtype == dtype else (f"it is stored as {manifest.dtype}; --force stores it as {dtype}",)
    return Fetched(request.name, model.folder, manifest, added=False, notes=notes)


def _local_source(path: Path, progress: Progress) -> Source:
    try:
        total = path.stat().st_size
        facts = measure(path, lambda done: progress("check", done, total))
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from None
    return Source("", "", str(path.resolve()), facts.sha256, facts.size)


def _fetch_from_hub(request: Request, dtype: Dtype, keep_download: bool, progress: Progress) -> Fetched:
    file = _find(request, request.files)
    if file is None:
        problem = f"{request.repository} has no {', '.join(request.files)}"
        raise ModelError(problem, f"name a file of it: coca fetch {request.repository}:FILE")
    _check_pinned(request, file.name, file.sha256)
    downloads = settings.home() / "downloads" / request.name
    folder = None if keep_download else downloads
    files = [file]
    if file.name.endswith(INDEX):
        shards = read_index(hub.download(file, folder, progress))
        files += [_shard(request, file, shard.name) for shard in shards]
    _check_space(request, files, dtype, folder)
    config = _config(request, folder)
    path, *_ = [hub.download(file, folder, progress) for file in files]
    facts = FileFacts(file.size, file.sha256) if file.sha256 else measure(path)
    _check_pinned(request, file.name, facts.sha256)
    source = Source(request.repository, file.commit, file.name, facts.sha256, facts.size)
    fetched = _add(request, path, source, dtype, progress, config)
    with suppress(OSError):
        shutil.rmtree(downloads)
    return fetched


def _find(request: Request, names: tuple[str, ...]) -> hub.HubFile | None:
    try:
        return hub.find_file(request.repository, request.revision, names)
    except hub.ProxyError:
        raise
    except hub.Unreachable as error:
        known = request.name in MODELS
        take = f"coca fetch {request.name} --from FILE" if known else f"coca fetch FILE --name {request.name}"
        page = f"https://huggingface.co/{request.repository}"
        file = HUB_NAMES[-1] if len(names) > 1 else names[0]
        raise ModelError(error.message, f"get {file} by hand from {page}, then: {take}") from None


def _config(request: Request, folder: Path | None) -> CocaConfig | None:
    """The config that was asked for, completed by the one beside the weights on the hub; or the latter alone."""
    if request.config and request.config.preprocess_cfg:
        return request.config
    file = _find(request, (HUB_CONFIG,))
    if file is None:
        return request.config
    path = hub.download(file, folder, lambda stage, done, total: None)
    if request.config:
        return replace(request.config, preprocess_cfg=architecture.load_preprocess(path))
    return architecture.load_config(path)


def _shard(request: Request, index: hub.HubFile, name: str) -> hub.HubFile:
    """A file of a sharded checkpoint, of the same commit as the index beside it."""
    path = f"{index.name.rpartition('/')[0]}/{name}".removeprefix("/")
    if file := _find(replace(request, revision=index.commit), (path,)):
        return file
    raise ModelError(f"{request.repository} has no {path}, which its {index.name} names")


def _check_pinned(request: Request, file: str, sha256: str) -> None:
    pinned = request.sha256.get(file)
    if pinned and sha256 and sha256 != pinned:
        problem = (
            f"{file} of {request.repository} is not the file that {request.name} stands for: its sha256 is {sha256}"
        )
        raise ModelError(problem, f"to take it all the same: coca fetch {request.repository}")


def _check_space(request: Request, files: list[hub.HubFile], dtype: Dtype, folder: Path | None) -> None:
    """Refuse what there is no room for before anything is downloaded: the weights, and their download beside them."""
    shapes = architecture.parameters(request.config).values() if request.config else ()
    needed = sum(map(math.prod, shapes)) * (2 if dtype == "float16" else 4) or sum(file.size for file in files)
    if folder:
        needed += sum(file.size for file in files if not file.cached)
    place = next(path for path in (settings.home(), *settings.home().absolute().parents) if path.exists())
    if (free := shutil.disk_usage(place).free) < needed:
        problem = f"{request.name} takes {needed / 1e9:.2f} GB in {settings.home()}, but {free / 1e9:.2f} GB are free"
        raise ModelError(problem, "make room, take --half, or set COCA_HOME to another disk")


def _add(
    request: Request, path: Path, source: Source, dtype: Dtype, progress: Progress, config: CocaConfig | None = None
) -> Fetched:
    """Convert a checkpoint into the cache."""
    with cache.adding(request.name) as folder:
        made = convert(path, folder / WEIGHTS, config or request.config, verify=True, progress=progress, dtype=dtype)
        (folder / WEIGHTS).with_suffix(".json").rename(folder / CONFIG)
        manifest = record(folder, source, dtype, made.parameters, lambda done: progress("record", done, made.size))
    return Fetched(request.name, settings.models_folder() / request.name, manifest, added=True, notes=made.notes)
