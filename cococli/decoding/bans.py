"""Words that a caption must not say: the tokens that would complete one, however it is spelled in tokens.

Everything is compared as lower-case bytes with one space between words, as in b" a cat ' s toy ". A word is a run of
letters, a digit, or a run of signs, so that "cat" is in "cat.", "black-cat" and "cat's", but not in "catch". Bytes
beyond ASCII count as letters: a token may be half a character.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np

from .. import tokenizer

_WORD = re.compile(rb"([a-z\x80-\xff]+)|([0-9])|([^\sa-z0-9\x80-\xff]+)")


class Bans(NamedTuple):
    """Phrases as captions would say them, each b" between spaces "."""

    phrases: tuple[bytes, ...]
    longest: int  # words in the longest one
    inside: np.ndarray  # tokens that say one all by themselves, after whatever


class _Vocabulary(NamedTuple):
    """CLIP's tokens."""

    texts: list[bytes]  # what each writes, a space where it ends a word; EOT ends one, too
    kinds: np.ndarray  # of its first byte
    spaced: list[bytes]  # the texts in spaced words, sorted
    order: np.ndarray  # the token of each of `spaced`


@lru_cache(maxsize=16)
def compiled(words: tuple[str, ...]) -> Bans:
    """The bans of words and phrases as a person writes them."""
    phrases = tuple(_phrase(word) for word in words)
    spaced = zip(_vocabulary().order, _vocabulary().spaced, strict=True)
    several = [(token, text + b" ") for token, text in spaced if b" " in text[:-1]]  # as "'s": a sign and a word
    inside = [token for token, text in several if any(phrase in text for phrase in phrases)]
    return Bans(phrases, max(len(phrase.split()) for phrase in phrases), np.array(inside, np.int64))


def first_said(ids: Sequence[int], words: Iterable[str]) -> str | None:
    """The first of the words and phrases that these tokens say."""
    said = _said(ids)
    return next((word for word in words if _phrase(word) in said), None)


def completing(ids: Sequence[int], bans: Bans, last: bool) -> np.ndarray:
    """Tokens that must not come after these, ids of CLIP's vocabulary.

    A word that a token leaves open, as "cat" in "catch", is said when another kind of token follows, or none.

    Args:
        last: Whether the next token is the caption's last, so that a word it leaves open is said.
    """
    said = _said(ids)
    end = _kind(said[-1:])
    starts = [place for place, byte in enumerate(said) if byte == ord(" ")][-bans.longest :]
    tails = [said[place:] for place in starts]
    if end:
        tails.append(b"")  # another kind of word may begin here
    begun = [(phrase, tail) for phrase in bans.phrases for tail in tails if phrase.startswith(tail)]
    return np.concatenate([bans.inside, *(_tokens_of(phrase[len(tail) :], end, last) for phrase, tail in begun)])


@lru_cache(maxsize=4096)
def _tokens_of(rest: bytes, end: int, last: bool) -> np.ndarray:
    """Tokens that write the rest of a phrase after a text that ends in this kind of byte."""
    _, kinds, spaced, order = _vocabulary()
    if rest == b" ":
        return np.flatnonzero(kinds != end)
    text = rest.strip()
    found = order[bisect_left(spaced, text if last else text + b" ") : bisect_left(spaced, text + b"!")]
    return found[kinds[found] != end] if rest.startswith(b" ") else found


def _phrase(word: str) -> bytes:
    return b" " + _spaced(tokenizer.decode(tokenizer.encode(word)).encode() + b" ")


def _said(ids: Sequence[int]) -> bytes:
    texts = _vocabulary().texts
    return b" " + _spaced(b"".join([texts[token] for token in ids]))


def _spaced(text: bytes) -> bytes:
    """The words of a text, each with a space after it but for one that may go on."""
    words = [found[0] for found in _WORD.finditer(text.lower())]
    ended = bool(words) and (text[-1:].isspace() or words[-1].isdigit())
    return b" ".join(words) + b" " * ended


def _kind(text: bytes) -> int:
    """What a text begins with: 1 a letter, 2 a digit, 3 a sign, 0 a space or nothing."""
    found = _WORD.match(text.lower())
    return (found.lastindex or 0) if found else 0


@cache
def _vocabulary() -> _Vocabulary:
    texts = tokenizer.spellings()
    spaced = [_spaced(text) for text in texts]
    order = sorted(range(len(texts)), key=lambda token: spaced[token])
    kinds = np.array([_kind(text) for text in texts])
    return _Vocabulary(texts, kinds, [spaced[token] for token in order], np.array(order))
