"""Banned words: finds the tokens that would complete one, regardless of its tokenization.

Everything is compared as lower-case bytes with one space between words, such as b" a cat ' s toy ". A word is a run of
letters, a digit, or a run of symbols, so that "cat" is in "cat.", "black-cat" and "cat's", but not in "catch". Bytes
beyond ASCII count as letters, as a token may be half a character.
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
    """Banned phrases, each b" between spaces "."""

    phrases: tuple[bytes, ...]
    longest: int  # words in the longest one
    inside: np.ndarray  # tokens that contain a phrase


class _Vocabulary(NamedTuple):
    """CLIP's tokens."""

    texts: list[bytes]  # of each token, with a space where it ends a word, as EOT does
    kinds: np.ndarray  # of the first bytes
    spaced: list[bytes]  # the texts as spaced words, sorted
    order: np.ndarray  # the token of each of `spaced`


@lru_cache(maxsize=16)
def compiled(words: tuple[str, ...]) -> Bans:
    """Prepare words and phrases as a user writes them."""
    phrases = tuple(_phrase(word) for word in words)
    spaced = zip(_vocabulary().order, _vocabulary().spaced, strict=True)
    several = [(token, text + b" ") for token, text in spaced if b" " in text[:-1]]  # such as "'s": a symbol and a word
    inside = [token for token, text in several if any(phrase in text for phrase in phrases)]
    return Bans(phrases, max(len(phrase.split()) for phrase in phrases), np.array(inside, np.int64))


def first_banned(ids: Sequence[int], words: Iterable[str]) -> str | None:
    """Return the first of the words and phrases that these tokens contain."""
    text = _text(ids)
    return next((word for word in words if _phrase(word) in text), None)


def completing(ids: Sequence[int], bans: Bans, last: bool) -> np.ndarray:
    """Return the tokens that would complete a banned phrase after these, as ids of CLIP's vocabulary.

    A word that may continue, such as "cat" in "catch", is complete when another kind of token follows, or none.

    Args:
        last: The next token is the caption's last and completes its word.
    """
    text = _text(ids)
    end = _kind(text[-1:])
    tails: list[bytes] = []
    start = len(text)
    while len(tails) < bans.longest and (start := text.rfind(b" ", 0, start)) >= 0:
        tails.append(text[start:])
    if end:
        tails.append(b"")  # another kind of word may begin here
    begun = [(phrase, tail) for phrase in bans.phrases for tail in tails if phrase.startswith(tail)]
    return np.concatenate([bans.inside, *(_tokens_of(phrase[len(tail) :], end, last) for phrase, tail in begun)])


@lru_cache(maxsize=4096)
def _tokens_of(rest: bytes, end: int, last: bool) -> np.ndarray:
    """Return the tokens that complete a phrase after a text that ends in this kind of byte."""
    _, kinds, spaced, order = _vocabulary()
    if rest == b" ":
        return np.flatnonzero(kinds != end)
    text = rest.strip()
    found = order[bisect_left(spaced, text if last else text + b" ") : bisect_left(spaced, text + b"!")]
    return found[kinds[found] != end] if rest.startswith(b" ") else found


def _phrase(word: str) -> bytes:
    return b" " + _spaced(tokenizer.decode(tokenizer.encode(word)).encode() + b" ")


def _text(ids: Sequence[int]) -> bytes:
    texts = _vocabulary().texts
    return b" " + _spaced(b"".join([texts[token] for token in ids]))


def _spaced(text: bytes) -> bytes:
    """Put a space after each word of a text, except after one that may continue."""
    words = [found[0] for found in _WORD.finditer(text.lower())]
    ended = bool(words) and (text[-1:].isspace() or words[-1].isdigit())
    return b" ".join(words) + b" " * ended


def _kind(text: bytes) -> int:
    """Classify the first byte: 1 a letter, 2 a digit, 3 a symbol, 0 a space or nothing."""
    found = _WORD.match(text.lower())
    return (found.lastindex or 0) if found else 0


@cache
def _vocabulary() -> _Vocabulary:
    texts = tokenizer.token_bytes()
    spaced = [_spaced(text) for text in texts]
    order = sorted(range(len(texts)), key=lambda token: spaced[token])
    kinds = np.array([_kind(text) for text in texts])
    return _Vocabulary(texts, kinds, [spaced[token] for token in order], np.array(order))
