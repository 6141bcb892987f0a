"""Merging of numbered files, as `shards/%06d.tar` or `out/%05d.parquet`: they get new numbers and stay as they are."""

import os
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..captioning.numbered_files import (
    NUMBER,
    check_number,
    numbered_name,
    size_of,
    surplus_shards,
)
from ..captioning.record_shards import FORMATS, is_manifest, manifest_content, manifest_path, read_manifest
from ..errors import UsageError
from ..files import io_errors, link_or_copy, publish_folder, temporary_folder, unwinding_on_sigterm
from ..media.tars import TAR, is_tar, open_tar
from ..reporting import Reporter
from ..requests import MergeRequest
from ..retrieval.index import ABOUT
from ..shards import MANIFEST_SUFFIX, manifest_of, shard_of_name, untagged
from .checks import Problems, Source, check_counts, check_shards, find_source

_DEFAULT = "%06d.tar"  # if shards are single tars


def is_shard_manifest(path: Path) -> bool:
    """Return whether a file is a manifest of shards or of their numbered files."""
    return path.suffix == MANIFEST_SUFFIX or (path.suffix == ".json" and is_manifest(path))


def find_numbered(paths: Sequence[Path], output: Path) -> list[Source]:
    """Return the numbered files of each shard that paths name, one by one or by their folders.

    Args:
        output: Selects the format if there are several.

    Returns:
        Nothing if the paths name other outputs.

    Raises:
        UsageError: They name numbered files of several outputs, or also other outputs.
    """
    found: dict[Path, Source] = {}
    in_folder = cache(lambda folder: list(_in_folder(folder)))
    given = [(path, in_folder(path) if path.is_dir() else _of_file(path, in_folder(path.parent))) for path in paths]
    if not any(sources for _, sources in given):
        return []
    for path, sources in given:
        wanted = [source for source in sources if _suffix(output) in ("", _format(source))]
        if not wanted:
            if not sources:
                raise UsageError(f"{path} is not of the numbered files of shards", "merge one output at a time")
            hint = f"name the merged ones alike, as -o merged/%06d{_format(sources[0])}"
            raise UsageError(f"{path} holds {_format(sources[0])} files of shards", hint)
        found.update({source.manifest: source for source in wanted})
    names = sorted({untagged(source.header.numbered) for source in found.values() if source.header})
    if len(names) > 1:
        raise UsageError(f"these are shards of {names[0]} and of {names[1]}", f"name one, as -o merged/{names[0]}")
    return sorted(found.values(), key=lambda source: source.shard.index)


def _suffix(output: Path) -> str:
    """Return the format of an output; empty for a folder."""
    suffix = output.suffix.lower()
    return suffix if suffix in (TAR, *FORMATS) else ""


def _format(source: Source) -> str:
    return Path(source.manifest.stem).suffix.lower()


def _in_folder(folder: Path) -> Iterator[Source]:
    """Yield the numbered files of shards in a folder, and then the incomplete ones, which have no manifest."""
    if not folder.is_dir() or (folder / ABOUT).exists():
        return
    known = set()
    for path in sorted(folder.glob(f"*{MANIFEST_SUFFIX}")):
        source = find_source(folder, path)
        if source and source.header and source.header.numbered:
            known.add((source.shard, _format(source)))
            yield source
    for path in sorted(folder.iterdir()):
        shard, suffix = shard_of_name(path), _suffix(path)
        if not shard or not suffix or (shard, suffix) in known or manifest_of(path).exists():
            continue
        listings = folder.glob(shard.file(Path("*.json")).name)
        if is_tar(path) or any(map(is_manifest, listings)):
            known.add((shard, suffix))
            yield Source(folder, folder / f"{shard.file(Path('manifest'))}{suffix}{MANIFEST_SUFFIX}", shard, None)


def _of_file(path: Path, sources: Sequence[Source]) -> list[Source]:
    """Return which of the numbered files in its folder a file belongs to."""
    if (own := manifest_of(path)).exists():
        return [source for source in sources if source.manifest == own]
    same = [source for source in sources if (source.shard, _format(source)) == (shard_of_name(path), _suffix(path))]
    return [source for source in same if source.header and path.name in source.header.files] or same


