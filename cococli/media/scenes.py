"""Scene detection: scenes begin at hard cuts, in the middle of fades and dissolves, and at new pages.

Thumbnails of the frames are enough for films, and small gray pictures for slides and other pages (see pages.py), so
that decoding takes most of the time. docs/design.md has its accuracy, and why it is not PySceneDetect.
"""

import math
from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby, pairwise
from typing import NamedTuple

import numpy as np

from .frames import Reader, report_progress
from .pages import HEIGHT as PAGE_HEIGHT
from .pages import TICK as PAGE_TICK
from .pages import WIDTH as PAGE_WIDTH
from .pages import page_changes, scrolled
from .videos import Video

SHORTEST = 1.0  # seconds of a scene

WIDTH, HEIGHT = 32, 18  # of a thumbnail, in pixels: grain and small movements are gone

# Pictures with less contrast, the standard deviation of their gray levels, are blank, as at the end of a fade.
_BLANK_CONTRAST = 3.0
# Beside blank frames, those with less than this share of the contrast around them are fading.
_FADED_CONTRAST = 0.3
_FADE_WINDOW = 1.0  # seconds

# Hard cuts. The distance of two frames is 1 - their correlation.
_CUT_THRESHOLD = 0.2  # least distance of the frames before and after a cut
# Least distance of frames on both sides of a cut, for three quarters of the pairs: after a flash the old scene is back.
_SIDES_THRESHOLD = 0.3
_CUT_WINDOW = 0.3  # seconds to both sides
# The distance at a cut is this many times those around it: fast motion goes on for several frames.
_CUT_RATIO = 2.0
# Cells down and across, of which more than half must change color: a window that opens is no cut.
_CELLS = (6, 8)
_CELL_THRESHOLD = 0.4  # change of a cell's color as a share of the contrast

# Cuts in a part of the picture, as in a split screen
_MIN_PART = 0.3  # share of the picture
_MIN_FILL = 0.5  # share of its pixels that change
_PIXEL_THRESHOLD = 5.0  # gray levels by which a pixel changes
_PIXEL_RATIO = 1.5  # change of a pixel over those just before and after

# Dissolves
_TICK = 0.1  # seconds
_HALF_LENGTHS = (3, 6, 10)  # ticks from the middle of a dissolve to its ends
_DISSOLVE_THRESHOLD = 0.5  # strength, see `_dissolves`

# A video is processed in overlapping chunks, so that a day of it fits into memory.
_CHUNK = 30.0  # seconds
_MARGIN = 2.0  # seconds, more than what decides about a frame
_LONGEST_PAUSE = 2.0  # seconds: a frame that stays on screen for longer counts for no more


class _Change(NamedTuple):
    """A possible beginning of a scene."""

    time: float  # seconds
    strength: float
    reach: float  # seconds to either side that it takes: 0 for a cut


class _Thumbnail(NamedTuple):
    time: float  # seconds
    clock: float  # seconds, with long pauses made short
    pixels: np.ndarray  # [HEIGHT, WIDTH, 3] uint8
    page: np.ndarray | None  # [PAGE_HEIGHT, PAGE_WIDTH] uint8; none where another frame follows in the same tick

    @property
    def tick(self) -> int:
        return int(self.clock / PAGE_TICK)


class _Chunk(NamedTuple):
    times: np.ndarray  # [N] seconds
    clock: np.ndarray  # [N] seconds, with long pauses made short
    pixels: np.ndarray  # [N, HEIGHT * WIDTH * 3] float32
    pages: np.ndarray  # [P, PAGE_HEIGHT, PAGE_WIDTH] uint8
    paged: np.ndarray  # [P] which frames they are
    faded: np.ndarray  # [P] whether they are blank or fading: encoders leave a shadow of earlier frames
    core: tuple[float, float]  # times, from and before, that no other chunk covers


def scene_spans(reader: Reader, shortest: float = SHORTEST) -> list[tuple[float, float]]:
    """Return the spans of the scenes in seconds, in order. Blank spans as long as a scene belong to none of them."""
    scenes, blanks = _analyze(reader, shortest)
    start, end = float(reader.starts[0]), float(reader.end)
    spans = list(pairwise([start, *scenes, end]))
    for blank_start, blank_end in blanks:
        cut = [part for one, other in spans for part in ((one, min(other, blank_start)), (max(one, blank_end), other))]
        # What a blank leaves of a scene, as the end of a fade, must be long enough to be one.
        spans = sorted({part for part in cut if part in spans or part[1] - part[0] >= shortest})
    return spans or [(start, end)]


