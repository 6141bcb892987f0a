"""Near-identical videos, found by their vectors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..reporting import SILENT, Reporter
from ..requests import SearchRequest
from .vector_files import open_vectors

_BLOCK = 2048  # vectors compared at a time with as many others
_ROUNDING = 1e-6  # lets copies reach a threshold of 1


@dataclass(frozen=True)
class Group:
    """Near-identical videos."""

    members: tuple[int, ...]  # indices of the videos, ascending
    score: float  # similarity of the weakest link: above it the group falls apart


@dataclass(frozen=True)
class _Block:
    """Some videos and their concatenated vectors."""

    videos: np.ndarray  # [V] int64
    starts: np.ndarray  # [V] int64 first vector of each video
    vectors: np.ndarray  # [S, D] float32

    @property
    def lengths(self) -> np.ndarray:
        """[V] number of vectors of each video."""
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
        index = open_vectors(request.index, request.root)
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

    The similarity of two videos is the mean, over the segments of one, of the cosine to the best match in the other,
    and the smaller one of both directions: a clip from a film is not the film.

    The links are those of the maximum spanning forest, found by Borůvka's algorithm: in each round every group is
    joined with its closest neighbor. No list of pairs is kept, which would be long for a thousand copies of a video.

    Args:
        vectors: [N, D] float32 or float16, L2-normalized.
        videos: Rows of the segments of each video. A video without segments is in no group.
        threshold: Least similarity of a link.

    Returns:
        Groups of at least two videos, the most similar first.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    groups = np.arange(len(videos))  # of each video
    weakest = np.full(len(videos), np.inf)  # link of each group
    growing = np.array([video for video, rows in enumerate(videos) if len(rows)], np.int64)
    while len(growing):
        similarity, neighbors = _closest_outside(vectors, videos, growing, groups)
        linked = growing[similarity[growing] >= threshold - _ROUNDING]
        links = _strongest_of_each(linked, similarity, groups)
        pairs = groups[links], groups[neighbors[links]]
        count, joined = connected_components(coo_array((np.ones(len(links)), pairs), 2 * (len(weakest),)))
        before, weakest = weakest, np.full(count, np.inf)
        np.minimum.at(weakest, joined, before)
        np.minimum.at(weakest, joined[pairs[0]], similarity[links])
        groups = joined[groups]
        # Other groups have no neighbor, and never will.
        growing = growing[np.isin(groups[growing], groups[linked])]
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    found = [Group(tuple(own.tolist()), float(weakest[groups[own[0]]])) for own in members if len(own) > 1]
    return sorted(found, key=lambda group: (-group.score, group.members))


def _strongest_of_each(linked: np.ndarray, similarity: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the video with the strongest link of each group."""
    strongest = linked[np.argsort(-similarity[linked], kind="stable")]
    _, firsts = np.unique(groups[strongest], return_index=True)
    return strongest[firsts]


def _closest_outside(
    vectors: np.ndarray, videos: Sequence[Sequence[int]], growing: np.ndarray, groups: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the most similar video of another group for each growing video: similarities and indices, [V] each."""
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
    """Return the similarity of each video of one block to each of another: [V, W]."""
    cosines = one.vectors @ other.vectors.T
    if len(one.videos) == len(one.vectors) and len(other.videos) == len(other.vectors):
        return cosines
    matches = np.maximum.reduceat(cosines, other.starts, axis=1)
    forward = np.add.reduceat(matches, one.starts, axis=0) / one.lengths[:, None]
    matches = np.maximum.reduceat(cosines, one.starts, axis=0)
    backward = np.add.reduceat(matches, other.starts, axis=1) / other.lengths
    return np.minimum(forward, backward)


def _chunks(videos: Sequence[Sequence[int]], chosen: np.ndarray) -> list[np.ndarray]:
    """Split videos into chunks of about `_BLOCK` vectors; a long video is never split."""
    begins = np.cumsum([0, *(len(videos[video]) for video in chosen[:-1])])
    return np.split(chosen, np.flatnonzero(np.diff(begins // _BLOCK)) + 1)


def _block(vectors: np.ndarray, videos: Sequence[Sequence[int]], chosen: np.ndarray) -> _Block:
    rows = [videos[video] for video in chosen]
    starts = np.cumsum([0, *map(len, rows[:-1])])
    block = vectors[np.concatenate(rows)].astype(np.float32)
    # float16 has rounded the lengths.
    block /= np.linalg.norm(block, axis=1, keepdims=True)
    return _Block(chosen, starts, block)
