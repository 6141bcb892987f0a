"""Bundles: a model of the cache as one plain tar, for machines that no network reaches.

    NAME/manifest.json    first, as it says what the others must be
    NAME/config.json
    NAME/model.ckpt

An archive may be hostile, so its headers are read one by one and nothing but these three plain files is taken from it.
`tarfile` as a reader would follow what long names, sparse files and pax headers ask for.
"""

import hashlib
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import ModelError, UsageError
from ..files import check_regular, check_space, format_size
from ..overwrite import check_paths, refuse_foreign, write_output
from . import architecture, cache, ckpt
from .locks import is_name, locked
from .manifest import CONFIG, MANIFEST, WEIGHTS, FileFacts, Manifest, measure

if TYPE_CHECKING:
    from .writing import Progress

_MEMBERS = (MANIFEST, CONFIG, WEIGHTS)
_BLOCK = 512  # bytes: a header is one, contents fill whole ones, and two of zeros end a tar
_MOST_TEXT = 1 << 20  # bytes of a manifest or a config
_MOST_MEMBER = 8**11 - 1  # bytes that a header can tell
_PART_BYTES = 1 << 20  # copied at a time
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
    """What is in a bundle."""

    name: str  # of the model where it was exported
    starts: dict[str, int]  # first byte of each file
    size: int  # bytes of the bundle
    manifest: Manifest
    text: bytes  # of the manifest


def export_model(name: str, destination: Path, progress: "Progress", overwrite: bool = False) -> None:
    """Write a model of the cache as a bundle, the same bytes every time; what stands there is replaced at the end.

    Args:
        progress: Called with the stage `export`, the bytes written and the bytes in all.
        overwrite: Replace a file that coca did not write.

    Raises:
        UsageError: the destination is no place for a bundle.
        ModelError: no such model, or it is damaged; or the bundle cannot be written.
    """
    if destination.suffix != ".tar":
        raise UsageError(f"{destination}: the name of a bundle must end in .tar")
    if destination.is_dir():
        raise UsageError(f"{destination} is a folder")
    model = cache.stored(name)
    assert model.manifest  # else it was damaged
    check_paths([(str(destination), destination)], [model.folder / member for member in _MEMBERS])
    if not overwrite:
        refuse_foreign(destination)
    try:
        facts = {MANIFEST: measure(model.folder / MANIFEST), **model.manifest.files}
        total = sum(_BLOCK + _padded(fact.size) for fact in facts.values()) + 2 * _BLOCK
        check_space(destination.parent, total)
        with write_output(destination) as (file,):
            for member in _MEMBERS:
                file.write(_header(f"{model.name}/{member}", facts[member].size))
                with (model.folder / member).open("rb") as content:
                    _copy(content, file, member, facts[member], lambda: progress("export", file.tell(), total))
                file.write(bytes(-file.tell() % _BLOCK))
            file.write(bytes(2 * _BLOCK))
    except OSError as error:
        raise ModelError(f"cannot export {name} to {destination}: {error.strerror}") from None
    except ModelError as error:
        raise ModelError(f"cannot export {name}: {error.message}", error.hint or model.mend) from None


def import_model(
    bundle: Path,
    name: str | None,
    force: bool,
    progress: "Progress",
    waiting: Callable[[], object] = lambda: None,
) -> tuple[str, bool]:
    """Take the model of a bundle into the cache, once it is checked to the last byte.

    Args:
        name: What to call it; by default as it was called where it was exported.
        force: Replace a model of this name.
        progress: Called with the stage `import`, the bytes read and the bytes in all.
        waiting: Called once if another process adds a model of this name.

    Returns:
        Its name, and whether it was taken in: the very same model may have been there.

    Raises:
        UsageError: there is another model of this name, or none can be called so.
        ModelError: the file is no bundle, cut short or spoilt, or the cache cannot be written to.
    """
    try:
        check_regular(bundle)
        with bundle.open("rb") as file:
            found = _look_into(file, bundle.stat().st_size)
            name = name or found.name
            with locked(name, waiting):
                if cache.has(name) and not force:
                    _refuse_another(cache.find(name), found.manifest)
                    return name, False
                with cache.adding(name) as folder:
                    _extract(file, found, folder, progress)
                    _check_fit(folder)
    except OSError as error:
        raise ModelError(f"cannot import {bundle}: {error.strerror}") from None
    except ModelError as error:
        raise ModelError(f"cannot import {bundle}: {error.message}", error.hint) from None
    return name, True