def find_scenes(reader: Reader, shortest: float = SHORTEST) -> list[float]:
    """Return the times at which scenes begin, except the first: seconds, ascending, each the start of a frame.

    Args:
        shortest: Least length of a scene in seconds; of two changes closer than this, the weaker one is dropped.
    """
    return _analyze(reader, shortest)[0]


def _analyze(reader: Reader, shortest: float) -> tuple[list[float], list[tuple[float, float]]]:
    """Return the times at which scenes begin, and the blank spans."""
    changes: list[_Change] = []
    blank: list[tuple[float, bool]] = []
    for chunk in _chunks(_read_thumbnails(reader)):
        begin, end = chunk.core
        changes += [change for change in _changes(chunk) if begin <= change.time < end]
        times = chunk.times[chunk.paged]
        inside = (begin <= times) & (times < end)
        blank += zip(times[inside].tolist(), chunk.faded[inside].tolist(), strict=True)
    start, end = float(reader.starts[0]), float(reader.end)
    found = [start, end]
    for change in sorted(changes, key=lambda change: (change.reach > 0, -change.strength)):
        index = bisect(found, change.time)
        if start < change.time < end:
            room = min(change.time - found[index - 1], found[index] - change.time)
            if room >= max(shortest, change.reach):
                found.insert(index, change.time)
    frames = np.searchsorted(reader.starts, np.array(found[1:-1]) + 1e-6, side="right") - 1
    return [float(time) for time in reader.starts[frames]], _blank_spans(blank, end, shortest)


def _contrast(pictures: np.ndarray) -> np.ndarray:
    """Return the standard deviation of each picture: [N, ...] -> [N]."""
    return np.array([picture.std() for picture in pictures])


