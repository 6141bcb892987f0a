"""Add a checkpoint to the cache: download, check, convert and verify it, and only then give it its name."""

import difflib
import math
import os
import re
import shlex
import shutil
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import settings
from ..catalog import APPLE, CLIP, MODELS, CocaConfig, known_name
from ..errors import ModelError, UsageError
from ..files import check_regular, check_space, hash_file, os_reason
from ..reporting import SILENT, Reporter
from . import architecture, cache, hub
from .cache import check_name, locked
from .convert import OPEN_CLIP_CONFIG, Dtype, to_mindspore
from .fetch_options import FetchRequest
from .manifest import CONFIG, WEIGHTS, Manifest, Origin, record
from .source import HUB_NAMES, INDEX, INDEX_NAMES, find_checkpoint, likely_names, read_index

_LOCAL = "local-dir:"  # open_clip's prefix of folders
_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^:@\s]+))?(:(?P<file>[^:\s]+))?")


@dataclass(frozen=True)
class ModelSource:
    """A checkpoint on the hub or on this machine, and its name in the cache."""

    name: str
    path: Path | None = None  # of a local file; None: on the hub
    repository: str = ""
    revision: str = "main"
    files: tuple[str, ...] = (*HUB_NAMES, *INDEX_NAMES)  # the first that the repository has
    config: CocaConfig | None = None  # None: the one beside the file, else recognized from shapes
    sha256: dict[str, str] = field(default_factory=dict)  # pinned, by file name


@dataclass(frozen=True)
class FetchedModel:
    """A model that is now in the cache."""

    name: str
    folder: Path
    manifest: Manifest
    added: bool  # False: it was there before


def fetch(request: FetchRequest, reporter: Reporter = SILENT) -> FetchedModel:
    """Add a model to the cache, completely or not at all.

    Raises:
        UsageError: It cannot be fetched, or another model has its name.
        ModelError: It is not available, not a CoCa, not the expected file, or the disk is full. An interrupted
            download resumes at the next call.
    """
    dtype: Dtype = "float16" if request.half else "float32"
    return fetch_source(find_source(request), dtype, request.keep_download, request.force, reporter)


def find_source(request: FetchRequest) -> ModelSource:
    """Find the checkpoint that a request names.

    The model is a name in the catalog or open_clip's name of such a model, `org/repo[@revision][:file]` on the hub or
    a pasted address of it, or the path of a checkpoint or of a folder that holds one.

    Raises:
        UsageError: There is no such checkpoint, or the name is not valid.
    """
    config = architecture.load_config(request.config) if request.config else None
    source = _find_source(request.model, request.source)
    source = replace(source, name=request.name or source.name, config=config or source.config)
    check_name(source.name)
    return source


def _find_source(model: str, path: Path | None) -> ModelSource:
    if path:
        _check_regular(path)
        path = find_checkpoint(path, f"coca fetch {shlex.quote(model)} --from")
    elif model not in MODELS and _is_path(model):
        return _local_source(Path(model.removeprefix(_LOCAL)).expanduser())
    model = hub.parse_address(model)
    name = known_name(model) or model
    if f"apple/{name}".startswith(APPLE):
        model = f"apple/{name}"
    if known := MODELS.get(name):
        check_name(name)
        config = known.config and replace(known.config, preprocess_cfg=CLIP)
        return ModelSource(name, path, known.repository, config=config, sha256=dict(known.sha256))
    if found := _HUB.fullmatch(model):
        repository, revision, file = found["repository"], found["revision"] or "main", found["file"]
        files = (file,) if file else ModelSource.files
        return ModelSource(cache.slug(model), path, repository, revision, files)
    if "://" in model:
        hint = "download it, then: coca fetch FILE; on the hub, name ORG/REPO, ORG/REPO@REVISION or ORG/REPO:FILE"
        raise UsageError(f"{model} is not an address on the model hub", hint)
    names = {name.lower(): name for name, known in MODELS.items() if not known.bundled}
    names |= {known.repository.partition("/")[2].lower(): name for name, known in MODELS.items() if not known.bundled}
    close = dict.fromkeys(names[match] for match in difflib.get_close_matches(model.lower(), names))
    hint = f"close: {', '.join(close)}" if close else "coca models available lists all; or name ORG/REPO, or a file"
    raise UsageError(f"no model or file is called {model!r}", hint)


