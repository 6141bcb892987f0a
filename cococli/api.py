"""The Python API: a loaded model that captions, embeds and searches videos and pictures."""

import dataclasses
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import closing, contextmanager
from functools import cache
from itertools import islice
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np

from .captioning.captioner import Caption, Captioner, load_captioner
from .captioning.job import prepare
from .captioning.watch import watch_folders
from .checkpoints.store import find_model
from .decoding.search_options import SearchOptions
from .engines.choice import resolve_options
from .engines.sizes import choose_sizes
from .errors import CocaError, UsageError, VideoError
from .jobs import Summary
from .media.clips import ReadRequest, Sampling, Segments, read_clip
from .media.compute import compute_videos
from .media.memory import open_input
from .media.remote import local_copy
from .options import EngineOptions, build, types_of
from .parsing import validate
from .reporting import SILENT, Reporter
from .requests import CaptionRequest, SearchRequest
from .retrieval.search import Found, Searcher, open_searcher, parse_query
from .urls import path_of

if TYPE_CHECKING:
    from pydantic import BaseModel

BATCH = 8  # clips that go through the model at once
TEXTS = 64  # texts that do

_LOG = logging.getLogger("cococli")

T = TypeVar("T")
Many = list[Any] | tuple[Any, ...] | Iterator[Any]
PathOrPaths = str | PathLike[str] | Iterable[str | PathLike[str]]


class _Log(Reporter):
    """Logs notes and warnings of methods that take no reporter."""

    def note(self, text: str) -> None:
        _LOG.warning(text)

    warning = note