def merge_numbered(sources: list[Source], request: MergeRequest, reporter: Reporter) -> None:
    """Put the numbered files of all shards into one new folder, which appears complete or not at all.

    Files of shards are linked, or copied where that is impossible.

    Raises:
        UsageError: The folder holds other files.
        CocaError: Something is missing or contradictory, or the folder cannot be written.
    """
    check_counts(sources)
    output = _output(request.output, sources)
    folder = Path(os.path.realpath(output.parent))
    _check_folder(output, folder, request.overwrite)
    problems = Problems()
    check_shards(sources, problems)
    with reporter.progress("checking", len(sources)) as progress:
        for source in sources:
            _check_files(source, problems)
            progress.advance()
    sources = _check_inputs(sources, problems)
    problems.refuse(reporter, sources[0].shard.count)
    files = [source.path / name for source in sources if source.header for name in source.header.files]
    with io_errors("write", folder), unwinding_on_sigterm():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder.parent) as part, reporter.progress("merging", len(files)) as progress:
            names = [numbered_name(output, index) for index in range(len(files))]
            for file, name in zip(files, names, strict=True):
                link_or_copy(file, part / name)
                progress.advance()
            if not is_tar(output):
                (part / manifest_path(output).name).write_bytes(_joined(sources, names))
            publish_folder(part, folder)
    inputs = sum(source.header.inputs for source in sources if source.header)
    reporter.note(f"merged {inputs} inputs of {sources[0].shard.count} shards into {len(files)} files, {output}")


def _output(output: Path, sources: Sequence[Source]) -> Path:
    """Return the names of the merged files, by default those of the shards."""
    if not _suffix(output):
        names = [untagged(source.header.numbered) for source in sources if source.header]
        numbered = [Path(name).name for name in names if NUMBER.search(name)]
        return output / (numbered[0] if numbered else _DEFAULT)
    check_number(output)
    if not NUMBER.search(output.name):
        raise UsageError(f"{output} is one file", f"number the merged ones, as -o merged/%06d{_suffix(output)}")
    return output


def _check_folder(output: Path, folder: Path, overwrite: bool) -> None:
    """Refuse to replace a folder with other files than those of an earlier merge or run."""
    with io_errors("read", folder):
        names = [path for path in folder.iterdir() if not path.name.startswith(".coca-")] if folder.exists() else []
        own = {folder / path.name for path in surplus_shards(output, 0)} if names else set()
    if not is_tar(output):
        own.add(folder / manifest_path(output).name)
    if others := [path for path in names if path not in own or not _is_of_coca(path, output)]:
        raise UsageError(
            f"{output.parent} holds other files (first: {min(others).name})",
            f"name a new folder, as -o merged/{output.name}",
        )
    if names and not overwrite:
        raise UsageError(f"{output.parent} is not empty", "--overwrite replaces its files; or name another folder")


def _is_of_coca(path: Path, output: Path) -> bool:
    if not is_tar(path):
        return is_manifest(path.with_name(manifest_path(output).name))
    with suppress(OSError, tarfile.TarError), open_tar(path) as (file, _), tarfile.open(fileobj=file, mode="r:") as tar:
        return tar.pax_headers.get("comment", "").startswith("coca ") or tar.next() is None
    return False


def _check_files(source: Source, problems: Problems) -> None:
    """Check that the files of a complete shard are there, as it wrote them."""
    if not source.header:
        return
    numbered = source.path / source.header.numbered
    listed = read_manifest(manifest_path(numbered)).get("files", {})
    for name, size in source.header.files.items():
        found = size_of(source.path / name) if name == Path(name).name else -1
        if found != size:
            what = "is missing" if found < 0 else f"has {found} bytes, not {size}"
            problems.add(f"{source.path / name} {what}", source.shard.index)
        elif not is_tar(numbered) and name not in listed:
            problems.add(f"{manifest_path(numbered)} lacks {name}", source.shard.index)


def _check_inputs(sources: Sequence[Source], problems: Problems) -> list[Source]:
    """Check that each input is in one shard; return one source of each shard."""
    kept: dict[int, Source] = {}
    for source in sources:
        other = kept.setdefault(source.shard.index, source)
        if other is not source and other.header != source.header:
            problems.add(f"{other.path} and {source.path} hold different files of shard {source.shard}")
    if problems.found:
        return list(kept.values())
    listed = max(source.header.listed for source in kept.values() if source.header)
    lines = sum(source.manifest.stat().st_size for source in kept.values())  # at most
    seen = bytearray(min(max(listed, 0), lines))
    for source in kept.values():
        for place, name in source.places():
            if not 0 <= place < len(seen) or seen[place]:
                problems.add(f"{source.manifest} lists {name}, which another shard has", source.shard.index)
                break
            seen[place] = 1
    if (missing := listed - len(seen) + seen.count(0)) and not problems.found:
        problems.add(f"{missing} of {listed} inputs are in no shard", *kept)
    return list(kept.values())


def _joined(sources: Sequence[Source], names: Sequence[str]) -> bytes:
    """Return the manifest of all files, which have these names now."""
    entries, sizes, following = {}, [0], iter(names)
    for source in sources:
        if source.header:
            fields = read_manifest(manifest_path(source.path / source.header.numbered))
            sizes += [size for size in [fields.get("shard_size")] if isinstance(size, int)]
            entries.update({next(following): fields["files"][name] for name in source.header.files})
    return manifest_content(entries, complete=True, size=max(sizes))
