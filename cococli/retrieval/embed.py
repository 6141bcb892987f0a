"""Embedding of videos, pictures and texts, to an index, files and stdout."""

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from .. import interrupts
from ..checkpoints.store import ModelFiles
from ..devices import open_devices, spread
from ..distributed.cluster import Cluster, check_cluster
from ..distributed.driver import compute_on_cluster
from ..engines.base import Engine
from ..engines.choice import Choice, resolve_options
from ..engines.sizes import SMALL, Sizes, choose_sizes
from ..errors import UsageError
from ..files import check_regular, container_of, os_reason, temporary_folder
from ..jobs import (
    Summary,
    choose_model,
    list_files,
    load_engine,
    precision_key,
    protect_files,
    report_failures,
    warn_of_embeddings,
)
from ..journal import Failure, Task, cache_path, file_tasks, fingerprint, text_name, text_of, text_tasks
from ..media.clips import ReadRequest, Sampling, parse_segments, read_clip
from ..media.compute import Computed, Computer, FunctionComputer, Spent, compute_videos
from ..media.discover import discover
from ..media.remote import local_copy
from ..overwrite import refuse_foreign
from ..packed import Paths, View, select
from ..reporting import SILENT, Reporter
from ..requests import EmbedRequest, ScoreRequest
from ..shards import MANIFEST, Listing, Shard, parse_shard, withdraw_manifest
from ..stores import check_writable
from ..tables import load_pyarrow
from ..tokenizer import check_vocabulary, tokenize
from ..urls import RemotePath, is_url, path_of
from .index import About, Entry, Index, IndexWriter, check_index, index_files, open_index
from .vector_files import (
    LANCE,
    SUFFIXES,
    Embedding,
    check_lancedb,
    files_of,
    write_vectors,
)

ComputeVideos = Callable[[Sequence[Path]], Generator[Computed[np.ndarray], None, None]]  # on a cluster

STDOUT = "-"
TEXTS_AT_ONCE = 64


def embed(request: EmbedRequest, reporter: Reporter = SILENT, engine: Engine[Any] | None = None) -> Summary:
    """Embed the videos, pictures and texts that earlier runs did not.

    The outputs hold what is done, however the run ends. If they include `-`, each `Embedding` goes to
    `reporter.record` at the end.

    Args:
        engine: The loaded model; by default it is loaded unless everything is done already.

    Raises:
        UsageError: The options do not fit each other or the index, or an output would overwrite a file.
        ModelError: The model does not exist, or its weights are damaged.
        CocaError: An output cannot be written.
    """
    options, shard = request.model, parse_shard(request.shard)
    if request.cluster.ray is None:
        resolve_options(options)  # which refuses invalid ones
    sampling, segments = Sampling(request.frames, request.num_frames), parse_segments(request.segments)
    if not request.paths and not request.texts:
        raise UsageError("nothing to embed", "name videos, pictures or folders, or --texts FILE")
    videos, problems = discover(request.paths, request.files, reporter) if request.paths else (Paths(), [])
    texts = read_texts(request.texts) if request.texts else []
    model = choose_model(options.model)
    choice = check_cluster(request.cluster, model, options) or resolve_options(options, model.config)
    named = [_output_of(shard, output) for output in request.output] if shard else request.output
    if request.layout == "clip-retrieval" and request.paths and request.texts:
        raise UsageError("clip-retrieval keeps pictures and texts apart", "embed --texts into another folder")
    outputs = parse_outputs(named, repr((model.identity, request.half)), request.layout)
    about = About(model.name, model.identity, request.frames, request.num_frames, request.pool)
    _protect(request, outputs, about, videos, model, reporter)
    reporter.checked()
    for problem in problems:
        reporter.warning(f"{problem.message}; {problem.hint}")
    warn_of_embeddings(model.name, reporter)
    key = precision_key(options.precision)
    affecting = (model.identity, request.pool, sampling, segments, *key)
    listing = None
    if shard:
        names = View(videos, str)
        listing = Listing(
            shard, [*names, *map(text_name, texts)] if texts else names, fingerprint(request.dtype, *affecting)
        )
        videos = Paths(path for path in videos if shard.takes(str(path)))
        texts = [text for text in texts if shard.takes(text_name(text))]
        reporter.note(listing.describe())
    tasks = file_tasks(videos, *affecting)
    if texts:
        tasks = [*tasks, *text_tasks(texts, *key)]
    size, preprocess = model.config.vision.image_size, model.config.preprocess
    read = ReadRequest(sampling, segments, size, None, preprocess, request.files.timeout)
    with (
        nullcontext(outputs.index) if outputs.index else temporary_folder() as folder,
        open_index(
            folder,
            about,
            model.config.embed_dim,
            tasks,
            request.dtype,
            request.run.overwrite,
            request.run.retry_failed,
        ) as index,
    ):
        failed = [*index.reused.failures()]
        todo = select(tasks, index.reused.present)
        manifest = index.folder / MANIFEST
        if listing:
            withdraw_manifest(manifest)
        if before := len(tasks) - len(todo):
            reporter.note(f"{before} of {len(tasks)} inputs already embedded (use --overwrite to redo them)")
        try:
            if todo:
                count = len(todo) - sum(text_of(task.name) is not None for task in todo if texts)
                needed = request, count, count < len(todo)
                with open_embedder(model, choice, *needed, read, reporter, engine) as (computer, engine, sizes):
                    failed += embed_tasks(index, todo, computer, engine, read, sizes, reporter)
        finally:
            _write_outputs(outputs, index.folder, tasks, reporter)
            if listing and index.appended == len(todo):
                listing.write_manifest(manifest, index.kept_name)
    reasons = report_failures((failure.error for failure in failed), reporter)
    return Summary(len(tasks), reasons, incomplete=bool(problems))


