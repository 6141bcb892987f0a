"""Options that commands share: their names, help and completion."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from .completion import complete_from, complete_model

OUTPUT = "Output"
INPUT = "Input"
MODEL = "Model"
FRAMES = "Frames"
DATA = "Data"


_PATHS = typer.Argument(
    metavar="PATHS",
    show_default=False,
    help="Videos and pictures, folders of them, patterns in quotes, as 'trip/**/*.mp4', lists, as @list.txt, or - "
    "for a list on stdin.",
)
PathsOrNone = Annotated[list[str] | None, _PATHS]
Karpathy = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        show_default=False,
        help="Karpathy's split of it (dataset_coco.json), which papers use.",
        rich_help_panel=DATA,
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", show_default=False, help="Where its pictures are, if elsewhere.", rich_help_panel=DATA
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
        max=4096,
        help="Videos that go through the model at once. Fewer take less memory.",
        rich_help_panel=MODEL,
    ),
]
Engine = Annotated[
    Literal["auto", "mindspore", "torch", "openvino"],
    typer.Option(
        metavar="NAME",
        envvar="COCA_ENGINE",
        help="What computes: auto, mindspore, torch or openvino. auto takes torch on a graphics card, else openvino if "
        "it is installed, else torch. coca bench times them.",
        rich_help_panel=MODEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=complete_from("auto", "cpu", "cuda", "mps"),
        help="Where torch computes: auto, cpu, cuda or mps; cuda:1 is the second card.",
        rich_help_panel=MODEL,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16", "fp16", "int8"],
    typer.Option(
        envvar="COCA_PRECISION",
        metavar="BITS",
        help="auto, fp32, bf16, fp16 or int8. auto takes 16 bits where the machine is fast at them, else 32. int8 "
        "(openvino) is the fastest on a CPU and a little less exact.",
        rich_help_panel=MODEL,
    ),
]
Threads = Annotated[
    int, typer.Option(metavar="N", min=0, help="Threads that compute; 0: one a core.", rich_help_panel=MODEL)
]
Frames = Annotated[
    Literal["middle", "multi"],
    typer.Option(
        metavar="middle|multi",
        help="Look at the frame in the middle of a video, or at several, spread over it.",
        rich_help_panel=FRAMES,
    ),
]
NumFrames = Annotated[int, typer.Option(metavar="N", help="How many frames multi looks at.", rich_help_panel=FRAMES)]
Pool = Annotated[
    Literal["joint", "mean"],
    typer.Option(
        metavar="joint|mean",
        help="How several frames become one: looked at together, or averaged frame by frame.",
        rich_help_panel=FRAMES,
    ),
]
SegmentsOption = Annotated[
    str,
    typer.Option(
        metavar="none|scene|SECONDS",
        autocompletion=complete_from("none", "scene"),
        help="Take a video as a whole, scene by scene, or in pieces of this many seconds.",
        rich_help_panel=FRAMES,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", metavar="", help="Overwrite existing output.", rich_help_panel=OUTPUT),
]
Replace = Annotated[
    bool, typer.Option("--overwrite", metavar="", help="Replace existing files that coca did not write.")
]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", metavar="", help="Try again what failed before.", rich_help_panel=OUTPUT)
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB",
        show_default=False,
        help="Take only files that match, as '*.mov' or 'trip/**'. May be given several times.",
        rich_help_panel=INPUT,
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GLOB", show_default=False, help="Leave out files and folders that match.", rich_help_panel=INPUT
    ),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="DATE|AGE",
        show_default=False,
        help="Take only files modified since a date, as 2024-05-01, or within an age, as 7d, 12h, 30m.",
        rich_help_panel=INPUT,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        min=0.1,
        max=1_000_000,
        help="Skip videos that take longer than this to read.",
        rich_help_panel=INPUT,
    ),
]
JsonProgress = Annotated[
    bool, typer.Option("--json", metavar="", help="Print progress, notes and errors as lines of JSON on stderr.")
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", show_default=False, help="Append notes, warnings and errors to this file, with the time."
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        metavar="",
        help="Show no progress and no notes, only warnings and errors.",
    ),
]