def _local_source(path: Path) -> ModelSource:
    _check_regular(path)
    stem = path.resolve().name if path.is_dir() else path.stem
    name = re.sub(r"[^\w@+.-]+", "-", stem, flags=re.ASCII).strip(".-")
    return ModelSource(name, find_checkpoint(path, "coca fetch"))


def _check_regular(file: Path) -> None:
    try:
        if file.exists():
            check_regular(file)
    except OSError as error:
        raise UsageError(f"cannot read {file}: {os_reason(error)}") from None


def _is_path(model: str) -> bool:
    return model.startswith((".", "/", "~", _LOCAL)) or "\\" in model or os.path.lexists(model)


def fetch_source(
    source: ModelSource,
    dtype: Dtype = "float32",
    keep_download: bool = False,
    force: bool = False,
    reporter: Reporter = SILENT,
) -> FetchedModel:
    """Add a checkpoint to the cache. Of two processes at once, one does the work and the other waits.

    Args:
        dtype: Type of the weights in the cache.
        keep_download: Download into the shared cache of the hub (HF_HOME), where other programs find the file, and
            keep it; else into COCA_HOME until it is converted.
        force: Fetch a model that is there already.

    Raises:
        UsageError: Another model has its name.
        ModelError: As for `fetch`.
    """
    downloads = settings.home() / "downloads" / source.name
    with locked(source.name, reporter):
        fetched = None if force else _find_present(source, dtype, reporter)
        if not fetched and source.path:
            fetched = _add(source, source.path, _local_origin(source.path, reporter), dtype, reporter)
        elif not fetched:
            fetched = _fetch_from_hub(source, dtype, None if keep_download else downloads, reporter)
        # A run that was killed after it had added the model left it, too.
        with suppress(OSError):
            shutil.rmtree(downloads)
        return fetched


def _find_present(source: ModelSource, dtype: Dtype, reporter: Reporter) -> FetchedModel | None:
    """Return the model if it is in the cache and intact. A damaged one is fetched again."""
    if not cache.has(source.name) or (model := cache.find(source.name)).damage or not (manifest := model.manifest):
        return None
    origin = manifest.source
    other = origin.file != str(source.path.resolve()) if source.path else origin.repository != source.repository
    if other:
        hint = f"replace it with --force, choose another --name, or: coca models rm {source.name}"
        raise UsageError(f"the cache has another model called {source.name}, from {origin}", hint)
    if manifest.dtype != dtype:
        reporter.note(f"it is stored as {manifest.dtype}; --force stores it as {dtype}")
    return FetchedModel(source.name, model.folder, manifest, added=False)


def _local_origin(path: Path, reporter: Reporter) -> Origin:
    try:
        size = path.stat().st_size
        with reporter.progress("hashing", size, unit="bytes") as progress:
            return Origin("", "", str(path.resolve()), hash_file(path, progress), size)
    except OSError as error:
        raise ModelError(f"cannot read {path}: {os_reason(error)}") from None


def _fetch_from_hub(source: ModelSource, dtype: Dtype, folder: Path | None, reporter: Reporter) -> FetchedModel:
    """Download a checkpoint into a folder, by default the shared cache of the hub, and add it."""
    file = _find_file(source, source.files) or _find_only_weights(source)
    _check_pinned(source, file.name, file.sha256)
    files = [file]
    if file.name.endswith(INDEX):
        shards = read_index(hub.download(file, folder, reporter))
        files += [_find_shard(source, file, shard.name) for shard in shards]
    _check_space(source, files, dtype, folder)
    config = _config(source, folder)
    path, *_ = [hub.download(file, folder, reporter) for file in files]
    sha256 = file.sha256 or hash_file(path)
    _check_pinned(source, file.name, sha256)
    origin = Origin(source.repository, file.commit, file.name, sha256, file.size)
    return _add(source, path, origin, dtype, reporter, config)


