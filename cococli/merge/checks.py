"""Checks that outputs are those of all shards of one run."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import CocaError, UsageError
from ..parsing import parse_json, read_errors, validate
from ..reporting import Reporter
from ..shards import VERSION, Header, Shard, parse_shard, shard_of_name


@dataclass
class Source:
    """The output of one shard."""

    path: Path
    manifest: Path
    shard: Shard
    header: Header | None  # None if the shard is incomplete

    def find(self, kept: str) -> str:
        """Return the name of an input that the manifest lists."""
        return kept

    def places(self) -> Iterator[tuple[int, str]]:
        """Yield the place among all inputs and the name of each input of a complete shard; none otherwise."""
        if not self.header:
            return
        with read_errors(self.manifest), self.manifest.open("rb") as file:
            next(file)
            for line in file:
                place, name = validate(parse_json(line), tuple[int, str], str(self.manifest), "run its shard again")
                yield place, self.find(name)


def find_source(path: Path, manifest: Path) -> Source | None:
    """Return the output of a shard, whose name or manifest tells which; None if neither does.

    Raises:
        UsageError: The manifest is damaged or newer than this program.
    """
    if not manifest.is_file():
        shard = shard_of_name(path)
        return Source(path, manifest, shard, None) if shard else None
    with read_errors(manifest), manifest.open("rb") as file:
        header = validate(parse_json(file.readline()), Header, str(manifest), "run its shard again")
    if header.coca_shard > VERSION:
        raise UsageError(f"{manifest} was written by a newer version of coca", "pip install --upgrade cococli")
    shard = parse_shard(header.shard, {})
    return Source(path, manifest, shard, header) if shard else None


@dataclass
class Problems:
    """Reasons why shards cannot be merged."""

    found: list[str] = field(default_factory=list)
    again: set[int] = field(default_factory=set)  # shards to run again

    def add(self, text: str, *shards: int) -> None:
        self.found.append(text)
        self.again.update(shards)

    def refuse(self, reporter: Reporter, count: int) -> None:
        """Report the problems of a number of shards.

        Raises:
            CocaError: There are some.
        """
        for text in self.found:
            reporter.warning(text)
        if self.found:
            raise CocaError("nothing was merged", _advice(self.again, count))


def _advice(shards: set[int], count: int) -> str:
    if not shards:
        return "leave out one of the outputs that differ"
    listed = ",".join(map(str, sorted(shards)))
    again = " and ".join(f"--shard {index}/{count}" for index in sorted(shards))
    if len(shards) > 3:
        again = f"--shard I/{count} for each of {listed}"
    return f"run the same command again with {again} (for --shard auto/{count}: sbatch --array={listed}), then merge"


def check_counts(sources: Sequence[Source]) -> None:
    """Check that outputs are of the same number of shards.

    Raises:
        UsageError: They are not.
    """
    first = sources[0]
    for source in sources:
        if source.shard.count != first.shard.count:
            counts = f"{first.path} is one of {first.shard.count} shards, {source.path} one of {source.shard.count}"
            raise UsageError(counts, "merge the shards of one run")


def check_shards(sources: Sequence[Source], problems: Problems) -> None:
    """Check that all shards are there, complete, and of one run."""
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
