"""Subtitles: timing, line breaks, and escaping of captions."""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pysubs2 import SSAEvent, SSAFile
from rich.cells import cell_len, chop_cells

from ..errors import UsageError
from .records import Record

SubtitleFormat = Literal["srt", "vtt"]

_LATEST = 99 * 3_600_000  # milliseconds: pysubs2 knows hours of two digits only
_EMPTY = "…"  # FFmpeg refuses a file without cues
_JOINERS = "\u200c\u200d"  # they shape Persian words and emoji
_INVISIBLE = {"Cc", "Cf", "Cs"}  # categories: controls, writing direction, lone surrogates
# Players take braces and backslashes for styling in any format, and SubRip cannot escape HTML tags.
_NO_STYLING = str.maketrans({"{": "(", "}": ")", "\\": "/"})
_NO_TAGS = str.maketrans({"<": "‹", ">": "›"})


@dataclass(frozen=True)
class CueStyle:
    """Layout and duration of cues.

    A cue disappears after `max_seconds` even if its segment is longer: once it is read, it only covers the picture.
    `inf` shows it as long as the segment.

    Raises:
        UsageError: A number is too small.
    """

    line_length: int = 42  # cells; a wide character, as in Chinese, takes two
    lines: int = 2
    min_seconds: float = 1.0
    max_seconds: float = 7.0
    characters_per_second: float = 17.0  # reading speed of most people

    def __post_init__(self) -> None:
        self._check("line_length", 2)
        self._check("lines", 1)
        self._check("min_seconds", 0.001)
        self._check("max_seconds", self.min_seconds)
        self._check("characters_per_second", 1)

    def _check(self, name: str, least: float) -> None:
        if not (value := getattr(self, name)) >= least:
            raise UsageError(f"{name} of subtitles must be at least {least}, not {value}")


class Cue(NamedTuple):
    """Lines that are shown together."""

    start: int  # milliseconds
    end: int  # milliseconds, exclusive
    lines: list[str]


def to_subtitles(records: Sequence[Record], kind: SubtitleFormat, style: CueStyle) -> str:
    """Return the captions of one video as a subtitle file.

    WebVTT: https://www.w3.org/TR/webvtt1/. SubRip has no standard; this is what FFmpeg and pysubs2 agree on.
    """
    file = SSAFile()
    for start, end, lines in cues(records, style):
        file.append(SSAEvent(start, end, r"\N".join(_escaped(line, kind) for line in lines)))
    return file.to_string(kind)


def cues(records: Sequence[Record], style: CueStyle) -> Iterator[Cue]:
    """Yield the cues of one video in order, without overlaps.

    A text that is too long for one cue is split into several, which share its time by length. A cue whose segment is
    too short to read it stays until the next caption, and the last one up to `min_seconds` beyond the end.
    """
    ordered = sorted((record for record in records if _ms(record.start) < _LATEST), key=lambda record: record.start)
    now = 0
    for record, following in zip(ordered, [*ordered[1:], None], strict=False):
        now = max(now, _ms(record.start))
        limit = min(_ms(following.start if following else record.end + style.min_seconds), _LATEST)
        texts = pages(record.caption, style)
        reading = [_reading_time(lines, style) for lines in texts]
        needed = sum(reading)
        shown = min(max(_ms(record.end) - now, needed), limit - now)
        for lines, part in zip(texts, reading, strict=True):
            end = now + max(1, int(min(shown * part // needed, 1000 * style.max_seconds)))
            yield Cue(now, end, lines)
            now = end


def pages(text: str, style: CueStyle) -> list[list[str]]:
    """Split a text into as few cues as possible, with lines of similar length; return their lines."""
    words = [piece for word in _plain(text).split() for piece in chop_cells(word, style.line_length)]
    fewest = len(_wrapped(words, style.line_length))
    cue_count = -(-fewest // style.lines)
    most = cue_count * style.lines if cue_count > 1 else fewest
    widths = range(max(map(cell_len, words)), style.line_length + 1)
    lines = next(lines for width in widths if len(lines := _wrapped(words, width)) <= most)
    return [lines[first : first + style.lines] for first in range(0, len(lines), style.lines)]


def _wrapped(words: Sequence[str], width: int) -> list[str]:
    """Fill lines of at most `width` cells."""
    lines = [words[0]]
    for word in words[1:]:
        if cell_len(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _reading_time(lines: Sequence[str], style: CueStyle) -> int:
    """Return the time that it takes to read lines, in milliseconds."""
    return _ms(max(sum(map(cell_len, lines)) / style.characters_per_second, style.min_seconds))


def _plain(text: str) -> str:
    """Remove invisible characters, and characters that players take for markup."""
    seen = (char for char in text if char.isspace() or char in _JOINERS or unicodedata.category(char) not in _INVISIBLE)
    plain = "".join(seen).translate(_NO_STYLING)
    return plain if cell_len(plain.strip()) else _EMPTY


def _escaped(line: str, kind: SubtitleFormat) -> str:
    """Escape a line for a format."""
    # Parsers would take a line of digits for the number of the next cue, and two times for the times of a cue.
    if line.isdecimal():
        line = f"\u00a0{line}"
    line = re.sub(r":(?=\d{1,2}[.,]\d)", "∶", line)
    return html.escape(line, quote=False) if kind == "vtt" else line.translate(_NO_TAGS)


def _ms(seconds: float) -> int:
    return round(1000 * seconds)
