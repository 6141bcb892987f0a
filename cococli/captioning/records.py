"""One record of output per clip, and one per video that failed."""

import json
import math
from dataclasses import dataclass
from typing import Any


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
        return _dump(
            {
                "video": self.video,
                "start": _rounded(self.start, 3),
                "end": _rounded(self.end, 3),
                **({"segments": self.segments} if self.segments > 1 else {}),
                "caption": self.caption,
                "logprob": _rounded(self.logprob, 4),
                "similarity": _rounded(self.similarity, 4),
                **({"weak": True} if self.weak else {}),
                **({"candidates": [_scored(candidate) for candidate in self.candidates]} if self.candidates else {}),
                "frames": [_rounded(time, 3) for time in self.frames],
                "model": self.model,
                "status": "ok",
                **({"key": key} if key else {}),
            }
        )


@dataclass(frozen=True)
class Failure:
    """A video that could not be captioned, and why."""

    video: str
    error: str

    def to_json(self, key: str = "") -> str:
        """One line of JSON."""
        fields = {"video": self.video, "status": "error", "error": self.error}
        return _dump(fields | ({"key": key} if key else {}))


Outcome = Record | Failure


def from_json(fields: dict[str, Any]) -> Outcome:
    """What `to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: these are not its fields.
    """
    if fields["status"] != "ok":
        return Failure(fields["video"], fields["error"])
    return Record(
        video=fields["video"],
        start=_number(fields["start"]),
        end=_number(fields["end"]),
        caption=fields["caption"],
        logprob=_number(fields["logprob"]),
        similarity=_number(fields["similarity"]),
        frames=tuple(map(_number, fields["frames"])),
        model=fields["model"],
        segments=fields.get("segments", 1),
        weak=fields.get("weak", False),
        candidates=tuple(
            Candidate(candidate["caption"], _number(candidate["logprob"]), _number(candidate["similarity"]))
            for candidate in fields.get("candidates", ())
        ),
    )


def _scored(candidate: Candidate) -> dict[str, Any]:
    return {
        "caption": candidate.text,
        "logprob": _rounded(candidate.logprob, 4),
        "similarity": _rounded(candidate.similarity, 4),
    }


def _dump(fields: dict[str, Any]) -> str:
    # A lone surrogate cannot be written as UTF-8; spelled \udcXX it is JSON's own escape and reads back the same.
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def _rounded(value: float, digits: int) -> float | None:
    """None for a number that JSON cannot write."""
    return round(float(value), digits) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
