"""Requests: one dataclass per command, with all of its options."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from .decoding.options import SearchOptions
from .options import (
    ADVANCED,
    DATA,
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
    Timeout,
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


DATA_HELP = (
    "Pictures or videos with captions: COCO's layout, a Karpathy split, a list such as captions.csv or "
    "list.tsv:column, or a .txt beside each file."
)
Karpathy = Annotated[
    Path | None,
    Option(
        "Karpathy split of the data, as papers use (dataset_coco.json).",
        metavar="FILE",
        default_shown=False,
        panel=DATA,
    ),
]
Images = Annotated[
    Path | None,
    Option(
        "Folder of the pictures or videos, if it is not the data's own.",
        metavar="FOLDER",
        default_shown=False,
        panel=DATA,
    ),
]


@dataclass(frozen=True)
class EvaluateRequest:
    """Captions or a model to evaluate, on which data, and where the report goes."""

    data: Annotated[Path | None, Option(DATA_HELP, metavar="FOLDER|LIST", default_shown=False, panel=DATA)] = None
    split: Annotated[
        Literal["train", "val", "test"], Option("Split of the data.", metavar="train|val|test", panel=DATA)
    ] = "val"
    karpathy: Karpathy = None
    images: Images = None
    limit: Annotated[
        int | None,
        Option(
            "Use only the first N files.",
            metavar="N",
            minimum=1,
            maximum=1_000_000_000,
            default_shown=False,
            panel=DATA,
        ),
    ] = None
    classes: Annotated[
        Path | None,
        Option(
            "Folder with a folder of pictures for each class, to measure zero-shot classification.",
            metavar="FOLDER",
            default_shown=False,
            panel=DATA,
        ),
    ] = None
    class_names: Annotated[
        Path | None,
        Option(
            "Names of the class folders: a list that comes with ImageNet, lines of a folder and its name, or a JSON "
            "object of them.",
            metavar="FILE",
            default_shown=False,
            panel=DATA,
        ),
    ] = None
    templates: Annotated[
        str,
        Option(
            "Sentences that a class name is put into: CLIP's 80, its best 7, or the lines of a file.",
            metavar="openai|simple|FILE",
            complete=("openai", "simple"),
            panel=DATA,
        ),
    ] = "openai"
    predictions: Annotated[
        Path | None,
        Option(
            "Score existing captions, without a model: coca's .jsonl, COCO results, an object of captions, or "
            "list.csv:column.",
            metavar="FILE",
            default_shown=False,
            panel=DATA,
        ),
    ] = None
    references: Annotated[
        Path | None,
        Option(
            "References for --predictions: COCO annotations, a Karpathy split, an object of lists of captions, or a "
            "list.",
            metavar="FILE",
            default_shown=False,
            panel=DATA,
        ),
    ] = None
    only: Annotated[
        Literal["captions", "retrieval"] | None,
        Option("Measure only captions, or only retrieval.", metavar="captions|retrieval", default_shown=False),
    ] = None
    output: Annotated[
        Path | None,
        Option(
            "Folder for the report (report.json), captions and vectors; by default in the cache folder.",
            flags=("--output", "-o"),
            metavar="FOLDER/",
            default_shown=False,
            panel=OUTPUT,
        ),
    ] = None
    overwrite: Annotated[
        bool, Option("Replace the report of another evaluation in the output folder.", panel=OUTPUT)
    ] = False
    timeout: Timeout = 60.0
    frames: Frames = "middle"
    num_frames: NumFrames = 8
    pool: Pool = "joint"
    model: ModelOptions = field(default_factory=ModelOptions)
    search: SearchOptions = field(default_factory=SearchOptions)
