"""Caption metrics of papers: BLEU, METEOR, ROUGE-L, CIDEr and SPICE by pycocoevalcap."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from . import java, ptb

BLEU = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4")
METRICS = (*BLEU, "METEOR", "ROUGE-L", "CIDEr", "SPICE")
_NAMED = 3  # pictures that a message names

Tokenized = Mapping[str, list[str]]  # captions by picture
Column = tuple[float, Sequence[float]]  # a metric: of all pictures, and of each


@dataclass(frozen=True)
class CaptionScores:
    """Scores of captions in pycocoevalcap's units: 0..1, CIDEr 0..10."""

    corpus: dict[str, float]  # metric -> score of all pictures
    each: dict[str, dict[str, float]]  # picture -> metric -> score
    notes: list[str]  # omissions and differences from papers


def score_captions(
    predictions: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    metrics: Iterable[str] = METRICS,
    java_tokens: bool = True,
) -> CaptionScores:
    """Score a caption per picture against several by people, as COCO's own evaluation does.

    CIDEr weighs words by how many pictures of these references have them, as in the papers. Without Java, METEOR and
    SPICE are left out and captions are tokenized here; the notes say so.

    Args:
        predictions: Picture -> caption.
        references: Picture -> captions; those pictures are scored.
        metrics: Of `METRICS`.
        java_tokens: Tokenize with Java if it is installed, as papers do. Starting it takes a second.

    Raises:
        UsageError: A metric is unknown, a picture has no prediction or no references, or pycocoevalcap is missing.
    """
    wanted = list(metrics)
    _check(predictions, references, wanted)
    notes = list(_notes(predictions, references, wanted))
    truths, guesses = _tokenized(predictions, references, notes, java_tokens)
    found: dict[str, Column] = {}
    for names, score in _SCORERS.items():
        if set(names) & set(wanted):
            try:
                found.update(zip(names, score(truths, guesses), strict=True))
            except java.JavaError as error:
                notes.append(f"{names[0]} is left out: {error}")
    found = {name: found[name] for name in METRICS if name in found and name in wanted}
    return CaptionScores(
        corpus={name: float(whole) for name, (whole, _) in found.items()},
        each={
            picture: {name: float(single[number]) for name, (_, single) in found.items()}
            for number, picture in enumerate(references)
        },
        notes=notes,
    )


def cider_of_groups(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], groups: Mapping[str, str]
) -> dict[str, float]:
    """Return the CIDEr of each group of pictures, as if each were a data set of its own.

    Args:
        groups: Picture -> its group.
    """
    scores = {}
    for group in sorted(set(groups.values())):
        own = {picture: captions for picture, captions in references.items() if groups.get(picture) == group}
        if own:
            scores[group] = score_captions(predictions, own, ["CIDEr"]).corpus["CIDEr"]
    return scores


def check_installed() -> None:
    """Check that pycocoevalcap is installed, before work that needs it only at the end.

    Raises:
        UsageError: It is missing.
    """
    try:
        import pycocoevalcap.cider.cider
        import pycocoevalcap.tokenizer.ptbtokenizer  # noqa: F401
    except ImportError:
        raise UsageError("caption metrics need pycocoevalcap", "pip install 'cococli[evaluate]'") from None


def _check(predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], metrics: Sequence[str]) -> None:
    check_installed()
    for name in metrics:
        if name not in METRICS:
            raise UsageError(f"unknown metric {name}: choose from {', '.join(METRICS)}")
    if not references:
        raise UsageError("there are no references")
    if bare := [picture for picture, captions in references.items() if not captions]:
        raise UsageError(f"{len(bare)} of {len(references)} pictures have no references: {_some(bare)}")
    if missing := [picture for picture in references if picture not in predictions]:
        problem = f"{len(missing)} of {len(references)} pictures have no prediction: {_some(missing)}"
        raise UsageError(problem, "--allow-missing leaves them out")


def _notes(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], metrics: Sequence[str]
) -> Iterable[str]:
    if extra := [picture for picture in predictions if picture not in references]:
        yield f"predictions without references are left out, {len(extra)} of {len(predictions)}: {_some(extra)}"
    if empty := [picture for picture in references if not predictions[picture].strip()]:
        yield f"empty captions count as wrong, {len(empty)} of {len(references)}: {_some(empty)}"
    if len(references) == 1 and "CIDEr" in metrics:
        yield "CIDEr is 0 for a single picture: it weighs words by how few pictures have them"


def _some(pictures: Sequence[str]) -> str:
    return ", ".join(pictures[:_NAMED]) + (", ..." if len(pictures) > _NAMED else "")


def _tokenized(
    predictions: Mapping[str, str], references: Mapping[str, Sequence[str]], notes: list[str], java_tokens: bool
) -> tuple[Tokenized, Tokenized]:
    captions = [caption for own in references.values() for caption in own]
    captions += [predictions[picture] for picture in references]
    plain = tokenize(captions, notes, java_tokens)
    truths = {picture: [next(plain) for _ in own] for picture, own in references.items()}
    return truths, {picture: [next(plain)] for picture in references}


def tokenize(captions: Sequence[str], notes: list[str], java_tokens: bool = True) -> Iterator[str]:
    """Tokenize captions as papers do, without punctuation.

    Args:
        notes: Receives why Java did not.
        java_tokens: See `score_captions`.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

    lines = [" ".join(caption.split()) for caption in captions]  # a line break of any kind would shift those below
    try:
        tokens = iter(java.tokenize(lines) if java_tokens else map(ptb.tokenize, lines))
    except java.JavaError as error:
        notes.append(f"captions are tokenized by coca, not by Java as in papers: {error}")
        tokens = map(ptb.tokenize, lines)
    return (" ".join(token for token in line.split(" ") if token not in PUNCTUATIONS) for line in tokens)


def _bleu(truths: Tokenized, guesses: Tokenized) -> list[Column]:
    from pycocoevalcap.bleu.bleu import Bleu

    return list(zip(*Bleu(4).compute_score(truths, guesses, verbose=0), strict=True))


def _meteor(truths: Tokenized, guesses: Tokenized) -> Sequence[Column]:
    return java.meteor([guess for (guess,) in guesses.values()], list(truths.values()), [range(len(truths))])


def _rouge(truths: Tokenized, guesses: Tokenized) -> list[Column]:
    from pycocoevalcap.rouge.rouge import Rouge

    return [Rouge().compute_score(truths, guesses)]


def _cider(truths: Tokenized, guesses: Tokenized) -> list[Column]:
    from pycocoevalcap.cider.cider import Cider

    if not any(caption for own in truths.values() for caption in own):
        return [(0.0, [0.0] * len(truths))]
    return [Cider().compute_score(truths, guesses)]


def _spice(truths: Tokenized, guesses: Tokenized) -> list[Column]:
    return [java.spice([guess for (guess,) in guesses.values()], list(truths.values()))]


Scorers = dict[tuple[str, ...], Callable[[Tokenized, Tokenized], Sequence[Column]]]
SCORERS_WITHOUT_JAVA: Scorers = {BLEU: _bleu, ("ROUGE-L",): _rouge, ("CIDEr",): _cider}
_SCORERS: Scorers = {
    BLEU: _bleu,
    ("METEOR",): _meteor,
    ("ROUGE-L",): _rouge,
    ("CIDEr",): _cider,
    ("SPICE",): _spice,
}
