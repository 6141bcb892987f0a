"""Zero-shot classification: a picture belongs to the class with the nearest description (Radford et al. 2021)."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UsageError
from ..files import check_regular
from .retrieval import normalized, ranks, share_within

KS = (1, 5)
_TEMPLATES = Path(__file__).parent.parent / "assets" / "templates"
SETS = ("openai", "simple", "actions")  # the 80 templates of CLIP, its 7 that do nearly as well, its 28 for Kinetics


@dataclass(frozen=True)
class Confusion:
    """Number of pictures of a class that were classified as another."""

    label: int
    taken_for: int
    count: int


@dataclass(frozen=True)
class Accuracy:
    """Shares of pictures that are classified correctly."""

    top: dict[int, float]  # k -> share of pictures whose class is among the first k, 0..1
    per_class: dict[int, float]  # label -> share of its pictures whose class comes first; only labels with pictures
    confusions: list[Confusion]  # the most frequent first
    ranks: np.ndarray  # [N] int64: of each picture's class, 1 for the nearest

    @property
    def mean_per_class(self) -> float:
        """Mean accuracy of the classes, regardless of their number of pictures."""
        return float(np.mean(list(self.per_class.values())))


def read_templates(name_or_path: str) -> list[str]:
    """Read a template set: one of `SETS`, or a file with one template per line, `{}` standing for the class.

    Raises:
        UsageError: It cannot be read, or a template has no `{}`.
    """
    path = _TEMPLATES / f"{name_or_path}.txt" if name_or_path in SETS else Path(name_or_path)
    try:
        check_regular(path)
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        hint = f"the sets that come with coca are {', '.join(SETS)}"
        raise UsageError(f"cannot read templates from {path}: {error.strerror}", hint) from None
    for number, line in enumerate(lines, start=1):
        if line.strip() and "{}" not in line:
            raise UsageError(f"line {number} of {path} has no {{}} for the class", "as in: a photo of a {}.")
    templates = [line.strip() for line in lines if line.strip()]
    if not templates:
        raise UsageError(f"{path} holds no template")
    return templates


def classifier(
    embed_texts: Callable[[list[str]], np.ndarray], classes: Iterable[str], templates: Sequence[str]
) -> np.ndarray:
    """Return a vector for each class: the normalized mean of its normalized descriptions.

    Args:
        embed_texts: T texts -> [T, D].

    Returns:
        [C, D] float32, L2-normalized.
    """
    texts = described(classes, templates)
    return normalized(np.stack([normalized(embed_texts(own)).mean(axis=0) for own in texts]))


def described(classes: Iterable[str], templates: Sequence[str]) -> list[list[str]]:
    """Return the sentences that describe each class."""
    return [[template.replace("{}", name) for template in templates] for name in classes]


def accuracy(images: np.ndarray, labels: np.ndarray, classifier: np.ndarray, ks: Iterable[int] = KS) -> Accuracy:
    """Measure the accuracy of classification. A class that is as near as the picture's own counts as nearer.

    Args:
        images: [N, D], of any length.
        labels: [N] int: the row of each picture's class.
        classifier: [C, D], L2-normalized.

    Raises:
        UsageError: There is no picture.
        ModelError: A vector is zero or not finite.
    """
    if not len(images):
        raise UsageError("there are no pictures to classify")
    images, labels = normalized(images), np.asarray(labels)
    found = ranks(images, classifier, labels, np.arange(len(classifier)))
    return Accuracy(
        top={k: share_within(found, k) for k in ks},
        per_class={int(label): share_within(found[labels == label], 1) for label in np.unique(labels)},
        confusions=_confusions(images, labels, classifier),
        ranks=found,
    )


def _confusions(images: np.ndarray, labels: np.ndarray, classifier: np.ndarray) -> list[Confusion]:
    nearest = (images @ classifier.T).argmax(axis=1)
    wrong = Counter(zip(labels.tolist(), nearest.tolist(), strict=True))
    return [Confusion(*pair, count) for pair, count in wrong.most_common() if pair[0] != pair[1]]
