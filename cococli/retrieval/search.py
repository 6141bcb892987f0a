"""Moments that match a query."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..engines.base import Engine
from ..errors import CocaError, UsageError, VideoError
from ..media.clips import Sampling
from ..tokenizer import tokenize
from . import approximate, nearest
from .embed import embed_file
from .entries import Entry
from .index import Index
from .query import Query

if TYPE_CHECKING:
    from usearch.index import Index as Graph

Kind = Literal["videos", "texts"]


@dataclass(frozen=True)
class Found:
    """An entry that matches."""

    score: float  # cosine to the query
    entry: Entry


class Searcher:
    """An index and the model that asks it."""

    def __init__(
        self,
        index: Index,
        engine: Engine[Any],
        kind: Kind | None = None,
        approximate: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Get ready to answer.

        Args:
            kind: What to look among: videos and pictures, or texts. None: texts only where there is nothing else.
            approximate: Find most of what exact search finds, by usearch, in a graph that is built first if need be.
            progress: Told of the rows in the graph, and of those in all.

        Raises:
            UsageError: there is nothing of this kind in the index, or usearch is not installed.
        """
        self.index, self.engine, self._asked = index, engine, (kind, approximate, progress)
        kind = kind or ("texts" if len(index.rows) and index.is_text.all() else "videos")
        rows = index.rows[index.is_text == (kind == "texts")]
        if not len(rows):
            raise UsageError(f"{index.folder} holds no {kind}", "coca embed adds to it")
        self._rows = None if len(rows) == len(index.vectors) else rows
        self._graph = _graph(index, progress) if approximate else None

    def again(self) -> "Searcher":
        """The same for the index as it is now, which a run has changed."""
        return Searcher(Index(self.index.folder), self.engine, *self._asked)

    def search(
        self, query: Query, count: int = 10, min_score: float | None = None, per_video: int | None = None
    ) -> list[Found]:
        """The entries that match a query best, best first.

        Args:
            count: How many at most.
            min_score: Cosine that each must reach.
            per_video: How many of one video at most.

        Raises:
            UsageError: its parts cancel each other out.
            CocaError: a file of it cannot be read.
        """
        vectors = np.stack([self._embed(part.what) for part in query.parts])
        wanted = nearest.combined(vectors, np.array([part.weight for part in query.parts]))
        excluded = [self._embed(part.what) for part in query.excluded]
        limits = (count, self._rows, excluded, min_score, self._videos(per_video), per_video or 1)
        if self._graph is None:
            hits = nearest.nearest(self.index.vectors, wanted, *limits)
        else:
            hits = approximate.nearest(self._graph, self.index.vectors, wanted, *limits)
        return [Found(hit.score, self.index.entry(hit.row)) for hit in hits]

    def _embed(self, what: str | Path) -> np.ndarray:
        """[D]"""
        if isinstance(what, str):
            return self.engine.encode_texts(tokenize([what], self.engine.config.context_length))[0]
        about = self.index.about
        try:
            return embed_file(what, self.engine, Sampling(about.frames, about.num_frames), about.pool)
        except VideoError as error:
            raise CocaError(f"cannot look for {what}: {error.message}") from None

    def _videos(self, per_video: int | None) -> np.ndarray | None:
        """[N] a number of each row's video, where they matter."""
        return self.index.videos if per_video else None


def _graph(index: Index, progress: Callable[[int, int], None] | None) -> "Graph":
    return approximate.open_graph(index.folder, index.vectors, index.about.identity, progress)
