"""Pictures and videos with reference captions."""

import math
import os
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ..errors import UsageError
from ..files import find_member, find_span
from ..media.discover import is_image
from ..urls import RemotePath

Split = Literal["train", "val", "test"]

# Names of splits. Karpathy's restval is the rest of COCO's val, on which papers train.
_SPLITS: dict[str, Split] = {
    "train": "train",
    "restval": "train",
    "val": "val",
    "valid": "val",
    "validate": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


class RawExample(NamedTuple):
    """One file as a source lists it, before captions are checked."""

    id: str
    path: Path
    split: str | None  # None if the source names none
    captions: list[Any]  # not necessarily text


@dataclass(frozen=True)
class Example:
    """A picture or video and its captions. The repr is part of the keys by which training runs resume."""

    path: Path
    captions: tuple[str, ...]  # one or more, in the source's order
    id: str  # the source's


@dataclass(frozen=True)
class Dataset:
    """The examples of one split."""

    source: Path  # the file that was read
    split: Split | None  # None if the source has no splits
    examples: tuple[Example, ...]
    left_out: Mapping[str, int]  # how many of what was skipped, as in "empty captions": 3
    notes: tuple[str, ...] = ()  # remarks on the source for the user

    @property
    def captions(self) -> int:
        """Number of captions of all examples."""
        return sum(len(example.captions) for example in self.examples)

    def without(self, paths: Collection[Path]) -> "Dataset":
        """Return the data set without the examples at these paths."""
        removed = frozenset(paths)
        return replace(self, examples=tuple(example for example in self.examples if example.path not in removed))


def drop_missing(dataset: Dataset) -> tuple[Dataset, UsageError | None]:
    """Leave out examples whose files are missing or empty, without reading the others.

    Returns:
        The rest, and the problem to report, if any.

    Raises:
        UsageError: No example is left.
    """
    missing = [example.path for example in dataset.examples if not _has_content(example.path)]
    if not missing:
        return dataset, None
    rest = dataset.without(missing)
    kind = "picture" if is_image(missing[0]) else "video"
    count = f"{dataset.captions - rest.captions:,} of {dataset.captions:,} captions"
    problem = UsageError(f"no {kind}s found for {count} (first: {missing[0]})", f"pass the {kind} folder with --images")
    if not rest.examples:
        raise problem
    return rest, problem


def _has_content(path: Path) -> bool:
    if isinstance(path, RemotePath):
        return True  # reading it says what is wrong
    try:
        if span := find_span(path):
            path = span.video
        if member := find_member(path):
            return 0 < member.size <= member.container.stat().st_size - member.offset
        status = path.stat()
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and status.st_size > 0


def split_of(name: str) -> str:
    """Return the split of this name: `validation` is val. Other names are returned unchanged."""
    return _SPLITS.get(name.lower(), name)


def split_named(*names: str) -> str | None:
    """Return the split that the first of these names has as a word, as `cc3m-train-0000` has."""
    words = (word for name in names for word in re.split("[^a-z]+", name.lower()))
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def no_split(source: Path, split: Split, found: Iterable[str]) -> UsageError:
    """Return the error of a source that has other splits than the requested one."""
    hint = f"a {split} split is captions_{split}2017.json with {split}2017/, or the entries whose split is {split!r}"
    return UsageError(f"{source} has no {split} split, only {', '.join(sorted(found))}", hint)


def image_id(value: object) -> str:
    """Return an image's id as text. 42, "42", "000000000042" and 42.0 are one image.

    Raises:
        ValueError: It is neither a whole number nor text.
    """
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("it is not a whole number or text")
    text = str(value).strip()
    digits = text.removesuffix(".0")
    return (digits.lstrip("0") or "0") if digits.isascii() and digits.isdigit() else text


def find_file(name: str, folders: Sequence[Path]) -> Path | None:
    """Return the file of this name in the first folder that has it.

    If no file has the exact name, backslashes separate folders, as on Windows.
    """
    for form in dict.fromkeys((name, name.replace("\\", "/"))):
        for folder in folders:
            if os.path.isfile(os.path.join(folder, form)):  # noqa: PTH113, PTH118 - faster
                return folder / form
    return None


def gather(
    source: Path,
    split: Split,
    entries: Iterable[RawExample],
    left_out: Mapping[str, int] | None = None,
    notes: Iterable[str] = (),
) -> Dataset:
    """Return the examples of a split from the entries of all. Entries without a split count for any.

    Raises:
        UsageError: There are none.
    """
    by_split: dict[str | None, list[RawExample]] = {}
    for entry in entries:
        by_split.setdefault(entry.split, []).append(entry)
    without_split = by_split.pop(None, [])
    if by_split and split not in by_split:
        raise no_split(source, split, filter(None, by_split))
    counts = Counter(left_out or {})
    counts["entries without a split"] += len(without_split) if by_split else 0
    examples = tuple(_examples(by_split.get(split, without_split), counts))
    if not examples:
        raise UsageError(f"{source} has no file with a caption")
    return Dataset(source, split if by_split else None, examples, dict(+counts), tuple(notes))


def _examples(entries: Iterable[RawExample], counts: Counter[str]) -> Iterator[Example]:
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            counts["files listed twice"] += 1
            continue
        seen.add(entry.id)
        texts = tuple(filter(None, map(_text, entry.captions)))
        counts["empty captions"] += len(entry.captions) - len(texts)
        counts["files without a caption"] += not texts
        if texts:
            yield Example(entry.path, texts, entry.id)


def _text(caption: object) -> str:
    """Strip a caption and remove lone surrogates, which JSON can hold; empty if it is not text."""
    return caption.encode("utf-8", "ignore").decode().strip() if isinstance(caption, str) else ""
