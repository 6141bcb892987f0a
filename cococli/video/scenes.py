"""Where the scenes of a video begin: at hard cuts, and in the middle of fades and dissolves.

Thumbnails are enough to see it, so that decoding is what takes the time. benchmarks/README.md says how well this works
and why it is not PySceneDetect.
"""

import math
from bisect import bisect
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

import numpy as np

from .reading import Reader, progressed
from .videos import Video, _av_stream, _counted, _decoded, _timed

SHORTEST = 1.0  # seconds of a scene

WIDTH, HEIGHT = 32, 18  # of a thumbnail, in pixels: grain and small movements are gone

_FLAT = 3.0  # standard deviation of a thumbnail, in grey levels, below which it shows nothing, as in a fade

# Hard cuts. How far apart two frames are is 1 - their correlation.
_STEP = 0.2  # from the frame before to the first of the scene, at least
_APART = 0.3  # all frames around, but for a quarter of the pairs: after a flash the same is seen as before
_AROUND = 0.3  # seconds
_ALONE = 2.0  # a cut is so many times the steps around it: fast motion goes on for several frames
_CELLS = (6, 8)  # down and across; more than half of them must change, so that a window that opens is no cut
_CHANGED = 0.4  # of the contrast: by so much the colour of a cell changes

# Dissolves
_TICK = 0.1  # seconds
_HALVES = (3, 6, 10)  # ticks from the middle of a dissolve to its ends
_DISSOLVED = 0.5  # strength, see `_dissolves`

# A video is looked at in overlapping stretches, so that a day of it fits into memory.
_STRETCH = 30.0  # seconds
_MARGIN = 2.0  # seconds, more than what decides about a frame
_PAUSE = 2.0  # seconds: a frame that stays on screen for longer counts for no more


class _Change(NamedTuple):
    """A possible beginning of a scene."""

    time: float  # seconds
    strength: float
    reach: float  # seconds to either side that it takes: 0 for a cut


class _Stretch(NamedTuple):
    times: np.ndarray  # [N] seconds
    clock: np.ndarray  # [N] seconds, with long pauses made short
    pixels: np.ndarray  # [N, HEIGHT * WIDTH * 3] float32
    core: tuple[float, float]  # times, from and before, that no other stretch looks after


def find_scenes(reader: Reader, shortest: float = SHORTEST) -> list[float]:
    """Times at which a new scene begins, without the first: seconds, ascending, each the start of a frame.

    Args:
        shortest: Seconds that a scene lasts at least; of two changes closer than this the weaker one is dropped.
    """
    changes = [change for stretch in _stretches(_thumbnails(reader)) for change in _changes(stretch)]
    start, end = float(reader.starts[0]), float(reader.end)
    found = [start, end]
    for change in sorted(changes, key=lambda change: (change.reach > 0, -change.strength)):  # cuts are surer
        place = bisect(found, change.time)
        if start < change.time < end:
            room = min(change.time - found[place - 1], found[place] - change.time)
            if room >= max(shortest, change.reach):
                found.insert(place, change.time)
    frames = np.searchsorted(reader.starts, np.array(found[1:-1]) + 1e-6, side="right") - 1
    return [float(time) for time in reader.starts[frames]]


def _thumbnails(reader: Reader) -> Iterator[tuple[float, np.ndarray]]:
    """Time and pixels [HEIGHT, WIDTH, 3] uint8 of all frames, of whatever shape they were."""
    if isinstance(reader, Video):
        yield from _decoded_small(reader)
        return
    from PIL import Image

    for frame in reader.frames(range(len(reader.starts))):
        progressed()
        yield frame.time, np.asarray(Image.fromarray(frame.pixels).resize((WIDTH, HEIGHT), Image.Resampling.BOX))


def _decoded_small(video: Video) -> Iterator[tuple[float, np.ndarray]]:
    """As `_thumbnails`. No frame is ever converted at its full size, which would take as long as decoding it."""
    import av
    from av.video.reformatter import Interpolation, VideoReformatter

    with _av_stream(video.path) as stream, suppress(av.FFmpegError, ValueError):  # frames of a kind that has no colours
        shrink = VideoReformatter().reformat  # one for all frames: preparing it takes longer than using it
        for frame in (_timed if video.keys else _counted)(_decoded(stream)):
            small = shrink(frame, WIDTH, HEIGHT, "rgb24", interpolation=Interpolation.AREA)
            yield float(video._seconds(frame.pts)), small.to_ndarray()


