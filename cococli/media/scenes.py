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

_FLAT = 3.0  # standard deviation of a picture, in gray levels, below which it shows nothing, as in a fade
_DIM = 0.3  # of the contrast around: beside blank frames, those that show less are faded
_BESIDE = 1.0  # seconds

# Hard cuts. How far apart two frames are is 1 - their correlation.
_STEP = 0.2  # from the frame before to the first of the scene, at least
_APART = 0.3  # all frames around, but for a quarter of the pairs: after a flash the same is seen as before
_AROUND = 0.3  # seconds
_ALONE = 2.0  # a cut is so many times the steps around it: fast motion goes on for several frames
_CELLS = (6, 8)  # down and across; more than half of them must change, so that a window that opens is no cut
_CHANGED = 0.4  # of the contrast: by so much the color of a cell changes

# Cuts in a part of the picture, as in a split screen
_PART = 0.3  # of the picture, at least
_FILLED = 0.5  # of its pixels change
_STEP_OF_PIXEL = 5.0  # gray levels, at least
_OUT = 1.5  # times the steps before and after

# Dissolves
_TICK = 0.1  # seconds
_HALVES = (3, 6, 10)  # ticks from the middle of a dissolve to its ends
_DISSOLVED = 0.5  # strength, see `_dissolves`

# A video is processed in overlapping stretches, so that a day of it fits into memory.
_STRETCH = 30.0  # seconds
_MARGIN = 2.0  # seconds, more than what decides about a frame
_PAUSE = 2.0  # seconds: a frame that stays on screen for longer counts for no more


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


class _Stretch(NamedTuple):
    times: np.ndarray  # [N] seconds
    clock: np.ndarray  # [N] seconds, with long pauses made short
    pixels: np.ndarray  # [N, HEIGHT * WIDTH * 3] float32
    pages: np.ndarray  # [P, PAGE_HEIGHT, PAGE_WIDTH] uint8
    paged: np.ndarray  # [P] which frames they are
    faded: np.ndarray  # [P] whether they are blank or fading: encoders leave a shadow of earlier frames
    core: tuple[float, float]  # times, from and before, that no other stretch covers


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
    for stretch in _stretches(_thumbnails(reader)):
        begin, end = stretch.core
        changes += [change for change in _changes(stretch) if begin <= change.time < end]
        times = stretch.times[stretch.paged]
        inside = (begin <= times) & (times < end)
        blank += zip(times[inside].tolist(), stretch.faded[inside].tolist(), strict=True)
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
    faded = contrast < _FLAT
    edges = np.flatnonzero(np.diff(faded)) + 1
    # Runs of blank frames alternate with runs of others.
    for first, end in pairwise([0, *edges, len(faded)]):
        if faded[first]:
            continue
        for edge, step in ((first, 1), (end - 1, -1)):
            if edge in (0, len(faded) - 1):
                continue
            near = edge + step * np.arange(end - first)
            near = near[np.abs(times[near] - times[edge]) < _BESIDE]
            faded[near[contrast[near] < _DIM * contrast[near].max()]] = True
    return faded


def _blank_spans(frames: Iterable[tuple[float, bool]], end: float, shortest: float) -> list[tuple[float, float]]:
    """Return spans of blank frames as long as a scene, including shorter stretches between them."""
    spans: list[tuple[float, float]] = []
    runs = [(next(run)[0], blank) for blank, run in groupby(frames, key=lambda frame: frame[1])]
    for (start, blank), (stop, _) in pairwise([*runs, (end, False)]):
        if blank and spans and start - spans[-1][1] < shortest:
            spans[-1] = spans[-1][0], stop
        elif blank:
            spans.append((start, stop))
    return [span for span in spans if span[1] - span[0] >= shortest]


