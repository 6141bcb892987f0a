"""Merging of shards: their outputs become the output of one run, if nothing is missing or duplicated."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from .errors import CocaError, UsageError
from .files import io_errors
from .jobs import protect_files, report_failures
from .journal import dump, text_name, text_of
from .overwrite import find_foreign, write_output
from .parsing import parse_json, read_errors, validate
from .reporting import SILENT, Reporter
from .requests import MergeRequest
from .retrieval.index import ABOUT, ENTRIES, VECTORS, IndexPaths, check_index, read_about
from .retrieval.nearest import remove_graph
from .retrieval.vectors import header, map_vectors
from .shards import MANIFEST_SUFFIX, VERSION, Header, Shard, manifest_of, parse_shard, shard_of_name

_OPEN = 256  # files at a time


@dataclass(frozen=True, slots=True)
class Span:
    """The consecutive lines of one input."""

    source: int  # among the given outputs
    start: int  # bytes
    end: int
    rows: int  # vectors, in an index
    complete: bool


@dataclass
class Source:
    """The output of one shard."""

    path: Path
    lines: Path  # file of its records
    shard: Shard
    header: Header | None = None  # None if the shard is incomplete
    paths: IndexPaths | None = None  # of an index

    def find(self, kept: str) -> str:
        """Return the name of an input, of which an index keeps a relative path."""
        return self.paths.find(kept) if self.paths and text_of(kept) is None else kept

    def places(self) -> Iterator[tuple[int, str]]:
        """Yield the place among all inputs and the name of each input of a complete shard; none otherwise."""
        if not self.header:
            return
        path = manifest_of(self.path)
        with read_errors(path), path.open("rb") as file:
            next(file)
            for line in file:
                place, name = validate(parse_json(line), tuple[int, str], str(path), "run its shard again")
                yield place, self.find(name)


@dataclass
class Problems:
    """Reasons why shards cannot be merged."""

    found: list[str] = field(default_factory=list)
    again: set[int] = field(default_factory=set)  # shards to run again

    def add(self, text: str, *shards: int) -> None:
        self.found.append(text)
        self.again.update(shards)


def merge(request: MergeRequest, reporter: Reporter = SILENT) -> None:
    """Join the outputs of shards into one, in the order of an unsharded run.

    Raises:
        UsageError: The files are not outputs of shards, or the output is one of them or a file that coca did not write.
        CocaError: Records are missing or contradict each other: nothing is written. Or the output cannot be written.
    """
    # A pattern such as out-* matches manifests, too.
    paths = [path for path in request.paths if path.suffix != MANIFEST_SUFFIX or path.is_dir()]
    sources = list(map(_open, dict.fromkeys(paths or request.paths)))
    is_index = sources[0].path.is_dir()
    _check_kinds(sources, is_index)
    _check_output(request, sources, is_index)
    problems = Problems()
    count = sources[0].shard.count
    _check_shards(sources, problems)
    with reporter.progress("checking", len(sources)) as progress:
        order = _scan(sources, is_index, problems, progress.advance)
    if problems.found:
        for text in problems.found:
            reporter.warning(text)
        raise CocaError("nothing was merged", _advice(problems.again, count))
    if is_index:
        failed = _write_index(request.output, sources, order, reporter)
    else:
        failed = _write_lines(request.output, sources, order, reporter)
    reporter.note(f"merged {len(order)} inputs of {count} shards into {request.output}")
    report_failures(failed, reporter)


def _advice(shards: set[int], count: int) -> str:
    if not shards:
        return "leave out one of the outputs that differ"
    listed = ",".join(map(str, sorted(shards)))
    again = " and ".join(f"--shard {index}/{count}" for index in sorted(shards))
    if len(shards) > 3:
        again = f"--shard I/{count} for each of {listed}"
    return f"run the same command again with {again} (for --shard auto/{count}: sbatch --array={listed}), then merge"


def _open(path: Path) -> Source:
    lines = path / ENTRIES if path.is_dir() else path
    if not lines.is_file():
        raise UsageError(f"{path} is neither a file nor an index", "name the outputs of all shards, as out-*.jsonl")
    shard = shard_of_name(path)
    manifest, found = manifest_of(path), None
    if manifest.is_file():
        with read_errors(manifest), manifest.open("rb") as file:
            found = validate(parse_json(file.readline()), Header, str(manifest), "run its shard again")
        if found.coca_shard > VERSION:
            raise UsageError(f"{manifest} was written by a newer version of coca", "pip install --upgrade cococli")
        shard = parse_shard(found.shard, {})
    if not shard:
        hint = "name what coca caption or coca embed --shard wrote, as out-*.jsonl"
        raise UsageError(f"{path} is not the output of a shard", hint)
    return Source(path, lines, shard, found, IndexPaths(os.path.realpath(path)) if path.is_dir() else None)


def _check_kinds(sources: list[Source], is_index: bool) -> None:
    for source in sources:
        if source.path.is_dir() != is_index:
            raise UsageError(f"{sources[0].path} and {source.path}: one is an index, the other is not")
        if source.shard.count != sources[0].shard.count:
            raise UsageError(
                f"{sources[0].path} is one of {sources[0].shard.count} shards, {source.path} one of "
                f"{source.shard.count}",
                "merge the shards of one run",
            )


def _check_output(request: MergeRequest, sources: list[Source], is_index: bool) -> None:
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


def _check_shards(sources: list[Source], problems: Problems) -> None:
    count = sources[0].shard.count
    if missing := sorted(set(range(count)) - {source.shard.index for source in sources}):
        problems.add(f"{_named(missing, count)} missing", *missing)
    for source in sources:
        if source.header is None:
            problems.add(
                f"shard {source.shard} is incomplete: the run that writes {source.path} has not finished",
                source.shard.index,
            )
    complete = [(source, source.header) for source in sources if source.header]
    if not complete:
        return
    options = Counter(found.options for _, found in complete)
    listings = Counter((found.listed, found.listing) for _, found in complete)
    usual = max(options, key=lambda value: options[value])
    inputs, listing = max(listings, key=lambda value: (listings[value], value))
    for source, found in complete:
        if found.options != usual:
            problems.add(f"shard {source.shard} was run with other options or another model", source.shard.index)
        if (found.listed, found.listing) != (inputs, listing):
            listed = f"{found.listed} inputs, others {inputs}" if found.listed != inputs else "other inputs"
            problems.add(f"shard {source.shard} found {listed}", source.shard.index)


def _named(shards: list[int], count: int) -> str:
    if len(shards) == 1:
        return f"shard {shards[0]}/{count} is"
    shown = ", ".join(map(str, shards[:20])) + (", ..." if len(shards) > 20 else "")
    return f"{len(shards)} of {count} shards ({shown}) are"


def _scan(sources: list[Source], is_index: bool, problems: Problems, advance: Any) -> list[tuple[str, Span]]:
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


def _spans(file: BinaryIO, number: int, source: Source) -> Iterator[tuple[str, Span]]:
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


def _parse(line: bytes, number: int, source: Source) -> dict[str, Any]:
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

    def __init__(self, sources: list[Source]) -> None:
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
    output: Path, sources: list[Source], order: list[tuple[str, Span]], reporter: Reporter
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
    output: Path, sources: list[Source], order: list[tuple[str, Span]], reporter: Reporter
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
