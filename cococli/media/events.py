"""What a reader process tells of a video."""

from typing import NamedTuple

import numpy as np

from .clips import Clip


class ClipRead(NamedTuple):
    """A clip of the video, the next one in time."""

    place: int  # of the video among all that are read
    clip: Clip
    pixels: np.ndarray  # [F, S, S, 3] uint8, resized and cropped, not normalized


class VideoRead(NamedTuple):
    """All clips of the video were told."""

    place: int
    clips: int


class VideoFailed(NamedTuple):
    """The video cannot be read, or not further."""

    place: int
    error: str  # in a few words, without the path
    transient: bool = False  # the next run should try again


class NotYet(NamedTuple):
    """Nothing more of the video is read yet. Only told to who has other things to do."""

    place: int


Event = ClipRead | VideoRead | VideoFailed | NotYet
