"""`coca models`: the models in the cache, those of training runs, and those that could be."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import console
from ..catalog import MODELS
from ..errors import CocaError, UsageError
from ..files import format_size
from ..settings import home
from . import options
from .completion import complete_stored

if TYPE_CHECKING:
    from ..checkpoints.cache import Removed, StoredModel

BROKEN = 3  # exit code


Name = Annotated[
    str,
    typer.Argument(metavar="NAME", show_default=False, help="A model in the cache.", autocompletion=complete_stored),
]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME", show_default=False, help="Models in the cache.", autocompletion=complete_stored),
]

app = typer.Typer(invoke_without_command=True)


@app.callback()
def models(context: typer.Context, as_json: options.Json = False) -> None:
    """List the models in the cache and those of training runs; check them, remove them, hand them on."""
    if command := context.invoked_subcommand:
        if as_json:  # is meant for the command
            given = context.default_map or {}
            context.default_map = {**given, command: {**given.get(command, {}), "as_json": True}}
        return
    from ..checkpoints import cache
    from ..checkpoints.runs import runs

    _list([*cache.models(), *runs()], _default(context), as_json)


@app.command()
def available(as_json: options.Json = False) -> None:
    """Show the models that have a name: how large and how good they are, and which are here."""
    from ..checkpoints.store import full_size, model_names

    here = model_names()
    if as_json:
        facts = [_known(name) | {"size": full_size(name), "here": name in here} for name in MODELS]
        console.result(json.dumps(facts))
        return
    rows = [
        (
            name,
            format_size(full_size(name)),
            f"{model.imagenet}" if model.imagenet else "-",
            f"{model.text_to_image}/{model.image_to_text}" if model.text_to_image else "-",
            model.captions,
            model.license,
            "yes" if name in here else "no",
        )
        for name, model in MODELS.items()
    ]
    console.table(("name", "size", "top-1", "recall@1", "captions", "license", "here"), rows)
    console.note("top-1: zero-shot on ImageNet, %. recall@1: on COCO, text to image / image to text, %.")
    for name, model in MODELS.items():
        if model.warning:
            console.note(f"{name}: {model.warning}.")


@app.command(no_args_is_help=True)
def show(context: typer.Context, name: Name, as_json: options.Json = False) -> None:
    """Show all that is known of a model."""
    model = _find(name)
    if as_json:
        console.result(json.dumps(_facts(model, _default(context))))
    else:
        console.table(("name", model.name), _told(model))
        _warn(model)


@app.command()
def verify(names: Names = [], as_json: options.Json = False, quiet: options.Quiet = False) -> None:  # noqa: B006
    """Read models again, by default all, and compare every byte with what was stored. Exit code 3: one is broken."""
    from ..checkpoints import cache

    console.be_quiet(quiet)
    _refuse_runs(*names)
    found = [cache.find(name) for name in names or cache.names()]
    with console.transfer() as progress:
        problems = {model.name: cache.verify(model.name, progress) for model in found}
    mends = {model.name: model.mend for model in found if problems[model.name]}
    if as_json:
        facts = [{"name": name, "problems": wrong, "mend": mends.get(name)} for name, wrong in problems.items()]
        console.result(json.dumps(facts))
    elif not found:
        _say_empty()
    else:
        for name, wrong in problems.items():
            if wrong:
                console.error(f"the model {name} is broken: {', '.join(wrong)}", mends[name])
            else:
                console.result(f"{name}: whole")
    if mends:
        raise typer.Exit(BROKEN)


@app.command(no_args_is_help=True)
def rm(
    names: Names,
    yes: Annotated[bool, typer.Option("--yes", "-y", metavar="", help="Do not ask.")] = False,
    as_json: options.Json = False,
) -> None:
    """Remove models from the cache, or training runs with all that they hold."""
    from ..checkpoints import cache
    from ..checkpoints.runs import remove_run

    found = {model.name: model for model in map(_find, names)}
    size = format_size(sum(model.size for model in found.values()))
    if not yes and not _agreed(f"remove {', '.join(found)} ({size})?"):
        console.note("nothing was removed")
        raise typer.Exit(1)
    removed = [remove_run(name) if _is_run(name) else cache.remove(name, waiting(name)) for name in found]
    _show_removed(removed, as_json)


@app.command()
def prune(as_json: options.Json = False) -> None:
    """Remove unfinished downloads, half-added models, what killed commands left and other versions unpacked."""
    from ..checkpoints import cache

    _show_removed(cache.prune(), as_json)


@app.command()
def path(name: Name = "", as_json: options.Json = False) -> None:
    """Print the folder of the cache, or that of a model or training run in it."""
    folder = _find(name).folder if name else home()
    console.result(json.dumps({"path": str(folder)}) if as_json else str(folder))


@app.command(no_args_is_help=True)
def export(
    name: Name,
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="The .tar file to write.")],
    overwrite: options.Replace = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a model to one file, with checksums, for a machine without a network. Prints its path."""
    from ..checkpoints.bundle import export_model

    console.be_quiet(quiet)
    _refuse_runs(name)
    with console.transfer() as progress:
        export_model(name, file, progress, overwrite)
    facts = {"name": name, "path": str(file), "size": file.stat().st_size}
    console.result(json.dumps(facts) if as_json else str(file))


