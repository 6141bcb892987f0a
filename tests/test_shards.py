"""Shards: parsing, batch schedulers, and which inputs each one takes."""

from pathlib import Path

import pytest

from cococli.errors import UsageError
from cococli.shards import Shard, parse_shard, shard_of_name


def slurm(index: int, count: int, first: int, last: int) -> dict[str, str]:
    """Variables of a SLURM array, in which every job also has a process of its own."""
    array = {"ID": index, "COUNT": count, "MIN": first, "MAX": last}
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in array.items()} | {
        "SLURM_PROCID": "0",
        "SLURM_NTASKS": "1",
    }


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("3/16", {}, Shard(3, 16)),
        ("0/1", {}, Shard(0, 1)),
        ("auto", slurm(3, 16, 0, 15), Shard(3, 16)),
        ("auto", slurm(16, 16, 1, 16), Shard(15, 16)),
        ("auto/16", slurm(3, 2, 3, 7), Shard(3, 16)),  # two shards of an array run again
        ("auto", {"RANK": "2", "WORLD_SIZE": "4"}, Shard(2, 4)),
        ("auto", {"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2)),
        ("auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "1", "AWS_BATCH_JOB_ARRAY_SIZE": "2"}, Shard(1, 2)),
        ("auto/4", {"JOB_COMPLETION_INDEX": "0"}, Shard(0, 4)),
        ("auto/4", {"SGE_TASK_ID": "4"}, Shard(3, 4)),
        ("auto/4", {"SGE_TASK_ID": "undefined", "RANK": "1"}, Shard(1, 4)),
    ],
)
def test_shard_from_text_or_scheduler(text: str, environment: dict[str, str], expected: Shard) -> None:
    assert parse_shard(text, environment) == expected


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        *((text, {}, "is not a shard") for text in ("a/b", "0/0", "3", "-1/4", "1.5/4", "1/4/4", "", "auto/0")),
        *((text, {}, "does not exist") for text in ("17/16", "16/16", "1/1")),
        ("auto", {}, "found no batch scheduler"),
        ("auto", {"LSB_JOBINDEX": "3"}, "does not tell how many shards"),
        ("auto", {"RANK": "0"}, "does not tell how many shards"),
        ("auto", slurm(3, 2, 3, 7), "is not numbered from 0 or 1 without gaps"),
        ("auto", slurm(3, 1, 3, 3), "is not numbered from 0 or 1 without gaps"),
        ("auto/16", slurm(16, 16, 1, 16), "is shard 16 here, which does not exist"),
        ("auto/16", {"LSB_JOBINDEX": "0"}, "is no index of an array"),
        ("auto", {"RANK": "one", "WORLD_SIZE": "2"}, "'one', not a number"),
    ],
)
def test_invalid_shard_is_refused(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_shard(text, environment)


def test_shards_are_disjoint_complete_and_balanced() -> None:
    names = [f"videos/{i:05}.mp4" for i in range(16_000)]
    owners = [[name for name in names if Shard(index, 16).takes(name)] for index in range(16)]
    assert sorted(name for own in owners for name in own) == names
    assert all(900 < len(own) < 1100 for own in owners)


def test_outputs_are_named_after_shard() -> None:
    shard = Shard(3, 16)
    assert shard.file(Path("a/out.v1.jsonl")) == Path("a/out.v1-00003-of-00016.jsonl")
    assert shard.folder(Path("a/index.v1/")) == Path("a/index.v1-00003-of-00016")
    for path in (shard.file(Path("out.jsonl")), shard.folder(Path("index"))):
        assert shard_of_name(path) == shard
    assert shard_of_name(Path("out.jsonl")) is None
    for name in (".", "..", "/"):
        with pytest.raises(UsageError, match="cannot be the output of several shards"):
            shard.folder(Path(name))
