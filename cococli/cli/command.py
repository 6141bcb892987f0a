"""The `@command` decorator, which makes commands of functions, and warnings about flags without effect."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from .. import console, interrupts
from ..options import AutoNumber, Option, auto_number, build, default_of, options_of
from ..urls import RemotePath, path_of
from .completion import completer
from .typer_internals import ALIASES, typed

Given = Mapping[str, Any]  # values by the names of parameters


def _searches(*methods: str) -> Callable[[Given], bool]:
    return lambda given: given.get("method", given.get("search")) in (None, *methods)


def _writes(given: Given, *suffixes: str) -> bool:
    return any(str(path).lower().endswith(suffixes) for path in given.get("output") or ())


def _writes_folder(given: Given) -> bool:
    from ..captioning.outputs import is_folder

    return any(map(is_folder, given.get("output") or ()))


def _no(name: str) -> Callable[[Given], bool]:
    return lambda given: not given.get(name)


_READING = ("include", "exclude", "since", "timeout", "readers", "segments", "frames")
_SEARCH = ("method", "search", "beams", "min_length", "max_length", "length_penalty")
_ENGINE = ("engine", "device", "precision", "threads", "batch_size", "readers")
_MODEL = ("model", *_ENGINE, "frames", "method", "search", "only")

# Flags, when they have no effect, and whether they have one.
_EFFECTS: tuple[tuple[tuple[str, ...], str, Callable[[Given], bool]], ...] = (
    (("num_frames", "pool"), "without --frames multi", lambda given: given.get("frames") == "multi"),
    (("ray_actors", "ray_gpus"), "without --ray", lambda given: given.get("ray") is not None),
    (("merge",), "without --segments", lambda given: given.get("segments") != "none"),
    (("top_k",), "without --search top-k", _searches("top-k")),
    (("top_p",), "without --search top-p", _searches("top-p")),
    (("temperature", "seed"), "without --search top-k or top-p", _searches("top-k", "top-p")),
    (("beams", "length_penalty"), "without --search beam or legacy", _searches("beam", "legacy")),
    (
        ("subtitles",),
        "without --beside or -o FOLDER/",
        lambda given: given.get("beside") or _writes_folder(given),
    ),
    (
        ("max_cue",),
        "without subtitles: -o FILE.srt, -o FOLDER/ or --beside",
        lambda given: given.get("beside") or _writes_folder(given) or _writes(given, ".srt", ".vtt"),
    ),
    (
        ("existing",),
        "without --beside, -o FOLDER/ or --cut-to",
        lambda given: given.get("beside") or given.get("cut_to") or _writes_folder(given),
    ),
    (
        ("prefix", "suffix"),
        "without --as txt or --cut-to",
        lambda given: given.get("cut_to") or given.get("subtitles") == "txt",
    ),
    (("template",), "without -o FILE.txt", lambda given: _writes(given, ".txt")),
    (("retry_failed",), "with --overwrite", _no("overwrite")),
    (("verbose",), "with --quiet", _no("quiet")),
    (_READING, "without videos or pictures", lambda given: "paths" not in given or bool(given["paths"])),
    (("threshold",), "without --duplicates", lambda given: bool(given.get("duplicates"))),
    (("count", "min_score", "per_video", "among", "approximate"), "with --duplicates", _no("duplicates")),
    (("karpathy", "images", "limit", "only"), "without --data", lambda given: bool(given.get("data"))),
    (("templates", "class_names"), "without --classes", lambda given: bool(given.get("classes"))),
    (("split",), "without --data or --predictions", lambda given: bool(given.get("data") or given.get("predictions"))),
    (("port", "browser", "index"), "with --export", _no("export")),
    (_SEARCH, "with --only retrieval", lambda given: given.get("only") != "retrieval"),
    (_MODEL, "with --predictions", _no("predictions")),
    (("keep_download",), "with --from", lambda given: "source" not in given or given["source"] is None),
)


def warn_of_flags(context: typer.Context) -> None:
    """Warn of flags on the command line that have no effect, given the others."""
    for names, when, effective in _EFFECTS:
        for option in context.command.params:
            if option.name in names and typed(context, option.name) and not effective(context.params):
                flags = [flag for flag in option.opts if flag not in ALIASES]
                console.warning(f"{max(flags, key=len)} has no effect {when}")


QUIET = Option("Show no progress and no notes, only warnings and errors.", flags=("--quiet", "-q"))
JSON_EVENTS = Option("Print progress, notes and errors as JSON lines on stderr.", flags=("--json",))


def command(*examples: str) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Turn a function into a command whose flags are the options of its request and of its other parameters.

    The parameter `request` receives an instance of the class that it is annotated with, `reporter` a `ConsoleReporter`
    and `context` Typer's context; others are annotated with an `Option`. What the function returns is the exit code.

    Args:
        examples: Command lines for the end of the help page.
    """
    return lambda function: _command(function, examples)


