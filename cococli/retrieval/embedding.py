"""From paths and texts to vectors."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import interrupts
from ..engines.base import Engine
from ..errors import UsageError
from ..files import check_regular
from ..jobs import report_pace
from ..journal import Failure, Task, text_of
from ..media.clips import ReadRequest, Sampling, read_clip
from ..media.compute import Computed, FunctionComputer, Spent, compute_videos
from ..reporting import SILENT, Reporter
from ..tokenizer import tokenize
from .entries import Entry
from .index import IndexWriter

TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class Embedded:
    """All that became of a video."""

    index: int  # in the given paths
    entries: list[Entry | Failure]  # in order, their rows not known yet; or one failure
    vectors: np.ndarray  # [K, D] float32, L2-normalized, of its K entries


def embed_tasks(
    index: IndexWriter,
    todo: Sequence[Task],
    engine: Engine[Any],
    pool: str,
    request: ReadRequest,
    batch_size: int,
    reporter: Reporter,
) -> list[Failure]:
    """Embed files and texts into an index until the reporter requests a stop; return the failures."""
    videos = [task for task in todo if text_of(task.name) is None]
    texts = [task for task in todo if text_of(task.name) is not None]
    paths = [Path(task.name) for task in videos]
    failed: list[Failure] = []
    spent, started = Spent(), time.perf_counter()

    def stopping() -> bool:
        return reporter.stop_requested

    with reporter.progress("embedding", len(todo), done="embedded", on_stop="finishing the batch") as progress:
        for embedded in embed_videos(paths, engine, pool, request, batch_size, reporter, spent):
            with interrupts.held():  # what is written is counted
                index.append(videos[embedded.index], embedded.entries, embedded.vectors)
                failures = [entry for entry in embedded.entries if isinstance(entry, Failure)]
                for failure in failures:
                    reporter.warning(f"{failure.video}: {failure.error}")
                failed += failures
                progress.advance(ok=not failures)
        for place, entry, vector in embed_texts([text_of(task.name) or "" for task in texts], engine, stopping):
            with interrupts.held():
                index.append(texts[place], [entry], vector)
                progress.advance()
    report_pace(spent, started, reporter)
    return failed


def embed_videos(
    paths: Sequence[Path],
    engine: Engine[Any],
    pool: str,
    request: ReadRequest,
    batch_size: int = 8,
    reporter: Reporter = SILENT,
    spent: Spent | None = None,
) -> Iterator[Embedded]:
    """Embed every segment of every video, in the order given. See `media.compute.compute_videos`.

    Args:
        pool: How several frames become one, `joint` or `mean`.
    """

    def compute(pixels: np.ndarray, _: list[int]) -> Sequence[np.ndarray]:
        return list(engine.encode_clips(pixels, pool).embedding)

    with closing(compute_videos(paths, FunctionComputer(compute), request, batch_size, reporter, spent)) as videos:
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
    texts: Sequence[str], engine: Engine[Any], stopping: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, Entry, np.ndarray]]:
    """Embed texts: the place of each, its entry, and its vector [1, D] float32, L2-normalized."""
    for start in range(0, len(texts), TEXTS_AT_ONCE):
        if stopping():
            return
        some = texts[start : start + TEXTS_AT_ONCE]
        vectors = engine.encode_texts(tokenize(list(some), engine.config.context_length))
        for i, text in enumerate(some):
            yield start + i, Entry(-1, text=text), vectors[i : i + 1]


def embed_file(path: Path, engine: Engine[Any], sampling: Sampling, pool: str) -> np.ndarray:
    """A whole video, or a picture -> [D] float32, L2-normalized.

    Raises:
        VideoError: why it cannot be read, in a few words, without the path.
    """
    _, pixels = read_clip(path, sampling, engine.config.vision.image_size, engine.config.preprocess)
    return engine.encode_clips(pixels[None], pool).embedding[0]


def read_texts(files: Sequence[Path]) -> list[str]:
    """The lines of text files, each text once, blank ones left out.

    Raises:
        UsageError: a file cannot be read, is not UTF-8, or there is no text in any.
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
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is no UTF-8 text") from None
