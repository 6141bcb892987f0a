"""`coca config`: what flags are set to, and where that comes from."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import console
from ..settings import config_file, home
from .configuration import commands, default_map, flags, toml

BUILT_IN = "default"
VARIABLES = (
    *("COCA_HOME", "COCA_CONFIG", "COCA_MODEL", "COCA_ENGINE", "COCA_PRECISION", "COCA_DEBUG"),
    *("HF_HOME", "HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE"),
)


@dataclass(frozen=True)
class Setting:
    """What a flag is when it is not typed."""

    command: str
    flag: str
    value: Any
    source: str  # `default`, the name of the config file, or an environment variable


def config(
    context: typer.Context,
    everything: Annotated[bool, typer.Option("--all", metavar="", help="Show built-in defaults, too.")] = False,
    path: Annotated[bool, typer.Option("--path", metavar="", help="Print only the path of config.toml.")] = False,
    as_json: Annotated[bool, typer.Option("--json", metavar="", help="Print everything as JSON.")] = False,
) -> None:
    """Show what flags are set to, and where that comes from.

    In config.toml, model = "vit-l-14" sets the flag of every command that has it, caption.beams = 3 that of one.
    """
    if path:
        console.result(str(config_file()))
        return
    places = {"config": _place(config_file(), "COCA_CONFIG"), "cache": _place(home(), "COCA_HOME")}
    environment = {name: _shown(name, os.environ[name]) for name in VARIABLES if os.environ.get(name)}
    if not as_json:  # a person sees these even where the file is broken
        _show_places(places, environment)
    root = typer.Context(context.find_root().command, info_name="coca")
    root.default_map = default_map(root)
    settings = list(_settings(root))
    if as_json:
        listed = [dataclasses.asdict(setting) for setting in settings]
        console.result(json.dumps({**places, "environment": environment, "settings": listed}, default=str))
    else:
        _show_settings(settings, everything)


def _place(path: Path, variable: str) -> dict[str, Any]:
    source = variable if os.environ.get(variable) else BUILT_IN
    return {"path": str(path), "source": source, "exists": os.access(path, os.F_OK)}


def _shown(name: str, value: str) -> str:
    """The value of an environment variable, without what is secret in it."""
    return "set" if name == "HF_TOKEN" else re.sub("//[^/]*@", "//...@", value)


def _settings(context: typer.Context) -> Iterator[Setting]:
    """Every flag of a command and of those below it, with the value that click finds when nothing is typed."""
    command = context.command_path.partition(" ")[2]
    for flag, option in flags(context).items():
        value, origin = option.consume_value(context, {})
        source = {"DEFAULT_MAP": config_file().name, "ENVIRONMENT": str(option.envvar)}.get(origin.name, BUILT_IN)
        yield Setting(command, flag, value, source)
    for below in commands(context).values():
        yield from _settings(below)


def _show_places(places: dict[str, dict[str, Any]], environment: dict[str, str]) -> None:
    rows = [
        (name, at["path"], at["source"] + ("" if at["exists"] else ", not there yet")) for name, at in places.items()
    ]
    console.table(("place", "path", "from"), rows)
    if environment:
        console.result("")
        console.table(("variable", "value"), list(environment.items()))


def _show_settings(settings: list[Setting], everything: bool) -> None:
    rows = [
        (setting.command, setting.flag, toml(setting.value), setting.source)
        for setting in settings
        if everything or setting.source != BUILT_IN
    ]
    if rows:
        console.result("")
        console.table(("command", "flag", "value", "from"), rows)
    if not everything:
        console.note(f"{'all other flags' if rows else 'all flags'} have their built-in default: coca config --all")
