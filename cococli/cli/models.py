"""`coca models`: models in the cache, those of training runs, and those that can be fetched."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .. import console
from ..catalog import MODELS, SUGGESTED
from ..errors import CocaError, UsageError
from ..files import format_size
from ..options import JsonOutput, Option
from ..settings import home
from .command import command

if TYPE_CHECKING:
    from ..checkpoints.cache import Removed, StoredModel

DAMAGED = 3  # exit code

_NAME = Option("Model in the cache.", metavar="NAME", default_shown=False, complete="stored", argument=True)
Name = Annotated[str, _NAME]
Names = Annotated[tuple[str, ...], _NAME]

app = typer.Typer(invoke_without_command=True)


@app.callback()
@command("coca models", "coca models available", "coca models verify")
def models(context: typer.Context, reporter: console.ConsoleReporter, as_json: JsonOutput = False) -> None:
    """List the models in the cache and those of training runs; verify, remove, export and import them."""
    # Flags of the group are meant for the subcommand.
    if subcommand := context.invoked_subcommand:
        given = context.default_map or {}
        flags = {name: True for name in ("as_json", "quiet") if context.params[name]}
        context.default_map = {**given, subcommand: {**given.get(subcommand, {}), **flags}}
        return
    from ..checkpoints.store import stored_models

    found, default = stored_models(), _default(context)
    if as_json:
        console.json_result([{**model.facts(), "default": model.name == default} for model in found])
    elif not found:
        _note_empty(reporter)
    else:
        states = ["damaged" if model.problem else "default" if model.name == default else "" for model in found]
        rows = [
            (model.name, format_size(model.size), model.origin, console.ago(model.used), state)
            for model, state in zip(found, states, strict=True)
        ]
        console.table(("name", "size", "source", "last used", ""), rows)
        for model in found:
            _warn_of_damage(model, reporter)


@app.command()
@command("coca models available", "coca models available --json", "coca models available --json | jq '.[0]'")
def available(reporter: console.ConsoleReporter, as_json: JsonOutput = False) -> None:
    """List the models that have a short name: their sizes and quality, and which are on this machine."""
    from ..checkpoints.store import catalog

    if as_json:
        console.json_result(catalog())
        return
    rows = [
        (
            model["name"],
            format_size(model["size"]),
            f"{model['imagenet'] or '-'}",
            f"{model['text_to_image']}/{model['image_to_text']}" if model["text_to_image"] else "-",
            model["captions"],
            model["license"],
            "yes" if model["here"] else "no",
        )
        for model in catalog()
    ]
    console.table(("name", "size", "top-1", "recall@1", "captions", "license", "here"), rows)
    reporter.note("top-1: zero-shot on ImageNet, %. recall@1: on COCO, text to image / image to text, %.")
    for name, model in MODELS.items():
        if model.warning:
            reporter.note(f"{name}: {model.warning}.")


@app.command()
@command("coca models show vit-l-14-coco", "coca models show run:mine", "coca models show vit-l-14-coco --json")
def show(context: typer.Context, reporter: console.ConsoleReporter, name: Name, as_json: JsonOutput = False) -> None:
    """Show the details of a model."""
    from ..checkpoints.store import find_stored

    model = find_stored(name)
    if as_json:
        console.json_result({**model.facts(), "default": model.name == _default(context)})
    else:
        console.table(("name", model.name), _details(model))
        _warn_of_damage(model, reporter)


@app.command()
@command("coca models verify", "coca models verify vit-l-14-coco", "coca models verify --json")
def verify(reporter: console.ConsoleReporter, names: Names = (), as_json: JsonOutput = False) -> int:
    """Read models, by default all, and compare every byte with the checksums. Exit code 3: one is damaged."""
    from ..checkpoints import cache
    from ..checkpoints.store import find_in_cache

    found = find_in_cache(names or cache.names())
    problems = {model.name: cache.verify(model.name, reporter) for model in found}
    remedies = {model.name: model.remedy for model in found if problems[model.name]}
    if as_json:
        console.json_result(
            [{"name": name, "problems": wrong, "mend": remedies.get(name)} for name, wrong in problems.items()]
        )
    elif not found:
        _note_empty(reporter)
    else:
        for name, wrong in problems.items():
            if wrong:
                console.error(f"the model {name} is damaged: {', '.join(wrong)}", remedies[name])
            else:
                console.result(f"{name}: intact")
    return DAMAGED if remedies else 0


@app.command()
@command("coca models rm vit-b-32", "coca models rm vit-b-32 vit-l-14 --yes", "coca models rm run:mine")
def rm(
    reporter: console.ConsoleReporter,
    names: Names,
    yes: Annotated[bool, Option("Do not ask for confirmation.", flags=("--yes", "-y"))] = False,
    as_json: JsonOutput = False,
) -> int:
    """Remove models from the cache, or training runs with everything in them."""
    from ..checkpoints.store import find_removable, remove_stored

    found = {model.name: model for model in map(find_removable, names)}
    size = format_size(sum(model.size for model in found.values()))
    if not yes and not _confirm(f"remove {', '.join(found)} ({size})?"):
        reporter.note("nothing was removed")
        return 1
    _print_removed(remove_stored([*found.values()], reporter), as_json, reporter)
    return 0


@app.command()
@command("coca models prune", "coca models prune --json", "coca models prune --quiet")
def prune(reporter: console.ConsoleReporter, as_json: JsonOutput = False) -> None:
    """Remove unfinished downloads, leftovers of killed commands, and models unpacked by other versions."""
    from ..checkpoints import cache

    _print_removed(cache.prune(), as_json, reporter)


@app.command()
@command("coca models path", "coca models path vit-l-14-coco", "coca models path run:mine")
def path(
    reporter: console.ConsoleReporter, name: Annotated[str | None, _NAME] = None, as_json: JsonOutput = False
) -> None:
    """Print the folder of the cache, or that of a model or training run in it."""
    from ..checkpoints.store import find_stored

    folder = str(find_stored(name).folder if name else home())
    console.json_result({"path": folder}) if as_json else console.result(folder)


@app.command()
@command(
    "coca models export vit-l-14-coco model.tar",
    "coca models export vit-l-14-coco /media/usb/model.tar --overwrite",
    "coca models export vit-l-14-coco model.tar --json",
)
def export(
    reporter: console.ConsoleReporter,
    name: Name,
    file: Annotated[Path, Option("The .tar file to write.", metavar="FILE", default_shown=False, argument=True)],
    overwrite: Annotated[bool, Option("Replace an existing file that coca did not write.")] = False,
    as_json: JsonOutput = False,
) -> None:
    """Write a model to one file, with checksums, for a machine without a network. Prints its path."""
    from ..checkpoints.bundle import export_model
    from ..checkpoints.store import find_in_cache

    (model,) = find_in_cache([name])
    export_model(model.name, file, overwrite, reporter)
    facts = {"name": name, "path": str(file), "size": file.stat().st_size}
    console.json_result(facts) if as_json else console.result(str(file))


@app.command("import")
@command(
    "coca models import model.tar",
    "coca models import model.tar --name mine",
    "coca models import model.tar --force",
)
def import_(
    reporter: console.ConsoleReporter,
    file: Annotated[
        Path, Option("File written by coca models export.", metavar="FILE", default_shown=False, argument=True)
    ],
    name: Annotated[
        str | None, Option("Name in the cache. Defaults to the exported name.", metavar="NAME", default_shown=False)
    ] = None,
    force: Annotated[bool, Option("Replace another model of this name.")] = False,
    as_json: JsonOutput = False,
) -> None:
    """Add an exported model to the cache, after every byte of it is checked. Prints its name."""
    from ..checkpoints.bundle import import_model

    name, added = import_model(file, name, force, reporter)
    if not added:
        reporter.note(f"an identical {name} is in the cache already")
    console.json_result({"name": name, "added": added}) if as_json else console.result(name)


def _default(context: typer.Context) -> str:
    """Return the model that `coca caption` uses by default."""
    configured = (context.find_root().default_map or {}).get("caption", {}).get("model")
    if named := os.environ.get("COCA_MODEL") or configured:
        return str(named)
    try:
        from ..checkpoints.store import default_model

        return default_model()
    except CocaError:
        return ""


def _note_empty(reporter: console.ConsoleReporter) -> None:
    from ..checkpoints.store import fetch_command

    reporter.note(f"no model is here yet: {fetch_command(SUGGESTED)}")


def _warn_of_damage(model: "StoredModel", reporter: console.ConsoleReporter) -> None:
    if model.damage:
        reporter.warning(f"{model.damage.message}; to restore it: {model.remedy}")


def _details(model: "StoredModel") -> list[tuple[str, str]]:
    rows = [("folder", str(model.folder)), ("size", format_size(model.size))]
    if manifest := model.manifest:
        rows += [
            ("weights", f"{manifest.parameters / 1e6:.1f} million, {manifest.dtype}"),
            ("source", manifest.source.address),
            ("its sha256", manifest.source.sha256),
            *((f"sha256 of {name}", facts.sha256) for name, facts in manifest.files.items()),
            ("made", f"{manifest.date} by coca {manifest.program}"),
        ]
    elif not model.problem:
        rows.append(("source", model.origin))
    rows.append(("last used", console.ago(model.used)))
    if known := MODELS.get(model.name):
        rows += [("captions", known.captions), ("license", known.license), ("warning", known.warning)]
    return [(name, text) for name, text in rows if text]


def _confirm(question: str) -> bool:
    """Ask a question on the terminal."""
    if not sys.stdin.isatty():
        raise UsageError("removing needs confirmation, but stdin is not a terminal", "coca models rm NAME --yes")
    console.be_quiet(False)
    console.note(f"{question} [y/N]")
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print_removed(removed: "Sequence[Removed]", as_json: bool, reporter: console.ConsoleReporter) -> None:
    if as_json:
        console.json_result([{"path": str(item.path), "size": item.size} for item in removed])
        return
    for item in removed:
        console.result(str(item.path))
    reporter.note(f"{format_size(sum(item.size for item in removed))} removed" if removed else "nothing to remove")
