"""One record of output per clip, and one per video that failed."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..journal import Failure, dump, failure_from_json, number, rounded
from ..parsing import validate


@dataclass(frozen=True)
class Candidate:
    """One of the captions that a search found for a clip."""

    text: str
    logprob: float  # mean log-probability of a token
    similarity: float  # cosine of the clip and the text in the joint space


@dataclass(frozen=True)
class Record:
    """A caption and what it was made from."""

    video: str  # path as it was found; an undecodable byte of the name stands as a lone surrogate
    start: float  # seconds into the video
    end: float  # seconds into the video
    caption: str
    logprob: float  # mean log-probability of a token
    similarity: float  # cosine of the clip and the caption in the joint space
    frames: tuple[float, ...]  # seconds into the video of the frames that were looked at
    model: str
    segments: int = 1  # records of this video
    weak: bool = False  # the similarity is below what was asked for
    candidates: tuple[Candidate, ...] = ()  # the best first, the caption among them; empty where only one was wanted

    def to_json(self, key: str = "") -> str:
        """One line of JSON: times to the millisecond, scores to four decimals. See `journal` for the key."""
        return dump(
            {
                "video": self.video,
                "start": rounded(self.start, 3),
                "end": rounded(self.end, 3),
                **({"segments": self.segments} if self.segments > 1 else {}),
                "caption": self.caption,
                "logprob": rounded(self.logprob, 4),
                "similarity": rounded(self.similarity, 4),
                **({"weak": True} if self.weak else {}),
                **({"candidates": [_scored(candidate) for candidate in self.candidates]} if self.candidates else {}),
                "frames": [rounded(time, 3) for time in self.frames],
                "model": self.model,
                "status": "ok",
                **({"key": key} if key else {}),
            }
        )


Outcome = Record | Failure


@dataclass(frozen=True)
class _ScoredText:
    """A candidate in JSON. Scores are None where they are not finite."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}
    caption: str
    logprob: float | None
    similarity: float | None


@dataclass(frozen=True)
class _Line:
    """A record in JSON. Scores are None where they are not finite."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}
    video: str
    start: float
    end: float
    caption: str
    logprob: float | None
    similarity: float | None
    frames: tuple[float, ...]
    model: str
    segments: int = 1
    weak: bool = False
    candidates: tuple[_ScoredText, ...] = ()


_REQUIRED = ("video", "start", "end", "caption", "logprob", "similarity", "frames", "model")


def from_json(fields: dict[str, Any]) -> Outcome:
    """Read what `to_json` wrote.

    Raises:
        KeyError: A field is missing, as in records of other versions.
        UsageError: A field has the wrong type, or is a number that is not finite.
    """
    if fields["status"] != "ok":
        return failure_from_json(fields)
    line = validate({name: fields[name] for name in _REQUIRED} | fields, _Line, "damaged record")
    return Record(
        video=line.video,
        start=line.start,
        end=line.end,
        caption=line.caption,
        logprob=number(line.logprob),
        similarity=number(line.similarity),
        frames=line.frames,
        model=line.model,
        segments=line.segments,
        weak=line.weak,
        candidates=tuple(
            Candidate(each.caption, number(each.logprob), number(each.similarity)) for each in line.candidates
        ),
    )


def _scored(candidate: Candidate) -> dict[str, Any]:
    return {
        "caption": candidate.text,
        "logprob": rounded(candidate.logprob, 4),
        "similarity": rounded(candidate.similarity, 4),
    }
