"""`coca config`, and what config.toml sets the flags of commands to."""

import dataclasses
import difflib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import console
from ..errors import UsageError
from ..options import JsonOutput, Option
from ..parsing import read_toml
from ..settings import config_file, home
from .command import command
from .typer_internals import ALIASES, TyperOption, convert, settable, subcommands, value_of

BUILT_IN = "default"


@command("coca config", "coca config --all", "coca config --path")
def config(
    reporter: console.ConsoleReporter,
    context: typer.Context,
    everything: Annotated[bool, Option("Also show built-in defaults.", flags=("--all",))] = False,
    path: Annotated[bool, Option("Print only the path of config.toml.")] = False,
    as_json: JsonOutput = False,
) -> None:
    """Show the values of flags and where they come from.

    In config.toml, model = "vit-l-14" sets the flag of every command that has it, caption.beams = 3 that of one.
    """
    if path:
        console.result(str(config_file()))
        return
    from ..doctor import variables

    places = {"config": _place(config_file(), "COCA_CONFIG"), "cache": _place(home(), "COCA_HOME")}
    environment = variables()
    # A person sees these even if the file is broken.
    if not as_json:
        _print_places(places, environment)
    settings = effective_settings(context)
    if as_json:
        listed = [dataclasses.asdict(setting) for setting in settings]
        console.json_result({**places, "environment": environment, "settings": listed})
        return
    shown = [setting for setting in settings if everything or setting.source != BUILT_IN]
    if shown:
        console.result("")
        rows = [(setting.command, setting.flag, toml(setting.value), setting.source) for setting in shown]
        console.table(("command", "flag", "value", "from"), rows)
    if not everything:
        reporter.note(f"{'all other flags' if shown else 'all flags'} have their built-in default: coca config --all")


@dataclass(frozen=True)
class Setting:
    """The value of a flag that is not typed."""

    command: str
    flag: str
    value: Any
    source: str  # `default`, the name of the config file, or an environment variable


def effective_settings(context: typer.Context) -> list[Setting]:
    """Return the settings of all commands.

    Raises:
        UsageError: config.toml, or the value of an environment variable, is invalid.
    """
    root = typer.Context(context.find_root().command, info_name="coca")
    root.default_map = default_map(root)
    return list(_settings(root))


def _settings(context: typer.Context) -> Iterator[Setting]:
    """Yield the settings of a command and of those below it.

    Raises:
        UsageError: An environment variable has a value that its flag cannot take.
    """
    command = context.command_path.partition(" ")[2]
    for flag, option in settable(context).items():
        if option.hidden or f"--{flag}" in ALIASES:
            continue
        value, origin = value_of(option, context)
        if origin == "ENVIRONMENT":
            try:
                convert(option, value, context)
            except ValueError as error:
                raise UsageError(f"{option.envvar}: {error}", _help(context)) from None
        source = {"DEFAULT_MAP": config_file().name, "ENVIRONMENT": str(option.envvar)}.get(origin, BUILT_IN)
        yield Setting(command, flag, value, source)
    for child in subcommands(context).values():
        yield from _settings(child)


def _place(path: Path, variable: str) -> dict[str, Any]:
    source = variable if os.environ.get(variable) else BUILT_IN
    return {"path": str(path), "source": source, "exists": os.access(path, os.F_OK)}


def _print_places(places: dict[str, dict[str, Any]], environment: dict[str, str]) -> None:
    rows = [
        (name, at["path"], at["source"] + ("" if at["exists"] else ", not there yet")) for name, at in places.items()
    ]
    console.table(("place", "path", "from"), rows)
    if environment:
        console.result("")
        console.table(("variable", "value"), list(environment.items()))


def toml(value: Any) -> str:
    """Format a value as TOML; empty for None, which TOML cannot express."""
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


@dataclass
class ConfigValue:
    """A value of config.toml that may be for several commands."""

    key: str  # as errors name it
    value: Any
    accepted: bool = False  # by the flag of a command
    error: UsageError | None = None  # of the first flag that refused it


def default_map(root: typer.Context) -> dict[str, Any]:
    """Return the defaults from config.toml, converted, in the nested form of `Context.default_map`.

    A key applies to the command of its table and to every command below that accepts its value; the nearest table wins.

    Raises:
        UsageError: The file cannot be read, or no command has such a flag or accepts its value.
    """
    content = _read_file()
    return _defaults(root, content, {}) if content else {}


def _read_file() -> dict[str, Any]:
    try:
        file = config_file()
        file.stat()
    except (UsageError, FileNotFoundError):
        # Most users have no config file, and some no home folder.
        return {}
    except OSError:
        pass
    return read_toml(file)


def _defaults(context: typer.Context, table: dict[str, Any], inherited: dict[str, ConfigValue]) -> dict[str, Any]:
    """Return the defaults of a command and of those below it.

    Args:
        table: Table of the command in config.toml.
        inherited: Entries of the tables above, by the names of flags.
    """
    children = subcommands(context)
    tables: dict[str, dict[str, Any]] = {}
    own: dict[str, ConfigValue] = {}
    for key, value in table.items():
        name = key.replace("_", "-")
        entry = ConfigValue(".".join([*context.command_path.split()[1:], key]), value)
        if isinstance(value, dict):
            _check_known(name, children, f"{entry.key}: no such command", context)
            tables[name] = value
        else:
            _check_known(name, _flags_below(context), f"{entry.key}: no flag that can be set", context)
            own[name] = entry
    entries = inherited | own
    defaults: dict[str, Any] = {}
    for flag, option in settable(context).items():
        if flag not in entries:
            continue
        try:
            defaults[option.name] = _converted(option, entries[flag], context)
            entries[flag].accepted = True
        except UsageError as error:
            entries[flag].error = entries[flag].error or error
    defaults |= {name: _defaults(child, tables.get(name, {}), entries) for name, child in children.items()}
    for entry in own.values():
        if entry.error and not entry.accepted:
            raise entry.error
    return defaults


def _flags_below(context: typer.Context) -> set[str]:
    """Return the flags that can be set of a command and of those below it."""
    return set(settable(context)).union(*map(_flags_below, subcommands(context).values()))


def _check_known(name: str, known: Iterable[str], problem: str, context: typer.Context) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, sorted(known))
        raise UsageError(f"{config_file()}: {problem}", f"close: {', '.join(close)}" if close else _help(context))


def _converted(option: TyperOption, entry: ConfigValue, context: typer.Context) -> Any:
    """Return the value of an entry as if it were typed, and make the help page show it."""
    try:
        value = convert(option, _as_typed(option, entry.value), context)
    except ValueError as error:
        raise UsageError(f"{config_file()}: {entry.key}: {error}", _help(context)) from None
    option.show_default = f"{toml(value)}, from {config_file().name}"
    return value


def _as_typed(option: TyperOption, value: Any) -> Any:
    if option.is_flag != isinstance(value, bool):
        raise ValueError("takes true or false" if option.is_flag else "takes a value, not true or false")
    if isinstance(value, list) and not option.multiple:
        raise ValueError("takes one value")
    # A single value may stand without brackets.
    if option.multiple:
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    return value if option.is_flag else str(value)


def _help(context: typer.Context) -> str:
    return f"{context.command_path} --help"