def _refuse_another(model: cache.StoredModel, manifest: Manifest) -> None:
    """Raise a UsageError for a model that is damaged or another one than the manifest tells."""
    if model.problem or not model.manifest or model.manifest.files != manifest.files:
        raise UsageError(f"there is a model called {model.name} already", "replace it with --force, or give --name")


def _header(name: str, size: int) -> bytes:
    if size > _MOST_MEMBER:
        raise ModelError(f"a bundle holds files of {format_size(_MOST_MEMBER)} at most", "store it in half precision")
    member = tarfile.TarInfo(name)  # of nobody, in 1970
    member.size = size
    return member.tobuf(tarfile.USTAR_FORMAT)


def _copy(source: BinaryIO, target: BinaryIO, name: str, facts: FileFacts, report: Callable[[], object]) -> None:
    """Copy what a file must be, and check that it is so."""
    digest, left = hashlib.sha256(), facts.size
    while part := source.read(min(left, _PART_BYTES)):
        digest.update(part)
        target.write(part)
        left -= len(part)
        report()
    if left:
        raise ModelError(f"{name} is cut short: {left} bytes are missing")
    if digest.hexdigest() != facts.sha256:
        raise ModelError(f"{name} has the sha256 {digest.hexdigest()}, not {facts.sha256}")


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _look_into(file: BinaryIO, size: int) -> _Contents:
    """What a bundle of so many bytes holds, by its headers and its manifest."""
    name, starts, sizes = "NAME", {}, {}
    for member in _MEMBERS:
        header = _next_header(file)
        if header is None:
            raise ModelError(f"it holds no {name}/{member}")
        if member == MANIFEST and is_name(told := header.name.removesuffix(f"/{MANIFEST}")):
            name = told
        if header.name != f"{name}/{member}":
            raise ModelError(f"it holds {header.name!r} where {name}/{member} belongs")
        if not 0 <= header.size <= (_MOST_MEMBER if member == WEIGHTS else _MOST_TEXT):
            raise ModelError(f"{member} cannot have {header.size} bytes")
        starts[member], sizes[member] = file.tell(), header.size
        if file.seek(_padded(header.size), os.SEEK_CUR) > size:
            raise ModelError(f"it is cut short within {member}")
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
    """What comes next, which is a plain file; None at the end of the tar."""
    block = file.read(_BLOCK)
    if block == bytes(_BLOCK):
        return None
    if len(block) < _BLOCK:
        raise ModelError("it is cut short" if file.tell() > _BLOCK else "it is no tar")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        raise ModelError("it is no plain tar, or damaged") from None
    if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        raise ModelError(f"it holds {header.name!r}, which is {_KINDS.get(header.type, 'no plain file')}")
    return header


def _extract(file: BinaryIO, found: _Contents, folder: Path, progress: "Progress") -> None:
    check_space(folder, found.size)
    (folder / MANIFEST).write_bytes(found.text)
    for member, facts in found.manifest.files.items():
        file.seek(found.starts[member])
        with (folder / member).open("xb") as target:
            _copy(file, target, member, facts, lambda: progress("import", file.tell(), found.size))


def _check_fit(folder: Path) -> None:
    """Refuse weights that are not those of the config beside them."""
    try:
        config = architecture.load_config(folder / CONFIG)
        shapes = {name: array.shape for name, array in ckpt.read(folder / WEIGHTS).items()}
        architecture.check(config, shapes)
    except ModelError as error:  # of a folder that nobody knows
        raise ModelError(error.message.replace(f"{folder}{os.sep}", ""), error.hint) from None
