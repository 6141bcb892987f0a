"""What a user looks for: sentences, pictures and videos, each with a weight."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError
from ..media.discover import IMAGE_SUFFIXES, VIDEO_SUFFIXES, refuse_url

MOST_WEIGHT = 1000
EXAMPLE = "coca search 'a dog jumps' index/"
_WEIGHT = re.compile(r"(.*[^\s^])\^(-?(?:\d+|\d*\.\d+))", re.DOTALL)  # as Lucene writes it: "a dog^2"


@dataclass(frozen=True)
class Part:
    """A part of a query."""

    what: str | Path  # a sentence, or a video or picture
    weight: float = 1.0


def parse_part(text: str) -> Part:
    """Read `a dog`, `a dog^0.5` or `dog.jpg^2`. A file that is there, or is called like a video or picture, is one.

    Raises:
        UsageError: it is empty, a URL, or there is no such file.
    """
    weighted = _WEIGHT.fullmatch(text)
    what, weight = (weighted[1], float(weighted[2])) if weighted and not os.path.lexists(text) else (text, 1.0)
    if abs(weight) > MOST_WEIGHT:
        raise UsageError(f"the weight of {what!r} must be at most {MOST_WEIGHT}")
    if not what.strip():
        raise UsageError("the query is empty", EXAMPLE)
    refuse_url(what)
    path = Path(what)
    is_named_so = path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES and not re.search(r"\s", path.suffix)
    if os.path.isfile(what):  # noqa: PTH113 (a sentence too long for a path is no file either)
        return Part(path, weight)
    if is_named_so:
        raise UsageError(f"there is no file {what}")
    return Part(what, weight)


@dataclass(frozen=True)
class Query:
    """What to look for, and what to stay away from."""

    parts: tuple[Part, ...]
    excluded: tuple[Part, ...] = ()


def parse_query(wanted: Sequence[str], unwanted: Sequence[str] = ()) -> Query:
    """Read a query from its parts. See `parse_part`.

    Raises:
        UsageError: There is no part, or one is empty or a missing file.
    """
    if not wanted:
        raise UsageError("no query given", EXAMPLE)
    return Query(tuple(map(parse_part, wanted)), tuple(map(parse_part, unwanted)))


def parse_line(line: str) -> Query:
    """Read a query from one line: parts between ` + `, what to stay away from behind ` --not `.

    Raises:
        UsageError: a part is empty or no such file.
    """
    wanted, *unwanted = re.split(r"(?:^|\s+)--not(?:\s+|$)", line.strip())
    return parse_query(re.split(r"\s+\+\s+", wanted), unwanted)