@app.command("import", no_args_is_help=True)
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", show_default=False, help="What `coca models export` wrote.")],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="What to call it; by default as it was called."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", metavar="", help="Replace another model of this name.")] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Take an exported model into the cache, once every byte of it is checked. Prints its name."""
    from ..checkpoints.bundle import import_model

    console.be_quiet(quiet)
    with console.transfer() as progress:
        name, added = import_model(file, name, force, progress, waiting("it"))
    if not added:
        console.note(f"{name} is here already, the same in every byte")
    console.result(json.dumps({"name": name, "added": added}) if as_json else name)


def _is_run(name: str) -> bool:
    from ..checkpoints.runs import RUN

    return name.startswith(RUN)


def _find(name: str) -> "StoredModel":
    """A model in the cache, or a training run."""
    from ..checkpoints import cache
    from ..checkpoints.runs import find_run

    return find_run(name) if _is_run(name) else cache.find(name)


def _refuse_runs(*names: str) -> None:
    """Tell how the model of a run gets a manifest, without which it cannot be checked or handed on."""
    from ..checkpoints.runs import RUN
    from ..checkpoints.store import find_model

    for name in filter(_is_run, names):
        weights = shlex.quote(str(find_model(name).weights))
        hint = f"coca fetch {weights} --name {name.removeprefix(RUN)} takes its model there"
        raise UsageError(f"{name} is a training run, not a model in the cache", hint)


def _default(context: typer.Context) -> str:
    """The model that `coca caption` takes when none is named."""
    configured = (context.find_root().default_map or {}).get("caption", {}).get("model")
    if named := os.environ.get("COCA_MODEL") or configured:
        return str(named)
    try:
        from ..checkpoints.store import default_model

        return default_model()
    except CocaError:
        return ""


def waiting(name: str) -> Callable[[], None]:
    """What to call while another process holds a name."""
    return lambda: console.note(f"waiting for another process that adds or removes {name}")


def _list(found: "Sequence[StoredModel]", default: str, as_json: bool) -> None:

    if as_json:
        console.result(json.dumps([_facts(model, default) for model in found]))
    elif found:
        rows = [
            (model.name, format_size(model.size), _source(model), _ago(model.used), _state(model, default))
            for model in found
        ]
        console.table(("name", "size", "source", "last used", ""), rows)
        for model in found:
            _warn(model)
    else:
        _say_empty()


def _say_empty() -> None:
    from ..catalog import SUGGESTED
    from ..checkpoints.store import fetch_command

    console.note(f"no model is here yet: {fetch_command(SUGGESTED)}")


def _state(model: "StoredModel", default: str) -> str:
    if model.problem:
        return "damaged"
    return "default" if model.name == default else ""


def _source(model: "StoredModel") -> str:
    if _is_run(model.name):
        return "run"
    return str(model.manifest.source) if model.manifest else "unknown"


def _warn(model: "StoredModel") -> None:
    if model.damage:
        console.warning(f"{model.damage.message}; to mend it: {model.mend}")


def _facts(model: "StoredModel", default: str) -> dict[str, Any]:
    """A model for a program to read: the same keys for every one."""
    from ..checkpoints.manifest import Manifest

    manifest = asdict(model.manifest) if model.manifest else dict.fromkeys(field.name for field in fields(Manifest))
    return {
        "name": model.name,
        "path": str(model.folder),
        "size": model.size,
        "default": model.name == default,
        "added": model.added and model.added.isoformat(),
        "used": model.used and model.used.isoformat(),
        "problem": model.problem or None,
        "mend": model.mend if model.problem else None,
        **manifest,
    }


def _known(name: str) -> dict[str, Any]:
    """A model of the catalog for a program to read, without its architecture."""
    return {"name": name} | {key: value for key, value in asdict(MODELS[name]).items() if key != "config"}


def _told(model: "StoredModel") -> list[tuple[str, str]]:
    """A model for a person to read."""

    rows = [("folder", str(model.folder)), ("size", format_size(model.size))]
    if manifest := model.manifest:
        rows += [
            ("weights", f"{manifest.parameters / 1e6:.1f} million, {manifest.dtype}"),
            ("source", manifest.source.origin),
            ("its sha256", manifest.source.sha256),
            *((f"sha256 of {name}", facts.sha256) for name, facts in manifest.files.items()),
            ("made", f"{manifest.date} by coca {manifest.program}"),
        ]
    rows.append(("last used", _ago(model.used)))
    if (known := MODELS.get(model.name)) and known.warning:
        rows.append(("warning", known.warning))
    return rows


def _ago(when: datetime | None) -> str:
    """A time as a person says it: `3 days ago`."""
    if when is None:
        return "never"
    passed = (datetime.now(UTC) - when).total_seconds()
    for seconds, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if (count := int(passed // seconds)) > 0:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def _agreed(question: str) -> bool:
    """Ask a person who sits at a terminal."""
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to be asked whether to remove it", "coca models rm NAME --yes")
    console.note(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _show_removed(removed: "Sequence[Removed]", as_json: bool) -> None:

    if as_json:
        console.result(json.dumps([{"path": str(item.path), "size": item.size} for item in removed]))
        return
    for item in removed:
        console.result(str(item.path))
    console.note(f"{format_size(sum(item.size for item in removed))} removed" if removed else "nothing to remove")
