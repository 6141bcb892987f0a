"""Bundles: a model of the cache as one plain tar, for machines without a network.

    NAME/manifest.json    first, because it describes the others
    NAME/config.json
    NAME/model.ckpt

An archive may be hostile, so its headers are read one by one and only these three plain files are extracted. `tarfile`
as a reader would obey long names, sparse files and pax headers, and read an archive to its end before it refuses it.
"""

import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..errors import ModelError, UsageError
from ..files import check_regular, check_space, format_size, hash_file, os_reason
from ..overwrite import check_paths, refuse_foreign, write_output
from ..reporting import SILENT, Progress, Reporter
from . import architecture, cache, ckpt
from .cache import is_name, locked
from .manifest import CONFIG, MANIFEST, WEIGHTS, FileFacts, Manifest

_MEMBERS = (MANIFEST, CONFIG, WEIGHTS)
# Bytes of a header. Contents are padded to whole blocks, and two blocks of zeros end a tar.
_BLOCK = 512
_MAX_TEXT = 1 << 20  # bytes of a manifest or a config
_MAX_MEMBER = 8**11 - 1  # bytes that a header can hold
_CHUNK_BYTES = 1 << 20
_KINDS = {
    **dict.fromkeys((tarfile.LNKTYPE, tarfile.SYMTYPE), "a link"),
    **dict.fromkeys((tarfile.CHRTYPE, tarfile.BLKTYPE), "a device"),
    **dict.fromkeys((tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE), "a pax header"),
    **dict.fromkeys((tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK), "a long name"),
    tarfile.DIRTYPE: "a folder",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


@dataclass(frozen=True)
class _Contents:
    """Content of a bundle."""

    name: str  # of the model when it was exported
    starts: dict[str, int]  # first byte of each file
    size: int  # bytes of the bundle
    manifest: Manifest
    text: bytes  # the manifest as stored


def export_model(name: str, destination: Path, overwrite: bool = False, reporter: Reporter = SILENT) -> None:
    """Write a model of the cache as a bundle, the same bytes every time. An existing file is replaced at the very end.

    Args:
        overwrite: Replace a file that coca did not write.

    Raises:
        UsageError: The destination cannot be a bundle.
        ModelError: There is no such model, it is damaged, or the bundle cannot be written.
    """
    if destination.suffix != ".tar":
        raise UsageError(f"{destination}: the name of a bundle must end in .tar")
    if destination.is_dir():
        raise UsageError(f"{destination} is a folder")
    model = cache.stored(name)
    assert model.manifest
    manifest = model.folder / MANIFEST
    check_paths([(str(destination), destination)], [model.folder / member for member in _MEMBERS])
    if not overwrite:
        refuse_foreign(destination)
    try:
        facts = {MANIFEST: FileFacts(manifest.stat().st_size, hash_file(manifest)), **model.manifest.files}
        total = sum(_BLOCK + _padded(fact.size) for fact in facts.values()) + 2 * _BLOCK
        check_space(destination.parent, total)
        with write_output(destination) as (file,), reporter.progress("exporting", total, unit="bytes") as progress:
            for member in _MEMBERS:
                file.write(_header(f"{model.name}/{member}", facts[member].size))
                with (model.folder / member).open("rb") as content:
                    _copy(content, file, member, facts[member], progress, file)
                file.write(bytes(-file.tell() % _BLOCK))
            file.write(bytes(2 * _BLOCK))
    except OSError as error:
        raise ModelError(f"cannot export {name} to {destination}: {os_reason(error)}") from None
    except ModelError as error:
        raise ModelError(f"cannot export {name}: {error.message}", error.hint or model.remedy) from None


def import_model(
    bundle: Path, name: str | None = None, force: bool = False, reporter: Reporter = SILENT
) -> tuple[str, bool]:
    """Add the model of a bundle to the cache, after every byte of it is checked.

    Args:
        name: Its name in the cache; by default the one it had when it was exported.
        force: Replace a model of this name.

    Returns:
        Its name, and whether it was added: an identical model may have been there.

    Raises:
        UsageError: There is another model of this name, or the name is not valid.
        ModelError: The file is not a bundle, truncated or damaged, or the cache cannot be written.
    """
    try:
        check_regular(bundle)
        with bundle.open("rb") as file:
            contents = _inspect(file, bundle.stat().st_size)
            name = name or contents.name
            with locked(name, reporter):
                if cache.has(name) and not force:
                    _refuse_another(cache.find(name), contents.manifest)
                    return name, False
                with cache.adding(name) as folder:
                    _extract(file, contents, folder, reporter)
                    _check_fit(folder)
    except OSError as error:
        raise ModelError(f"cannot import {bundle}: {os_reason(error)}") from None
    except ModelError as error:
        raise ModelError(f"cannot import {bundle}: {error.message}", error.hint) from None
    return name, True


def _refuse_another(model: cache.StoredModel, manifest: Manifest) -> None:
    """Refuse a model that is damaged, or not the one that the manifest describes."""
    if model.problem or not model.manifest or model.manifest.files != manifest.files:
        raise UsageError(f"the cache has another model called {model.name}", "use --force to replace it, or --name")


def _header(name: str, size: int) -> bytes:
    if size > _MAX_MEMBER:
        raise ModelError(f"a bundle holds files of {format_size(_MAX_MEMBER)} at most", "store it in half precision")
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


def _copy(source: BinaryIO, target: BinaryIO, name: str, facts: FileFacts, progress: Progress, tar: BinaryIO) -> None:
    """Copy a file, and check that it has the expected size and SHA-256. Progress is the position in the tar."""
    sha256, left = hashlib.sha256(), facts.size
    while chunk := source.read(min(left, _CHUNK_BYTES)):
        sha256.update(chunk)
        target.write(chunk)
        left -= len(chunk)
        progress.update(tar.tell())
    if left:
        raise ModelError(f"{name} is truncated: {left} bytes are missing")
    if sha256.hexdigest() != facts.sha256:
        raise ModelError(f"{name} has the sha256 {sha256.hexdigest()}, not {facts.sha256}")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _inspect(file: BinaryIO, size: int) -> _Contents:
    """Read the headers and the manifest of a bundle of a given size in bytes."""
    name, starts, sizes = "NAME", {}, {}
    for member in _MEMBERS:
        header = _next_header(file)
        if header is None:
            raise ModelError(f"it holds no {name}/{member}")
        if member == MANIFEST and is_name(stated := header.name.removesuffix(f"/{MANIFEST}")):
            name = stated
        if header.name != f"{name}/{member}":
            raise ModelError(f"it holds {header.name!r} where {name}/{member} belongs")
        if not 0 <= header.size <= (_MAX_MEMBER if member == WEIGHTS else _MAX_TEXT):
            raise ModelError(f"{member} cannot have {header.size} bytes")
        starts[member], sizes[member] = file.tell(), header.size
        if file.seek(_padded(header.size), os.SEEK_CUR) > size:
            raise ModelError(f"it is truncated within {member}")
    if surplus := _next_header(file):
        raise ModelError(f"it holds {surplus.name!r} after the model")
    file.seek(starts[MANIFEST])
    text = file.read(sizes[MANIFEST])
    manifest = Manifest.from_json(text)
    for member, facts in manifest.files.items():
        if sizes[member] != facts.size:
            raise ModelError(f"{member} has {sizes[member]} bytes, not {facts.size}")
    return _Contents(name, starts, size, manifest, text)


def _next_header(file: BinaryIO) -> tarfile.TarInfo | None:
    """Read the next header, which must be that of a plain file; None at the end of the tar."""
    block = file.read(_BLOCK)
    if block == bytes(_BLOCK):
        return None
    if len(block) < _BLOCK:
        raise ModelError("it is truncated" if file.tell() > _BLOCK else "it is not a tar")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise ModelError("it is not a plain tar, or damaged") from None
    if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise ModelError(f"it holds {header.name!r}, which is {_KINDS.get(header.type, 'not a plain file')}")
    return header


def _extract(file: BinaryIO, contents: _Contents, folder: Path, reporter: Reporter) -> None:
    check_space(folder, contents.size)
    (folder / MANIFEST).write_bytes(contents.text)
    with reporter.progress("importing", contents.size, unit="bytes") as progress:
        for member, facts in contents.manifest.files.items():
            file.seek(contents.starts[member])
            with (folder / member).open("xb") as target:
                _copy(file, target, member, facts, progress, file)


def _check_fit(folder: Path) -> None:
    """Refuse weights that do not fit the config beside them."""
    try:
        config = architecture.load_config(folder / CONFIG)
        shapes = {name: array.shape for name, array in ckpt.read(folder / WEIGHTS).items()}
        architecture.check(config, shapes)
    except ModelError as error:
        # The name of the hidden folder means nothing to the user.
        raise ModelError(error.message.replace(f"{folder}{os.sep}", ""), error.hint) from None
