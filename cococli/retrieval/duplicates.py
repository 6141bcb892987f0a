"""Near-identical videos, found by their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..reporting import SILENT, Reporter
from ..requests import SearchRequest
from .index import Index

_BLOCK = 2048  # vectors that are compared at a time with as many others
_ROUNDING = 1e-6  # a copy reaches a threshold of 1


@dataclass(frozen=True)
class Group:
    """Near-identical videos."""

    members: tuple[int, ...]  # which videos, in order
    score: float  # the weakest link: with a threshold above it the group falls apart


@dataclass(frozen=True)
class _Block:
    """Some videos and their vectors, laid end to end."""

    videos: np.ndarray  # [V] int64
    starts: np.ndarray  # [V] int64, where the vectors of each begin
    vectors: np.ndarray  # [S, D] float32

    @property
    def lengths(self) -> np.ndarray:
        """[V] how many vectors each video has."""
        return np.diff(self.starts, append=len(self.vectors))


def find_duplicates(request: SearchRequest, reporter: Reporter = SILENT) -> tuple[list[str], list[Group]]:
    """Group the near-identical videos and pictures of an index.

    Args:
        request: Its index, threshold and root apply.

    Returns:
        The paths of all videos, and the groups, whose members are indices into them.

    Raises:
        UsageError: There is no index, or it is damaged.
    """
    reporter.checked()
    with reporter.progress("reading the index"):
        index = Index(request.index, request.root)
    rows: dict[int, list[int]] = {}
    for row in index.rows[~index.is_text].tolist():
        rows.setdefault(index.videos[row], []).append(row)
    videos = [index.entry(own[0]).video for own in rows.values()]
    with reporter.progress(f"comparing {len(videos)} videos"):
        groups = duplicates(index.vectors, list(rows.values()), request.threshold)
    index.warn_of_missing([videos[i] for group in groups for i in group.members], reporter)
    return videos, groups


def duplicates(vectors: np.ndarray, videos: Sequence[Sequence[int]], threshold: float) -> list[Group]:
    """Group videos that are linked, directly or through others, by a similarity of at least the threshold.

    The similarity of two videos is the mean, over the segments of one, of the cosine to the best match in the other;
    of the two directions the smaller, so that a clip cut out of a film is not the film.

    The links are those of the maximum spanning forest, by Borůvka's algorithm: in each round every group finds its
    closest neighbor, so that no list of pairs is kept, which a thousand copies of a video would make long.

    Args:
        vectors: [N, D] float32 or float16, L2-normalized.
        videos: For each video the rows of its segments. One that has none is like no other.
        threshold: Of the similarity.

    Returns:
        Groups of two videos or more, the surest first.
    """
    groups = np.arange(len(videos))  # each video's group, named by its first member
    weakest = np.full(len(videos), np.inf)  # link of each group
    growing = np.array([video for video, rows in enumerate(videos) if len(rows)], np.int64)
    while len(growing):
        similarity, neighbors = _closest_outside(vectors, videos, growing, groups)
        linked = growing[similarity[growing] >= threshold - _ROUNDING]
        for video in _surest_of_each(linked, similarity, groups):
            first, second = sorted((groups[video], groups[neighbors[video]]))
            weakest[first] = min(weakest[first], weakest[second], similarity[video])
            groups[groups == second] = first
        growing = growing[np.isin(groups[growing], groups[linked])]  # who has no neighbor now will never have one
    firsts = np.unique(groups)
    joined = firsts[weakest[firsts] < np.inf]
    found = [Group(tuple(np.flatnonzero(groups == first).tolist()), float(weakest[first])) for first in joined]
    return sorted(found, key=lambda group: -group.score)


def _surest_of_each(linked: np.ndarray, similarity: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Of each group the video with the strongest link."""
    surest = linked[np.argsort(-similarity[linked], kind="stable")]
    _, firsts = np.unique(groups[surest], return_index=True)
    return surest[firsts]


def _closest_outside(
    vectors: np.ndarray, videos: Sequence[Sequence[int]], growing: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each of the growing videos the most similar one of another group: its similarity, and which it is."""
    similarity = np.full(len(videos), -np.inf, np.float32)
    neighbors = np.zeros(len(videos), np.int64)

    def keep(one: np.ndarray, other: np.ndarray, similar: np.ndarray) -> None:
        closest = similar.argmax(axis=1)
        highest = similar[np.arange(len(one)), closest]
        higher = highest > similarity[one]
        similarity[one[higher]] = highest[higher]
        neighbors[one[higher]] = other[closest[higher]]

    chunks = _chunks(videos, growing)
    for i, chunk in enumerate(chunks):
        one = _block(vectors, videos, chunk)
        for later in chunks[i:]:
            other = _block(vectors, videos, later)
            similar = _similarity(one, other)
            similar[groups[one.videos][:, None] == groups[other.videos]] = -np.inf
            keep(one.videos, other.videos, similar)
            keep(other.videos, one.videos, similar.T)
    return similarity, neighbors


def _similarity(one: _Block, other: _Block) -> np.ndarray:
    """[V, W] of each video of one block to each of another."""
    cosines = one.vectors @ other.vectors.T
    if len(one.videos) == len(one.vectors) and len(other.videos) == len(other.vectors):
        return cosines
    matches = np.maximum.reduceat(cosines, other.starts, axis=1)
    there = np.add.reduceat(matches, one.starts, axis=0) / one.lengths[:, None]
    matches = np.maximum.reduceat(cosines, one.starts, axis=0)
    back = np.add.reduceat(matches, other.starts, axis=1) / other.lengths
    return np.minimum(there, back)


def _chunks(videos: Sequence[Sequence[int]], chosen: np.ndarray) -> list[np.ndarray]:
    """Videos in chunks of about as many vectors as make a block; a long one is never cut."""
    begins = np.cumsum([0, *(len(videos[video]) for video in chosen[:-1])])
    return np.split(chosen, np.flatnonzero(np.diff(begins // _BLOCK)) + 1)


def _block(vectors: np.ndarray, videos: Sequence[Sequence[int]], chosen: np.ndarray) -> _Block:
    rows = [videos[video] for video in chosen]
    starts = np.cumsum([0, *map(len, rows[:-1])])
    laid = vectors[np.concatenate(rows)].astype(np.float32)
    laid /= np.linalg.norm(laid, axis=1, keepdims=True)  # what was kept as float16 is only nearly of length 1
    return _Block(chosen, starts, laid)