@contextmanager
def open_embedder(
    model: ModelFiles,
    choice: Choice | Cluster,
    request: EmbedRequest | ScoreRequest,
    videos: int,
    texts: bool,
    read: ReadRequest,
    reporter: Reporter,
    engine: Engine[Any] | None,
) -> Iterator[tuple[Computer[np.ndarray] | ComputeVideos, Engine[Any] | None, Sizes]]:
    """Load the model, on all devices that there is work for, and choose the sizes of the run.

    On a cluster, this machine embeds the texts.

    Args:
        videos: Number of videos and pictures to embed.
        texts: Whether texts are embedded, too.

    Yields:
        What embeds clips; the engine that embeds texts, perhaps None if there are none; and the sizes.
    """
    if isinstance(choice, Cluster):
        if texts:
            engine = engine or load_engine(model, resolve_options(request.model, model.config), reporter)
        choose = partial(choose_sizes, model.config, options=request.model, videos=videos, frames=read.sampling.count)
        pool = request.pool
        make = lambda engine, sizes: embedding_computer(pool, engine)  # noqa: E731
        compute = partial(compute_on_cluster, cluster=choice, request=read, choose_sizes=choose, make=make)
        yield partial(compute, reporter=reporter), engine if texts else None, SMALL
        return
    choices = [choice] if engine or not videos else spread(choice, read.count(videos))
    sizes = partial(choose_sizes, model.config, choices[0], request.model, videos, read.sampling.count)
    if len(choices) == 1 or texts:
        engine = engine or load_engine(model, choices[0], reporter)
    if len(choices) == 1:
        assert engine
        yield embedding_computer(request.pool, engine), engine, sizes()
        return
    with open_devices(model, choices, reporter) as devices:
        found = sizes(devices=len(choices), free=devices.memory)
        yield devices.prepare(partial(embedding_computer, request.pool), found), engine, found


def embedding_computer(pool: str, engine: Engine[Any]) -> FunctionComputer[np.ndarray]:
    """Return a `Computer` of embeddings.

    Args:
        pool: How several frames become one vector, `joint` or `mean`.
    """
    return FunctionComputer(lambda pixels, seeds: list(engine.encode_clips(pixels, pool).embedding))


def embed_tasks(
    index: IndexWriter,
    tasks: Sequence[Task],
    computer: Computer[np.ndarray] | ComputeVideos,
    engine: Engine[Any] | None,
    request: ReadRequest,
    sizes: Sizes = SMALL,
    reporter: Reporter = SILENT,
) -> list[Failure]:
    """Embed videos and texts into an index until a stop is requested; return what failed.

    Args:
        computer: Embeds clips.
        engine: Embeds texts; None if there are none.
        request: What to read of each video.
        sizes: Clips that are encoded at once, and processes that read.
    """
    texts = [task for task in tasks if text_of(task.name) is not None] if engine else []
    videos = [task for task in tasks if text_of(task.name) is None] if texts else tasks
    paths = View(videos, lambda task: task.path)
    failed, spent = [], Spent()
    with reporter.progress("embedding", len(tasks), done="embedded", on_stop="finishing the batch") as progress:
        progress.current(videos[0].name if videos else "")
        for embedded in embed_videos(paths, computer, request, sizes, reporter, spent):
            # An interrupt waits, so that everything written is counted.
            with interrupts.held():
                index.append(videos[embedded.index], embedded.entries, embedded.vectors)
                failures = [entry for entry in embedded.entries if isinstance(entry, Failure)]
                for failure in failures:
                    reporter.warning(f"{failure.video}: {failure.error}")
                failed += failures
                following = embedded.index + 1
                progress.current(videos[following].name if following < len(videos) else "")
                progress.advance(ok=not failures)
        if engine:
            for i, entry, vector in embed_texts([text_of(task.name) or "" for task in texts], engine, reporter):
                with interrupts.held():
                    index.append(texts[i], [entry], vector)
                    progress.advance()
        progress.conclude(spent.describe(len(videos)))
    return failed


