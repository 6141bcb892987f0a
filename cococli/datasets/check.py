"""What a data set lacks, told before hours are spent on it."""

import stat
from dataclasses import dataclass
from pathlib import Path

from .dataset import Dataset


@dataclass(frozen=True)
class Lacks:
    """What of a data set cannot be used as it is."""

    missing: tuple[Path, ...]  # files that are not there, or empty
    too_long: int  # captions of which a model reads only the beginning


def check(dataset: Dataset, context_length: int) -> Lacks:
    """Look for every file, without reading it, and count the captions that are longer than a model's context."""
    missing = tuple(example.path for example in dataset.examples if not _holds_something(example.path))
    captions = (caption for example in dataset.examples for caption in example.captions)
    return Lacks(missing, sum(_is_too_long(caption, context_length - 2) for caption in captions))


def _holds_something(path: Path) -> bool:
    try:
        facts = path.stat()
    except (OSError, ValueError):  # no file, or what can be no path
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size > 0


def _is_too_long(caption: str, room: int) -> bool:
    """Whether a caption has more tokens than there is room for, between SOT and EOT."""
    from ..tokenizer import encode

    # No token is shorter than a byte, and the clean-up makes plain text no longer: most captions need no tokenizing.
    return not (caption.isascii() and len(caption) <= room) and len(encode(caption)) > room
