"""CLIP's byte-pair encoding: text to token ids and back."""

import gzip
import html
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import pairwise, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ModelError

# Merges of byte pairs in the order in which training found them (CLIP, arXiv 2103.00020).
_MERGES_FILE = Path(__file__).parent / "assets" / "bpe_simple_vocab_16e6.txt.gz"
_MERGES = 48894  # lines of the file that CLIP reads
_END_OF_WORD = "</w>"
_START, _END = "<start_of_text>", "<end_of_text>"
_WORDS = rf"{_START}|{_END}|'s|'t|'re|'ve|'m|'ll|'d|\p{{L}}+|\p{{N}}|[^\s\p{{L}}\p{{N}}]+"

_SAYS = "says|said|reads|spells|words"  # words before quotations; others that end in s may be possessives
_END_QUOTE = r"'[.,;:!?)\]]*(?!\S)"
_QUOTATIONS = {  # pattern: replacement, in order
    r'(?<!\S)([(\[]?") ((?:(?!").)+?) ([.,;:!?]*"[.,;:!?)\]]*)(?!\S)': r"\1\2\3",
    r"(?<!\S)' n '(?!\S)": "'n'",
    r"(?<!\S)([loy]) ' (?=\p{L})": r"\1'",  # o'clock
    rf"(?<!\S)(?<!(?<!\b(?:{_SAYS}))(?<=s) )' ((?:(?!{_END_QUOTE}).)+?) ({_END_QUOTE})": r"'\1\2",
    # CLIP splits 'stop' into 's and top.
    rf"(?<=\b(?:{_SAYS}|word|a|an|the|of|with|is) )('(?:s|t|re|ve|m|ll|d)) ((?:(?!{_END_QUOTE}).)+?) ({_END_QUOTE})": (
        r"\1\2\3"
    ),
}
_SUPERFLUOUS = r"""
    (?<=[\p{L}\p{N}]) \ (?=[.,;:!?)\]}%…”’°]+ ["')\]]* (?!\S))  # closing punctuation
  | (?<=(?<!\S)[(\[{“‘#@]+) \ (?=[\p{L}\p{N}])  # opening punctuation
  | (?<=(?<!\S)[$€£¥]) \ (?=[0-9])
  | (?<=[\p{L}\p{N}]) \ (?='(?:s|t|re|ve|m|ll|d)(?!\S))
  | (?<=s) \ (?='(?!\S))  # dogs'
  | (?<=[\p{L}\p{N}]) \ (?=[-/_]\ [\p{L}\p{N}]) | (?<=[\p{L}\p{N}]\ [-/_]) \ (?=[\p{L}\p{N}])
  | (?<=(?<!\S)\p{L}) \ (?=&\ \p{L}(?!\S)) | (?<=(?<!\S)\p{L}\ &) \ (?=\p{L}(?!\S))  # r&b
  | (?<=[0-9]\ :) \ (?=[0-9])  # 10:30
  | (?<=(?<!\S)(?!(?:19|20)[0-9]{2}\ )[0-9]+\ \.) \ (?=[0-9])  # 3.5
  | (?<=(?<!\S)[0-9]{1,3}(?:\ ,\ [0-9]{3})*\ ,) \ (?=[0-9]{3}(?!\S))  # 1,000
  | (?<=(?<!1)1) \ (?=st(?!\S)) | (?<=(?<!1)2) \ (?=nd(?!\S)) | (?<=(?<!1)3) \ (?=rd(?!\S))
  | (?<=[0-9]) \ (?=(?:th|k)(?!\S)) | (?<=[0-9]0) \ (?=s(?!\S)) | (?<=(?<!\S)[23]) \ (?=d(?!\S))
  | (?<=(?<!\S)\p{L}\ \.) \ (?=\p{L}\ \.(?!\S))  # u.s.
  | (?<=(?<!\S)www\ \.) \ (?=\w) | (?<=\w\ \.) \ (?=(?:com|org|net|edu|gov)(?!\S))
  | (?<=\w) \ (?=@\ \w+\ \.\ (?:com|org|net|edu|gov)(?!\S))
"""

SOT_ID = 49406
EOT_ID = 49407


def check_vocabulary(vocab_size: int) -> None:
    """Check that a model knows the tokens of this module, and no others.

    Raises:
        ModelError: Its vocabulary is not CLIP's.
    """
    if vocab_size != EOT_ID + 1:
        raise ModelError(f"this model has {vocab_size} tokens, but CLIP's vocabulary has {EOT_ID + 1}")


def encode(text: str) -> list[int]:
    """Encode a text of any length, without SOT and EOT."""
    words = _word_pattern().findall(_cleaned(text))
    return [token for word in words for token in _encode_word(word)]


