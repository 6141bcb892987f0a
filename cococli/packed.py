"""Sequences of millions of files in little memory: a path and what belongs to it would be objects of a kilobyte."""

from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

from .urls import RemotePath, remote_path

T = TypeVar("T")

_LOCAL, _REMOTE = b"l", b"r"


class View(Sequence[T]):
    """A sequence, or some of its items, with a function applied to each item whenever it is read."""

    def __init__(
        self, base: Sequence[Any], of: Callable[[Any], T] = lambda item: item, indexes: Sequence[int] | None = None
    ) -> None:
        """
        Args:
            of: Returns an item of the view for one of the sequence.
            indexes: The items to take; by default all.
        """
        self._base, self._of = base, of
        self._indexes = range(len(base)) if indexes is None else indexes

    def __len__(self) -> int:
        return len(self._indexes)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._item(place) for place in range(len(self))[index]]
        return self._item(range(len(self))[index])

    def _item(self, index: int) -> T:
        return self._of(self._base[self._indexes[index]])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and [*self] == [*other]

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr([*self])


class Paths(View[Path]):
    """Paths whose text is in one buffer: 10 bytes more than the text, and of remote files also their version."""

    def __init__(self, paths: Iterable[str | Path] = ()) -> None:
        self._text, self._ends = bytearray(), array("q", [0])
        for path in paths:
            self.append(path)

    def append(self, path: str | Path) -> None:
        name = str(path)
        if isinstance(path, RemotePath):
            url = "" if path.url == name else path.url
            fields = [_encode(field) for field in (name, url, path.version)]
            self._text += _REMOTE + b"".join(len(field).to_bytes(4) + field for field in fields)
        else:
            self._text += _LOCAL + _encode(name)
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def _item(self, index: int) -> Path:
        start, end = self._ends[index], self._ends[index + 1]
        content = bytes(self._text[start + 1 : end])
        if self._text[start] == _LOCAL[0]:
            return Path(_decode(content))
        fields = []
        while content:
            size = int.from_bytes(content[:4]) + 4
            fields.append(_decode(content[4:size]))
            content = content[size:]
        name, url, version = fields
        return remote_path(url or name, version, name)


def select(items: Sequence[T], done: Sequence[int]) -> Sequence[T]:
    """Return the items that are not done."""
    left = array("q", (index for index, is_done in enumerate(done) if not is_done))
    return items if len(left) == len(items) else View(items, indexes=left)


class Table:
    """Finds the numbers of what was added, in at most 20 bytes each: a hash, and a slot of an open hash table."""

    def __init__(self, keys: Iterable[Hashable] = ()) -> None:
        self._hashes, self._slots = array("q"), array("I", bytes(64))
        for key in keys:
            self.add(key)

    def add(self, key: Hashable) -> None:
        """Give the next number to a key."""
        if 3 * len(self._hashes) >= 2 * len(self._slots):
            self._slots = array("I", bytes(8 * len(self._slots)))
            for number, known in enumerate(self._hashes):
                self._insert(number, known)
        self._hashes.append(hash(key))
        self._insert(len(self._hashes) - 1, self._hashes[-1])

    def _insert(self, number: int, key: int) -> None:
        slots, mask = self._slots, len(self._slots) - 1
        slot = key & mask
        while slots[slot]:
            slot = (slot + 1) & mask
        slots[slot] = number + 1

    def candidates(self, key: Hashable) -> Iterator[int]:
        """Yield the numbers of all keys with the hash of this one: nearly always of this key alone, or none."""
        mask, wanted = len(self._slots) - 1, hash(key)
        slot = wanted & mask
        while number := self._slots[slot]:
            if self._hashes[number - 1] == wanted:
                yield number - 1
            slot = (slot + 1) & mask


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")
