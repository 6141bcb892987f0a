"""Detection of page changes: slides, pages and other large static regions replaced by others.

Thumbnails blur text away, so this compares small gray pictures that still separate lines of text, ten per second, block
by block. Only blocks that are static before and after a change count, which excludes films embedded in pages. Scrolling
and changes of small regions, such as typed lines, do not count either.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 256, 144  # of a picture, in pixels
TICK = 0.1  # seconds

_BLOCK = 8  # pixels
_DOWN, _ACROSS = HEIGHT // _BLOCK, WIDTH // _BLOCK

_NOISE_ENERGY = 256.0  # of a block that shows nothing, at most: 2 gray levels from pixel to pixel
# Least squared distance of a moving block from one tick to the next, as a share of its energy at both.
_MOTION_THRESHOLD = 0.15
_STILL_TICKS = 2  # before and after a change, in which nothing moves
_STEADY_TICKS = 5  # before and after a change, in which nothing moves slowly either
_CHANGE_LENGTHS = (1, 2, 4, 8)  # ticks: 1 for a cut, more for animated slides

_SAME_CORRELATION = 0.6  # least correlation of blocks that show the same

# A page changes if a large region of it does,
_MIN_REGION = 0.27  # share of the picture
_MIN_CHANGED_OF_REGION = 0.08  # share of the picture whose blocks change in such a region
# or most of what it shows, even if that is few words.
_MIN_REPLACED = 0.5  # share of the blocks that show something, before and after
_MIN_CHANGED = 0.015  # share of the picture whose blocks change
# Gray levels by which the sharpest quarter of the changed blocks differ; compressed film grain has up to 24.
_MIN_SHARPNESS = 32

# A region was scrolled if
_MIN_SHIFTED = 0.45  # of its blocks show the same after a shift, and
_MIN_LEFT = 0.25  # of its energy is still on screen.


class PageChange(NamedTuple):
    """Ticks between which a large region changes."""

    first: int
    last: int
    strength: float


def page_changes(pictures: np.ndarray, ticks: np.ndarray) -> Iterator[PageChange]:
    """Find changes of large regions between still pictures.

    Args:
        pictures: [N, HEIGHT, WIDTH] uint8.
        ticks: [T] which of them is on screen at each tick, ascending.
    """
    moving = _moving(pictures)[ticks[1:] - 1] & (np.diff(ticks) > 0)[:, None]  # [T - 1, B] from tick i to i + 1
    edge = np.zeros((_STILL_TICKS, moving.shape[1]), bool)
    calm = ~_any_of(np.concatenate([edge, moving, edge]), _STILL_TICKS)
    before, after = calm[: len(ticks)], calm[_STILL_TICKS:]  # [T, B] still for some ticks until, and from, tick i
    found = np.zeros(len(ticks), bool)
    for length in _CHANGE_LENGTHS:
        if len(ticks) <= length:
            return
        still = before[:-length] & after[length:]
        blocks = np.mean(_any_of(moving, length) & still, axis=1)
        for first in _peaks(blocks, _MIN_CHANGED):
            last = first + length
            if found[first : last + 1].any():
                continue
            around = (max(0, first - _STEADY_TICKS), first, last, min(len(ticks) - 1, last + _STEADY_TICKS))
            strokes = [_strokes(pictures[ticks[tick]]) for tick in around]
            steady = ~_differ(*strokes[:2]) & ~_differ(*strokes[2:])
            strength = _change(strokes[1], strokes[2], still[first] & steady)
            if strength and not (length > 1 and _panned(pictures[ticks[first : last + 1]])):
                found[first : last + 1] = True
                yield PageChange(first, last, strength)


def _any_of(values: np.ndarray, length: int) -> np.ndarray:
    """Return whether any of `length` consecutive values is true: [N, B] bool -> [N - length + 1, B]."""
    return np.lib.stride_tricks.sliding_window_view(values, length, axis=0).any(axis=-1)


def _peaks(values: np.ndarray, least: float) -> Iterator[int]:
    """Yield the index of the maximum of each run of values that are at least `least`; of equal ones, the middle."""
    high = np.flatnonzero(np.diff(values >= least, prepend=False, append=False))
    for begin, end in high.reshape(-1, 2):
        highest = np.flatnonzero(values[begin:end] == values[begin:end].max())
        yield int(begin + highest[len(highest) // 2])


def _strokes(picture: np.ndarray) -> np.ndarray:
    """Return differences from pixel to pixel along a row, which separate lines of text and ignore brightness."""
    return np.diff(picture.astype(np.float32), axis=-1, append=picture[..., -1:])


def _by_block(values: np.ndarray) -> np.ndarray:
    """Sum values [HEIGHT, WIDTH] over blocks: [B]."""
    rows = np.add.reduce(values.reshape(_DOWN, _BLOCK, WIDTH), axis=1)
    return np.add.reduce(rows.reshape(_DOWN, _ACROSS, _BLOCK), axis=2).ravel()


def _largest(values: np.ndarray) -> np.ndarray:
    """Return the largest value of each block of values [HEIGHT, WIDTH]: [B]."""
    return values.reshape(_DOWN, _BLOCK, _ACROSS, _BLOCK).max(axis=(1, 3)).ravel()


def _moving(pictures: np.ndarray) -> np.ndarray:
    """Return whether each block changes from a picture to the next: [N - 1, B]."""
    moving = np.zeros((max(1, len(pictures) - 1), _DOWN * _ACROSS), bool)
    for i, (before, after) in enumerate(pairwise(map(_strokes, pictures))):
        moving[i] = _differ(before, after)
    return moving


def _differ(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return whether the strokes of each block moved: [B]."""
    energy = _by_block(before**2 + after**2)
    return _by_block((before - after) ** 2) > _MOTION_THRESHOLD * (energy + _NOISE_ENERGY)


