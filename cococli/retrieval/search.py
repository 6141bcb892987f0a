"""Search in an index by sentences, pictures and videos."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..checkpoints.store import find_model
from ..engines.base import Engine
from ..engines.choice import resolve_options
from ..errors import CocaError, UsageError, VideoError
from ..files import exists
from ..jobs import load_engine, warn_of_embeddings
from ..media.clips import Sampling
from ..media.discover import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ..reporting import SILENT, Reporter
from ..requests import SearchRequest
from ..tokenizer import check_vocabulary, tokenize
from ..urls import is_url, remote_path
from .embed import embed_file
from .index import About, Entry, Index, check_model
from .nearest import Limits, combined, nearest, nearest_in_graph, open_graph
from .vector_files import LanceIndex, open_vectors
from .vectors import REBUILD

MANY = 1_000_000  # vectors; from here on approximate search is worth its graph
MAX_WEIGHT = 1000
EXAMPLE = "coca search 'a dog jumps' index/"
_WEIGHT = re.compile(r"(.*[^\s^])\^(-?(?:\d+|\d*\.\d+))", re.DOTALL)  # as Lucene writes it: "a dog^2"


@dataclass(frozen=True)
class Part:
    """A sentence or file of a query, and its weight."""

    what: str | Path  # a sentence, or a video or picture
    weight: float = 1.0


def parse_part(text: str) -> Part:
    """Parse `a dog`, `a dog^0.5` or `dog.jpg^2`. Existing files, and names of videos and pictures, stand for files.

    Raises:
        UsageError: It is empty, or the file does not exist.
    """
    weighted = _WEIGHT.fullmatch(text)
    what, weight = (weighted[1], float(weighted[2])) if weighted and not os.path.lexists(text) else (text, 1.0)
    if abs(weight) > MAX_WEIGHT:
        raise UsageError(f"the weight of {what!r} must be at most {MAX_WEIGHT}")
    if not what.strip():
        raise UsageError("the query is empty", EXAMPLE)
    if is_url(what):
        return Part(remote_path(what), weight)
    path = Path(what)
    is_named_like_a_file = path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES and not re.search(r"\s", path.suffix)
    if os.path.isfile(what):  # noqa: PTH113 (pathlib raises if a sentence is too long for a path)
        return Part(path, weight)
    if is_named_like_a_file:
        raise UsageError(f"no such file: {what}")
    return Part(what, weight)


@dataclass(frozen=True)
class Query:
    """Sentences and files to search for, and those to avoid."""

    parts: tuple[Part, ...]
    excluded: tuple[Part, ...] = ()


def parse_query(wanted: Sequence[str], unwanted: Sequence[str] = ()) -> Query:
    """Parse the parts of a query; see `parse_part`.

    Raises:
        UsageError: There is no part, or one is empty or a missing file.
    """
    if not wanted:
        raise UsageError("no query given", EXAMPLE)
    return Query(tuple(map(parse_part, wanted)), tuple(map(parse_part, unwanted)))


def parse_line(line: str) -> Query:
    """Parse a query in one line: parts are separated by ` + `, and ` --not ` precedes what to avoid.

    Raises:
        UsageError: A part is empty or a missing file.
    """
    wanted, *unwanted = re.split(r"(?:^|\s+)--not(?:\s+|$)", line.strip())
    return parse_query(re.split(r"\s+\+\s+", wanted), unwanted)


@dataclass(frozen=True)
class Found:
    """An entry that matches a query."""

    score: float  # cosine to the query
    entry: Entry

    @property
    def missing(self) -> bool:
        """True if the file does not exist."""
        return bool(self.entry.video) and not exists(self.entry.video)

    def fields(self) -> dict[str, Any]:
        """Return what JSON holds of it."""
        return {"score": round(self.score, 4), **self.entry.fields()}


def search(request: SearchRequest, reporter: Reporter = SILENT) -> list[Found]:
    """Find the entries of an index that match a query, best first.

    Raises:
        UsageError: The query or an option is invalid, or the index is damaged or belongs to another model.
        ModelError: The model of the index does not exist, or its weights are damaged.
        CocaError: A file of the query cannot be read.
    """
    query = parse_query(request.query, request.exclude)
    searcher = open_searcher(request, reporter)
    return searcher.search(query, request.count, request.min_score, request.per_video)


class Searcher:
    """An open index and the model that embeds queries."""

    def __init__(
        self,
        index: Index,
        engine: Engine[Any],
        among: Literal["videos", "texts"] | None = None,
        approximate: bool = False,
        reporter: Reporter = SILENT,
    ) -> None:
        """Prepare an index for queries.

        Args:
            among: Search videos and pictures, or texts. None searches texts only if the index holds nothing else.
            approximate: Search a graph, which is built first if necessary.

        Raises:
            UsageError: The index holds nothing of this kind, or usearch is not installed.
        """
        self.engine, self._among, self._approximate, self._reporter = engine, among, approximate, reporter
        self._use(index)

    def _use(self, index: Index) -> None:
        kind = self._among or ("texts" if len(index.rows) and index.is_text.all() else "videos")
        rows = index.rows[index.is_text == (kind == "texts")]
        if not len(rows):
            raise UsageError(f"{index.folder} holds no {kind}", "coca embed adds to it")
        opened = (index.folder, index.vectors, index.about.identity, self._reporter)
        self._graph = open_graph(*opened) if self._approximate else None
        self._rows = None if len(rows) == len(index.vectors) else rows
        self.index = index

    def search(
        self, query: Query, count: int = 10, min_score: float | None = None, per_video: int | None = None
    ) -> list[Found]:
        """Find the entries that match a query, best first. Reads the index again if it has changed.

        Args:
            count: Maximum number of results.
            min_score: Least cosine similarity of a result.
            per_video: Maximum number of results of one video.

        Raises:
            UsageError: The parts of the query cancel each other out, or the index is damaged.
            CocaError: A file of the query cannot be read.
        """
        if self.index.has_changed():
            index = open_vectors(self.index.folder, self.index.root)
            check_model(index.folder, index.about, self.index.about)
            self._use(index)
        vectors = np.stack([self.embed(part.what) for part in query.parts])
        wanted = combined(vectors, np.array([part.weight for part in query.parts]))
        excluded = [self.embed(part.what) for part in query.excluded]
        groups = self.index.videos if per_video else None
        limits = Limits(self._rows, excluded, min_score, groups, per_video or 1)
        if self._graph is None:
            hits = nearest(self.index.vectors, wanted, count, limits)
        else:
            hits = nearest_in_graph(self._graph, self.index.vectors, wanted, count, limits)
        found = [Found(hit.score, self.index.entry(hit.row)) for hit in hits]
        self.index.warn_of_missing([one.entry.video for one in found], self._reporter)
        return found

    def embed(self, what: str | Path) -> np.ndarray:
        """Embed a sentence or a file: [D] float32, L2-normalized."""
        if isinstance(what, str):
            check_vocabulary(self.engine.config.vocab_size)
            return self.engine.encode_texts(tokenize([what], self.engine.config.context_length))[0]
        about = self.index.about
        try:
            return embed_file(what, self.engine, Sampling(about.frames, about.num_frames), about.pool)
        except VideoError as error:
            raise CocaError(f"cannot search for {what}: {error.message}") from None


def open_searcher(request: SearchRequest, reporter: Reporter = SILENT, engine: Engine[Any] | None = None) -> Searcher:
    """Read an index and load its model, for many queries.

    Args:
        request: Names the index, its model and the kind of search; queries and limits are those of `Searcher.search`.
        engine: The loaded model; by default it is loaded once the index is known to fit.

    Raises:
        UsageError: An option is invalid, or the index is damaged or belongs to another model.
        ModelError: The model does not exist, or its weights are damaged.
    """
    resolve_options(request.compute)  # which refuses invalid ones
    reporter.checked()
    with reporter.progress("reading the index"):
        index = open_vectors(request.index, request.root)
    model = find_model(request.index_model or index.about.model)
    check_model(index.folder, index.about, About(model.name, model.identity))
    dimension = index.vectors.shape[1]
    if dimension != model.config.embed_dim:
        what = f"holds vectors of {dimension} dimensions, not {model.config.embed_dim}"
        raise UsageError(f"{index.folder} {what}", REBUILD)
    warn_of_embeddings(model.name, reporter)
    approximate = request.approximate
    if isinstance(index, LanceIndex):
        if approximate:
            hint = "coca embed -o index/ writes an index, in which --approximate searches"
            raise UsageError(f"{index.folder} is searched exactly", hint)
    elif approximate is None and len(index.rows) > MANY:
        approximate = find_spec("usearch") is not None
        if not approximate:
            count = len(index.rows)
            reporter.note(f"{count} vectors: pip install 'cococli[usearch]' makes searching that many faster")
    engine = engine or load_engine(model, resolve_options(request.compute, model.config), reporter)
    return Searcher(index, engine, request.among, bool(approximate), reporter)