def _is_faded(times: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """Return whether each picture is blank, or fading from or to blank: [N]."""
    contrast = _contrast(pictures)
    faded = contrast < _BLANK_CONTRAST
    edges = np.flatnonzero(np.diff(faded)) + 1
    # Runs of blank frames alternate with runs of others.
    for first, end in pairwise([0, *edges, len(faded)]):
        if faded[first]:
            continue
        for edge, step in ((first, 1), (end - 1, -1)):
            if edge in (0, len(faded) - 1):
                continue
            near = edge + step * np.arange(end - first)
            near = near[np.abs(times[near] - times[edge]) < _FADE_WINDOW]
            faded[near[contrast[near] < _FADED_CONTRAST * contrast[near].max()]] = True
    return faded


def _blank_spans(frames: Iterable[tuple[float, bool]], end: float, shortest: float) -> list[tuple[float, float]]:
    """Return spans of blank frames as long as a scene, including shorter gaps between them."""
    spans: list[tuple[float, float]] = []
    runs = [(next(run)[0], blank) for blank, run in groupby(frames, key=lambda frame: frame[1])]
    for (start, blank), (stop, _) in pairwise([*runs, (end, False)]):
        if blank and spans and start - spans[-1][1] < shortest:
            spans[-1] = spans[-1][0], stop
        elif blank:
            spans.append((start, stop))
    return [span for span in spans if span[1] - span[0] >= shortest]


def _read_thumbnails(reader: Reader) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Yield time, pixels [HEIGHT, WIDTH, 3] uint8 and page [PAGE_HEIGHT, PAGE_WIDTH] uint8 of each frame."""
    if isinstance(reader, Video):
        yield from _decode_thumbnails(reader)
        return
    from PIL import Image

    for frame in reader.frames(range(len(reader.starts))):
        report_progress()
        image = Image.fromarray(frame.pixels)
        page = image.convert("L").resize((PAGE_WIDTH, PAGE_HEIGHT), Image.Resampling.BILINEAR)
        yield frame.time, np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)), np.asarray(page)


def _decode_thumbnails(video: Video) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Yield `_read_thumbnails` without converting frames at full size, which would take as long as decoding them."""
    import av
    from av.video.reformatter import Interpolation, VideoReformatter

    # Preparing them takes long.
    shrink, shrink_again = VideoReformatter().reformat, VideoReformatter().reformat
    # Some pixel formats cannot be converted.
    with suppress(av.FFmpegError, ValueError):
        for time, frame in video.decode_all():
            small = shrink(frame, PAGE_WIDTH, PAGE_HEIGHT, "yuv420p", interpolation=Interpolation.AREA)
            pixels = shrink_again(small, WIDTH, HEIGHT, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
            yield time, pixels, small.to_ndarray()[:PAGE_HEIGHT]


def _chunks(frames: Iterable[tuple[float, np.ndarray, np.ndarray]]) -> Iterator[_Chunk]:
    held: list[_Thumbnail] = []
    begin = -math.inf
    for time, pixels, page in frames:
        if held and time <= held[-1].time:
            continue
        clock = held[-1].clock + min(time - held[-1].time, _LONGEST_PAUSE) if held else 0.0
        frame = _Thumbnail(time, clock, pixels, page)
        if held and held[-1].tick == frame.tick:
            held[-1] = held[-1]._replace(page=None)
        held.append(frame)
        if clock - held[0].clock >= _CHUNK:
            end = next(one.time for one in held if one.clock >= clock - _MARGIN)
            yield _chunk(held, begin, end)
            held = [one for one in held if one.clock >= clock - 2 * _MARGIN]
            begin = end
    if held:
        yield _chunk(held, begin, math.inf)


def _chunk(held: list[_Thumbnail], begin: float, end: float) -> _Chunk:
    times, clock = (np.array([getattr(frame, name) for frame in held]) for name in ("time", "clock"))
    pixels = np.stack([frame.pixels for frame in held]).reshape(len(held), -1).astype(np.float32)
    paged = np.array([i for i, frame in enumerate(held) if frame.page is not None])
    pages = np.stack([frame.page for frame in held if frame.page is not None])
    return _Chunk(times, clock, pixels, pages, paged, _is_faded(times[paged], pages), (begin, end))


def _changes(chunk: _Chunk) -> Iterator[_Change]:
    yield from _page_changes(chunk)
    seen = _last_seen(_contrast(chunk.pixels) >= _BLANK_CONTRAST)
    if len(seen):
        pixels = chunk.pixels[seen]
        for change in (*_cuts(chunk.times, pixels), *_dissolves(chunk.times, chunk.clock, pixels)):
            times = chunk.times[chunk.paged]
            before = max(0, int(np.searchsorted(times, change.time - change.reach)) - 1)
            after = min(len(times) - 1, int(np.searchsorted(times, change.time + change.reach)))
            if not scrolled(chunk.pages[before], chunk.pages[after]):
                yield change


def _last_seen(shown: np.ndarray) -> np.ndarray:
    """Return the last visible frame at each frame, [N] bool -> [N]; it replaces black, white and faded ones.

    So a fade to another scene is a cut. Empty if all frames are blank.
    """
    seen = np.flatnonzero(shown)
    last = np.searchsorted(seen, np.arange(len(shown)), side="right") - 1
    return seen[np.maximum(last, 0)] if len(seen) else seen


def _page_changes(chunk: _Chunk) -> Iterator[_Change]:
    """Yield page changes, each at the first frame that is closer to the page after than to the one before."""
    ticks = (chunk.clock[chunk.paged] / PAGE_TICK).astype(int)
    seen = _last_seen(~chunk.faded)
    if not len(seen):
        return
    shown = seen[np.searchsorted(ticks, np.arange(ticks[0], ticks[-1] + 1), side="right") - 1]  # at the end of a tick
    for change in page_changes(chunk.pages, shown):
        before, after = (int(chunk.paged[shown[tick]]) for tick in (change.first, change.last))
        between = chunk.pixels[before : after + 1]
        closer = np.linalg.norm(between - between[-1], axis=1) < np.linalg.norm(between - between[0], axis=1)
        reach = (change.last - change.first - 1) * PAGE_TICK / 2
        yield _Change(float(chunk.times[before + int(closer.argmax())]), change.strength, reach)


def _standardize(pixels: np.ndarray) -> np.ndarray:
    """Remove brightness and contrast from thumbnails [N, P], so that dot products are correlations."""
    centered = pixels - pixels.mean(axis=1, keepdims=True)
    return centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-6)


def _cuts(times: np.ndarray, pixels: np.ndarray) -> Iterator[_Change]:
    """Yield isolated steps after which the whole picture, or a large part of it, differs."""
    standard = _standardize(pixels)
    steps = 1 - np.sum(standard[1:] * standard[:-1], axis=1)  # steps[i] is from frame i to i + 1
    parts = dict(_changed_parts(pixels))
    for i in np.union1d(np.flatnonzero(steps > _CUT_THRESHOLD), np.array(list(parts), int)):
        strength = (
            _strength(times, pixels, i) if steps[i] > _CUT_THRESHOLD and _mostly_changed(*pixels[i : i + 2]) else 0.0
        )
        if i in parts:
            strength = max(strength, _strength(times, pixels, i, parts[i]) * parts[i].mean() ** 2)
        if strength:
            yield _Change(float(times[i + 1]), strength, 0.0)


def _strength(times: np.ndarray, pixels: np.ndarray, i: int, part: np.ndarray | slice = slice(None)) -> float:
    """Return the strength of the cut from frame i to the next in some pixels; 0 if there is none."""
    first = min(i, int(np.searchsorted(times, times[i + 1] - _CUT_WINDOW)))
    end = max(i + 2, int(np.searchsorted(times, times[i + 1] + _CUT_WINDOW)))
    standard, at = _standardize(pixels[first:end, part]), i - first
    steps = 1 - np.sum(standard[1:] * standard[:-1], axis=1)
    apart = np.quantile(1 - standard[: at + 1] @ standard[at + 1 :].T, 0.25)
    # A flash beside it is two steps.
    others = np.sort(np.delete(steps, at))[-2:].sum() / 2
    if steps[at] > _CUT_THRESHOLD and apart > _SIDES_THRESHOLD and steps[at] > _CUT_RATIO * others:
        return float(steps[at] * apart)
    return 0.0


def _changed_parts(pixels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield frames after which most of a large rectangle changes more than around it, and its pixels [P]."""
    steps = np.abs(np.diff(pixels, axis=0)).reshape(-1, HEIGHT, WIDTH, 3).mean(axis=-1)
    beside = np.pad(steps, ((1, 1), (0, 0), (0, 0)))
    out = (steps > _PIXEL_THRESHOLD) & (steps > _PIXEL_RATIO * np.maximum(beside[:-2], beside[2:]))
    for i in np.flatnonzero(out.mean(axis=(1, 2)) > _MIN_PART * _MIN_FILL):
        lines = [out[i].sum(axis=axis) for axis in (1, 0)]
        rows, columns = (line >= line.max() / 2 for line in lines)
        part = np.logical_and.outer(rows, columns)
        if part.mean() > _MIN_PART and out[i][part].mean() > _MIN_FILL:
            yield int(i), np.repeat(part.ravel(), 3)


def _mostly_changed(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether most of the picture changed color."""
    down, across = _CELLS
    change = (after - before).reshape(down, HEIGHT // down, across, WIDTH // across, 3).mean(axis=(1, 3))
    contrast = (before.std() + after.std()) / 2
    return bool(np.mean(np.abs(change).max(axis=-1) > _CELL_THRESHOLD * contrast) > 0.5)


def _dissolves(times: np.ndarray, clock: np.ndarray, pixels: np.ndarray) -> Iterator[_Change]:
    """Yield spans whose frames lie on a straight line between two different pictures.

    Camera moves also lead from one picture to another, but not along a line.
    """
    frames = np.searchsorted(clock, np.arange(clock[0], clock[-1], _TICK) + 1e-6, side="right") - 1
    standard = _standardize(pixels[frames])
    distances = _squared_distances(pixels[frames])
    for half in _HALF_LENGTHS:
        first = np.arange(max(0, len(frames) - 2 * half))
        last = first + 2 * half
        between = first[:, None] + np.arange(2 * half + 1)
        whole = np.maximum(distances[first, last], 1)[:, None]
        from_first = distances[first[:, None], between]
        along = (from_first + whole - distances[last[:, None], between]) / (2 * whole)
        off = np.mean(from_first / whole - along**2, axis=1)
        strength = (1 - np.sum(standard[first] * standard[last], axis=1)) * (1 - 4 * off)
        # No step is more than double the average.
        even = np.diff(along, axis=1).max(axis=1, initial=0) <= 1 / half
        for i in np.flatnonzero(even & (strength > _DISSOLVE_THRESHOLD)):
            yield _Change(float(times[frames[i + half]]), float(strength[i]), half * _TICK)


def _squared_distances(points: np.ndarray) -> np.ndarray:
    """Return the squared distances between points: [N, P] -> [N, N]."""
    points = points.astype(np.float64)
    squares = np.sum(points**2, axis=1)
    return np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)
