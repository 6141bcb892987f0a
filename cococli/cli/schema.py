"""`coca schema`: the JSON Schema of records."""

from .. import console
from .command import command


@command(
    "coca schema",
    "coca schema | tee record.schema.json",
    "coca schema | jq '.[\"$defs\"].Record'",
)
def schema(reporter: console.ConsoleReporter) -> None:
    """Print the JSON Schema of the lines of .jsonl that coca caption and coca score write."""
    from ..captioning.records import json_schema

    console.json_result(json_schema())