class Coca:
    """A loaded model. `cococli.load` makes one.

    As a context manager it frees the memory of the model at the end of the block, as `close` does.
    """

    def __init__(self, captioner: Captioner, options: Mapping[str, Any]) -> None:
        """Wrap a captioner.

        Args:
            options: Fields of `CaptionRequest` and its groups that `run` starts from; their sampling applies to all
                methods.
        """
        self._captioner: Captioner | None = captioner
        self._options = dict(options)
        self._sampling = Sampling(options["frames"], options["num_frames"])
        self._searchers: dict[tuple[Any, ...], Searcher] = {}

    @classmethod
    def load(cls, search: Mapping[str, Any], model: str | PathLike[str], **options: Any) -> "Coca":
        """Load a model. See `cococli.load`."""
        with _python_names():
            if unknown := search.keys() - {field.name for field in dataclasses.fields(SearchOptions)}:
                raise UsageError(f"load() has no argument {min(unknown)!r}", "see help(cococli.load)")
            options = {**options, **search, "model": fspath(model) if isinstance(model, PathLike) else model}
            request = _request(CaptionRequest, {**options, "paths": ()}, "load()")
            Sampling(request.frames, request.num_frames)  # refuses invalid numbers
            resolve_options(request.model)  # which refuses invalid ones
            files = find_model(str(request.model.model))
            choice = resolve_options(request.model, files.config)
            return cls(load_captioner(files, request.search, request.pool, request.prompt, choice=choice), options)

    def __repr__(self) -> str:
        if self._captioner is None:
            return "<Coca: closed>"
        model, engine = self._captioner.model, type(self._captioner.engine).__name__
        count = f", num_frames={self._sampling.num_frames}" if self._sampling.frames == "multi" else ""
        return f"<Coca {model}: {engine}, frames={self._sampling.frames}{count}>"

    def __enter__(self) -> "Coca":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the memory of the model, which cannot be used any more then."""
        self._captioner = None
        self._searchers.clear()

    @property
    def captioner(self) -> Captioner:
        """The model and its search options.

        Raises:
            UsageError: The model was closed.
        """
        if self._captioner is None:
            raise UsageError("this model was closed", "load it again")
        return self._captioner

    @overload
    def caption(self, source: Many) -> list[Caption]: ...

    @overload
    def caption(self, source: Any) -> Caption: ...

    def caption(self, source: Any) -> Caption | list[Caption]:
        """Caption a video or picture, or a list of them.

        Args:
            source: A path or URL, the bytes of a file or a file object, a PIL image, or a numpy array or torch tensor
                of one picture [H, W, 3] or of a video's frames [F, H, W, 3]; 3 may stand before H, too. Integers are 0
                to 255, floats 0 to 1. `frames` and `num_frames` of `cococli.load` apply to arrays as well. Or a list or
                another iterable of these, which are computed in batches.

        Returns:
            Text, logprob, similarity and embedding [D] float32; of a list a list.

        Raises:
            VideoError: A file cannot be read.
            UsageError: The source is something else.
        """
        if not _is_many(source):
            return self.caption([source])[0]
        return list(self._in_batches(source, self.captioner.caption_batch))

    @overload
    def caption_many(self, paths: PathOrPaths, *, timeout: float = 60.0) -> Iterator[Caption]: ...

    @overload
    def caption_many(
        self, paths: PathOrPaths, *, errors: Literal["return"], timeout: float = 60.0
    ) -> Iterator[Caption | VideoError]: ...

    def caption_many(
        self, paths: PathOrPaths, *, errors: Literal["raise", "return"] = "raise", timeout: float = 60.0
    ) -> Iterator[Caption | VideoError]:
        """Caption many files, which other processes decode while the model computes.

        Args:
            paths: Video and picture files, or their URLs.
            errors: `raise` an error at the first file that cannot be read, or `return` it instead of the caption.
            timeout: Skip a file after this many seconds without a new frame.

        Yields:
            The caption of each file, in order.

        Raises:
            VideoError: A file cannot be read.
            UsageError: It is not a path.
        """
        if errors not in ("raise", "return"):
            raise UsageError(f"errors cannot be {errors!r}", "choose raise or return")
        files = [path_of(path) for path in _paths(paths, "caption_many()")]
        captioner = self.captioner
        config, search = captioner.engine.config, captioner.search
        request = ReadRequest(self._sampling, Segments(), captioner.image_size, None, config.preprocess, timeout)
        options = _request(CaptionRequest, {**self._options, "paths": ()}, "load()").model
        frames, rows, length = self._sampling.count, search.rows, search.max_length
        sizes = choose_sizes(config, resolve_options(options, config), options, len(files), frames, rows, length)
        stream = captioner.stream(sizes.slots)
        computed = compute_videos(files, stream, request, sizes.batch, _Log(), readers=sizes.readers)
        with closing(computed) as results:
            for result in results:
                if not result.failure:
                    yield result.values[0]
                    continue
                error = VideoError(f"{files[result.index]}: {result.failure}", transient=result.transient)
                if errors == "raise":
                    raise error
                yield error

    def embed(self, source: Any) -> np.ndarray:
        """Embed a video or picture, or a list of them.

        Args:
            source: As for `caption`.

        Returns:
            [D] float32, L2-normalized, comparable with `embed_texts`; of a list [N, D].

        Raises:
            VideoError: A file cannot be read.
            UsageError: The source is something else.
        """
        if not _is_many(source):
            return self.embed([source])[0]
        vectors: Iterator[np.ndarray] = self._in_batches(
            source, lambda pixels, indices: self.captioner.embed_batch(pixels)
        )
        return self._stacked(vectors)

    def embed_texts(self, texts: Iterable[str]) -> np.ndarray:
        """Embed texts.

        Returns:
            [N, D] float32, L2-normalized. The product with a video's vector is their cosine similarity.

        Raises:
            UsageError: One of them is not text.
        """
        texts = list(texts) if _is_many(texts) else [texts]  # type: ignore[list-item]
        if wrong := [one for one in texts if not isinstance(one, str)]:
            raise UsageError(f"{type(wrong[0]).__name__} is not text", "pass a str or a list of them")
        batches = (texts[start : start + TEXTS] for start in range(0, len(texts), TEXTS))
        return self._stacked(vector for batch in batches for vector in self.captioner.embed_texts(batch))

    def embed_text(self, text: str | Iterable[str]) -> np.ndarray:
        """Embed a text: [D] float32. Several give [N, D], as from `embed_texts`."""
        return self.embed_texts([text])[0] if isinstance(text, str) else self.embed_texts(text)

    @overload
    def score(self, source: Any, captions: str) -> float: ...

    @overload
    def score(self, source: Any, captions: Iterable[str]) -> np.ndarray: ...

    def score(self, source: Any, captions: str | Iterable[str]) -> float | np.ndarray:
        """Compare a video or picture with captions.

        Args:
            source: As for `caption`.

        Returns:
            Cosine similarity in the joint space; of several captions [N] float32.

        Raises:
            VideoError: The file cannot be read.
            UsageError: The source is something else, or a caption is not text.
        """
        found = self.embed_text(captions) @ self.embed([source])[0]
        return float(found) if isinstance(captions, str) else found

    def search(
        self,
        query: PathOrPaths,
        index: str | PathLike[str],
        *,
        exclude: PathOrPaths = (),
        count: int = 10,
        min_score: float | None = None,
        per_video: int | None = None,
        among: Literal["videos", "texts"] | None = None,
        approximate: bool = False,
    ) -> list[Found]:
        """Find the entries of an index that match a query.

        Args:
            query: A sentence, or the path of a video or picture; or a list of these, each perhaps with a weight, as in
                `["a dog^2", "photo.jpg"]`.
            index: Folder that `coca embed` or `run(..., embed=FOLDER)` wrote with this model, or a LanceDB table
                (`x.lance`) of `coca embed`.
            exclude: Leave out what matches these better than the query.
            count: Number of results.
            min_score: Least cosine similarity of a result.
            per_video: Most results of one video.
            among: Search among videos and pictures, or among texts; None searches texts only in an index of texts.
            approximate: Search a graph, which the package usearch builds first, instead of all vectors.

        Returns:
            Scores and entries, best first.

        Raises:
            UsageError: The index is damaged or belongs to another model, or the query is empty.
            CocaError: A file of the query cannot be read.
        """
        with _python_names():
            given = {
                "query": _paths(query, "search()"),
                "index": index,
                "exclude": _paths(exclude, "search()"),
                "count": count,
                "min_score": min_score,
                "per_video": per_video,
                "among": among,
                "approximate": approximate,
                "index_model": self._options["model"],
            }
            request = _request(SearchRequest, given, "search()")
            parsed = parse_query(request.query, request.exclude)
            key = request.index, request.among, request.approximate
            if key not in self._searchers:
                self._searchers[key] = open_searcher(request, engine=self.captioner.engine)
            return self._searchers[key].search(parsed, request.count, request.min_score, request.per_video)

    def run(
        self,
        paths: PathOrPaths,
        output: PathOrPaths = (),
        *,
        watch: bool = False,
        reporter: Reporter = SILENT,
        **options: Any,
    ) -> Summary:
        """Caption files and folders as `coca caption` does. An interrupted run resumes when it is called again.

        Args:
            paths: Files, folders, patterns such as `trip/**/*.mp4`, and lists such as `@list.txt`.
            output: Output files and folders; their suffixes decide on the formats. Without any, records only go to
                `reporter.record`.
            watch: Stay, and caption new files in the folders, until `reporter.stop_requested` or an interrupt.
            reporter: Receives records, warnings and progress.
            **options: Other fields of `cococli.CaptionRequest` and its groups, as in `segments="scene"` or
                `overwrite=True`. Options of `load` hold unless they are given here.

        Returns:
            Number of inputs, and the errors of those that failed.

        Raises:
            UsageError: The options do not fit each other, or an output would overwrite a file of the user.
            CocaError: An output cannot be written.
        """
        fixed = {field.name for field in dataclasses.fields(EngineOptions)} | {"model"}
        with _python_names():
            if changed := fixed & options.keys():
                raise UsageError(f"run() cannot change {min(changed)!r}", "load another model")
            paths, output = _paths(paths, "run()"), _paths(output, "run()")
            given = {**self._options, **options, "paths": paths, "output": output}
            request = _request(CaptionRequest, given, "run()")
            if watch:
                return watch_folders(request, reporter, self.captioner.engine)
            return prepare(request, reporter).run(reporter, self.captioner.engine)

    def _stacked(self, vectors: Iterable[np.ndarray]) -> np.ndarray:
        """Stack vectors: [N, D] float32."""
        return np.array([*vectors], np.float32).reshape(-1, self.captioner.engine.config.embed_dim)

    def _in_batches(
        self, sources: Iterable[Any], compute: Callable[[np.ndarray, Sequence[int]], Sequence[T] | np.ndarray]
    ) -> Iterator[T]:
        """Compute a value for each source; clips of as many frames share batches."""
        numbered = enumerate(sources)
        while batch := list(islice(numbered, BATCH)):
            values: dict[int, T] = {}
            clips = {index: self._pixels(source) for index, source in batch}
            for frames in {len(pixels) for pixels in clips.values()}:
                indices = [index for index, pixels in clips.items() if len(pixels) == frames]
                values |= zip(indices, compute(np.stack([clips[index] for index in indices]), indices), strict=True)
            yield from (values[index] for index in clips)

    def _pixels(self, source: Any) -> np.ndarray:
        """Read a source: [F, S, S, 3] uint8."""
        how = self._sampling, self.captioner.image_size, self.captioner.engine.config.preprocess, _Log()
        if not isinstance(source, str | PathLike):
            with open_input(source) as readable:
                return read_clip(readable, *how)[1]
        path = path_of(fspath(source))
        try:
            with local_copy(path) as file:
                return read_clip(file, *how)[1]
        except VideoError as error:
            raise VideoError(f"{path}: {error.message}", error.hint, error.transient) from None


def _request(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    """Build a request from arguments whose types are checked.

    Raises:
        UsageError: An option does not exist or has an invalid value.
    """
    arguments = _arguments(kind)  # type: ignore[arg-type]
    if unknown := given.keys() - arguments.model_fields.keys():
        raise UsageError(f"{where} has no argument {min(unknown)!r}", "see help(cococli.CaptionRequest)")
    valid = validate(given, arguments, where)
    return build(kind, {name: getattr(valid, name) for name in given})


@cache
def _arguments(request: type) -> "type[BaseModel]":
    """Return a model of the arguments that become a request, with their types and limits."""
    from pydantic import create_model

    fields: dict[str, Any] = {name: (kind, None) for name, kind in types_of(request).items()}
    return create_model("Arguments", **fields)


def _paths(given: Any, where: str) -> tuple[str, ...]:
    """Return paths, or the texts of a query, as a tuple of strings."""
    paths = (given,) if isinstance(given, str | PathLike) or not isinstance(given, Iterable) else tuple(given)
    if wrong := [path for path in paths if not isinstance(path, str | PathLike)]:
        raise UsageError(f"{where} takes a path or a list of paths, not {type(wrong[0]).__name__}")
    return tuple(map(fspath, paths))


def _is_many(source: Any) -> bool:
    """Tell a list of sources from a single one."""
    one = isinstance(source, str | bytes | bytearray | memoryview | PathLike | Mapping | Set)
    return isinstance(source, Iterable) and not one and not hasattr(source, "read") and not _is_array(source)


def _is_array(source: Any) -> bool:
    return hasattr(source, "__array__") or hasattr(source, "asnumpy")


@contextmanager
def _python_names() -> Iterator[None]:
    """Name arguments in errors as Python does, not the flags of the command line."""
    try:
        yield
    except CocaError as error:
        raise type(error)(_without_flags(error.message), _without_flags(error.hint)) from None


def _without_flags(text: str) -> str:
    return re.sub(r"--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", "_"), text.replace("--search", "method"))
