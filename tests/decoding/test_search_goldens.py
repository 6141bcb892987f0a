"""Every method finds what the oracle found, token for token."""

import pytest
from decoding.goldens import golden_engine, golden_runs, golden_tokens

from cococli.decoding.options import SearchOptions
from cococli.decoding.search import search

RUNS = [
    pytest.param(name, kind, run, id=f"{name}-{kind}-{run['name']}")
    for name in ("tiny", "flat", "shapes")
    for kind in ("beam", "legacy")
    for run in golden_runs(name, kind)
]
# The oracle's arguments -> ours. open_clip and Hugging Face name lengths differently.
ARGUMENTS = {
    "seq_len": "max_length",
    "max_length": "max_length",
    "min_seq_len": "min_length",
    "min_length": "min_length",
    "num_beams": "beams",
    "num_beam_groups": "beam_groups",
    "repetition_penalty": "repetition_penalty",
    "length_penalty": "length_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram",
}


@pytest.mark.parametrize(("name", "kind", "run"), RUNS)
def test_captions_equal_the_oracle_token_for_token(name: str, kind: str, run: dict) -> None:
    engine = golden_engine(name)
    found = search(engine, golden_tokens(name), options_of(kind, run["args"]))
    expected = [up_to_eot(tokens, engine.config.eot_id) for tokens in run["tokens"]]
    assert [list(hypothesis.ids) for hypothesis in found] == expected


def options_of(kind: str, arguments: dict) -> SearchOptions:
    ours = {ARGUMENTS[key]: value for key, value in arguments.items() if key in ARGUMENTS}
    if arguments.get("generation_type") == "top_k":
        assert arguments["top_k"] == 1
        return SearchOptions(method="greedy", force_eot=kind == "legacy", **ours)
    return SearchOptions(method=kind, **ours)


def up_to_eot(tokens: list[int], eot_id: int) -> list[int]:
    return tokens[: tokens.index(eot_id) + 1] if eot_id in tokens else tokens
