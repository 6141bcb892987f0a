"""What config.toml sets the flags of commands to."""

import contextlib
import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup, TyperOption

from ..errors import UsageError
from ..files import check_regular
from ..settings import config_file


@dataclass
class Given:
    """A value of the file."""

    key: str  # as errors name it
    value: Any
    taken: bool = False  # by a flag
    refused: UsageError | None = None  # by another of that name


def default_map(root: typer.Context) -> dict[str, Any]:
    """The defaults that config.toml gives, checked, in the form that click takes. Help pages show them.

    A key holds for the command of its table and for every command below whose flag can take it; the nearest table wins.

    Raises:
        UsageError: the file cannot be read, no command has such a flag, or its value cannot be.
    """
    content = _read()
    return _defaults(root, content, {}) if content else {}


def flags(context: typer.Context) -> dict[str, TyperOption]:
    """What can be set of a command, by its name without dashes."""
    return {
        name.removeprefix("--"): option
        for option in context.command.params
        if isinstance(option, TyperOption) and option.expose_value and not option.is_eager  # as --version is
        for name in option.opts
        if name.startswith("--")
    }


def commands(context: typer.Context) -> dict[str, typer.Context]:
    """The commands of a group."""
    group = context.command
    inside = group.commands if isinstance(group, TyperGroup) else {}
    return {name: typer.Context(command, parent=context, info_name=name) for name, command in inside.items()}


def toml(value: Any) -> str:
    """A value as TOML spells it. TOML cannot say that there is none."""
    return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)


def _read() -> dict[str, Any]:
    try:
        file = config_file()
    except UsageError:  # the user has no home folder, and so no file in it
        return {}
    try:
        check_regular(file)
        text = file.read_text(encoding="utf-8-sig")  # Windows' editor writes a mark in front
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not text in UTF-8") from None
    import tomllib  # most people have no such file

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise UsageError(f"{file} is nested too deeply") from None
    except ValueError as error:  # also of a number with thousands of digits
        raise UsageError(f"{file} is not TOML: {error}", 'text stands in quotes: model = "vit-l-14"') from None


def _defaults(context: typer.Context, table: dict[str, Any], above: dict[str, Given]) -> dict[str, Any]:
    """The defaults of a command and of those below it, from its table and from what the tables above give."""
    inside = commands(context)
    tables: dict[str, dict[str, Any]] = {}
    given = above.copy()
    for key, value in table.items():
        name = key.replace("_", "-")
        shown = ".".join([*context.command_path.split()[1:], key])
        if isinstance(value, dict):
            _check_known(name, inside, f"{shown}: no such command", context)
            tables[name] = value
        else:
            _check_known(name, _flags_of_all(context), f"{shown}: no flag that can be set", context)
            given[name] = Given(shown, value)
    own = {}
    for flag, option in flags(context).items():
        if flag in given:
            with _others_may_take(given[flag]):
                own[option.name] = _checked(option, given[flag], context)
    own |= {name: _defaults(child, tables.get(name, {}), given) for name, child in inside.items()}
    for name, value in given.items():
        if value is not above.get(name) and value.refused and not value.taken:
            raise value.refused
    return own


@contextlib.contextmanager
def _others_may_take(given: Given) -> Iterator[None]:
    """Note whether a flag takes a value, which one of another command may do in its stead."""
    try:
        yield
        given.taken = True
    except UsageError as error:
        given.refused = given.refused or error


def _flags_of_all(context: typer.Context) -> set[str]:
    """What can be set of a command or of one below it."""
    return set(flags(context)).union(*map(_flags_of_all, commands(context).values()))


def _check_known(name: str, known: Iterable[str], problem: str, context: typer.Context) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, sorted(known))
        raise UsageError(f"{config_file()}: {problem}", f"close: {', '.join(close)}" if close else _help(context))


def _checked(option: TyperOption, given: Given, context: typer.Context) -> Any:
    """The value that the flag takes, checked as if it were typed."""
    try:
        value = option.process_value(context, _as_typed(option, given.value))
    except typer.BadParameter as error:
        problem = error.message.removeprefix("Value error, ")  # pydantic's words
        raise UsageError(f"{config_file()}: {given.key}: {problem}", _help(context)) from None
    option.show_default = f"{toml(value)}, from {config_file().name}"
    return value


def _as_typed(option: TyperOption, value: Any) -> Any:
    if option.is_flag != isinstance(value, bool):
        raise typer.BadParameter("takes true or false" if option.is_flag else "takes a value, not true or false")
    if isinstance(value, list) and not option.multiple:
        raise typer.BadParameter("takes one value")
    if option.multiple:  # one value may stand without brackets
        return [str(item) for item in (value if isinstance(value, list) else [value])]
    return value if option.is_flag else str(value)


def _help(context: typer.Context) -> str:
    return f"{context.command_path} --help"