def _command(function: Callable[..., int | None], examples: tuple[str, ...]) -> Callable[..., None]:
    hints = get_type_hints(function, include_extras=True)
    request_class = hints.get("request")
    defaults = inspect.signature(function).parameters
    own = {
        name: (hint.__origin__, hint.__metadata__[0], defaults[name].default)
        for name, hint in hints.items()
        if hasattr(hint, "__metadata__")
    }
    fields = {
        field.name: (kind, option, default_of(field)) for field, kind, option in options_of(request_class or object)
    }
    shown = {"quiet": (bool, QUIET, False)}
    if "log_file" in fields:
        shown["json_events"] = (bool, JSON_EVENTS, False)
    declared = fields | own | shown

    def run(context: typer.Context, **given: Any) -> None:
        console.be_quiet(given["quiet"])
        if given.get("json_events"):
            console.speak_json()
        reporter = console.ConsoleReporter()
        reporter.on_checked = lambda: warn_of_flags(context)
        values = {name: _plain(given[name], kind) for name, (kind, *_) in declared.items()}
        _refuse_urls(values[name] for name, (_, option, _) in declared.items() if not option.url)
        arguments = {name: values[name] for name in own}
        if request_class:
            arguments["request"] = build(request_class, {name: values[name] for name in fields})
        if "context" in hints:
            arguments["context"] = context
        code = function(reporter=reporter, **arguments)
        if interrupts.came():
            raise KeyboardInterrupt
        if code:
            raise typer.Exit(code)

    parameters = [_parameter(name, *declaration) for name, declaration in declared.items()]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    run.__signature__ = inspect.Signature([context, *parameters])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (context, *parameters)}
    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.examples = examples  # type: ignore[attr-defined]
    return run


def _refuse_urls(values: Iterable[Any]) -> None:
    """Raise a UsageError if a value is, or holds, the path of a remote file."""
    for path in chain.from_iterable(value if isinstance(value, tuple) else (value,) for value in values):
        if isinstance(path, RemotePath):
            from ..media.discover import refuse_url

            refuse_url(path.url)


def _plain(value: Any, kind: Any) -> Any:
    """Convert the lists of Typer to tuples."""
    return tuple(value or ()) if get_origin(kind) is tuple else value


def _parameter(name: str, kind: Any, option: Option, default: Any) -> inspect.Parameter:
    """Return the parameter from which Typer makes a flag or an argument."""
    shown: dict[str, Any] = {
        "metavar": option.metavar or "|".join(get_args(kind) if get_origin(kind) is Literal else ()) or None,
        "help": option.help,
        "show_default": option.default_shown,
        "rich_help_panel": option.panel,
        "envvar": option.env,
        "min": option.minimum,
        "max": option.maximum,
        "hidden": option.hidden,
    }
    if option.complete:
        shown["autocompletion"] = completer(option.complete)
    if kind == AutoNumber:
        kind, shown["parser"] = str, auto_number(option)
    if Path in (kind, *get_args(kind)):
        shown["parser"] = path_of
    required = default is dataclasses.MISSING or default is inspect.Parameter.empty
    if get_origin(kind) is tuple:
        kind = list[get_args(kind)[0]]  # type: ignore[misc]
        default = default or None
        kind = kind if option.argument and required else kind | None
    declared = (*(option.flags or (f"--{name.replace('_', '-')}",)), *option.aliases)
    ALIASES.update(option.aliases)
    info = typer.Argument(**shown) if option.argument else typer.Option(*declared, **shown)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=Annotated[kind, info],
    )