def compute(
    paths: Sequence[Path],
    computer: Computer[np.ndarray] | ComputeVideos,
    request: ReadRequest,
    sizes: Sizes,
    reporter: Reporter,
    spent: Spent | None,
) -> Generator[Computed[np.ndarray], None, None]:
    """Compute the vectors of videos with what `open_embedder` yields."""
    if callable(computer):
        return computer(paths)
    return compute_videos(paths, computer, request, sizes.batch, reporter, spent, sizes.readers)


@dataclass(frozen=True)
class Embedded:
    """The entries and vectors of one video."""

    index: int  # among the videos
    entries: list[Entry | Failure]  # in order of time, rows not known yet; or one failure
    vectors: np.ndarray  # [K, D] float32, L2-normalized, of K entries


def embed_videos(
    paths: Sequence[Path],
    computer: Computer[np.ndarray] | ComputeVideos,
    request: ReadRequest,
    sizes: Sizes = SMALL,
    reporter: Reporter = SILENT,
    spent: Spent | None = None,
) -> Iterator[Embedded]:
    """Embed every segment of every video, in the given order. See `embed_tasks` and `compute_videos`."""
    with closing(compute(paths, computer, request, sizes, reporter, spent)) as videos:
        for video in videos:
            yield _embedded(video, str(paths[video.index]))


def _embedded(video: Computed[np.ndarray], path: str) -> Embedded:
    if video.failure:
        failure = Failure(path, video.failure, video.transient)
        return Embedded(video.index, [failure], np.zeros((0, 0), np.float32))
    segments = len(video.clips)
    entries: list[Entry | Failure] = [
        Entry(-1, path, clip.start, clip.end, tuple(clip.times), segments) for clip in video.clips
    ]
    return Embedded(video.index, entries, np.stack(video.values))


def embed_texts(
    texts: Sequence[str], engine: Engine[Any], reporter: Reporter = SILENT
) -> Iterator[tuple[int, Entry, np.ndarray]]:
    """Yield the index, the entry and the vector [1, D] float32, L2-normalized, of each text.

    Raises:
        ModelError: The vocabulary of the model is not CLIP's.
    """
    if texts:
        check_vocabulary(engine.config.vocab_size)
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        if reporter.stop_requested:
            return
        batch = texts[start : start + TEXTS_AT_ONCE]
        vectors = engine.encode_texts(tokenize(list(batch), engine.config.context_length))
        for i, text in enumerate(batch):
            yield start + i, Entry(-1, text=text), vectors[i : i + 1]


def embed_file(path: Path, engine: Engine[Any], sampling: Sampling, pool: str) -> np.ndarray:
    """Embed a whole video or a picture: [D] float32, L2-normalized.

    Raises:
        VideoError: It cannot be read. The message does not name the path.
    """
    with local_copy(path) as file:
        _, pixels = read_clip(file, sampling, engine.config.vision.image_size, engine.config.preprocess)
    return engine.encode_clips(pixels[None], pool).embedding[0]


def read_texts(files: Sequence[Path]) -> list[str]:
    """Read the distinct lines of text files, without blank ones.

    Raises:
        UsageError: A file cannot be read or is not UTF-8, or none has any text.
    """
    texts = dict.fromkeys(line.strip() for file in files for line in _read_text(file).split("\n"))
    texts.pop("", None)
    if not texts:
        raise UsageError(f"{', '.join(map(str, files))}: no text found")
    return list(texts)


def _read_text(file: Path) -> str:
    try:
        check_regular(file)
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"cannot read {file}: {os_reason(error)}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text") from None


