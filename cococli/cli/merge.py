"""`coca merge`: one output from those of shards."""

from .. import console
from ..requests import MergeRequest
from .command import command


@command(
    "coca merge out-*.jsonl -o out.jsonl",
    "coca merge index-*/ -o index/",
    "coca merge /scratch/*/out-*.jsonl -o out.jsonl --overwrite",
)
def merge(request: MergeRequest, reporter: console.ConsoleReporter) -> None:
    """Join the outputs of runs with --shard, if nothing is missing or duplicated.

    The result is that of a run without --shard: the same command without it adds new files, or writes other formats.
    """
    from ..merge import merge

    merge(request, reporter)
