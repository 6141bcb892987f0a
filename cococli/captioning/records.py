"""One record of output per clip, and one per video that failed."""

import json
import math
from dataclasses import dataclass
from typing import Any


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

    def to_json(self) -> str:
        """One line of JSON: times to the millisecond, scores to four decimals."""
        return _dump(
            {
                "video": self.video,
                "start": _rounded(self.start, 3),
                "end": _rounded(self.end, 3),
                "caption": self.caption,
                "logprob": _rounded(self.logprob, 4),
                "similarity": _rounded(self.similarity, 4),
                "frames": [_rounded(time, 3) for time in self.frames],
                "model": self.model,
                "status": "ok",
            }
        )


@dataclass(frozen=True)
class Failure:
    """A video that could not be captioned, and why."""

    video: str
    error: str

    def to_json(self) -> str:
        """One line of JSON."""
        return _dump({"video": self.video, "status": "error", "error": self.error})


Outcome = Record | Failure


def _dump(fields: dict[str, Any]) -> str:
    # A lone surrogate cannot be written as UTF-8; spelled \udcXX it is JSON's own escape and reads back the same.
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def _rounded(value: float, digits: int) -> float | None:
    """None for a number that JSON cannot write."""
    return round(float(value), digits) if math.isfinite(value) else None
