"""Options that commands share: their names, help and completion."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .completion import complete_model

MODEL = "Model"
FRAMES = "Frames"
SEARCH = "Search"

Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATHS",
        show_default=False,
        help="Videos and pictures, folders of them, or patterns in quotes, as 'trip/**/*.mp4'.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        envvar="COCA_MODEL",
        autocompletion=complete_model,
        show_default=False,
        help="A model's name, or the path of a converted checkpoint. By default the one fetched last.",
        rich_help_panel=MODEL,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        help="Videos that go through the model at once. Fewer take less memory.",
        rich_help_panel=MODEL,
    ),
]
Frames = Annotated[
    Literal["middle", "multi"],
    typer.Option(
        help="Look at the frame in the middle of a video, or at several, spread over it.",
        rich_help_panel=FRAMES,
    ),
]
NumFrames = Annotated[int, typer.Option(metavar="N", help="How many frames multi looks at.", rich_help_panel=FRAMES)]
Pool = Annotated[
    Literal["joint", "mean"],
    typer.Option(
        help="How several frames become one: looked at together, or averaged frame by frame.",
        rich_help_panel=FRAMES,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        show_default=False,
        help="Write captions.jsonl (a line of JSON for each video) or video.srt (subtitles of one video). "
        "An existing file is replaced. Without it, captions go to the terminal, or as JSONL into a pipe.",
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", metavar="", help="Show no progress and no notes, only warnings and errors.")
]

Search = Annotated[
    Literal["beam", "legacy", "greedy", "top-k", "top-p"],
    typer.Option(
        metavar="METHOD",
        help="beam finds the likeliest caption, greedy is quicker, top-k and top-p draw words at random, "
        "legacy is the beam search of open_clip.",
        rich_help_panel=SEARCH,
    ),
]
Beams = Annotated[int, typer.Option(metavar="N", help="Captions followed side by side.", rich_help_panel=SEARCH)]
MinLength = Annotated[
    int,
    typer.Option(metavar="N", help="Fewest tokens of a caption, start and end included.", rich_help_panel=SEARCH),
]
MaxLength = Annotated[
    int, typer.Option(metavar="N", help="Most tokens of a caption, start and end included.", rich_help_panel=SEARCH)
]
LengthPenalty = Annotated[
    float,
    typer.Option(metavar="X", help="Above 1 favours longer captions, below 1 shorter ones.", rich_help_panel=SEARCH),
]
RepetitionPenalty = Annotated[
    float, typer.Option(metavar="X", help="Above 1 makes words that were said less likely.", rich_help_panel=SEARCH)
]
NoRepeatNgram = Annotated[
    int, typer.Option(metavar="N", help="Never say the same N tokens twice; 0 allows it.", rich_help_panel=SEARCH)
]
TopK = Annotated[
    int, typer.Option(metavar="N", help="Draw among the N likeliest tokens (top-k).", rich_help_panel=SEARCH)
]
TopP = Annotated[
    float,
    typer.Option(
        metavar="P", help="Draw among the likeliest tokens that share this probability (top-p).", rich_help_panel=SEARCH
    ),
]
Temperature = Annotated[
    float,
    typer.Option(metavar="T", help="Below 1 draws safer, above 1 bolder (top-k, top-p).", rich_help_panel=SEARCH),
]
Seed = Annotated[int, typer.Option(metavar="N", help="The same seed draws the same captions.", rich_help_panel=SEARCH)]
Prompt = Annotated[
    str,
    typer.Option(metavar="TEXT", show_default=False, help="Words the caption begins with.", rich_help_panel=SEARCH),
]