@dataclass(frozen=True)
class Outputs:
    """Destinations of embeddings."""

    index: Path | None  # a folder, in the cache if only files were named; None if only stdout was
    files: tuple[Path, ...]  # LanceDB tables and folders of clip-retrieval among them
    stdout: bool

    @property
    def written(self) -> list[tuple[str, Path]]:
        """Every file that may be written, with how the user named it."""
        index = [*index_files(self.index), self.index / MANIFEST] if self.index else []
        files = [(f"-o {path}", file) for path in self.files for file in files_of(path)]
        return [*files, *((str(path), path) for path in index)]


def parse_outputs(outputs: Sequence[str], kind: str, layout: str = "index") -> Outputs:
    """Tell folders from files.

    Args:
        kind: Identifies the model and the type of the vectors, which runs that share an index in the cache must share.
        layout: What folders are, `index` or `clip-retrieval`.

    Raises:
        UsageError: Nothing or more than one folder is named, or a file that cannot be written or of an unknown format.
    """
    if not outputs:
        raise UsageError("no output given", "name a folder for an index, as in -o index/")
    named = [output for output in outputs if output != STDOUT]
    folders = [Path(output) for output in named if _is_folder(output)]
    files = tuple(path_of(output) for output in named if not _is_folder(output))
    if len(folders) > 1:
        raise UsageError(f"-o names two folders: {folders[0]} and {folders[1]}", "one run fills one index")
    if layout == "clip-retrieval":
        if not folders:
            raise UsageError("--as clip-retrieval needs a folder", "name one, as in -o embeddings/")
        load_pyarrow()
        folders, files = [], (*folders, *files)
    for path in files:
        _check_file(path, layout)
    index = folders[0] if folders else None
    if files and not folders:
        places = [str(path) if isinstance(path, RemotePath) else os.path.realpath(path) for path in files]
        index = cache_path(kind, *places, suffix=".index")
    return Outputs(index, files, STDOUT in outputs)


def _output_of(shard: Shard, output: str) -> str:
    """Return the output that a shard writes instead of a common one."""
    if output == STDOUT:
        return output
    return f"{shard.folder(Path(output))}/" if _is_folder(output) else str(shard.file(path_of(output)))


def _is_folder(output: str) -> bool:
    path = path_of(output)
    if is_url(output) or path.suffix.lower() == LANCE:
        return False
    return output.endswith(("/", os.sep)) or not path.suffix or path.is_dir()


def _check_file(path: Path, layout: str) -> None:
    suffix = path.suffix.lower()
    is_folder = suffix == LANCE or (layout == "clip-retrieval" and _is_folder(str(path)))
    if suffix not in SUFFIXES and not is_folder:
        hint = f"end its name in {', '.join(SUFFIXES)}, or in / for an index"
        if isinstance(path, RemotePath):
            hint = f"end its name in {', '.join(SUFFIXES)}; an index is a folder on this machine"
        raise UsageError(f"cannot tell the format of {path}", hint)
    if path.exists() and path.is_dir() != is_folder:
        raise UsageError(f"{path} is not a {'folder' if is_folder else 'file'}")
    if suffix == ".parquet":
        load_pyarrow()
    if suffix == LANCE:
        check_lancedb()
        if isinstance(path, RemotePath):
            raise UsageError(f"{path} is not on this machine", "name a folder here, as vectors.lance")
    if isinstance(path, RemotePath):
        check_writable(path.url)
        return
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {path}: {folder} is not a writable folder")


def _protect(
    request: EmbedRequest,
    outputs: Outputs,
    about: About,
    videos: Sequence[Path],
    model: ModelFiles,
    reporter: Reporter,
) -> None:
    """Refuse outputs that belong to something else, then start the log file."""
    if outputs.index:
        check_index(outputs.index, about, request.dtype, request.run.overwrite)
    if not request.run.overwrite:
        for path in outputs.files:
            refuse_foreign(*files_of(path), name=path)
    read = chain(map(container_of, videos), list_files(request.paths), request.texts)
    protect_files(outputs.written, read, model, request.run.log_file, reporter)


def _write_outputs(outputs: Outputs, folder: Path, tasks: Sequence[Task], reporter: Reporter) -> None:
    """Write the embeddings of an index to files, and report them if stdout is among the outputs."""
    if not outputs.files and not outputs.stdout:
        return
    index = Index(folder)
    entries = index.entries(task.name for task in tasks)
    vectors = index.vectors[[entry.row for entry in entries]]
    for path in outputs.files:
        write_vectors(path, entries, vectors, index.about)
    if outputs.stdout:
        for entry, vector in zip(entries, vectors, strict=True):
            reporter.record(Embedding(entry, vector, index.about.model))
