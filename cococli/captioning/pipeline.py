"""From paths to records."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..journal import Failure
from ..media.clips import Clip, ReadRequest
from ..media.compute import Computed, Spent, compute_videos
from ..reporting import SILENT, Reporter
from .captioner import Caption, Captioner
from .merging import merge
from .records import Outcome, Record


@dataclass(frozen=True)
class Result:
    """All that became of a video."""

    index: int  # in the given paths
    outcomes: list[Outcome]  # its records in order, or one failure
    embeddings: np.ndarray  # [K, D] float32, L2-normalized, of its K records


@dataclass(frozen=True)
class Settings:
    """How a run works, beside what its captioner does.

    Attributes:
        read: What is read of each video.
        batch_size: Clips that are captioned at once.
        merge: Cosine of the embeddings from which neighboring segments are one; None: each stays.
        min_score: Captions of less similarity are marked as weak.
    """

    read: ReadRequest
    batch_size: int = 8
    merge: float | None = None
    min_score: float | None = None


def caption_videos(
    paths: Sequence[Path],
    captioner: Captioner,
    settings: Settings,
    reporter: Reporter = SILENT,
    spent: Spent | None = None,
) -> Generator[Result, None, None]:
    """Caption every video, in the order given. See `media.compute.compute_videos`."""
    stream = captioner.stream(settings.batch_size)
    with closing(compute_videos(paths, stream, settings.read, settings.batch_size, reporter, spent)) as videos:
        for video in videos:
            yield _result(video, str(paths[video.index]), captioner.model, settings)


def _result(computed: Computed[Caption], path: str, model: str, settings: Settings) -> Result:
    if computed.failure:
        failure = Failure(path, computed.failure, computed.transient)
        return Result(computed.index, [failure], np.zeros((0, 0), np.float32))
    records = [
        _record(path, clip, caption, model, settings)
        for clip, caption in zip(computed.clips, computed.values, strict=True)
    ]
    embeddings = np.stack([caption.embedding for caption in computed.values])
    if settings.merge is not None:
        records, embeddings = merge(records, embeddings, settings.merge)
    return Result(computed.index, [replace(record, segments=len(records)) for record in records], embeddings)


def _record(path: str, clip: Clip, caption: Caption, model: str, settings: Settings) -> Record:
    return Record(
        video=path,
        start=clip.start,
        end=clip.end,
        caption=caption.text,
        logprob=caption.logprob,
        similarity=caption.similarity,
        frames=tuple(clip.times),
        model=model,
        weak=settings.min_score is not None and caption.similarity < settings.min_score,
        candidates=caption.candidates if len(caption.candidates) > 1 else (),
    )
