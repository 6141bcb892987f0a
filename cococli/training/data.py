"""Training examples and held-out examples of a run."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..datasets.dataset import Dataset, Example, Split, drop_missing
from ..datasets.find import find_dataset
from ..errors import UsageError
from ..files import find_member
from ..reporting import SILENT, Reporter
from ..requests import FinetuneRequest
from ..tokenizer import encode
from ..urls import RemotePath

HELD_OUT = 0.05  # share of the examples of data without splits
ENOUGH = 8  # examples below which scores are unreliable


@dataclass(frozen=True)
class TrainingData:
    """Examples whose files exist."""

    train: Dataset
    held_out: Dataset | None


def find_data(
    request: FinetuneRequest, context_length: int, reporter: Reporter = SILENT, before: int = 0
) -> TrainingData:
    """Find the examples to train on and, if requested, some to hold out: of the val split, or else a share of all.

    Args:
        reporter: Receives the size of each split, and its problems, as notes.
        before: Number of examples that the run held out when it started; 0 for a new run.

    Raises:
        UsageError: There is no usable data, or it is incomplete and the request is strict.
    """
    train = _checked(_find(request, "train", reporter), context_length, request.strict, reporter)
    if not request.hold_out:
        return TrainingData(train, None)
    val, why = _val(request, reporter) if train.split else (None, f"{train.source} has no splits")
    if val:
        val = _checked(val, context_length, request.strict, reporter)
        return TrainingData(train, replace(val, examples=spread(val.examples, request.hold_out)))
    train, val = split_off(train, request.hold_out, before)
    if not train.examples:
        raise UsageError("only one file has captions, so none can be held out", "to train on it, use --hold-out 0")
    reporter.note(f"{why}: {len(val.examples)} of {len(train.examples) + len(val.examples)} files are held out")
    return TrainingData(train, val)


def _find(request: FinetuneRequest, split: Split, reporter: Reporter) -> Dataset:
    dataset = find_dataset(request.data, split, request.karpathy, request.images, reporter)
    paths = (one.path for one in dataset.examples)
    if remote := next((path for path in paths if isinstance(path, RemotePath) and not find_member(path)), None):
        hint = "download the pictures first, for example with img2dataset, and name its output folder"
        raise UsageError(f"{dataset.source} has the URL {remote}", hint)
    return dataset


def _val(request: FinetuneRequest, reporter: Reporter) -> tuple[Dataset | None, str]:
    """Return the val split, or why there is none."""
    try:
        return _find(request, "val", reporter), ""
    except UsageError as error:
        return None, error.message


def _checked(dataset: Dataset, context_length: int, strict: bool, reporter: Reporter) -> Dataset:
    """Return the data set without examples whose files are missing, and report its problems."""
    rest, missing = drop_missing(dataset)
    problems = [f"{count} {what}" for what, count in dataset.left_out.items()]
    if missing:
        problems.append(missing.message)
    captions = (caption for example in dataset.examples for caption in example.captions)
    if too_long := sum(is_truncated(caption, context_length) for caption in captions):
        problems.append(f"{too_long} captions truncated to {context_length} tokens")
    name = f"{dataset.split or 'all'}: {len(dataset.examples)} files, {dataset.captions} captions"
    if problems and strict:
        raise UsageError(f"{name}; {'; '.join(problems)}", "to train on the rest, leave out --strict")
    reporter.note("; ".join([name, *problems, *dataset.notes]))
    return rest


def is_truncated(caption: str, context_length: int) -> bool:
    """Return whether a caption has more tokens than fit between start and end."""
    room = context_length - 2
    # A token has at least one byte, and cleaning does not lengthen plain text: most captions need no tokenizing.
    return not (caption.isascii() and len(caption) <= room) and len(encode(caption)) > room


def split_off(dataset: Dataset, most: int, before: int = 0) -> tuple[Dataset, Dataset]:
    """Split a data set into examples to train on and a share to hold out, the same whatever their order.

    Scores of a few examples are unreliable, so at least 8 are held out, or a quarter of fewer than 32.

    Args:
        most: Maximum number of examples to hold out.
        before: Number of examples held out when the run started; 0 for a new run.
    """
    shuffled = sorted(dataset.examples, key=lambda example: hashlib.sha256(example.id.encode()).digest())
    count = before or max(1, round(HELD_OUT * len(shuffled)), min(ENOUGH, len(shuffled) // 4))
    held_out = {example.id for example in shuffled[: min(count, most)]}
    examples = dataset.examples
    return (
        replace(dataset, examples=tuple(example for example in examples if example.id not in held_out)),
        replace(dataset, examples=tuple(example for example in examples if example.id in held_out)),
    )


def spread(examples: Sequence[Example], count: int) -> tuple[Example, ...]:
    """Return this many examples at equal distances, as neighbors may be alike."""
    if len(examples) <= count:
        return tuple(examples)
    return tuple(examples[i * len(examples) // count] for i in range(count))
