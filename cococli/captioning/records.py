"""The output schema: one record per captioned clip or scored caption, and one per input that failed."""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field, TypeAdapter

from ..files import sample_fields
from ..journal import Failure, dump, failure_from_json, rounded
from ..parsing import validate

T = TypeVar("T")

SCHEMA_VERSION = 1  # grows when a program that reads records might break
_SCORES = ("logprob", "similarity", "clipscore")  # null in JSON where they are not finite
_REQUIRED = ("video", "start", "end", "caption", "logprob", "similarity", "frames", "model")

# Types of fields, with what the JSON Schema says of them.
_Path = Annotated[str, Field(description="Path as it was found; a byte that is not UTF-8 is a lone surrogate")]
_Model = Annotated[str, Field(description="Name of the model")]
_Caption = Annotated[str, Field(description="The caption")]
_Seconds = Annotated[float, Field(description="Seconds into the video, to the millisecond; 0 for a picture")]
_Logprob = Annotated[float, Field(description="Mean log-probability of a token")]
_Cosine = Annotated[float, Field(description="Cosine of the clip and the caption in the joint space")]
_ClipScore = Annotated[float, Field(description="CLIPScore: 2.5 times the similarity, at least 0")]
_Count = Annotated[int, Field(description="Number of records of this file; left out if there is one")]


@dataclass(frozen=True)
class Candidate:
    """One of the captions that a search found for a clip."""

    __pydantic_config__: ClassVar = {"allow_inf_nan": False}  # in JSON
    text: Annotated[_Caption, Field(alias="caption")]
    logprob: _Logprob
    similarity: _Cosine

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
    video: _Path
    start: _Seconds
    end: _Seconds
    caption: _Caption
    logprob: _Logprob
    similarity: _Cosine
    frames: Annotated[tuple[float, ...], Field(description="Seconds into the video of the frames that the model saw")]
    model: _Model
    segments: _Count = 1
    weak: Annotated[bool, Field(description="True if the similarity is below --min-score; left out otherwise")] = False
    candidates: Annotated[
        tuple[Candidate, ...],
        Field(description="Best first, the caption among them; left out unless --candidates asks for several"),
    ] = ()

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
    video: _Path
    id: Annotated[str, Field(description="The picture or video in its data: COCO's id, or a key or path")]
    caption: _Caption
    similarity: _Cosine
    clipscore: _ClipScore
    model: _Model
    records: _Count = 1

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


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a line of JSONL: a caption, a score, or an input that failed."""
    schema = TypeAdapter(Record | Score | Failure).json_schema()
    for name, kind in schema["$defs"].items():
        for field, described in kind["properties"].items():
            described.pop("title", None)
            if field in _SCORES:
                described["type"] = ["number", "null"]
                described["description"] += "; null if not finite"
        if name != "Candidate":
            kind["properties"] |= {
                "status": {"const": "error" if name == "Failure" else "ok"},
                "key": {"type": "string", "description": "Changes with the file and the options; not on stdout"},
            }
            kind["required"].append("status")
        if name in ("Record", "Failure"):
            key = {"type": "string", "description": "WebDataset's key of what is in a tar; left out otherwise"}
            kind["properties"]["__key__"] = key
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:coca:record:{SCHEMA_VERSION}",
        "title": f"Record of coca, version {SCHEMA_VERSION}",
    }
    return about | schema


def score_from_json(fields: dict[str, Any]) -> Score | Failure:
    """Read a score or a failure from the fields of its line.

    Raises:
        KeyError: A field is missing.
        UsageError: A field has the wrong type.
    """
    if fields["status"] != "ok":
        return failure_from_json(fields)
    required = ("video", "id", "caption", "similarity", "clipscore", "model")
    return _scored(Score, {name: fields[name] for name in required} | fields)


def from_json(fields: dict[str, Any]) -> Outcome:
    """Read a record or a failure from the fields of its line.

    Raises:
        KeyError: A field is missing, as in records of other versions.
        UsageError: A field has the wrong type, or is a number that is not finite.
    """
    if fields["status"] != "ok":
        return failure_from_json(fields)
    candidates = [
        _scored(Candidate, {name: candidate[name] for name in ("caption", "logprob", "similarity")})
        for candidate in validate(fields.get("candidates", []), list[dict[str, Any]], "damaged record")
    ]
    return _scored(Record, {name: fields[name] for name in _REQUIRED} | fields | {"candidates": candidates})


def _scored(kind: type[T], fields: dict[str, Any]) -> T:
    """Build a dataclass from JSON, in which null stands for a score that is not finite."""
    unknown = [name for name in _SCORES if name in fields and fields[name] is None]
    valid = validate(fields | dict.fromkeys(unknown, 0.0), kind, "damaged record")
    return replace(valid, **dict.fromkeys(unknown, math.nan))  # type: ignore[type-var]
