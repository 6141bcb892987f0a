"""The output schema: one record per captioned clip, and one per input that failed."""

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

from ..files import sample_fields
from ..journal import Failure, dump, failure_from_json, rounded
from ..parsing import validate

T = TypeVar("T")

_SCORES = ("logprob", "similarity")  # null in JSON where they are not finite
_REQUIRED = ("video", "start", "end", "caption", *_SCORES, "frames", "model")


@dataclass(frozen=True)
class Candidate:
    """One of the captions that a search found for a clip."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}  # in JSON
    text: str
    logprob: float  # mean log-probability of a token
    similarity: float  # cosine of the clip and the text in the joint space

    def fields(self) -> dict[str, Any]:
        """Return the JSON fields: scores to four decimals."""
        return {
            "caption": self.text,
            "logprob": rounded(self.logprob, 4),
            "similarity": rounded(self.similarity, 4),
        }


@dataclass(frozen=True)
class Record:
    """A caption of a clip."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}  # in JSON
    video: str  # path as it was found; an undecodable byte of the name is a lone surrogate
    start: float  # seconds into the video
    end: float  # seconds into the video
    caption: str
    logprob: float  # mean log-probability of a token
    similarity: float  # cosine of the clip and the caption in the joint space
    frames: tuple[float, ...]  # seconds into the video of the frames that the model saw
    model: str
    segments: int = 1  # records of this video
    weak: bool = False  # the similarity is below --min-score
    candidates: tuple[Candidate, ...] = ()  # best first, the caption among them; empty unless several were asked for

    def fields(self) -> dict[str, Any]:
        """Return the JSON fields: times to the millisecond, scores to four decimals."""
        return {
            "video": self.video,
            **sample_fields(self.video),
            "start": rounded(self.start, 3),
            "end": rounded(self.end, 3),
            **({"segments": self.segments} if self.segments > 1 else {}),
            "caption": self.caption,
            "logprob": rounded(self.logprob, 4),
            "similarity": rounded(self.similarity, 4),
            **({"weak": True} if self.weak else {}),
            **({"candidates": [candidate.fields() for candidate in self.candidates]} if self.candidates else {}),
            "frames": [rounded(time, 3) for time in self.frames],
            "model": self.model,
            "status": "ok",
        }

    def to_json(self, key: str = "") -> str:
        """Return one line of JSON, with the record's key in a journal."""
        return dump(self.fields() | ({"key": key} if key else {}))


@dataclass(frozen=True)
class Score:
    """Similarity of an existing caption to its picture or video."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}  # in JSON
    video: str  # path, as of a record
    id: str  # of the picture or video, in its data set
    caption: str
    similarity: float  # cosine of the picture and the caption in the joint space
    model: str
    records: int = 1  # of this picture or video

    @property
    def clipscore(self) -> float:
        """CLIPScore (Hessel et al., arXiv 2104.08718): 2.5 times the similarity, or 0 if that is negative."""
        return 2.5 * max(self.similarity, 0.0) if math.isfinite(self.similarity) else math.nan

    def fields(self) -> dict[str, Any]:
        """Return the JSON fields: scores to four decimals."""
        return {
            "video": self.video,
            "id": self.id,
            **({"records": self.records} if self.records > 1 else {}),
            "caption": self.caption,
            "similarity": rounded(self.similarity, 4),
            "clipscore": rounded(self.clipscore, 4),
            "model": self.model,
            "status": "ok",
        }

    def to_json(self, key: str = "") -> str:
        """Return one line of JSON, with the record's key in a journal."""
        return dump(self.fields() | ({"key": key} if key else {}))


Outcome = Record | Failure


def score_from_json(fields: dict[str, Any]) -> Score | Failure:
    """Read a score or a failure from the fields of its line.

    Raises:
        KeyError: A field is missing.
        UsageError: A field has the wrong type.
    """
    if fields["status"] != "ok":
        return failure_from_json(fields)
    return _scored(Score, {name: fields[name] for name in ("video", "id", "caption", "similarity", "model")} | fields)


def from_json(fields: dict[str, Any]) -> Outcome:
    """Read a record or a failure from the fields of its line.

    Raises:
        KeyError: A field is missing, as in records of other versions.
        UsageError: A field has the wrong type, or is a number that is not finite.
    """
    if fields["status"] != "ok":
        return failure_from_json(fields)
    candidates = [
        _scored(Candidate, {name: candidate[name] for name in _SCORES} | {"text": candidate["caption"]})
        for candidate in validate(fields.get("candidates", []), list[dict[str, Any]], "damaged record")
    ]
    return _scored(Record, {name: fields[name] for name in _REQUIRED} | fields | {"candidates": candidates})


def _scored(kind: type[T], fields: dict[str, Any]) -> T:
    """Build a dataclass from JSON, in which null stands for a score that is not finite."""
    unknown = [name for name in _SCORES if name in fields and fields[name] is None]
    valid = validate(fields | dict.fromkeys(unknown, 0.0), kind, "damaged record")
    return replace(valid, **dict.fromkeys(unknown, math.nan))  # type: ignore[type-var]