def _thumbnails(reader: Reader) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Yield time, pixels [HEIGHT, WIDTH, 3] uint8 and page [PAGE_HEIGHT, PAGE_WIDTH] uint8 of each frame."""
    if isinstance(reader, Video):
        yield from _decoded_small(reader)
        return
    from PIL import Image

    for frame in reader.frames(range(len(reader.starts))):
        report_progress()
        image = Image.fromarray(frame.pixels)
        page = image.convert("L").resize((PAGE_WIDTH, PAGE_HEIGHT), Image.Resampling.BILINEAR)
        yield frame.time, np.asarray(image.resize((WIDTH, HEIGHT), Image.Resampling.BOX)), np.asarray(page)


def _decoded_small(video: Video) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """Yield `_thumbnails` without converting frames at full size, which would take as long as decoding them."""
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


def _stretches(frames: Iterable[tuple[float, np.ndarray, np.ndarray]]) -> Iterator[_Stretch]:
    held: list[_Thumbnail] = []
    begin = -math.inf
    for time, pixels, page in frames:
        if held and time <= held[-1].time:
            continue
        clock = held[-1].clock + min(time - held[-1].time, _PAUSE) if held else 0.0
        frame = _Thumbnail(time, clock, pixels, page)
        if held and held[-1].tick == frame.tick:
            held[-1] = held[-1]._replace(page=None)
        held.append(frame)
        if clock - held[0].clock >= _STRETCH:
            end = next(one.time for one in held if one.clock >= clock - _MARGIN)
            yield _stretch(held, begin, end)
            held = [one for one in held if one.clock >= clock - 2 * _MARGIN]
            begin = end
    if held:
        yield _stretch(held, begin, math.inf)


def _stretch(held: list[_Thumbnail], begin: float, end: float) -> _Stretch:
    times, clock = (np.array([getattr(frame, name) for frame in held]) for name in ("time", "clock"))
    pixels = np.stack([frame.pixels for frame in held]).reshape(len(held), -1).astype(np.float32)
    paged = np.array([i for i, frame in enumerate(held) if frame.page is not None])
    pages = np.stack([frame.page for frame in held if frame.page is not None])
    return _Stretch(times, clock, pixels, pages, paged, _is_faded(times[paged], pages), (begin, end))


def _changes(stretch: _Stretch) -> Iterator[_Change]:
    yield from _page_changes(stretch)
    seen = _last_seen(_contrast(stretch.pixels) >= _FLAT)
    if len(seen):
        pixels = stretch.pixels[seen]
        for change in (*_cuts(stretch.times, pixels), *_dissolves(stretch.times, stretch.clock, pixels)):
            times = stretch.times[stretch.paged]
            before = max(0, int(np.searchsorted(times, change.time - change.reach)) - 1)
            after = min(len(times) - 1, int(np.searchsorted(times, change.time + change.reach)))
            if not scrolled(stretch.pages[before], stretch.pages[after]):
                yield change


def _last_seen(shown: np.ndarray) -> np.ndarray:
    """Return the last visible frame at each frame, [N] bool -> [N]; it replaces black, white and faded ones.

    So a fade to another scene is a cut. Empty if all frames are blank.
    """
    seen = np.flatnonzero(shown)
    last = np.searchsorted(seen, np.arange(len(shown)), side="right") - 1
    return seen[np.maximum(last, 0)] if len(seen) else seen


def _page_changes(stretch: _Stretch) -> Iterator[_Change]:
    """Yield page changes, each at the first frame that is closer to the page after than to the one before."""
    ticks = (stretch.clock[stretch.paged] / PAGE_TICK).astype(int)
    seen = _last_seen(~stretch.faded)
    if not len(seen):
        return
    shown = seen[np.searchsorted(ticks, np.arange(ticks[0], ticks[-1] + 1), side="right") - 1]  # at the end of a tick
    for change in page_changes(stretch.pages, shown):
        before, after = (int(stretch.paged[shown[tick]]) for tick in (change.first, change.last))
        between = stretch.pixels[before : after + 1]
        closer = np.linalg.norm(between - between[-1], axis=1) < np.linalg.norm(between - between[0], axis=1)
        reach = (change.last - change.first - 1) * PAGE_TICK / 2
        yield _Change(float(stretch.times[before + int(closer.argmax())]), change.strength, reach)


def _standardize(pixels: np.ndarray) -> np.ndarray:
    """Remove brightness and contrast from thumbnails [N, P], so that dot products are correlations."""
    centered = pixels - pixels.mean(axis=1, keepdims=True)
    return centered / np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-6)


def _cuts(times: np.ndarray, pixels: np.ndarray) -> Iterator[_Change]:
    """Yield isolated steps after which the whole picture, or a large part of it, differs."""
    standard = _standardize(pixels)
    steps = 1 - np.sum(standard[1:] * standard[:-1], axis=1)  # steps[i] is from frame i to i + 1
    parts = dict(_changed_parts(pixels))
    for i in np.union1d(np.flatnonzero(steps > _STEP), np.array(list(parts), int)):
        strength = _strength(times, pixels, i) if steps[i] > _STEP and _all_over(*pixels[i : i + 2]) else 0.0
        if i in parts:
            strength = max(strength, _strength(times, pixels, i, parts[i]) * parts[i].mean() ** 2)
        if strength:
            yield _Change(float(times[i + 1]), strength, 0.0)


def _strength(times: np.ndarray, pixels: np.ndarray, i: int, part: np.ndarray | slice = slice(None)) -> float:
    """Return the strength of the cut from frame i to the next in some pixels; 0 if there is none."""
    first = min(i, int(np.searchsorted(times, times[i + 1] - _AROUND)))
    end = max(i + 2, int(np.searchsorted(times, times[i + 1] + _AROUND)))
    standard, at = _standardize(pixels[first:end, part]), i - first
    steps = 1 - np.sum(standard[1:] * standard[:-1], axis=1)
    apart = np.quantile(1 - standard[: at + 1] @ standard[at + 1 :].T, 0.25)
    # A flash beside it is two steps.
    others = np.sort(np.delete(steps, at))[-2:].sum() / 2
    if steps[at] > _STEP and apart > _APART and steps[at] > _ALONE * others:
        return float(steps[at] * apart)
    return 0.0


def _changed_parts(pixels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield frames after which most of a large rectangle changes more than around it, and its pixels [P]."""
    steps = np.abs(np.diff(pixels, axis=0)).reshape(-1, HEIGHT, WIDTH, 3).mean(axis=-1)
    beside = np.pad(steps, ((1, 1), (0, 0), (0, 0)))
    out = (steps > _STEP_OF_PIXEL) & (steps > _OUT * np.maximum(beside[:-2], beside[2:]))
    for i in np.flatnonzero(out.mean(axis=(1, 2)) > _PART * _FILLED):
        lines = [out[i].sum(axis=axis) for axis in (1, 0)]
        rows, columns = (line >= line.max() / 2 for line in lines)
        part = np.logical_and.outer(rows, columns)
        if part.mean() > _PART and out[i][part].mean() > _FILLED:
            yield int(i), np.repeat(part.ravel(), 3)


def _all_over(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether most of the picture changed color."""
    down, across = _CELLS
    change = (after - before).reshape(down, HEIGHT // down, across, WIDTH // across, 3).mean(axis=(1, 3))
    contrast = (before.std() + after.std()) / 2
    return bool(np.mean(np.abs(change).max(axis=-1) > _CHANGED * contrast) > 0.5)


def _dissolves(times: np.ndarray, clock: np.ndarray, pixels: np.ndarray) -> Iterator[_Change]:
    """Yield spans whose frames lie on a straight line between two different pictures.

    Camera moves also lead from one picture to another, but not along a line.
    """
    frames = np.searchsorted(clock, np.arange(clock[0], clock[-1], _TICK) + 1e-6, side="right") - 1
    standard = _standardize(pixels[frames])
    distances = _squared_distances(pixels[frames])
    for half in _HALVES:
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
        for i in np.flatnonzero(even & (strength > _DISSOLVED)):
            yield _Change(float(times[frames[i + half]]), float(strength[i]), half * _TICK)


def _squared_distances(points: np.ndarray) -> np.ndarray:
    """Return the squared distances between points: [N, P] -> [N, N]."""
    points = points.astype(np.float64)
    squares = np.sum(points**2, axis=1)
    return np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)
