"""One record of output per clip, and one per video that failed."""

from dataclasses import dataclass
from typing import Any

from ..journal import Failure, dump, number, rounded


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


def from_json(fields: dict[str, Any]) -> Outcome:
    """What `to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: these are not its fields.
    """
    if fields["status"] != "ok":
        return Failure(fields["video"], fields["error"])
    return Record(
        video=fields["video"],
        start=number(fields["start"]),
        end=number(fields["end"]),
        caption=fields["caption"],
        logprob=number(fields["logprob"]),
        similarity=number(fields["similarity"]),
        frames=tuple(map(number, fields["frames"])),
        model=fields["model"],
        segments=fields.get("segments", 1),
        weak=fields.get("weak", False),
        candidates=tuple(
            Candidate(candidate["caption"], number(candidate["logprob"]), number(candidate["similarity"]))
            for candidate in fields.get("candidates", ())
        ),
    )


def _scored(candidate: Candidate) -> dict[str, Any]:
    return {
        "caption": candidate.text,
        "logprob": rounded(candidate.logprob, 4),
        "similarity": rounded(candidate.similarity, 4),
    }
