"""Merging of records, indexes and numbered files of shards into the output of one run."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from ..captioning.formats import SUFFIXES
from ..errors import UsageError
from ..files import io_errors
from ..jobs import protect_files, report_failures
from ..journal import dump, text_name, text_of
from ..overwrite import find_foreign, write_output
from ..parsing import parse_json
from ..reporting import SILENT, Reporter
from ..requests import MergeRequest
from ..retrieval.index import ABOUT, ENTRIES, VECTORS, IndexPaths, check_index, read_about
from ..retrieval.nearest import remove_graph
from ..retrieval.vector_files import SUFFIXES as VECTOR_SUFFIXES
from ..retrieval.vectors import header, map_vectors
from ..shards import manifest_of, shard_of_name, untagged
from .checks import Problems, Source, check_counts, check_shards, find_source
from .numbered import find_numbered, is_shard_manifest, merge_numbered

_OPEN = 256  # files at a time
_TABLES = {*SUFFIXES, *VECTOR_SUFFIXES} - {".jsonl"}


@dataclass(frozen=True, slots=True)
class Span:
    """The consecutive lines of one input."""

    source: int  # among the given outputs
    start: int  # bytes
    end: int
    rows: int  # vectors, in an index
    complete: bool


@dataclass
class Lines(Source):
    """The records or index of one shard."""

    lines: Path  # file of the records
    paths: IndexPaths | None = None  # of an index

    def find(self, kept: str) -> str:
        """Return the name of an input, of which an index keeps a relative path."""
        return self.paths.find(kept) if self.paths and text_of(kept) is None else kept


def merge(request: MergeRequest, reporter: Reporter = SILENT) -> None:
    """Join the outputs of shards into one. Records and vectors are in the order of an unsharded run.

    Raises:
        UsageError: The files are not outputs of shards, or the output is one of them or a file that coca did not write.
        CocaError: Something is missing or contradictory: nothing is written. Or the output cannot be written.
    """
    # A pattern such as out-* matches manifests, too.
    named = [path for path in request.paths if path.is_dir() or not is_shard_manifest(path)]
    paths = list(dict.fromkeys(named or request.paths))
    if numbered := find_numbered(paths, request.output):
        merge_numbered(numbered, request, reporter)
    else:
        _merge_records(list(map(_open, paths)), request, reporter)


def _merge_records(sources: list[Lines], request: MergeRequest, reporter: Reporter) -> None:
    """Join JSONL files or indexes."""
    is_index = sources[0].path.is_dir()
    if other := next((source.path for source in sources if source.path.is_dir() != is_index), None):
        raise UsageError(f"{sources[0].path} and {other}: one is an index, the other is not")
    check_counts(sources)
    _check_output(request, sources, is_index)
    problems = Problems()
    check_shards(sources, problems)
    with reporter.progress("checking", len(sources)) as progress:
        order = _scan(sources, is_index, problems, progress.advance)
    problems.refuse(reporter, sources[0].shard.count)
    write = _write_index if is_index else _write_lines
    failed = write(request.output, sources, order, reporter)
    reporter.note(f"merged {len(order)} inputs of {sources[0].shard.count} shards into {request.output}")
    report_failures(failed, reporter)


def _open(path: Path) -> Lines:
    """Open a JSONL file or an index of a shard.

    Raises:
        UsageError: It is something else.
    """
    lines = path / ENTRIES if path.is_dir() else path
    if not path.exists():
        raise UsageError(f"{path} is neither a file nor an index", "name the outputs of all shards, as out-*.jsonl")
    if not lines.is_file() or (shard_of_name(path) and path.suffix.lower() in _TABLES):
        raise _refused(path)
    if not (found := find_source(path, manifest_of(path))):
        hint = "name what coca caption or coca embed --shard wrote, as out-*.jsonl"
        raise UsageError(f"{path} is not the output of a shard", hint)
    return Lines(**vars(found), lines=lines, paths=IndexPaths(os.path.realpath(path)) if path.is_dir() else None)


def _refused(path: Path) -> UsageError:
    """Return what to do with the outputs of shards that cannot be merged."""
    if path.suffix.lower() in {*VECTOR_SUFFIXES} - {*SUFFIXES}:
        other, files = f"-o index/ -o {untagged(path.name)}", "indexes of the shards (coca embed -o index/)"
    elif (path / "metadata").is_dir():
        hint = "merge indexes (coca embed -o index/), or embed on many machines with --ray"
        return UsageError(f"{path} cannot be merged", hint)
    elif path.is_dir():
        return UsageError(
            f"{path} is neither an index nor holds the numbered files of shards",
            "subtitles, text and clips of each video need no merging: all shards write them into one folder",
        )
    else:
        other, files = f"-o out.jsonl -o {untagged(path.name)}", ".jsonl files of the shards"
    return UsageError(f"{path} cannot be merged", f"merge the {files}; without --shard, {other} then writes it")


def _check_output(request: MergeRequest, sources: list[Lines], is_index: bool) -> None:
    output = request.output
    written = [output / name for name in (ABOUT, ENTRIES, VECTORS)] if is_index else [output]
    if is_index:
        if output.suffix.lower() == ".jsonl":
            raise UsageError(f"{output} cannot hold an index", "name a folder, as -o index/")
        first, *others = (read_about(source.path) for source in sources)
        for source, about in zip(sources[1:], others, strict=True):
            if about != first:
                raise UsageError(f"{sources[0].path} and {source.path} hold vectors that were made differently")
        check_index(output, first, None, request.overwrite)
    elif output.suffix.lower() != ".jsonl" or output.is_dir():
        raise UsageError(f"{output} must end in .jsonl, as the shards do", "then coca caption -o writes other formats")
    protect_files([(f"-o {output}", path) for path in written], [source.lines for source in sources])
    if not request.overwrite and find_foreign(written):
        hint = "--overwrite replaces it; or name another output"
        raise UsageError(f"{output} exists and may hold other records than those of a merge", hint)


def _scan(sources: list[Lines], is_index: bool, problems: Problems, advance: Any) -> list[tuple[str, Span]]:
    """Return the lines of each input, in the order of an unsharded run.

    Files may also hold records that their manifests do not list, as of inputs that were removed. They come last, unless
    another shard lists the input. Lines that two sources list must be the same.
    """
    places: dict[str, int] = {}
    listed: dict[str, Span] = {}
    unlisted: dict[str, Span] = {}
    different: dict[tuple[int, int], list[str]] = {}
    reader = _Reader(sources)
    for number, source in enumerate(sources):
        own = {name: place for place, name in source.places()}
        absent = dict.fromkeys(own)
        with io_errors("read", source.lines), source.lines.open("rb") as file:
            for name, span in _spans(file, number, source):
                other = (listed if name in own else unlisted).setdefault(name, span)
                if other is not span and not reader.same(other, span, is_index):
                    different.setdefault((other.source, number), []).append(name)
                if span.complete:
                    absent.pop(name, None)
        if absent:
            problems.add(f"{source.path} lacks records of {_inputs(list(absent))}", source.shard.index)
        places.update(own)
        advance()
    for (one, two), names in different.items():
        first, second = sources[one], sources[two]
        if first is second:
            problems.add(f"{first.path} holds {_inputs(names)} twice", first.shard.index)
        else:
            problems.add(f"{first.path} and {second.path} hold different records of {_inputs(names)}")
    order = [(name, listed[name]) for name in sorted(places, key=places.__getitem__) if name in listed]
    return order + [(name, span) for name, span in unlisted.items() if name not in places]


def _inputs(names: list[str]) -> str:
    shown = names[0].removeprefix("\0")
    return shown if len(names) == 1 else f"{len(names)} inputs (first: {shown})"


def _spans(file: BinaryIO, number: int, source: Lines) -> Iterator[tuple[str, Span]]:
    """Yield the names of inputs and their lines. A last line that is cut off does not count."""
    name, start, end, lines, rows, segments = "", 0, 0, 0, 0, 1
    for line_number, line in enumerate(file, start=1):
        if not line.endswith(b"\n"):
            break
        fields = _parse(line, line_number, source)
        found = source.find(fields["video"] if "video" in fields else text_name(fields["text"]))
        if found != name:
            if name:
                yield name, Span(number, start, end, rows, lines == segments)
            name, start, lines, rows, segments = found, end, 0, 0, fields.get("segments", 1)
        end += len(line)
        lines += 1
        rows += "row" in fields
    if name:
        yield name, Span(number, start, end, rows, lines == segments)


def _parse(line: bytes, number: int, source: Lines) -> dict[str, Any]:
    fields: Any = None
    try:
        fields = parse_json(line)
        if isinstance(fields, dict) and isinstance(fields.get("video", fields.get("text")), str) and "status" in fields:
            return fields
    except ValueError:
        pass
    if isinstance(fields, dict) and "vector" in fields:
        raise UsageError(f"{source.lines} holds vectors without their keys", "merge the indexes of the shards instead")
    raise UsageError(f"line {number} of {source.lines} is not a record of coca", "run its shard again")


class _Reader:
    """Reads lines and vectors of all sources, with a limited number of open files."""

    def __init__(self, sources: list[Lines]) -> None:
        self.sources = sources
        self._file = lru_cache(_OPEN)(lambda number: sources[number].lines.open("rb"))
        self.vectors = lru_cache(_OPEN)(lambda number: map_vectors(sources[number].path / VECTORS))

    def lines(self, span: Span) -> bytes:
        file = self._file(span.source)
        file.seek(span.start)
        return file.read(span.end - span.start)

    def entries(self, span: Span) -> list[dict[str, Any]]:
        return [parse_json(line) for line in self.lines(span).splitlines()]

    def vector(self, span: Span, row: Any) -> bytes:
        """Return the bytes of a vector.

        Raises:
            UsageError: The index does not hold it.
        """
        vectors, source = self.vectors(span.source), self.sources[span.source]
        if not isinstance(row, int) or not 0 <= row < len(vectors):
            raise UsageError(f"{source.path} is damaged: {VECTORS} has no row {row}", "run its shard again")
        return bytes(vectors[row].tobytes())

    def same(self, one: Span, other: Span, is_index: bool) -> bool:
        """Return whether two sources hold the same records of an input."""
        if one.source == other.source:
            return False
        if not is_index:
            return self.lines(one) == self.lines(other)
        first, second = self.entries(one), self.entries(other)
        rows = [[fields.pop("row", None) for fields in entries] for entries in (first, second)]
        return first == second and all(
            self.vector(one, a) == self.vector(other, b) for a, b in zip(*rows, strict=True) if a is not None
        )


def _write_lines(
    output: Path, sources: list[Lines], order: list[tuple[str, Span]], reporter: Reporter
) -> Iterable[str]:
    """Copy records; return why inputs failed."""
    reader, failed = _Reader(sources), []
    with (
        reporter.progress("merging", len(order)) as progress,
        io_errors("write", output),
        write_output(output) as (file,),
    ):
        for _, span in order:
            lines = reader.lines(span)
            file.write(lines)
            if b'"status": "error"' in lines:
                failed += [fields["error"] for fields in reader.entries(span) if fields["status"] == "error"]
            progress.advance()
    return failed


def _write_index(
    output: Path, sources: list[Lines], order: list[tuple[str, Span]], reporter: Reporter
) -> Iterable[str]:
    """Copy entries and their vectors; return why inputs failed."""
    reader, failed, row = _Reader(sources), [], 0
    first = reader.vectors(0)
    target = IndexPaths(os.path.realpath(output))
    with io_errors("write", output):
        output.mkdir(parents=True, exist_ok=True)
        remove_graph(output)
        with (
            reporter.progress("merging", len(order)) as progress,
            write_output(output / VECTORS, output / ENTRIES, output / ABOUT) as (vectors, entries, about),
        ):
            vectors.write(header(sum(span.rows for _, span in order), first.shape[1], first.dtype))
            about.write(read_about(sources[0].path).to_json().encode())
            for name, span in order:
                for fields in reader.entries(span):
                    if "row" in fields:
                        vectors.write(reader.vector(span, fields["row"]))
                        fields["row"] = row
                        row += 1
                    else:
                        failed.append(fields["error"])
                    if "video" in fields:
                        fields["video"] = target.keep(name)
                    entries.write(f"{dump(fields)}\n".encode())
                progress.advance()
    return failed
