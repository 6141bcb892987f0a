"""What a run trains on, and what it holds out."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from ..datasets.check import check
from ..datasets.dataset import Dataset, Split
from ..datasets.find import find_dataset
from ..errors import UsageError
from .validation import split_off, spread


@dataclass(frozen=True)
class Source:
    """Where the data is; see `datasets.find.find_dataset`."""

    folder: Path
    karpathy: Path | None = None
    images: Path | None = None


@dataclass(frozen=True)
class Data:
    """Examples whose files are there."""

    train: Dataset
    held_out: Dataset | None


def find_data(
    source: Source, hold_out: int, context_length: int, strict: bool, told: Callable[[str], object], before: int = 0
) -> Data:
    """Find the examples to train on and, where wanted, some to hold out: of the val split, or else a share of all.

    Args:
        hold_out: How many examples to hold out at most; 0: none.
        strict: Whether what is wrong with the data ends it.
        told: Told what is there, and what is wrong with it.
        before: How many examples a run that goes on has held out so far; 0: it starts now.

    Raises:
        UsageError: there is no data, or nothing of it can be used, or it is not whole where it must be.
    """
    train = _checked(_find(source, "train"), context_length, strict, told)
    if not hold_out:
        return Data(train, None)
    val, why = _val(source) if train.split else (None, f"{train.source} knows no splits")
    if val:
        val = _checked(val, context_length, strict, told)
        return Data(train, replace(val, examples=spread(val.examples, hold_out)))
    train, val = split_off(train, hold_out, before)
    if not train.examples:
        raise UsageError("there is one file with captions, and none to hold out", "--hold-out 0 trains on it alone")
    told(f"{why}: {len(val.examples)} of {len(train.examples) + len(val.examples)} files are held out")
    return Data(train, val)


def _find(source: Source, split: Split) -> Dataset:
    return find_dataset(source.folder, split, source.karpathy, source.images)


def _val(source: Source) -> tuple[Dataset | None, str]:
    """The val split, or why there is none."""
    try:
        return _find(source, "val"), ""
    except UsageError as error:
        return None, error.message


def _checked(dataset: Dataset, context_length: int, strict: bool, told: Callable[[str], object]) -> Dataset:
    """The examples whose files are there."""
    lacks = check(dataset, context_length)
    wrong = [f"{count} {what}" for what, count in dataset.left_out.items()]
    if lacks.missing:
        wrong.append(f"{len(lacks.missing)} missing or empty files, as {lacks.missing[0]}")
    if lacks.too_long:
        wrong.append(f"{lacks.too_long} captions longer than {context_length} tokens, which are cut")
    name = f"{dataset.split or 'all'}: {len(dataset.examples)} files, {dataset.captions} captions"
    if wrong and strict:
        raise UsageError(f"{name}; {'; '.join(wrong)}", "without --strict the rest is trained on")
    told("; ".join([name, *wrong, *dataset.notes]))
    rest = dataset.without(lacks.missing)
    if not rest.examples:
        message = f"no files found for {dataset.captions:,} captions of {dataset.source} (first: {lacks.missing[0]})"
        raise UsageError(message, "pass their folder with --images")
    return rest
