"""Sets of small pictures are decoded once and kept in memory: of these, to pass them on is most of the work."""

from collections.abc import Generator, Iterable, Mapping
from pathlib import Path

import numpy as np

from ..media.clips import ReadRequest, view
from ..media.discover import is_image
from ..media.events import ClipRead, Event, VideoFailed, VideoRead
from ..media.pictures import opened
from ..media.pool import Job, read_videos
from ..media.sampling import Sampling
from ..media.segments import Segments

ROOM = 1 << 30  # bytes of all pictures
LARGEST = 256 * 256 * 3  # bytes of one; to crop larger ones is work, which processes do meanwhile

Kept = Mapping[Path, ClipRead | VideoFailed]


def fit_in_memory(files: Iterable[Path]) -> bool:
    """Whether all are small still pictures, and there is room for them. Looks at headers, and not at all of many."""
    room = ROOM
    for path in files:
        size = _decoded_size(path) if is_image(path) else LARGEST + 1
        room -= size
        if size > LARGEST or room < 0:
            return False
    return True


def load(files: Iterable[Path], processes: int, timeout: float) -> Kept:
    """Every picture, [1, H, W, 3] uint8, or why it cannot be read."""
    paths = tuple(files)
    events = read_videos(paths, ReadRequest(Sampling(), Segments("none"), None), processes, timeout, ahead=100)
    return {paths[event.place]: event for event in events if isinstance(event, ClipRead | VideoFailed)}


def replay(kept: Kept, jobs: Iterable[Job]) -> Generator[Event, None, None]:
    """What `read_each` would tell of pictures that are kept."""
    for place, (path, request) in enumerate(jobs):
        event = kept[path]._replace(place=place)
        if isinstance(event, ClipRead):
            yield event._replace(pixels=np.stack([view(frame, request) for frame in event.pixels]))
            yield VideoRead(place, 1)
        else:
            yield event


def _decoded_size(path: Path) -> int:
    """Bytes that a picture takes; too many if it moves, and 0 if it cannot be read."""
    try:
        with opened(path) as picture:
            moves = getattr(picture, "is_animated", False)
            return LARGEST + 1 if moves else picture.width * picture.height * 3
    except Exception:  # PIL raises anything, and the reader says why
        return 0
