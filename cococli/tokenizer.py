"""Text to token ids and back: CLIP's byte-pair encoding."""

import gzip
import html
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

# Lists words, part by part, in the order in which they were found to be frequent (CLIP, arXiv 2103.00020).
_MERGES_FILE = Path(__file__).parent / "assets" / "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 48894  # CLIP reads this many lines of the file
_END_OF_WORD = "</w>"
_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"

SOT_ID = 49406
EOT_ID = 49407


def encode(text: str) -> list[int]:
    """Token ids of a text, without SOT and EOT, of any length."""
    words = _word_pattern().findall(_cleaned(text))
    return [token for word in words for token in _encode_word(word)]


def tokenize(texts: Sequence[str], context_length: int) -> np.ndarray:
    """Token ids of texts as CoCa reads them.

    Returns:
        [B, context_length] int32: SOT, the text, EOT, zeros. A text that is too long is cut; its last id is EOT.
    """
    rows = np.zeros((len(texts), context_length), np.int32)
    for row, text in zip(rows, texts, strict=True):
        ids = [SOT_ID, *encode(text)[: context_length - 2], EOT_ID]
        row[: len(ids)] = ids
    return rows


def decode(ids: Iterable[int]) -> str:
    """Text of token ids up to the first EOT, in single spaces.

    Id 0 is the token "!" like any other: pads are what comes after EOT, whatever their value. Bytes that are no
    UTF-8 become U+FFFD.
    """
    pieces = []
    for token in ids:
        if token == EOT_ID:
            break
        if token != SOT_ID:
            pieces.append(_vocabulary()[token])
    text = bytes(_byte_of()[char] for char in "".join(pieces)).decode("utf-8", errors="replace")
    return " ".join(text.replace(_END_OF_WORD, " ").split())


def spellings() -> list[bytes]:
    """What each token writes, by id: UTF-8 that may be half a character, a space where it ends a word."""
    byte_of = {char: byte for byte, char in _char_of().items()}
    written = [token.replace(_END_OF_WORD, " ") for token in _vocabulary()[:SOT_ID]]
    return [bytes(byte_of.get(char, ord(" ")) for char in token) for token in written] + [b"", b" "]


def _cleaned(text: str) -> str:
    """CLIP's clean-up: broken encodings mended, HTML entities resolved, single spaces, lower case."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@lru_cache(maxsize=65536)
def _encode_word(word: str) -> tuple[int, ...]:
    """Ids of one word: of its bytes, the pair that training merged first becomes one part, and so on."""
    if word in (_START, _END):
        return (SOT_ID if word == _START else EOT_ID,)
    parts = [_char_of()[byte] for byte in word.encode("utf-8")]
    parts[-1] += _END_OF_WORD
    ranks = _merge_ranks()
    while len(parts) > 1:
        left, right = min(pairwise(parts), key=lambda pair: ranks.get(" ".join(pair), _MERGES))
        if f"{left} {right}" not in ranks:
            break
        parts = _merged(parts, left, right)
    return tuple(_ids()[part] for part in parts)


def _merged(parts: list[str], left: str, right: str) -> list[str]:
    """The parts with every left and right that stand side by side made one, from the start on."""
    merged: list[str] = []
    fresh = False  # whether the last part may still be the left half of a pair
    for part in parts:
        if fresh and part == right and merged[-1] == left:
            merged[-1] += part
            fresh = False
        else:
            merged.append(part)
            fresh = True
    return merged


# Built when first needed, once per process.


@cache
def _word_pattern() -> Any:
    import regex

    return regex.compile(_WORDS, regex.IGNORECASE)


@cache
def _char_of() -> dict[int, str]:
    """One printable character for each byte, so that tokens can be stored as text (as GPT-2 does).

    Printable bytes stand for themselves; the others are numbered from U+0100. The order is that of the first ids.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = sorted(set(range(256)) - set(printable))
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@cache
def _byte_of() -> dict[str, int]:
    return {char: byte for byte, char in _char_of().items()}


@cache
def _merges() -> list[str]:
    """Pairs of parts, "left right", in the order in which they are merged."""
    return gzip.decompress(_MERGES_FILE.read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]


@cache
def _merge_ranks() -> dict[str, int]:
    return {pair: rank for rank, pair in enumerate(_merges())}


@cache
def _vocabulary() -> list[str]:
    """Token of each id: the bytes, the bytes that end a word, the merges in order, SOT, EOT."""
    chars = list(_char_of().values())
    merged = [pair.replace(" ", "") for pair in _merges()]
    return [*chars, *(char + _END_OF_WORD for char in chars), *merged, _START, _END]


@cache
def _ids() -> dict[str, int]:
    return {token: number for number, token in enumerate(_vocabulary())}
