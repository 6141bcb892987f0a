"""Requests: one dataclass per command, with all of its options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from .decoding.options import SearchOptions
from .options import (
    ADVANCED,
    FRAMES,
    OUTPUT,
    FileOptions,
    Frames,
    ModelOptions,
    NumFrames,
    Option,
    Pool,
    RunOptions,
    Segments,
)

Paths = Annotated[
    tuple[str, ...],
    Option(
        "Videos and pictures, folders of them, patterns in quotes, as 'trip/**/*.mp4', lists, as @list.txt, or - for a "
        "list on stdin.",
        metavar="PATHS",
        default_shown=False,
        argument=True,
    ),
]


@dataclass(frozen=True)
class CaptionRequest:
    """Videos and pictures to caption, how, and where the captions go."""

    paths: Paths
    output: Annotated[
        tuple[str, ...],
        Option(
            "Output file; repeat for several formats: .jsonl, .csv, .txt or .parquet for all videos, .srt or .vtt for "
            "one, a folder for the subtitles of each, - for stdout. By default captions are printed, as JSONL in a "
            "pipe.",
            flags=("--output", "-o"),
            metavar="FILE|FOLDER/",
            default_shown=False,
            panel=OUTPUT,
        ),
    ] = ()
    subtitles: Annotated[
        Literal["srt", "vtt"],
        Option("Format of subtitles in a folder or next to videos.", metavar="srt|vtt", panel=OUTPUT),
    ] = "srt"
    beside: Annotated[bool, Option("Write subtitles next to each video.", panel=OUTPUT)] = False
    max_cue: Annotated[
        float,
        Option(
            "Longest time that a subtitle is shown, even if its segment is longer; inf for no limit.",
            metavar="SECONDS",
            panel=OUTPUT,
        ),
    ] = 7.0
    embed: Annotated[
        Path | None,
        Option(
            "Also write embeddings to an index for coca search.", metavar="FOLDER/", default_shown=False, panel=OUTPUT
        ),
    ] = None
    template: Annotated[
        str | None,
        Option(
            "Format of a line of .txt, as '{video}\\t{start:.1f}\\t{caption}', with the fields of JSONL and stem, name "
            "and folder.",
            metavar="TEXT",
            default_shown=r"{caption}; for several videos {video}\t{caption}",
            panel=OUTPUT,
        ),
    ] = None
    run: RunOptions = field(default_factory=RunOptions)
    files: FileOptions = field(default_factory=FileOptions)
    segments: Segments = "none"
    merge: Annotated[
        float | None,
        Option(
            "Merge consecutive segments with the same caption, or with embeddings at least this similar, such as 0.95.",
            metavar="COSINE",
            minimum=-1,
            maximum=1,
            default_shown=False,
            panel=FRAMES,
        ),
    ] = None
    frames: Frames = "middle"
    num_frames: NumFrames = 8
    pool: Pool = "joint"
    model: ModelOptions = field(default_factory=ModelOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
    prompt: Annotated[
        str, Option("Text that every caption begins with.", metavar="TEXT", default_shown=False, panel=ADVANCED)
    ] = ""
    rerank: Annotated[
        bool,
        Option(
            "Choose the candidate that is most similar to the picture instead of the most likely one.", panel=ADVANCED
        ),
    ] = False
    min_score: Annotated[
        float | None,
        Option(
            "Mark captions as weak if they are less similar to the picture than this.",
            metavar="COSINE",
            minimum=-1,
            maximum=1,
            default_shown=False,
            panel=ADVANCED,
        ),
    ] = None