def _change(before: np.ndarray, after: np.ndarray, still: np.ndarray) -> float:
    """Return how strongly the still blocks change from some strokes to others.

    It is 0 unless they form a large region, or most of the content, and were not just scrolled.
    """
    old, new = _by_block(before**2), _by_block(after**2)
    common = _by_block(before * after)
    differs = (np.maximum(old, new) > _NOISE_ENERGY) & _uncorrelated(old, new, common)
    changed, shown_before, shown_after = differs & still, still & (old > _NOISE_ENERGY), still & (new > _NOISE_ENERGY)
    gone = np.sum(changed & shown_before & (common < old / 2)) / max(1, np.sum(shown_before))
    come = np.sum(changed & shown_after & (common < new / 2)) / max(1, np.sum(shown_after))
    if not changed.any() or np.percentile(_largest(np.abs(before - after))[changed], 75) < _MIN_SHARPNESS:
        return 0.0
    share, extent = float(changed.mean()), float(_region(changed).mean())
    large = extent >= _MIN_REGION and share >= _MIN_CHANGED_OF_REGION
    if not large and not (min(gone, come) >= _MIN_REPLACED and share >= _MIN_CHANGED):
        return 0.0
    return 0.0 if _shift(before, after) else float(max(extent, min(gone, come)))


def _region(changed: np.ndarray) -> np.ndarray:
    """Return the rows and columns of blocks [B] that change, with the space between lines: [DOWN, ACROSS] bool."""
    changed = changed.reshape(_DOWN, _ACROSS)
    return np.logical_and.outer(_closed(changed.sum(axis=1) > 1), _closed(changed.sum(axis=0) > 1))


def _closed(line: np.ndarray) -> np.ndarray:
    """Fill gaps of one or two in a line of booleans."""
    padded = np.pad(line, 2)
    left, right = padded[:-4] | padded[1:-3], padded[3:-1] | padded[4:]
    return line | (left & right)


def scrolled(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether a picture [HEIGHT, WIDTH] uint8, or its changed region, is the one before, scrolled."""
    return bool(_shift(_strokes(before), _strokes(after)))


def _panned(pictures: np.ndarray) -> bool:
    """Return whether pictures move diagonally, as cameras do. Slide transitions move horizontally or vertically."""
    shifts = [_shift(before, after) for before, after in pairwise(map(_strokes, pictures))]
    return any(shift is not None and min(map(abs, shift)) > 2 for shift in shifts)


def _shift(before: np.ndarray, after: np.ndarray) -> tuple[int, int] | None:
    """Return how far the changed region moved: half pixels up and pixels to the left; None if it did not."""
    mask = np.kron(_region(_differ(before, after)), np.ones((_BLOCK, _BLOCK), bool))
    old, new, shift = _aligned(before * mask, after * mask)
    kept = np.sum(old**2) > _MIN_LEFT * np.sum((before * mask) ** 2)
    return shift if any(shift) and kept and _is_same(old, new) else None


def _is_same(before: np.ndarray, after: np.ndarray) -> bool:
    """Return whether most blocks with fine details keep them; soft gradients match others by chance."""
    before, after = (np.diff(one, axis=1, append=one[:, -1:]) for one in (before, after))
    old, new, common = _by_block(before**2), _by_block(after**2), _by_block(before * after)
    shown = np.maximum(old, new) > _NOISE_ENERGY
    same = shown & ~_uncorrelated(old, new, common)
    return bool(shown.mean() > _MIN_CHANGED and same.sum() > _MIN_SHIFTED * shown.sum())


def _uncorrelated(old: np.ndarray, new: np.ndarray, common: np.ndarray) -> np.ndarray:
    return common < _SAME_CORRELATION * np.sqrt(np.maximum(old * new, 1))


def _aligned(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
    """Align strokes where they match best, 0 where out of view; return them and the half pixels up and pixels left."""
    old, new = (np.repeat(one, 2, axis=0) for one in (before, after))
    old, new = ((one + np.roll(one, -1, axis=0)) / 2 for one in (old, new))
    size = (2 * len(old), 2 * WIDTH)
    common = np.fft.irfft2(np.fft.rfft2(old, size) * np.fft.rfft2(new, size).conj(), size)
    best = np.unravel_index(np.argmax(common), size)
    down, right = (int(at) if at < length else int(at) - 2 * length for at, length in zip(best, old.shape, strict=True))
    new = np.roll(new, (down, right), axis=(0, 1))
    for one in (old, new):
        one[slice(0, down) if down >= 0 else slice(down, None)] = 0
        one[:, slice(0, right) if right >= 0 else slice(right, None)] = 0
    return old[::2], new[::2], (down, right)
