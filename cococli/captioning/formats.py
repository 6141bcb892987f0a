"""Writers of records: JSONL, text, CSV, Parquet and subtitles, each file written whole or not at all."""

import csv
import io
import json
import math
import re
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

from ..datasets.coco import image_ids
from ..errors import CocaError, UsageError
from ..files import io_errors
from ..journal import Failure
from ..media.tars import TAR
from ..overwrite import write_output
from ..tables import load_pyarrow
from ..urls import path_of
from .records import Outcome, Record, Score
from .subtitles import CueStyle, SubtitleFormat, to_subtitles

TEXT = ".txt"
SUBTITLES: dict[str, SubtitleFormat] = {".srt": "srt", ".vtt": "vtt"}
PAGE = ".html"  # of report.write_page
COCO = ".json"  # results, as the official tools of COCO read them
SUFFIXES = (".jsonl", COCO, ".csv", ".txt", ".parquet", TAR, PAGE, *SUBTITLES)
_NUMBERS = ("start", "end", "logprob", "similarity", "clipscore")
_COLUMNS = (
    "video", "start", "end", "caption", "logprob", "similarity", "weak", "candidates", "frames", "model",
    "status", "error",
)  # fmt: skip
SCORE_COLUMNS = ("video", "id", "caption", "similarity", "clipscore", "model", "status", "error")
CAPTION_ONLY, NAMED = "{caption}", r"{video}\t{caption}"  # templates of a line of text, for one video and for several
STANDARD = CueStyle()
Existing = Literal["keep", "replace", "append"] | None

_NO_TIMES = _NO_SCORES = (math.nan, math.nan)
_SAMPLE = Record("a.mp4", 0.0, 1.0, "a cat", -0.5, 0.25, (0.5,), "shapes")  # to check templates with
_ESCAPES = {r"\t": "\t", r"\n": "\n", r"\\": "\\"}
_LINE_BREAKS = {ord(char): repr(char)[1:-1] for char in "\t\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"}
_NOT_IN_LINES = ("candidates", "status", "error")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # https://owasp.org/www-community/attacks/CSV_Injection
_ROW_GROUP = 10_000  # rows of Parquet in memory at once


def write(path: Path, outcomes: Iterable[Outcome], template: str = CAPTION_ONLY, style: CueStyle = STANDARD) -> None:
    """Write records to a file in the format of its suffix. An existing file stays as it is on any error.

    JSONL, CSV and Parquet have rows for videos that failed. In text their line has no caption; COCO's results have no
    entry, and subtitles of a video that failed are not written.

    Args:
        template: Format of a line of text, see `text_line`.
        style: Layout of subtitles.

    Raises:
        CocaError: The file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix in SUBTITLES and not (outcomes := _records(outcomes)):
        return
    try:
        with write_output(path) as (file,):
            _write(file, suffix, outcomes, template, style)
    except OSError as error:
        raise CocaError(f"cannot write {path}: {error.strerror or error}") from None


def write_scores(path: Path, scores: Iterable[Score | Failure]) -> None:
    """Write scores to a file in the format of its suffix: CSV or Parquet, else JSONL.

    Raises:
        CocaError: The file cannot be written.
    """
    suffix = path.suffix.lower()
    with io_errors("write", path), write_output(path) as (file,):
        if suffix == ".parquet":
            _write_parquet(file, scores, SCORE_COLUMNS)
        else:
            lines = _csv_lines(scores, SCORE_COLUMNS) if suffix == ".csv" else (f"{one.to_json()}\n" for one in scores)
            file.writelines(line.encode(errors="backslashreplace") for line in lines)


def content(path: Path, outcomes: Iterable[Outcome], template: str, style: CueStyle) -> bytes:
    """Return the bytes that `write` would write."""
    file = io.BytesIO()
    _write(file, path.suffix.lower(), outcomes, template, style)
    return file.getvalue()


@dataclass(frozen=True)
class SidecarText:
    """Text that stands beside a video or picture, a caption on each line.

    Attributes:
        existing: What happens to files that coca did not write: None if there are none.
        prefix: Text before each caption.
        suffix: Text after each caption.
    """

    existing: Existing = None
    prefix: str = ""
    suffix: str = ""

    def content(self, path: Path, records: Iterable[Record]) -> bytes:
        """Return the new content of a file.

        Raises:
            OSError: It cannot be read, to be appended to.
        """
        lines = (f"{self.prefix}{_in_line(record.caption)}{self.suffix}" for record in records)
        text = "\n".join(lines).encode(errors="backslashreplace")
        before = path.read_bytes().rstrip() if self.existing == "append" and path.exists() else b""
        if before == text or before.endswith(b", " + text):  # by a run that was interrupted
            text = before
        elif before:
            text = before + b", " + text
        return text + b"\n"


PLAIN = SidecarText()


def write_sidecars(
    names: Mapping[Path, Path],
    outcomes: Iterable[Outcome],
    style: CueStyle = STANDARD,
    text: SidecarText = PLAIN,
) -> list[Failure]:
    """Write the subtitles or text of each video to its own file, and create the folders of these files.

    Args:
        names: The file of each video, from `outputs.mirrored` or `outputs.beside`; videos without one are skipped.
        outcomes: Records, grouped by video. A video that failed gets no file.

    Returns:
        Failures for the files that could not be written.
    """
    failed = []
    for video, group in groupby(outcomes, key=lambda outcome: outcome.video):
        if path := names.get(path_of(video)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix != TEXT:
                    write(path, group, style=style)
                elif records := _records(group):
                    new = text.content(path, records)
                    with write_output(path) as (file,):
                        file.write(new)
            except OSError as error:
                failed.append(Failure(video, f"cannot write {path}: {error.strerror or error}"))
            except CocaError as error:
                failed.append(Failure(video, error.message))
    return failed


def default_template(videos: Sequence[Path]) -> str:
    """Return the template of a line of text if none is given: with the name if there are several videos."""
    return NAMED if len(videos) > 1 else CAPTION_ONLY


def text_line(outcome: Outcome, template: str) -> str:
    r"""Format a record by a template, as `{start:.1f}\t{caption}`, on one line unless the template breaks it.

    Fields are those of the record, and `stem`, `name` and `folder` of the video. `\t`, `\n` and `\\` are a tab, a line
    break and a backslash. The caption of a failure is empty, its times and scores are nan.
    """
    record = outcome if isinstance(outcome, Record) else Record(outcome.video, *_NO_TIMES, "", *_NO_SCORES, (), "")
    unescaped = re.sub(r"\\[tn\\]", lambda escape: _ESCAPES[escape[0]], template)
    return unescaped.format_map(_template_values(record))


def check_template(template: str) -> None:
    """Check a template before any work is done.

    Raises:
        UsageError: A field is unknown, or has an invalid format.
    """
    known = _template_values(_SAMPLE)
    try:
        for _, name, form, _ in string.Formatter().parse(template):
            if name is not None and name not in known:
                raise UsageError(f"--template has no field {{{name}}}", f"its fields are {', '.join(known)}")
            # Formatting takes memory for as many characters as the width.
            if form and ("{" in form or re.search(r"\d{5}", form)):
                hint = "widths up to 9999, and no field within another"
                raise UsageError(f"--template cannot format {{{name}}} as {form!r}", hint)
        text_line(_SAMPLE, template)
    except (ValueError, LookupError, AttributeError, TypeError) as error:
        raise UsageError(f"cannot read --template {template!r}: {error}", r"as in '{start:.1f}\t{caption}'") from None


def _write(file: BinaryIO, suffix: str, outcomes: Iterable[Outcome], template: str, style: CueStyle) -> None:
    if suffix == ".parquet":
        _write_parquet(file, outcomes)
    else:
        file.writelines(text.encode(errors="backslashreplace") for text in _texts(suffix, outcomes, template, style))


def _texts(suffix: str, outcomes: Iterable[Outcome], template: str, style: CueStyle) -> Iterable[str]:
    """Yield the parts of a text file."""
    if suffix == ".csv":
        return _csv_lines(outcomes)
    if suffix == TEXT:
        return (text_line(outcome, template) + "\n" for outcome in outcomes)
    if suffix == COCO:
        return [_coco_results(_records(outcomes))]
    if suffix in SUBTITLES:
        return [to_subtitles(_records(outcomes), SUBTITLES[suffix], style)]
    return (outcome.to_json() + "\n" for outcome in outcomes)


def _coco_results(records: Sequence[Record]) -> str:
    """Return the results file of COCO's tools."""
    ids = image_ids([path_of(record.video) for record in records])
    entries = ({"image_id": ids[path_of(record.video)], "caption": record.caption} for record in records)
    return "[" + ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) + "]\n"


