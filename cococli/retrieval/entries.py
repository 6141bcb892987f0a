"""What a vector of an index stands for: a line of `entries.jsonl`."""

from dataclasses import dataclass
from typing import Any, ClassVar

from ..journal import Failure, dump, failure_from_json, rounded, text_name
from ..parsing import validate


@dataclass(frozen=True)
class Entry:
    """A video, a segment of one, a picture, or a text."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}
    row: int  # of `vectors.npy`
    video: str = ""  # path as it was found; empty for a text
    start: float = 0.0  # seconds into the video
    end: float = 0.0  # seconds into the video; 0.0 for a picture
    frames: tuple[float, ...] = ()  # seconds into the video of the frames that were looked at
    segments: int = 1  # entries of this video
    text: str = ""  # its caption, where there is one; or the text itself

    @property
    def name(self) -> str:
        """That of its task, see `journal.Task`."""
        return self.video or text_name(self.text)

    def fields(self) -> dict[str, Any]:
        """What it says, apart from its row. Times to the millisecond."""
        if not self.video:
            return {"text": self.text}
        return {
            "video": self.video,
            "start": rounded(self.start, 3),
            "end": rounded(self.end, 3),
            **({"segments": self.segments} if self.segments > 1 else {}),
            **({"caption": self.text} if self.text else {}),
            "frames": [rounded(time, 3) for time in self.frames],
        }

    def to_json(self, key: str = "") -> str:
        """One line of JSON, the row first. See `journal` for the key."""
        return dump({"row": self.row, **self.fields(), "status": "ok", **({"key": key} if key else {})})


def from_json(fields: dict[str, Any], where: str = "damaged entry") -> Entry | Failure:
    """Read what `to_json` wrote.

    Raises:
        KeyError: A field is missing.
        UsageError: A field has the wrong type, or is a number that is not finite.
    """
    if fields["status"] != "ok":
        return failure_from_json(fields)
    if "video" not in fields:
        return validate({"row": fields["row"], "text": fields["text"]}, Entry, where)
    line = {name: fields[name] for name in ("row", "video", "start", "end", "frames")}
    return validate({**line, "segments": fields.get("segments", 1), "text": fields.get("caption", "")}, Entry, where)