def _stretches(frames: Iterable[tuple[float, np.ndarray]]) -> Iterator[_Stretch]:
    held: list[tuple[float, float, np.ndarray]] = []
    begin = -math.inf
    for time, pixels in frames:
        if held and time <= held[-1][0]:
            continue  # damaged
        clock = held[-1][1] + min(time - held[-1][0], _PAUSE) if held else 0.0
        held.append((time, clock, pixels))
        if clock - held[0][1] >= _STRETCH:
            end = next(at for at, passed, _ in held if passed >= clock - _MARGIN)
            yield _stretch(held, begin, end)
            held = [frame for frame in held if frame[1] >= clock - 2 * _MARGIN]
            begin = end
    if held:
        yield _stretch(held, begin, math.inf)


def _stretch(held: list[tuple[float, float, np.ndarray]], begin: float, end: float) -> _Stretch:
    times, clock, pixels = zip(*held, strict=True)
    flat = np.stack(pixels).reshape(len(pixels), -1).astype(np.float32)
    return _Stretch(np.array(times), np.array(clock), flat, (begin, end))


def _changes(stretch: _Stretch) -> list[_Change]:
    times, clock, pixels, (begin, end) = stretch
    # What was seen last stands for black, white and faded frames: so a fade to another scene is a cut.
    seen = np.flatnonzero(pixels.std(axis=1) >= _FLAT)
    if not len(seen):
        return []
    last = np.searchsorted(seen, np.arange(len(pixels)), side="right") - 1
    pixels = pixels[seen[np.maximum(last, 0)]]
    found = [*_cuts(times, pixels), *_dissolves(times, clock, pixels)]
    return [change for change in found if begin <= change.time < end]


def _looks(pixels: np.ndarray) -> np.ndarray:
    """Thumbnails without their brightness and contrast, of length 1, so that products are correlations: [N, P]"""
    centred = pixels - pixels.mean(axis=1, keepdims=True)
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-6)


def _cuts(times: np.ndarray, pixels: np.ndarray) -> Iterator[_Change]:
    """Steps that stand alone, after which nothing looks as before."""
    looks = _looks(pixels)
    steps = 1 - np.sum(looks[1:] * looks[:-1], axis=1)  # steps[i] is from frame i to i + 1
    for i in np.flatnonzero(steps > _STEP):
        first = min(i, int(np.searchsorted(times, times[i + 1] - _AROUND)))
        end = max(i + 2, int(np.searchsorted(times, times[i + 1] + _AROUND)))
        apart = np.quantile(1 - looks[first : i + 1] @ looks[i + 1 : end].T, 0.25)
        others = np.sort(np.delete(steps[first : end - 1], i - first))[-2:].sum() / 2  # a flash beside it is two steps
        if apart > _APART and steps[i] > _ALONE * others and _all_over(*pixels[i : i + 2]):
            yield _Change(float(times[i + 1]), float(steps[i] * apart), 0.0)


def _all_over(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether most of the picture changed its colour."""
    down, across = _CELLS
    change = (after - before).reshape(down, HEIGHT // down, across, WIDTH // across, 3).mean(axis=(1, 3))
    contrast = (before.std() + after.std()) / 2
    return bool(np.mean(np.abs(change).max(axis=-1) > _CHANGED * contrast) > 0.5)


def _dissolves(times: np.ndarray, clock: np.ndarray, pixels: np.ndarray) -> Iterator[_Change]:
    """Spans whose frames lie on the straight line from the first to the last, which look different.

    Camera moves lead from one look to another as well, but not along a line.
    """
    frames = np.searchsorted(clock, np.arange(clock[0], clock[-1], _TICK) + 1e-6, side="right") - 1
    looks = _looks(pixels[frames])
    distances = _squared_distances(pixels[frames])
    for half in _HALVES:
        first = np.arange(max(0, len(frames) - 2 * half))
        last = first + 2 * half
        between = first[:, None] + np.arange(2 * half + 1)
        whole = np.maximum(distances[first, last], 1)[:, None]
        from_first = distances[first[:, None], between]
        along = (from_first + whole - distances[last[:, None], between]) / (2 * whole)  # 0 to 1
        off = np.mean(from_first / whole - along**2, axis=1)  # squared distance from the line
        strength = (1 - np.sum(looks[first] * looks[last], axis=1)) * (1 - 4 * off)
        even = np.diff(along, axis=1).max(axis=1, initial=0) <= 1 / half  # no step of more than double the average
        for i in np.flatnonzero(even & (strength > _DISSOLVED)):
            yield _Change(float(times[frames[i + half]]), float(strength[i]), half * _TICK)


def _squared_distances(points: np.ndarray) -> np.ndarray:
    """[N, P] -> [N, N]"""
    points = points.astype(np.float64)
    squares = np.sum(points**2, axis=1)
    return np.maximum(squares[:, None] + squares - 2 * points @ points.T, 0)
