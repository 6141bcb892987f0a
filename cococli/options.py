"""Every option once: its flag, help and limits, for commands, config.toml, Python and resuming."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from .errors import UsageError
from .urls import path_of

INPUT, DATA, OUTPUT, FRAMES, MODEL, ADVANCED = "Input", "Data", "Output", "Frames", "Model", "Advanced"
CLUSTER = "Cluster"

AUTO: Literal["auto"] = "auto"
AutoNumber = int | Literal["auto"]

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """Presentation of a request's field on the command line.

    Attributes:
        help: What the option does, in one sentence or two.
        flags: Names of the flag; by default the name of the field.
        metavar: What stands for the value in help pages, such as `FILE`; empty for switches.
        minimum: Least value of a number.
        maximum: Greatest value of a number.
        panel: Heading in help pages.
        env: Environment variable that sets it.
        complete: Words that complete it, or `model`, `stored`, `fetchable`, `architecture` for names of models.
        default_shown: Text that help pages show as the default, or whether they show it.
        argument: Whether it is a positional argument.
        aliases: Former names of the flag, which help pages and completion leave out.
        hidden: Whether help pages and completion leave it out.
        url: Whether a path may be a URL.
    """

    help: str
    flags: tuple[str, ...] = ()
    metavar: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    panel: str | None = None
    env: str | None = None
    complete: tuple[str, ...] | str = ()
    default_shown: str | bool = True
    argument: bool = False
    aliases: tuple[str, ...] = ()
    hidden: bool = False
    url: bool = False


Timeout = Annotated[
    float,
    Option(
        "Skip videos that take longer than this to read.",
        metavar="SECONDS",
        minimum=0.1,
        maximum=1_000_000,
        panel=INPUT,
    ),
]


@dataclass(frozen=True)
class FileOptions:
    """Filters for input files."""

    include: Annotated[
        tuple[str, ...],
        Option(
            "Take only files that match, as '*.mov' or 'trip/**'; repeatable.",
            metavar="GLOB",
            default_shown=False,
            panel=INPUT,
        ),
    ] = ()
    exclude: Annotated[
        tuple[str, ...],
        Option("Leave out files and folders that match; repeatable.", metavar="GLOB", default_shown=False, panel=INPUT),
    ] = ()
    since: Annotated[
        str | None,
        Option(
            "Take only files modified since a date, as 2024-05-01, or within an age, as 7d, 12h, 30m.",
            metavar="DATE|AGE",
            default_shown=False,
            panel=INPUT,
        ),
    ] = None
    timeout: Timeout = 60.0


ShardOption = Annotated[
    str | None,
    Option(
        "Take only one of several disjoint parts of the inputs, from 0/16 to 15/16, into an output named after it, as "
        "out-00003-of-00016.jsonl. auto takes the index and number of a SLURM array, of RANK and WORLD_SIZE, and the "
        "like; auto/16 only the index. coca merge joins the parts.",
        metavar="I/N|auto",
        default_shown=False,
        panel=INPUT,
    ),
]


LogFile = Annotated[
    Path | None,
    Option("Append notes, warnings and errors to this file, with timestamps.", metavar="FILE", default_shown=False),
]


@dataclass(frozen=True)
class RunOptions:
    """Treatment of output from earlier runs."""

    overwrite: Annotated[bool, Option("Overwrite existing output.", panel=OUTPUT)] = False
    retry_failed: Annotated[bool, Option("Retry inputs that failed before.", panel=OUTPUT)] = False
    log_file: LogFile = None


Frames = Annotated[
    Literal["middle", "multi"],
    Option(
        "Use the middle frame of a video, or several frames spread evenly over it.",
        metavar="middle|multi",
        panel=FRAMES,
    ),
]
NumFrames = Annotated[int, Option("Number of frames that multi uses.", metavar="N", panel=FRAMES)]
Pool = Annotated[
    Literal["joint", "mean"],
    Option(
        "Combine several frames by attending to all of them at once, or by averaging frame by frame.",
        metavar="joint|mean",
        panel=FRAMES,
    ),
]
Segments = Annotated[
    str,
    Option(
        "Split videos at scene changes, or into pieces of this many seconds.",
        metavar="none|scene|SECONDS",
        complete=("none", "scene"),
        panel=FRAMES,
    ),
]


Engine = Annotated[
    Literal["auto", "mindspore", "torch", "openvino"],
    Option(
        "Inference engine: auto, mindspore, torch or openvino. auto selects mindspore on Ascend, torch on a GPU, else "
        "openvino if it is installed, else torch. coca bench times them.",
        metavar="NAME",
        env="COCA_ENGINE",
        panel=MODEL,
    ),
]
Device = Annotated[
    str,
    Option(
        "Device: auto, cpu, cuda, mps (torch) or ascend (mindspore); cuda:1 is the second GPU.",
        metavar="NAME",
        complete=("auto", "cpu", "cuda", "mps", "ascend"),
        panel=MODEL,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "tf32", "bf16", "fp16", "int8"],
    Option(
        "auto, fp32, tf32, bf16, fp16 or int8. auto selects 16 bits where the hardware supports them well, else fp32. "
        "int8 (openvino) is the fastest on CPUs and slightly less exact.",
        metavar="TYPE",
        env="COCA_PRECISION",
        panel=MODEL,
    ),
]
Threads = Annotated[int, Option("Number of CPU threads; 0 uses one per core.", metavar="N", minimum=0, panel=MODEL)]


@dataclass(frozen=True)
class EngineOptions:
    """Engine, device and precision of the computation."""

    engine: Engine = "auto"
    device: Device = "auto"
    precision: Precision = "auto"
    threads: Threads = 0


ModelName = Annotated[
    str | None,
    Option(
        "Model name, or path of a converted checkpoint. Defaults to the model fetched last.",
        flags=("--model", "-m"),
        metavar="NAME|PATH",
        env="COCA_MODEL",
        complete="model",
        default_shown=False,
        panel=MODEL,
    ),
]


@dataclass(frozen=True)
class ModelOptions(EngineOptions):
    """Model, and how it runs."""

    model: ModelName = None
    batch_size: Annotated[
        AutoNumber,
        Option(
            "Number of clips that go through the model at once. auto selects what is fast and fits into memory.",
            metavar="auto|N",
            minimum=1,
            maximum=4096,
            complete=(AUTO,),
            panel=MODEL,
        ),
    ] = AUTO
    readers: Annotated[
        AutoNumber,
        Option(
            "Number of processes that read videos. auto uses the cores that computation leaves idle.",
            metavar="auto|N",
            minimum=1,
            maximum=256,
            complete=(AUTO,),
            panel=INPUT,
        ),
    ] = AUTO


@dataclass(frozen=True)
class RayOptions:
    """A Ray cluster that computes, and what an engine takes of it."""

    ray: Annotated[
        str | None,
        Option(
            "Compute with Ray: local starts it on this machine, auto joins the cluster of this machine, or give the "
            "address of another.",
            metavar="local|auto|ADDRESS",
            complete=("local", "auto"),
            default_shown=False,
            panel=CLUSTER,
        ),
    ] = None
    ray_actors: Annotated[
        str,
        Option(
            "Number of engines in the cluster, or least and most of them, as in 2:16. auto takes as many as fit.",
            metavar="auto|N|MIN:MAX",
            complete=(AUTO,),
            panel=CLUSTER,
        ),
    ] = AUTO
    ray_gpus: Annotated[
        float | None,
        Option(
            "GPUs or NPUs of an engine, such as 0.25 if four share one; 0 for none.",
            metavar="N",
            minimum=0,
            maximum=64,
            default_shown="1 if the cluster has any",
            panel=CLUSTER,
        ),
    ] = None


JsonOutput = Annotated[bool, Option("Print JSON.", flags=("--json",))]


def options_of(request: type) -> Iterator[tuple[dataclasses.Field[Any], Any, Option]]:
    """Yield the fields of a request with their types and options; those of nested groups as if they were its own."""
    if not dataclasses.is_dataclass(request):
        return
    hints = get_type_hints(request, include_extras=True)
    for field in dataclasses.fields(request):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from options_of(hint)  # type: ignore[arg-type]
        elif found := [extra for extra in getattr(hint, "__metadata__", ()) if isinstance(extra, Option)]:
            yield field, hint.__origin__, found[0]


def types_of(request: type) -> dict[str, Any]:
    """Return the types of all fields of a request by name, those of nested groups included, for pydantic."""
    from pydantic import BeforeValidator, Field

    types: dict[str, Any] = {}
    for name, hint in get_type_hints(request, include_extras=True).items():
        if dataclasses.is_dataclass(hint):
            types |= types_of(hint)  # type: ignore[arg-type]
        elif hasattr(hint, "__metadata__"):
            kind, option = hint.__origin__, hint.__metadata__[0]
            if kind == AutoNumber:
                types[name] = Annotated[Any, BeforeValidator(auto_number(option))]
            elif kind in (Path, Path | None):
                types[name] = Annotated[kind, BeforeValidator(_path)]
            else:
                types[name] = Annotated[kind, Field(ge=option.minimum, le=option.maximum)]
        else:
            types[name] = hint
    return types


def _path(value: object) -> object:
    return path_of(value) if isinstance(value, str) else value


def auto_number(option: Option) -> Callable[[object], AutoNumber]:
    """Return a function that converts `auto` or a number, and raises ValueError outside of the limits of an option."""

    def convert(value: object) -> AutoNumber:
        if value == AUTO:
            return AUTO
        number = int(text) if (text := str(value)).isdecimal() else -1
        if not (option.minimum or 0) <= number <= (option.maximum or number):
            raise ValueError(f"{text!r} is neither auto nor a number from {option.minimum} to {option.maximum}")
        return number

    return convert


def check_limits(options: object) -> None:
    """Check numbers against the limits of their options, which NaN never satisfies.

    Raises:
        UsageError: A number is out of range.
    """
    for field, _, option in options_of(type(options)):
        value, low, high = getattr(options, field.name), option.minimum, option.maximum
        if (low is not None or high is not None) and not isinstance(value, Real):
            raise UsageError(f"{field.name} must be a number, not {value!r}")
        if (low is not None and not low <= value) or (high is not None and not value <= high):
            flag = option.flags[0] if option.flags else f"--{field.name.replace('_', '-')}"
            limits = f"from {low} to {high}" if high is not None else f"at least {low}"
            raise UsageError(f"{flag} {value} must be {limits}")


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the default of a field; `dataclasses.MISSING` where it has none."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def build(request: type[T], values: Mapping[str, Any]) -> T:
    """Build a request from a flat mapping of its options, including those of nested groups.

    Args:
        values: Values of the right types by the names of fields; fields that are left out keep their defaults.

    Raises:
        UsageError: An option has an invalid value.
    """
    hints = get_type_hints(request)
    fields = {
        field.name: build(hints[field.name], values)
        if dataclasses.is_dataclass(hints[field.name])
        else values[field.name]
        for field in dataclasses.fields(request)  # type: ignore[arg-type]
        if field.name in values or dataclasses.is_dataclass(hints[field.name])
    }
    return request(**fields)