def _csv_lines(outcomes: Iterable[Outcome | Score], columns: Sequence[str] = _COLUMNS) -> Iterator[str]:
    """Yield the lines of a CSV file (RFC 4180)."""
    yield _csv_line(columns)
    for outcome in outcomes:
        yield _csv_line([_cell(column, value) for column, value in _row(outcome, columns).items()])


def _csv_line(cells: Iterable[Any]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _cell(column: str, value: Any) -> Any:
    """Escape what a spreadsheet would run as a formula: `./` before a path, an apostrophe before other text."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"./{value}" if column == "video" else f"'{value}"
    return json.dumps(value) if isinstance(value, list) else value


def _write_parquet(file: BinaryIO, outcomes: Iterable[Outcome | Score], columns: Sequence[str] = _COLUMNS) -> None:
    pyarrow, parquet = load_pyarrow()
    text, number = pyarrow.string(), pyarrow.float64()
    candidate = pyarrow.struct({"caption": text, "logprob": number, "similarity": number})
    special = {"weak": pyarrow.bool_(), "candidates": pyarrow.list_(candidate), "frames": pyarrow.list_(number)}
    types = dict.fromkeys(_NUMBERS, number) | special
    schema = pyarrow.schema([(name, types.get(name, text)) for name in columns])
    rows = (_row(outcome, columns) for outcome in outcomes)
    with parquet.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROW_GROUP)):
            writer.write_table(pyarrow.Table.from_pylist(group, schema))


def _template_values(record: Record) -> dict[str, Any]:
    values = {name: _in_line(value) for name, value in _row(record).items() if name not in _NOT_IN_LINES}
    video = Path(values["video"])
    return values | {"stem": video.stem, "name": video.name, "folder": str(video.parent)}


def _in_line(value: Any) -> Any:
    if isinstance(value, str):
        return value.translate(_LINE_BREAKS)
    return math.nan if value is None else value


def _row(outcome: Outcome | Score, columns: Sequence[str] = _COLUMNS) -> dict[str, Any]:
    """Return the fields of an outcome in the order of the columns; None where it has none."""
    defaults = {"weak": False, "candidates": []} if isinstance(outcome, Record) else {}
    values = defaults | outcome.fields()
    return {name: _utf8(values.get(name)) for name in columns}


def _utf8(value: Any) -> Any:
    r"""Replace undecodable bytes of a file name by `\udcXX`."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _records(outcomes: Iterable[Outcome]) -> list[Record]:
    return [outcome for outcome in outcomes if isinstance(outcome, Record)]
