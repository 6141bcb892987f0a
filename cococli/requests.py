"""Requests: one dataclass per command, with all of its options."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from .decoding.search_options import SearchOptions
from .options import (
    ADVANCED,
    AUTO,
    DATA,
    FRAMES,
    INPUT,
    MODEL,
    OUTPUT,
    Device,
    EngineOptions,
    FileOptions,
    Frames,
    LogFile,
    ModelName,
    ModelOptions,
    NumFrames,
    Option,
    Pool,
    RayOptions,
    RunOptions,
    Segments,
    ShardOption,
    Threads,
    Timeout,
)

Paths = Annotated[
    tuple[str, ...],
    Option(
        "Videos and pictures, their URLs, folders of them, patterns in quotes, as 'trip/**/*.mp4', lists, as "
        "@list.txt, or - for a list on stdin.",
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
            "Output file, perhaps of a store; repeat for several formats: .jsonl, .csv, .txt, .parquet, .html or .json "
            "(COCO's results) for all videos, out/%05d.parquet or .jsonl for numbered files, shards/%06d.tar for "
            "WebDataset, .srt or .vtt for one video, a folder for the subtitles or text of each, - for stdout. By "
            "default captions are printed, as JSONL in a pipe.",
            flags=("--output", "-o"),
            metavar="FILE|FOLDER/",
            default_shown=False,
            panel=OUTPUT,
        ),
    ] = ()
    subtitles: Annotated[
        Literal["srt", "vtt", "txt"],
        Option(
            "Format of the files in a folder or next to videos and pictures: subtitles, or text with a caption on each "
            "line.",
            flags=("--as",),
            aliases=("--subtitles",),
            metavar="srt|vtt|txt",
            panel=OUTPUT,
        ),
    ] = "srt"
    beside: Annotated[
        bool, Option("Write subtitles next to each video, or text next to each video and picture.", panel=OUTPUT)
    ] = False
    existing: Annotated[
        Literal["keep", "replace", "append"] | None,
        Option(
            "Keep the files of each video or picture that coca did not write, and skip these inputs if there is no "
            "other output; replace them; or append the caption to their text, after a comma. By default they are an "
            "error.",
            metavar="keep|replace|append",
            default_shown=False,
            panel=OUTPUT,
        ),
    ] = None
    prefix: Annotated[
        str,
        Option(
            "Text before each caption in the .txt of a video or picture.",
            metavar="TEXT",
            default_shown=False,
            panel=OUTPUT,
        ),
    ] = ""
    suffix: Annotated[
        str,
        Option(
            "Text after each caption in the .txt of a video or picture.",
            metavar="TEXT",
            default_shown=False,
            panel=OUTPUT,
        ),
    ] = ""
    cut_to: Annotated[
        Path | None,
        Option(
            "Also cut each segment out of its video with ffmpeg, into a clip with its caption in a .txt beside it.",
            metavar="FOLDER/",
            default_shown=False,
            panel=OUTPUT,
        ),
    ] = None
    max_cue: Annotated[
        float,
        Option(
            "Longest time that a subtitle is shown, even if its segment is longer; inf for no limit.",
            metavar="SECONDS",
            panel=OUTPUT,
        ),
    ] = 7.0
    shard_size: Annotated[
        int,
        Option("Inputs of each numbered file.", metavar="N", minimum=1, maximum=1_000_000, panel=OUTPUT),
    ] = 10_000
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
    shard: ShardOption = None
    cluster: RayOptions = field(default_factory=RayOptions)
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


@dataclass(frozen=True)
class EmbedRequest:
    """Videos, pictures and texts to embed, how, and where the embeddings go."""

    paths: Paths = ()
    output: Annotated[
        tuple[str, ...],
        Option(
            "Output; repeat for several: a folder for an index that coca search reads, a .npz, .jsonl or .parquet "
            "file, a .lance table of LanceDB, or - for JSONL on stdout.",
            flags=("--output", "-o"),
            metavar="FOLDER/|FILE",
            default_shown=False,
            panel=OUTPUT,
        ),
    ] = ()
    layout: Annotated[
        Literal["index", "clip-retrieval"],
        Option(
            "Format of a folder: an index, or embeddings and metadata for clip-retrieval.",
            flags=("--as",),
            metavar="index|clip-retrieval",
            panel=OUTPUT,
        ),
    ] = "index"
    texts: Annotated[
        tuple[Path, ...],
        Option("Also embed the lines of a text file; repeatable.", metavar="FILE", default_shown=False, panel=INPUT),
    ] = ()
    half: Annotated[bool, Option("Store vectors as float16 in a new index, which halves its size.", panel=OUTPUT)] = (
        False
    )
    run: RunOptions = field(default_factory=RunOptions)
    files: FileOptions = field(default_factory=FileOptions)
    shard: ShardOption = None
    cluster: RayOptions = field(default_factory=RayOptions)
    segments: Segments = "none"
    frames: Frames = "middle"
    num_frames: NumFrames = 8
    pool: Pool = "joint"
    model: ModelOptions = field(default_factory=ModelOptions)

    @property
    def dtype(self) -> str | None:
        """Type of the vectors; None for that of an existing index, or float32 in a new one."""
        return "float16" if self.half else None


@dataclass(frozen=True)
class MergeRequest:
    """Outputs of shards, and where they are joined."""

    paths: Annotated[
        tuple[Path, ...],
        Option(
            "Outputs of all shards: .jsonl files or numbered files of coca caption, or indexes of coca embed.",
            metavar="SHARDS",
            default_shown=False,
            argument=True,
        ),
    ]
    output: Annotated[
        Path,
        Option(
            "Output: a .jsonl file, a folder for an index, or numbered files in a new folder, as merged/%06d.tar.",
            flags=("--output", "-o"),
            metavar="FILE|FOLDER/",
            default_shown=False,
        ),
    ]
    overwrite: Annotated[bool, Option("Overwrite existing output.")] = False


@dataclass(frozen=True)
class ReportRequest:
    """Captions, and the page that shows them."""

    records: Annotated[
        Path,
        Option("Captions: a .jsonl file of coca caption.", metavar="FILE", default_shown=False, argument=True),
    ]
    output: Annotated[
        Path,
        Option("Output: an .html file.", flags=("--output", "-o"), metavar="FILE", default_shown=False),
    ]
    index: Annotated[
        Path | None,
        Option("Index of the same videos, for a map of their embeddings.", metavar="INDEX", default_shown=False),
    ] = None
    root: Annotated[
        Path | None,
        Option(
            "Where the videos are now, if they were moved: the folder itself or one above it.",
            metavar="FOLDER",
            default_shown=False,
        ),
    ] = None
    overwrite: Annotated[bool, Option("Replace a file that coca did not write.")] = False


IndexModel = Annotated[
    str | None,
    Option(
        "Model of the index, if it is not found by its name.",
        metavar="NAME|PATH",
        complete="model",
        default_shown=False,
        panel=MODEL,
    ),
]

RESULTS = "Results"
_MOST = 1_000_000_000  # results or steps, for example


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """Query, index and results of a search."""

    query: Annotated[
        tuple[str, ...],
        Option(
            "What to find: sentences, pictures and videos, each with an optional weight, as in 'a dog^2' photo.jpg.",
            metavar="QUERY",
            default_shown=False,
            argument=True,
        ),
    ] = ()
    index: Annotated[
        Path,
        Option(
            "Index folder, or LanceDB table (x.lance), written by coca embed.",
            metavar="INDEX",
            default_shown=False,
            argument=True,
        ),
    ]
    exclude: Annotated[
        tuple[str, ...],
        Option(
            "Leave out what matches this better than the query; repeatable.",
            flags=("--not",),
            metavar="QUERY",
            default_shown=False,
            panel=RESULTS,
        ),
    ] = ()
    count: Annotated[
        int, Option("Number of results.", flags=("-k",), metavar="N", minimum=1, maximum=_MOST, panel=RESULTS)
    ] = 10
    min_score: Annotated[
        float | None,
        Option(
            "Leave out results that are less similar.",
            metavar="COSINE",
            minimum=-1,
            maximum=1,
            default_shown=False,
            panel=RESULTS,
        ),
    ] = None
    per_video: Annotated[
        int | None,
        Option(
            "Maximum number of moments of one video.",
            metavar="N",
            minimum=1,
            maximum=_MOST,
            default_shown=False,
            panel=RESULTS,
        ),
    ] = None
    among: Annotated[
        Literal["videos", "texts"] | None,
        Option(
            "Search videos and pictures, or texts. Defaults to videos and pictures if the index holds any.",
            metavar="videos|texts",
            default_shown=False,
            panel=RESULTS,
        ),
    ] = None
    approximate: Annotated[
        bool | None,
        Option(
            "Search a graph, which is faster but may miss a few results, or all vectors. Exact up to a million vectors "
            "by default. Approximate search needs the package usearch.",
            flags=("--approximate/--exact",),
            default_shown=False,
            panel=ADVANCED,
        ),
    ] = None
    root: Annotated[
        Path | None,
        Option(
            "Where the videos are now, if they were moved: the folder itself or one above it.",
            metavar="FOLDER",
            default_shown=False,
            panel=RESULTS,
        ),
    ] = None
    threshold: Annotated[
        float,
        Option("Least similarity of videos for --duplicates.", metavar="COSINE", minimum=-1, maximum=1, panel=ADVANCED),
    ] = 0.96
    index_model: IndexModel = None
    compute: EngineOptions = field(default_factory=EngineOptions)


@dataclass(frozen=True)
class ReviewRequest:
    """Captions to review, and how the page that shows them is served."""

    path: Annotated[
        Path, Option("A .jsonl file of coca caption.", metavar="FILE.jsonl", default_shown=False, argument=True)
    ]
    index: Annotated[
        Path | None,
        Option(
            "Index of the same videos, to search by sentences and pictures, and for a map of their embeddings.",
            metavar="INDEX",
            default_shown=False,
        ),
    ] = None
    export: Annotated[
        str | None,
        Option(
            "Instead of serving the page, write the captions that were corrected or accepted as data for coca "
            "finetune: a .csv file, a .json file in COCO's layout, or a folder of links with a .txt beside each.",
            metavar="FILE|FOLDER/",
            default_shown=False,
        ),
    ] = None
    overwrite: Annotated[bool, Option("Overwrite an existing export.")] = False
    port: Annotated[
        int, Option("Port on 127.0.0.1.", metavar="N", minimum=0, maximum=65_535, default_shown="a free one")
    ] = 0
    browser: Annotated[bool, Option("Open the page in a browser.", flags=("--browser/--no-browser",))] = True
    index_model: IndexModel = None
    compute: EngineOptions = field(default_factory=EngineOptions)


DATA_HELP = (
    "Pictures or videos with captions: COCO's layout, a Karpathy split, a list such as captions.csv or "
    "list.tsv:column, Parquet, WebDataset tars, which may be URLs, or a .txt beside each file."
)
Split = Annotated[Literal["train", "val", "test"], Option("Split of the data.", metavar="train|val|test", panel=DATA)]
Limit = Annotated[
    int | None,
    Option("Use only the first N files.", metavar="N", minimum=1, maximum=_MOST, default_shown=False, panel=DATA),
]
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


BenchmarkName = Literal[
    "msr-vtt",
    "msvd",
    "vatex",
    "activitynet",
    "flickr30k",
    "coco",
    "nocaps",
    "imagenet",
    "kinetics",
    "ucf101",
    "hmdb51",
    "ucf101-2",
    "hmdb51-2",
    "ucf101-3",
    "hmdb51-3",
]


@dataclass(frozen=True)
class EvaluateRequest:
    """Captions or a model to evaluate, on which data, and where the report goes."""

    data: Annotated[
        Path | None, Option(DATA_HELP, metavar="FOLDER|LIST", default_shown=False, panel=DATA, url=True)
    ] = None
    benchmark: Annotated[
        BenchmarkName | None,
        Option(
            "Public benchmark to evaluate on: msr-vtt, msvd, vatex, activitynet, flickr30k, coco, nocaps, imagenet, "
            "kinetics, ucf101 or hmdb51. --data names the folder with its authors' files.",
            metavar="NAME",
            default_shown=False,
            panel=DATA,
        ),
    ] = None
    split: Annotated[
        Literal["train", "val", "test"] | None,
        Option("Split of the data.", metavar="train|val|test", default_shown="val, or the benchmark's", panel=DATA),
    ] = None
    karpathy: Karpathy = None
    images: Images = None
    limit: Limit = None
    classes: Annotated[
        Path | None,
        Option(
            "Folder with a folder of pictures for each class, or tars with .cls, to measure zero-shot classification.",
            metavar="FOLDER|TARS",
            default_shown=False,
            panel=DATA,
            url=True,
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
            "Sentences that a class name is put into: CLIP's 80, its best 7, its 28 for actions, or the lines of a "
            "file.",
            metavar="openai|simple|actions|FILE",
            complete=("openai", "simple", "actions"),
            default_shown="openai; actions for benchmarks of actions",
            panel=DATA,
        ),
    ] = "openai"
    predictions: Annotated[
        Path | None,
        Option(
            "Score existing captions, without a model: coca's .jsonl, results of COCO or densevid_eval, an object of "
            "captions, or list.csv:column.",
            metavar="FILE",
            default_shown=False,
            panel=DATA,
        ),
    ] = None
    allow_missing: Annotated[
        bool, Option("Score --predictions even if some pictures have none; those are left out.", panel=DATA)
    ] = False
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
        Option(
            "Measure only captions, or only retrieval.", metavar="captions|retrieval", default_shown=False, panel=DATA
        ),
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


@dataclass(frozen=True)
class ScoreRequest:
    """Captions to compare with their pictures or videos, how, and where the scores go."""

    data: Annotated[Path, Option(DATA_HELP, metavar="DATA", default_shown=False, argument=True, url=True)]
    output: Annotated[
        tuple[str, ...],
        Option(
            "Output file; repeat for several formats: .jsonl, .csv or .parquet, - for stdout. By default JSONL is "
            "printed.",
            flags=("--output", "-o"),
            metavar="FILE",
            default_shown=False,
            panel=OUTPUT,
        ),
    ] = ()
    run: RunOptions = field(default_factory=RunOptions)
    split: Split = "train"
    karpathy: Karpathy = None
    images: Images = None
    limit: Limit = None
    timeout: Timeout = 60.0
    frames: Frames = "middle"
    num_frames: NumFrames = 8
    pool: Pool = "joint"
    cluster: RayOptions = field(default_factory=RayOptions)
    model: ModelOptions = field(default_factory=ModelOptions)


_training = partial(Option, panel="Training")
_run = partial(Option, panel="Run")


@dataclass(frozen=True)
class FinetuneRequest:
    """Data to train on, how, and what the run keeps. None stands for a default that depends on the rest."""

    data: Annotated[Path, Option(DATA_HELP, metavar="FOLDER|LIST", default_shown=False, panel=DATA, url=True)]
    karpathy: Karpathy = None
    images: Images = None
    strict: Annotated[bool, Option("Stop if files are missing or broken.", panel=DATA)] = False
    frames: Frames = "middle"
    num_frames: NumFrames = 8
    model: ModelName = None
    from_scratch: Annotated[bool, _training("Start from random weights; --config names the architecture.")] = False
    config: Annotated[
        str | None,
        _training(
            "Architecture to train from scratch: a model's name, or open_clip's config file.",
            metavar="NAME|FILE",
            complete="architecture",
            default_shown=False,
        ),
    ] = None
    epochs: Annotated[
        float | None,
        _training("Passes over all captions.", metavar="N", minimum=0, maximum=_MOST, default_shown="1.0"),
    ] = None
    steps: Annotated[
        int | None,
        _training("Number of steps instead of epochs.", metavar="N", minimum=1, maximum=_MOST, default_shown=False),
    ] = None
    batch_size: Annotated[int, _training("Captions per batch.", metavar="N", minimum=1, maximum=65_536)] = 32
    accumulate: Annotated[
        int,
        _training(
            "Batches per step. Losses equal those of one large batch, in the memory of a small one.",
            metavar="N",
            minimum=1,
            maximum=65_536,
        ),
    ] = 1
    learning_rate: Annotated[
        float | None,
        _training(
            "Peak learning rate. 1e-05 suits trained models, 1e-04 LoRA, 1e-03 training from scratch.",
            flags=("--lr",),
            aliases=("--rate",),
            metavar="X",
            minimum=0,
            maximum=1,
            default_shown="1e-05; LoRA 1e-04; from scratch 1e-03",
        ),
    ] = None
    scheduler: Annotated[
        Literal["cosine", "const", "const-cooldown"],
        _training(
            "Learning rate after the warmup: half a cosine to 0, constant, or constant until a line to 0 in the last "
            "fifth of the run. A constant rate suits trials of an unknown length.",
        ),
    ] = "cosine"
    warmup: Annotated[
        int | None,
        _training(
            "Warmup steps, in which the learning rate rises.",
            metavar="N",
            minimum=0,
            maximum=_MOST,
            default_shown="a tenth of the steps",
        ),
    ] = None
    weight_decay: Annotated[
        float,
        _training(
            "Weight decay of matrices. 0.1 suits fine-tuning on COCO; open_clip trains from scratch with 0.2.",
            aliases=("--decay",),
            metavar="X",
            minimum=0,
            maximum=1000,
        ),
    ] = 0.1
    clip_grad_norm: Annotated[
        float,
        _training(
            "Maximum norm of the gradients; 0 for no limit.",
            flags=("--grad-clip-norm",),
            aliases=("--clip-grad-norm", "--clip"),
            metavar="X",
            minimum=0,
            maximum=_MOST,
        ),
    ] = 1.0
    caption_loss: Annotated[
        float | None,
        _training(
            "Weight of the caption loss.",
            flags=("--caption-loss-weight",),
            aliases=("--caption",),
            metavar="X",
            minimum=0,
            maximum=1000,
            default_shown="1; from scratch 2",
        ),
    ] = None
    contrastive_loss: Annotated[
        float | None,
        _training(
            "Weight of the contrastive loss. 0 trains captioning alone, which is faster; 1 also trains embeddings for "
            "search.",
            flags=("--contrastive-loss-weight",),
            aliases=("--contrastive",),
            metavar="X",
            minimum=0,
            maximum=1000,
            default_shown="0; from scratch 1",
        ),
    ] = None
    lock_image: Annotated[
        bool, _training("Lock the vision tower. Its image features are computed once and stored on disk.")
    ] = False
    unlocked_groups: Annotated[
        int,
        _training(
            "Groups of the locked vision tower that are trained, from its end: the pooler, then one for each block.",
            metavar="N",
            minimum=0,
            maximum=1000,
        ),
    ] = 0
    lock_text: Annotated[bool, _training("Lock the text tower.")] = False
    freeze: Annotated[
        Literal["none", "vision", "text"], _training("Former name of --lock-image and --lock-text.", hidden=True)
    ] = "none"
    lora: Annotated[
        int,
        _training(
            "Rank of LoRA adapters of the attention matrices, the only weights trained then; merged when saved.",
            metavar="RANK",
            minimum=0,
            maximum=1024,
        ),
    ] = 0
    ema: Annotated[
        float,
        _training(
            "Decay of a moving average of the weights, which is validated and saved; 0 for none. 0.999 suits runs of "
            "thousands of steps.",
            metavar="DECAY",
            minimum=0,
            maximum=0.999999,
        ),
    ] = 0.0
    seed: Annotated[int, _training("Seed of the order of the data and of random weights.", metavar="N", minimum=0)] = 0
    engine: Annotated[
        Literal["torch", "mindspore"],
        Option("Training engine: torch, or mindspore, the reference, for Ascend.", metavar="NAME", panel=MODEL),
    ] = "torch"
    device: Device = "auto"
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        Option(
            "Precision of the computation; weights are kept in fp32. auto selects bf16 on a GPU that supports it, else "
            "fp32. bf16 is also faster on CPUs with AVX512-BF16 or AMX.",
            metavar="TYPE",
            panel=MODEL,
        ),
    ] = "auto"
    threads: Threads = 0
    grad_checkpointing: Annotated[
        bool,
        _training("Recompute activations in the backward pass: a third more time, for a fraction of the memory."),
    ] = False
    workers: Annotated[
        int | None,
        _run("Processes that read files.", metavar="N", minimum=1, maximum=256, default_shown="2; on GPUs up to 8"),
    ] = None
    name: Annotated[
        str | None,
        _run(
            "Name of the run; its model is run:NAME. Derived from the data and the base model by default.",
            metavar="NAME",
            default_shown=False,
        ),
    ] = None
    hold_out: Annotated[
        int,
        _run(
            "Maximum number of held-out examples, of the val split or else of all; 0 for none.",
            metavar="N",
            minimum=0,
            maximum=_MOST,
        ),
    ] = 100
    validate_every: Annotated[
        int | None,
        _run(
            "Steps between validations on the held-out examples.",
            flags=("--val-frequency",),
            aliases=("--validate-every",),
            metavar="N",
            minimum=1,
            maximum=_MOST,
            default_shown="a tenth of the steps",
        ),
    ] = None
    patience: Annotated[
        int | None,
        _run(
            "Stop early after this many validations without a better score.",
            metavar="N",
            minimum=1,
            maximum=_MOST,
            default_shown=False,
        ),
    ] = None
    save_every: Annotated[int, _run("Steps between checkpoints.", metavar="N", minimum=1, maximum=_MOST)] = 500
    keep: Annotated[
        int, _run("Number of recent checkpoints to keep, besides the best.", metavar="N", minimum=1, maximum=_MOST)
    ] = 2
    report_to: Annotated[
        Literal["tensorboard", "wandb"] | None,
        _run(
            "Also report metrics to TensorBoard or Weights & Biases.", metavar="tensorboard|wandb", default_shown=False
        ),
    ] = None
    tensorboard: Annotated[bool, _run("Former name of --report-to tensorboard.", hidden=True)] = False
    overwrite: Annotated[bool, _run("Delete an existing run of this name and start over.")] = False
    log_file: LogFile = None


@dataclass(frozen=True)
class BenchRequest:
    """Model and engines to time."""

    model: ModelName = None
    engines: Annotated[
        str,
        Option("Time only these: mindspore, torch, openvino.", metavar="NAME,...", default_shown=False, panel=MODEL),
    ] = ""
    device: Device = "auto"
    threads: Threads = 0
    rows: Annotated[
        str,
        Option(
            "Numbers of sequences decoded at once, 6 for each clip in the default search. auto times one clip, "
            "and as many as a run decodes at once.",
            metavar="auto|N,...",
        ),
    ] = AUTO
