"""Model card of a run: the README.md that model hubs display."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .. import __version__
from ..catalog import MODELS
from ..checkpoints.store import RUN
from ..files import io_errors, write_atomically
from .folder import CARD, PLOT, RunFolder, flattened

METRICS = ("CIDEr", "BLEU", "METEOR", "ROUGE", "SPICE", "recall", "accuracy")  # in names of scores


def write_card(run: RunFolder, base: str, data: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Write the model card of a run.

    Args:
        base: Name of the base model; empty if trained from scratch.
        data: Counts of the training data by name.
        settings: Settings by name.

    Raises:
        CocaError: It cannot be written.
    """
    step = run.best_step()
    found = [record["scores"] for record in run.records() if "scores" in record and record["step"] == step]
    scores = found[-1] if found else {}
    drawn = (run.path / PLOT).exists()
    text = model_card(run.name, base, step, scores, data, settings, drawn)
    path = run.path / CARD
    with io_errors("write", path), write_atomically(path) as (file,):
        file.write(text.encode("utf-8", "backslashreplace"))


def model_card(
    name: str,
    base: str,
    step: int | None,
    scores: Mapping[str, float],
    data: Mapping[str, Any],
    settings: Mapping[str, Any],
    drawn: bool,
) -> str:
    """Return the card as Markdown, without unknown parts.

    Args:
        name: Name of the run.
        base: Name of the base model; empty if trained from scratch.
        step: Step of the best model.
        scores: Scores at that step: 0 to 1, CIDEr 0 to 10.
        data: Counts of the training data by name.
        settings: Settings by name.
        drawn: Whether there is a plot of the curves.
    """
    parts = ["\n".join(_front(base, scores)), f"# {name}", _origin(base), _use(name)]
    if scores:
        rows = {measure: f"{100 * value:.1f}" for measure, value in scores.items() if value is not None}
        when = "On held-out examples, times 100" + (f", at step {step}:" if step is not None else ":")
        parts += ["## Scores", when, _table(rows)]
    if drawn:
        parts.append(f"![Loss and scores by step]({PLOT})")
    if data:
        parts += ["## Data", _table(data)]
    if settings:
        parts += ["## Settings", _table(settings)]
    return "\n\n".join(parts) + "\n"


def _front(base: str, scores: Mapping[str, float]) -> Iterator[str]:
    """Yield lines of YAML metadata in the hub's vocabulary."""
    yield "---"
    if known := MODELS.get(base):
        yield f"license: {known.license.lower()}"
        if known.repository:
            yield f"base_model: {known.repository}"
    yield "pipeline_tag: image-to-text"
    yield "tags: [coca, mindspore, image-captioning]"
    if metrics := [metric.lower() for metric in METRICS if any(metric in name for name in scores)]:
        yield f"metrics: [{', '.join(metrics)}]"
    yield "---"


def _origin(base: str) -> str:
    known = MODELS.get(base)
    if not base:
        start = "trained from scratch"
    elif known and known.repository:
        start = f"fine-tuned from [{base}](https://huggingface.co/{known.repository})"
    else:
        start = f"fine-tuned from {_plain(base)}"
    warning = f" Of {base} it is known: {known.warning}." if known and known.warning else ""
    return f"A [CoCa](https://arxiv.org/abs/2205.01917), {start} by `coca finetune` (cococli {__version__}).{warning}"


def _use(name: str) -> str:
    return f"""## Use

```console
$ coca caption videos/ --model {RUN}{name}
$ coca convert {RUN}{name} --to open_clip
```

On another machine, `--model best/` names the folder beside this file."""


def _table(rows: Mapping[str, Any]) -> str:
    lines = [f"| {_plain(name)} | {_plain(value)} |" for name, value in flattened(rows).items()]
    return "\n".join(["| | |", "| --- | --- |", *lines])


def _plain(value: object) -> str:
    """Escape text for Markdown, on one line."""
    line = " ".join(str(value).split())
    return re.sub(r"([\\`*_{}\[\]<>#|~&!])", r"\\\1", line)