def tokenize(texts: Sequence[str], context_length: int) -> np.ndarray:
    """Encode texts as inputs of the model.

    Returns:
        [B, context_length] int32: SOT, the text, EOT, zeros. Long texts are truncated before their EOT.
    """
    rows = np.zeros((len(texts), context_length), np.int32)
    for row, text in zip(rows, texts, strict=True):
        ids = [SOT_ID, *encode(text)[: context_length - 2], EOT_ID]
        row[: len(ids)] = ids
    return rows


def decode(ids: Iterable[int]) -> str:
    """Decode token ids up to the first EOT, with single spaces.

    Id 0 is the token "!", not a pad: pads come after EOT, regardless of their value. Bytes that are not UTF-8 become
    U+FFFD.
    """
    text = b"".join(token_bytes()[token] for token in takewhile(lambda token: token != EOT_ID, ids))
    return " ".join(text.decode("utf-8", errors="replace").split())


def detokenize(text: str) -> str:
    """Restore the usual spacing of a `decode`d text: `a man 's hat , 1 0 : 3 0` becomes `a man's hat, 10:30`.

    CLIP splits off contractions, single digits and runs of punctuation, and drops the spaces around them. Of spellings
    with the same tokens, the most common one is returned:

    - Digits form one number. A comma joins them as a thousands separator (`1,000`, but `1, 2`), a dot unless it follows
      a year (`3.5`, but `in 2024. 3 dogs`), a colon or slash always.
    - A hyphen, slash or underscore joins the words beside it; `&` joins single letters (`r&b`, but `black & white`).
    - Letters stay apart from digits except in `1st`, `1950s`, `3d` and `4k`.
    - An apostrophe after an s is a possessive unless a quotation starts there, as in `a sign that says 'stop'`.

    The tokens stay the same: `decode(encode(detokenize(text)))` restores the text. Readable text is unchanged.
    """
    digits, quotations, spaces = _spacing()
    spaced = digits.sub("", text)
    for quotation, joined in quotations:
        spaced = quotation.sub(joined, spaced)
    spaced = spaces.sub("", spaced)
    if spaced == text:
        return text
    words = _word_pattern().findall
    return spaced if words(_cleaned(spaced)) == words(_cleaned(text)) else text


@cache
def token_bytes() -> list[bytes]:
    """Return the text of each token, by id: UTF-8 that may be half a character, with a space where a word ends."""
    byte_of = {char: byte for byte, char in _char_of().items()}
    texts = [token.replace(_END_OF_WORD, " ") for token in _vocabulary()[:SOT_ID]]
    return [bytes(byte_of.get(char, ord(" ")) for char in text) for text in texts] + [b"", b" "]


def _cleaned(text: str) -> str:
    """Clean a text as CLIP does: fix encodings, resolve HTML entities, use single spaces and lower case."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@lru_cache(maxsize=65536)
def _encode_word(word: str) -> tuple[int, ...]:
    """Encode one word: merge the pair of adjacent parts that training merged first, and repeat."""
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
    """Merge each adjacent left and right, from the start on."""
    merged: list[str] = []
    fresh = False  # the last part may be the left half of a pair
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
def _spacing() -> tuple[Any, list[tuple[Any, str]], Any]:
    """Return what `detokenize` replaces: spaces between digits, quotations, other spaces."""
    import regex

    digits = regex.compile(r"(?<=(?<!\S)[0-9]) (?=[0-9](?!\S))")
    quotations = [(regex.compile(pattern), replacement) for pattern, replacement in _QUOTATIONS.items()]
    return digits, quotations, regex.compile(_SUPERFLUOUS, regex.VERBOSE)


@cache
def _char_of() -> dict[int, str]:
    """Map each byte to a printable character, as GPT-2 does to store tokens as text, in the order of the first ids.

    Printable bytes map to themselves, the others to characters from U+0100 on.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = sorted(set(range(256)) - set(printable))
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


@cache
def _merges() -> list[str]:
    """Return pairs of parts, "left right", in the order of merging."""
    return gzip.decompress(_MERGES_FILE.read_bytes()).decode("utf-8").split("\n")[1 : _MERGES + 1]


@cache
def _merge_ranks() -> dict[str, int]:
    return {pair: rank for rank, pair in enumerate(_merges())}


@cache
def _vocabulary() -> list[str]:
    """Return the token of each id: bytes, bytes that end a word, merges in order, SOT, EOT."""
    chars = list(_char_of().values())
    merged = [pair.replace(" ", "") for pair in _merges()]
    return [*chars, *(char + _END_OF_WORD for char in chars), *merged, _START, _END]


@cache
def _ids() -> dict[str, int]:
    return {token: index for index, token in enumerate(_vocabulary())}