def _find_file(source: ModelSource, names: tuple[str, ...]) -> hub.HubFile | None:
    try:
        return hub.find_file(source.repository, source.revision, names)
    except hub.ProxyError:
        raise
    except hub.Unreachable as error:
        known = source.name in MODELS
        command = f"coca fetch {source.name} --from FILE" if known else f"coca fetch FILE --name {source.name}"
        page = f"https://huggingface.co/{source.repository}"
        file = HUB_NAMES[-1] if len(names) > 1 else names[0]
        raise ModelError(error.message, f"download {file} from {page} by other means, then: {command}") from None


def _find_only_weights(source: ModelSource) -> hub.HubFile:
    """Find the only file of weights in a repository, whatever its name."""
    problem = f"{source.repository} has no {', '.join(source.files)}"
    hint = f"name one of its files: coca fetch {source.repository}:FILE"
    if source.files != ModelSource.files:
        raise ModelError(problem, hint)
    found = likely_names(hub.list_files(source.repository, source.revision))
    if len(found) == 1 and (file := _find_file(source, (found[0],))):
        return file
    raise ModelError(f"{problem}, but {architecture.listed(found)}" if found else problem, hint)


def _config(source: ModelSource, folder: Path | None) -> CocaConfig | None:
    """Return the requested config, completed by the one beside the weights on the hub; or only the latter."""
    if source.config and source.config.preprocess_cfg:
        return source.config
    for name in (OPEN_CLIP_CONFIG, "config.json"):
        if file := _find_file(source, (name,)):
            path = hub.download(file, folder)
            if not architecture.is_config(path) and name != OPEN_CLIP_CONFIG:
                continue
            if source.config:
                return replace(source.config, preprocess_cfg=architecture.load_preprocess(path))
            return architecture.load_config(path)
    return source.config


def _find_shard(source: ModelSource, index: hub.HubFile, name: str) -> hub.HubFile:
    """Find a file of a sharded checkpoint, in the same commit as its index."""
    path = f"{index.name.rpartition('/')[0]}/{name}".removeprefix("/")
    if file := _find_file(replace(source, revision=index.commit), (path,)):
        return file
    raise ModelError(f"{source.repository} has no {path}, which its {index.name} lists")


def _check_pinned(source: ModelSource, file: str, sha256: str) -> None:
    pinned = source.sha256.get(file)
    if pinned and sha256 and sha256 != pinned:
        problem = f"{file} of {source.repository} is not the file known as {source.name}: its sha256 is {sha256}"
        raise ModelError(problem, f"to use it anyway: coca fetch {source.repository}")


def _check_space(source: ModelSource, files: list[hub.HubFile], dtype: Dtype, folder: Path | None) -> None:
    """Check the space for the weights, and for the rest of a download beside them, before anything is downloaded."""
    cache.remove_half_added(source.name)
    shapes = architecture.parameters(source.config).values() if source.config else ()
    needed = sum(map(math.prod, shapes)) * (2 if dtype == "float16" else 4) or sum(file.size for file in files)
    if folder:
        needed += sum(hub.missing_bytes(file, folder) for file in files)
    home = settings.home()
    try:
        check_space(next(path for path in (home, *home.absolute().parents) if path.exists()), needed)
    except OSError as error:
        hint = "make room, use --half, or set COCA_HOME to a folder on another disk"
        raise ModelError(f"cannot store {source.name} in {home}: {os_reason(error)}", hint) from None


def _add(
    source: ModelSource,
    path: Path,
    origin: Origin,
    dtype: Dtype,
    reporter: Reporter,
    config: CocaConfig | None = None,
) -> FetchedModel:
    """Convert a checkpoint into the cache."""
    with cache.adding(source.name) as folder:
        weights = folder / WEIGHTS
        conversion = to_mindspore(path, weights, config or source.config, verify=True, dtype=dtype, reporter=reporter)
        weights.with_suffix(".json").rename(folder / CONFIG)
        manifest = record(folder, origin, dtype, conversion.parameters, reporter)
    for note in conversion.notes:
        reporter.note(note)
    return FetchedModel(source.name, settings.models_folder() / source.name, manifest, added=True)
