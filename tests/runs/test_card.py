"""The model card of a run."""

from pathlib import Path

import yaml
from hypothesis import given
from hypothesis import strategies as st

from cococli import __version__
from cococli.checkpoints.cache import is_name
from cococli.runs.card import model_card, write_card
from cococli.runs.folder import RunFolder

SCORES = {"CIDEr": 1.2534, "BLEU-4": 0.35, "text to image recall@1": 0.5}
CARD = f"""\
---
license: mit
base_model: laion/CoCa-ViT-B-32-laion2B-s13B-b90k
pipeline_tag: image-to-text
tags: [coca, mindspore, image-captioning]
metrics: [cider, bleu, recall]
---

# mine

A [CoCa](https://arxiv.org/abs/2205.01917), fine-tuned from \
[vit-b-32](https://huggingface.co/laion/CoCa-ViT-B-32-laion2B-s13B-b90k) by `coca finetune` (cococli {__version__}).

## Use

```console
$ coca caption videos/ --model run:mine
$ coca convert run:mine --to open_clip
```

On another machine, `--model best/` names the folder beside this file.

## Scores

On held-out examples, times 100, at step 300:

| | |
| --- | --- |
| CIDEr | 125.3 |
| BLEU-4 | 35.0 |
| text to image recall@1 | 50.0 |

![Loss and scores by step](plot.png)

## Data

| | |
| --- | --- |
| pictures | 80 |

## Settings

| | |
| --- | --- |
| rate | 1e-05 |
"""


def front(card: str) -> dict:
    """The YAML before the text."""
    _, text, _ = card.split("---\n", 2)
    return yaml.safe_load(text)


def test_a_card_says_what_is_known() -> None:
    assert model_card("mine", "vit-b-32", 300, SCORES, {"pictures": 80}, {"rate": 1e-05}, True) == CARD
    assert front(CARD)["metrics"] == ["cider", "bleu", "recall"]


def test_what_is_not_known_is_left_out() -> None:
    card = model_card("mine", "", None, {}, {}, {}, False)
    assert front(card) == {"pipeline_tag": "image-to-text", "tags": ["coca", "mindspore", "image-captioning"]}
    assert "trained from scratch by `coca finetune`" in card
    assert not any(word in card for word in ("Scores", "Data", "Settings", "plot.png", "license", "None"))


def test_unknown_base_has_no_license_or_link() -> None:
    for base in ("run:other", "weights/mine.ckpt"):
        card = model_card("mine", base, 1, {}, {}, {}, False)
        assert front(card).keys() == {"pipeline_tag", "tags"}
        assert f"fine-tuned from {base} by" in card


def test_what_is_known_against_the_base_is_told() -> None:
    card = model_card("mine", "vit-b-32-coco", 1, {}, {}, {}, False)
    assert "Of vit-b-32-coco it is known: its embeddings are useless" in card
    assert front(model_card("mine", "shapes", 1, {}, {}, {}, False))["license"] == "mit"


@given(odd=st.text(), name=st.from_regex(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,20}", fullmatch=True).filter(is_name))
def test_odd_strings_break_neither_yaml_nor_tables(odd: str, name: str) -> None:
    base = f"x{odd}"  # whatever it is, not from scratch
    card = model_card(name, base, 1, {f"CIDEr{odd}": 1.0}, {odd: odd}, {"a": odd}, False)
    assert front(card)["metrics"][0] == "cider"
    for line in card.splitlines():
        if line.startswith("| "):
            assert line.replace("\\\\", "").replace("\\|", "").count("|") == 3
    assert card.count("\n## ") == 4


def test_card_shows_scores_of_best_step(tmp_path: Path) -> None:
    run = RunFolder("mine", tmp_path)
    for step, score in ((100, 0.1), (200, 0.3), (300, 0.2)):
        run.log({"step": step, "loss": 1.0})
        run.log({"step": step, "score": score, "scores": {"BLEU-4": score, "CIDEr": None}, "samples": []})
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "progress.json").write_text('{"step": 200}')
    (tmp_path / "plot.png").touch()
    write_card(run, "", {"\udcff": 1}, {})
    card = (tmp_path / "README.md").read_text()
    assert "times 100, at step 200:\n\n| | |\n| --- | --- |\n| BLEU-4 | 30.0 |\n\n![Loss" in card
    assert "| \\udcff | 1 |" in card
