"""Thumbnails of the frames that a model saw."""

import base64
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from .. import interrupts
from ..media.clips import ReadRequest, Sampling, Segments
from ..media.pool import ClipRead, VideoFailed, VideoRead, read_videos
from ..reporting import SILENT, Reporter
from ..retrieval.index import find_below
from ..urls import path_of

PER_RECORD = 4
_LARGE, _SMALL = 180, 120  # pixels of height
_MANY = 4000  # thumbnails: more are small, and fewer for each record, so that a browser opens the page soon
_QUALITY = 60

Thumbnail = dict[str, Any]  # time and src
Fields = Mapping[str, Any]  # of a record, as in JSONL


def add_thumbnails(records: Sequence[Fields], root: Path | None = None, reporter: Reporter = SILENT) -> list[Fields]:
    """Return records with an `id` and with `thumbnails`; none where a file is missing, or after a request to stop.

    Args:
        root: Where the videos are now, if they were moved; see `retrieval.index.find_below`.
    """
    count = min(PER_RECORD, max(1, _MANY // max(1, len(records))))
    height = _LARGE if count * len(records) <= _MANY else _SMALL
    times = [_pick(record.get("frames", ()), count) for record in records]
    wanted: dict[str, set[float]] = {}
    for record, own in zip(records, times, strict=True):
        if own:
            wanted.setdefault(record["video"], set()).update(own)
    found: dict[tuple[str, float], Thumbnail] = {}
    if not interrupts.came():
        files = [find_below(video, root) if root else video for video in wanted]
        with (
            reporter.progress(
                "reading frames", len(files), on_stop="writing the page without the other frames"
            ) as progress,
            closing(read_thumbnails(list(zip(files, map(sorted, wanted.values()), strict=True)), height)) as reading,
        ):
            for video, thumbnails in zip(wanted, reading, strict=False):
                found.update({(video, one["time"]): one for one in thumbnails})
                progress.advance(ok=bool(thumbnails))
                if reporter.stop_requested:
                    break
    return [
        {
            **record,
            "id": number,
            "thumbnails": [found[key] for time in own if (key := (record["video"], time)) in found],
        }
        for number, (record, own) in enumerate(zip(records, times, strict=True))
    ]


def read_thumbnails(
    videos: Sequence[tuple[str, Sequence[float]]], height: int
) -> Generator[list[Thumbnail], None, None]:
    """Read frames of videos and pictures in other processes; yield the thumbnails of each.

    Args:
        videos: Files, and ascending times in seconds.
        height: Of the thumbnails, in pixels.
    """
    jobs = [
        (path_of(video), ReadRequest(Sampling(), Segments(), height, times=tuple(times))) for video, times in videos
    ]
    thumbnails: list[Thumbnail] = []
    with closing(read_videos(jobs)) as events:
        for event in events:
            if isinstance(event, ClipRead):
                time = videos[event.video][1][len(thumbnails)]
                thumbnails.append({"time": time, "src": data_uri(event.pixels[0])})
            elif isinstance(event, VideoRead | VideoFailed):
                yield thumbnails
                thumbnails = []


def data_uri(pixels: np.ndarray) -> str:
    """Return an image [H, W, 3] uint8 as a data: URI."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=_QUALITY)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _pick(times: Sequence[float], count: int) -> list[float]:
    """Return at most so many different times, evenly spread."""
    different = list(dict.fromkeys(times))
    if len(different) <= count:
        return different
    return [different[(2 * part + 1) * len(different) // (2 * count)] for part in range(count)]
