"""`coca merge`: one output from those of shards."""

from .. import console
from ..requests import MergeRequest
from .command import command


@command(
    "coca merge out-*.jsonl -o out.jsonl",
    "coca merge index-*/ -o index/",
    "coca merge shards/ -o merged/%06d.tar",
    "coca merge /scratch/*/out-*.jsonl -o out.jsonl --overwrite",
)
def merge(request: MergeRequest, reporter: console.ConsoleReporter) -> None:
    """Join the outputs of runs with --shard, if nothing is missing or duplicated.

    Records and indexes are those of a run without --shard: the same command without it adds new files, or writes other
    formats. Numbered files, as shards/%06d.tar, get new numbers in a new folder.
    """
    from ..merge.merge import merge

    merge(request, reporter)
