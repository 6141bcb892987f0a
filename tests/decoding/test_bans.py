"""Banned words."""

import re
from itertools import product

import numpy as np
import pytest
from decoding.fake_engine import FakeEngine, Logits, clips
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from searches import search, search_all

from cococli.decoding import bans, filters
from cococli.decoding.search_options import METHODS, SearchOptions
from cococli.errors import UsageError
from cococli.tokenizer import EOT_ID, SOT_ID, decode, encode

# CLIP's tokens, with a dot where a word ends.
IDS = {
    "a.": 320, "c": 66, "ca": 772, "cat": 1481, "cat.": 2368, "C": 34, "at.": 536, "t.": 339, "ch.": 634, "s.": 338,
    "cats.": 3989, "'s.": 568, "'": 6, "'.": 262, "-": 12, "..": 269, "black.": 1449, "black": 2025, "2": 17, "2.": 273,
    "SOT": SOT_ID, "EOT": EOT_ID,
}  # fmt: skip
WORDS = [IDS[name] for name in ("a.", "c", "cat", "cat.", "C", "at.", "s.", "'s.", "-", "..", "black.", "2", "EOT")]


def biased(words: list[int], floor: float = -30.0) -> Logits:
    """Return random logits for these tokens of CLIP's vocabulary and `floor` for all others."""

    def logits(clip: int, ids: tuple[int, ...]) -> np.ndarray:
        row = np.full(EOT_ID + 1, floor)
        row[words] = np.random.default_rng((clip, *ids)).normal(size=len(words))
        return row

    return logits


ENGINE = FakeEngine(biased(WORDS), EOT_ID + 1)


def says(text: str, banned: str) -> bool:
    """Return whether a text contains words in a row: runs of letters, digits, runs of symbols."""
    words, wanted = (re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", part.lower()) for part in (text, banned))
    return any(words[at : at + len(wanted)] == wanted for at in range(len(words)))


@pytest.mark.parametrize(
    ("prefix", "banned", "forbidden", "allowed"),
    [
        ("a.", "cat", "cat.", "cat c ca cats. EOT"),
        ("a.", "CAT", "cat.", "cats."),
        ("a. ca", "cat", "t.", "ch. cat."),
        ("a. C", "cat", "at.", "ch."),
        ("a. cat", "cat", "EOT SOT 's. .. - 2", "s. ch. cat."),
        ("a. -", "cat", "cat.", "cat"),
        ("a. ch.", "cat", "cat.", "EOT"),
        ("a. cats.", "cat", "cat.", "EOT"),
        ("a.", "black cat", "", "black. cat. EOT"),
        ("a. black.", "black cat", "cat.", "cat cats."),
        ("a. black", "black cat", "", "cat. EOT"),
        ("a. black. cat", "black cat", "EOT ..", "s. cat."),
        ("a. cat.", "cat's", "'s.", "EOT s."),
        ("a. cat", "cat's", "'s.", "s. ' EOT"),
        ("a. cat '", "cat's", "s.", "t."),
        ("a.", "s", "s. 's.", "cats. '."),
        ("a. 2", "22", "2 2.", "a."),
        ("a. 2.", "22", "2 2.", "a."),
        ("a.", ".", "..", "- EOT"),
    ],
)
def test_tokens_that_complete_banned_words_are_forbidden(
    prefix: str, banned: str, forbidden: str, allowed: str
) -> None:
    tokens = set(bans.completing(ids(prefix), bans.compiled((banned,)), last=False).tolist())
    assert set(ids(forbidden)) <= tokens
    assert not set(ids(allowed)) & tokens


def test_last_token_must_not_complete_a_word() -> None:
    banned = bans.compiled(("cat",))
    assert set(ids("cat cat.")) <= set(bans.completing(ids("a."), banned, last=True).tolist())
    assert not set(ids("ca cats. EOT")) & set(bans.completing(ids("a."), banned, last=True).tolist())


@pytest.mark.parametrize("word", ["视频", "café", "🐈"])
def test_multibyte_words_are_forbidden_at_their_last_token(word: str) -> None:
    *begun, last = encode(word)
    assert bans.completing([*ids("a."), *begun], bans.compiled((word,)), last=False).tolist() == [last]


REQUESTS = st.builds(
    SearchOptions,
    method=st.sampled_from(METHODS),
    beams=st.sampled_from((1, 2, 4)),
    beam_groups=st.just(1),
    max_length=st.integers(5, 9),
    min_length=st.integers(0, 4),
    no_repeat_ngram=st.sampled_from((0, 2)),
    seed=st.integers(0, 9),
    ban=st.sets(st.sampled_from(("cat", "cats", "a cat", "black", ". -", "2", "cat's", "s")), min_size=1).map(tuple),
)
CLIPS = st.lists(st.integers(0, 1000), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(REQUESTS, CLIPS, st.booleans(), st.sampled_from([(), (320, 1449), (66,)]))
def test_captions_contain_no_banned_word(
    options: SearchOptions, numbers: list[int], force_eot: bool, prompt: tuple[int, ...]
) -> None:
    if any(says(decode(prompt), word) for word in options.ban):
        return
    if force_eot and options.method not in ("beam", "legacy"):
        options = SearchOptions(**{**vars(options), "force_eot": True})
    for found in search_all(ENGINE, clips(*numbers), options, prompt):
        texts = [decode(hypothesis.ids) for hypothesis in found]
        assert [text for text in texts for word in options.ban if says(text, word)] == []


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(METHODS), CLIPS)
def test_unlikely_bans_change_nothing(method: str, numbers: list[int]) -> None:
    free, banned = (SearchOptions(method, max_length=8, ban=ban) for ban in ((), ("zebra", "two dogs", "a 视频")))
    assert search_all(ENGINE, clips(*numbers), free) == search_all(ENGINE, clips(*numbers), banned)


@settings(max_examples=30, deadline=None)
@given(CLIPS)
def test_greedy_captions_without_the_word_stay(numbers: list[int]) -> None:
    free, banned = (SearchOptions("greedy", max_length=7, ban=ban) for ban in ((), ("cat",)))
    for before, after in zip(*(search(ENGINE, clips(*numbers), options) for options in (free, banned)), strict=True):
        assert (before == after) != says(decode(before.ids), "cat")


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**20))
def test_wide_beam_search_finds_the_best_allowed_captions(seed: int) -> None:
    words = ids("c cat cat. at. EOT")
    engine = FakeEngine(biased(words, floor=-np.inf), EOT_ID + 1)
    options = SearchOptions(beams=20, length_penalty=0, min_length=0, max_length=4, ban=("cat",))
    [found] = search_all(engine, clips(seed), options)
    totals = sorted(
        (total for total, prefix in everything(engine, seed, words, 4) if not says(prefix, "cat")), reverse=True
    )
    assert [h.logprob * (len(h.ids) - 1) for h in found[:8]] == pytest.approx(totals[:8], abs=1e-4)


