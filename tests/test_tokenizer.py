"""Tokenization as in CLIP, and back."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cococli.tokenizer import EOT_ID, SOT_ID, decode, detokenize, encode, token_bytes, tokenize

ORACLE = json.loads((Path(__file__).parent / "data" / "tokens.json").read_text())
CASES = ORACLE["cases"]


@pytest.mark.parametrize("case", CASES, ids=[case["text"][:20] for case in CASES])
def test_ids_equal_clip(case: dict) -> None:
    length = ORACLE["context_length"]
    expected = np.zeros(length, np.int32)
    expected[: len(case["ids"])] = case["ids"]
    [ids] = tokenize([case["text"]], length)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, expected)


def test_long_texts_are_truncated_before_eot() -> None:
    [ids] = tokenize(["word " * 100], 10)
    assert ids.tolist() == [SOT_ID, *[2653] * 8, EOT_ID]


def test_texts_that_just_fit_are_complete() -> None:
    [ids] = tokenize(["word " * 8], 10)
    assert ids.tolist() == [SOT_ID, *[2653] * 8, EOT_ID]


def test_no_texts() -> None:
    assert tokenize([], 76).shape == (0, 76)


def test_decoding_stops_at_the_first_eot() -> None:
    assert decode([SOT_ID, *encode("a dog runs"), EOT_ID, 0, 0, *encode("never said")]) == "a dog runs"


def test_id_0_is_an_exclamation_mark() -> None:
    assert encode("wow!(")[1:] == [0, 263]
    assert decode([SOT_ID, *encode("wow!("), EOT_ID, 0, 0]) == "wow !("


def test_invalid_utf8_becomes_a_replacement_character() -> None:
    half = encode("视")[:-1]
    assert decode(half) == "�"


def test_numpy_ids_can_be_decoded() -> None:
    assert decode(tokenize(["a red circle"], 20)[0]) == "a red circle"


@given(st.text(max_size=60))
def test_decoded_texts_have_single_spaces(text: str) -> None:
    decoded = decode(encode(text))
    assert decoded == " ".join(decoded.split())


@given(st.lists(st.from_regex(r"[a-z]{1,12}", fullmatch=True), max_size=12))
def test_plain_words_are_restored(words: list[str]) -> None:
    assert decode(encode(" ".join(words))) == " ".join(words)


def test_import_reads_no_vocabulary() -> None:
    code = """
import sys
from cococli import tokenizer
print(tokenizer._vocabulary.cache_info().currsize, {"ftfy", "regex"} & set(sys.modules))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "0 set()\n"


def test_token_bytes_equal_decoded_text() -> None:
    texts = token_bytes()
    ids = encode("a naïve café, 3 cats!")
    assert b"".join(texts[token] for token in ids).decode().split() == decode(ids).split()
    assert (len(texts), texts[SOT_ID], texts[EOT_ID]) == (49408, b"", b" ")


CAPTIONS = [
    "a man's hat, it's 10:30 in 2024. a t-shirt",
    "two dogs' bowls and three cats' toys.",
    "a sign that says 'stop' on a street",
    'a sign that says "stop!" on a street.',
    'a street sign says "no parking", "5th ave." and "do not enter"',
    "the word 'the end' on a screen",
    "it's a 'no smoking' sign",
    "they're here, we've been there, i'm ok, he'll go, she'd eat, don't you?",
    "a black & white photo of an r&b singer",
    "rooms 1, 2 and 3",
    "1,000 people and 12,345,678 ants",
    "in 2024. 3 dogs",
    "3.5 stars and $4.99 (on sale) 50% off!",
    "a 20-year-old woman's x-ray",
    "and/or",
    "1/2 cup",
    "follow us @user or name@example.com and www.example.com #1 #love",
    "the u.s. flag at 5 p.m. in washington d.c.",
    "the 1st, 2nd, 3rd, 4th, 11th, 21st and 112th",
    "rock 'n' roll at 12 o'clock, y'all",
    "st. louis, no. 1",
    "wait... what?!",
    'a man (left) and a woman [right]: "hello," she says.',
    "a 'small' dog",
    "a 'red' car",
    "a dog -- running",
    "it's the dog's toy",
    "the boys' team, the girls' team",
    "a sign that reads 'do not enter'",
    "a t-shirt that says 'i love ny'",
    "a clock at 10:30 a.m. on the wall",
    'a man with a "hello" sign and a woman with a "bye" sign',
    "boeing 747 and b-52",
    "2 + 2 = 4",
    "a 3d movie of the 1950s in 4k",
    "img_1234",
    'a café\'s sign reads "bonjour"',
    "",
]


@pytest.mark.parametrize("caption", CAPTIONS)
def test_detokenize_restores_captions(caption: str) -> None:
    assert detokenize(decode(encode(caption))) == caption
    assert detokenize(caption) == caption


@pytest.mark.parametrize(
    ("raw", "readable"),
    [
        ("1 , 2 and 3", "1, 2 and 3"),
        ("at 7 : 4 5 pm", "at 7:45 pm"),
        ("a dog . 3 cats", "a dog. 3 cats"),
        ("! (", "! ("),
    ],
)
def test_detokenize_follows_common_usage(raw: str, readable: str) -> None:
    assert detokenize(raw) == readable


_PIECES = """a man 's 't 're dogs ' " . , : ! ? - -- / & @ # $ % ( ) 1 2 0 … “ www com st o y amp lt ; _ é 中"""


@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(_PIECES.split()), max_size=12).map(" ".join)))
def test_detokenize_keeps_the_tokens(text: str) -> None:
    raw = decode(encode(text))
    readable = detokenize(raw)
    assert encode(readable) == encode(raw)
    assert detokenize(readable) == readable