def everything(engine: FakeEngine, clip: int, words: list[int], length: int) -> set[tuple[float, str]]:
    """Return log-probability and text of every caption."""
    captions = set()
    for drawn in product(words, repeat=length - 1):
        total, prefix = 0.0, (SOT_ID,)
        for token in drawn:
            total += log_softmax(engine.logits(clip, prefix))[token]
            prefix += (token,)
            if token == EOT_ID:
                break
        captions.add((total, decode(prefix)))
    return captions


def test_caption_ends_when_all_tokens_are_banned() -> None:
    scores = np.full((1, 1, EOT_ID + 1), -np.inf, np.float32)
    scores[..., ids("cat. EOT")] = 2, 1
    tokens, bound = np.arange(EOT_ID + 1)[None, None], np.full((1, 1), -np.inf)
    choices = filters.Choices(tokens, scores, scores, bound)
    filtered = filters.apply(np.array([[ids("a.")]]), np.array([1]), choices, SearchOptions(ban=("cat",)), EOT_ID)
    assert np.flatnonzero(np.isfinite(filtered.scores)).tolist() == [EOT_ID]


def test_prompt_with_banned_word_is_rejected() -> None:
    options = SearchOptions(ban=("dog", "Black cat"))
    with pytest.raises(UsageError) as caught:
        search(ENGINE, clips(0), options, encode("a black cat"))
    assert caught.value.message == "--prompt contains 'Black cat', which --ban forbids"
    search(ENGINE, clips(0), options, encode("a cat black"))


def test_phrase_that_starts_in_the_prompt_is_banned() -> None:
    likely = FakeEngine(lambda clip, prefix: 9 * (np.arange(EOT_ID + 1) == IDS["cat."]), EOT_ID + 1)
    free, banned = (SearchOptions("greedy", max_length=5, min_length=0, ban=ban) for ban in ((), ("black cat",)))
    assert decode(search(likely, clips(0), free, encode("black"))[0].ids) == "black cat cat cat"
    assert not says(decode(search(likely, clips(0), banned, encode("black"))[0].ids), "black cat")


def ids(names: str) -> list[int]:
    return [IDS[name] for name in names.split()]
