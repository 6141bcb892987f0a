"""Everything that relies on the internals of Typer: help pages, values of options, and shell completion.

They are not public and change with its versions. tests/cli/test_typer_internals.py fails with the name of what changed.
"""

import os
import shutil
import textwrap
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer
from typer import _completion_classes, _completion_shared
from typer._click.shell_completion import ShellComplete
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from .. import console

SHELLS = tuple(_completion_shared.Shells)
PAGE_WIDTH = 100  # cells of a help page, at most
FLAGS_WIDTH = 30  # cells of its first column, at most
ALIASES: set[str] = set()  # former names of flags, which are not shown
ARGUMENTS = "cococli.arguments"  # key of the words of the command line in `Context.meta`


def settable(context: typer.Context) -> dict[str, TyperOption]:
    """Return the options of a command that a file can set, by their flags without dashes."""
    return {
        name.removeprefix("--"): option
        for option in context.command.params
        if isinstance(option, TyperOption) and option.expose_value and not option.is_eager  # as --version is
        for name in option.opts
        if name.startswith("--")
    }


def subcommands(context: typer.Context) -> dict[str, typer.Context]:
    """Return the commands of a group by name."""
    commands = getattr(context.command, "commands", {})
    return {name: typer.Context(command, parent=context, info_name=name) for name, command in commands.items()}


def convert(option: TyperOption, value: Any, context: typer.Context) -> Any:
    """Convert a value to the type of an option, as if it were typed.

    Raises:
        ValueError: The option cannot have this value.
    """
    try:
        return option.process_value(context, value)
    except typer.BadParameter as error:
        raise ValueError(_in_plain_words(error.message)) from None


def value_of(option: TyperOption, context: typer.Context) -> tuple[Any, str]:
    """Return the value of an option that is not typed, and its source: ENVIRONMENT, DEFAULT_MAP or DEFAULT."""
    value, source = option.consume_value(context, {})
    return value, source.name


def typed(context: typer.Context, name: str) -> bool:
    """Return whether a parameter was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def describe_error(error: typer.TyperException) -> tuple[str, str]:
    """Return what is wrong with a command line, and the command whose help page explains it."""
    context = getattr(error, "ctx", None)
    return _in_plain_words(error.format_message()), context.command_path if context else "coca"


def _in_plain_words(message: str) -> str:
    # pydantic adds this prefix.
    return message.replace("Value error, ", "")


def examples_of(command: Any) -> list[str]:
    """Return the command lines that the help page of a command ends with."""
    return getattr(command.callback, "examples", None) or (command.epilog or "").splitlines()


def help_page(context: typer.Context) -> str:
    """Return the help page of a command, without the Markdown parsers that Typer imports for its own."""
    width = min(shutil.get_terminal_size().columns, PAGE_WIDTH)
    sections = [textwrap.fill(f"Usage: {usage(context)}", width, subsequent_indent=" " * len("Usage: "))]
    sections += [textwrap.fill(paragraph, width) for paragraph in help_paragraphs(context.command)]
    for heading, rows in help_panels(context).items():
        column = max((len(left) for left, _ in rows if len(left) <= FLAGS_WIDTH), default=FLAGS_WIDTH)
        lines = [_heading(heading)]
        for left, right in rows:
            first, *rest = textwrap.wrap(right, max(width - column - 4, 20), break_on_hyphens=False) or [""]
            beside = len(left) <= column
            lines.append(f"  {left:{column}}  {first}".rstrip() if beside else f"  {left}")
            lines += [f"{'':{column + 4}}{text}" for text in (rest if beside else [first, *rest])]
        sections.append("\n".join(lines))
    if examples := examples_of(context.command):
        sections.append("\n".join([_heading("Examples"), *(f"  {line}" for line in examples)]))
    return "\n\n".join(sections)


def usage(context: typer.Context) -> str:
    """Return the form of a command, as in `coca caption [OPTIONS] PATHS...`."""
    words = [context.command_path, "[OPTIONS]", *(["COMMAND"] if isinstance(context.command, TyperGroup) else [])]
    for argument in context.command.params:
        if isinstance(argument, TyperArgument):
            name = argument.metavar or argument.name.upper()
            name += "..." if argument.nargs != 1 and " " not in name else ""
            words.append(name if argument.required else f"[{name}]")
    return " ".join(words)


def help_paragraphs(command: Any) -> list[str]:
    """Return the description of a command."""
    return [" ".join(paragraph.split()) for paragraph in cleandoc(command.help or "").split("\n\n")]


def help_panels(context: typer.Context) -> dict[str, list[tuple[str, str]]]:
    """Return the parameters of a command, as `-m, --model NAME` and their help, by heading; everyday ones first."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for parameter in context.command.get_params(context):
        if getattr(parameter, "hidden", False):
            continue
        is_argument = isinstance(parameter, TyperArgument)
        heading = "Arguments" if is_argument else getattr(parameter, "rich_help_panel", None) or "Options"
        panels.setdefault(heading, []).append(_help_row(parameter, context))
    for heading in panels.keys() - {"Options"}:
        # Flags of one letter are typed most.
        panels[heading].sort(key=lambda row: row[0].startswith("--"))
    if below := subcommands(context):
        panels["Commands"] = [(name, help_paragraphs(child.command)[0]) for name, child in below.items()]
    rank = {"Arguments": -1, "Options": 1, "Cluster": 2, "Advanced": 3}
    return dict(sorted(panels.items(), key=lambda panel: rank.get(panel[0], 0)))


def _help_row(parameter: Any, context: typer.Context) -> tuple[str, str]:
    name = parameter.metavar or parameter.name.upper()
    if isinstance(parameter, TyperArgument):
        # The usage shows whether it is required.
        return name, parameter.help or ""
    shown = [flag for flag in (*parameter.opts, *parameter.secondary_opts) if flag not in ALIASES]
    flags = ", ".join(sorted(shown, key=lambda flag: flag.startswith("--")))
    default = parameter.show_default or None
    if default is True:
        default = parameter.get_default(context, call=False)
        if parameter.is_flag:
            default = (parameter.opts if default else parameter.secondary_opts or [None])[0]
    facts = [
        "required" if parameter.required else "",
        f"default: {default}" if default not in (None, "") else "",
        _limits(parameter.min, parameter.max),
        f"env: {parameter.envvar}" if parameter.envvar else "",
    ]
    details = "; ".join(filter(None, facts))
    text = f"{parameter.help or ''} [{details}]" if details else parameter.help or ""
    return flags if parameter.is_flag else f"{flags} {name}", text.strip()


def _limits(low: float | None, high: float | None) -> str:
    """Format the limits of a number, unless they are plain: not negative, and large enough for everyone."""
    if low is not None and high is not None and high < 10_000:
        return f"{low} to {high}"
    return "" if low in (None, 0, 1) else f"at least {low}"


def _heading(text: str) -> str:
    plain = not console.stdout_is_terminal() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
    return f"{text}:" if plain else typer.style(f"{text}:", bold=True)


class Command(TyperCommand):
    """A command with our help page."""

    def get_help(self, ctx: Any) -> str:
        return help_page(ctx)

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        return _off_by_default(super().get_help_option(ctx))


class CommandGroup(TyperGroup):
    """A group of commands with our help page."""

    def get_help(self, ctx: Any) -> str:
        return help_page(ctx)

    def get_help_option(self, ctx: Any) -> TyperOption | None:
        return _off_by_default(super().get_help_option(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[ARGUMENTS] = tuple(args)
        return super().parse_args(ctx, args)


def _off_by_default(help_option: TyperOption | None) -> TyperOption | None:
    """Give `--help` a default: pydantic would validate None, and is slow to import."""
    if help_option:
        help_option.default = False
    return help_option


# Typer's script completes nothing at the first TAB when zsh loads it from its fpath: it only defines a function then.
_ZSH = """#compdef %(prog_name)s

_%(prog_name)s() {
  eval "$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" %(autocomplete_var)s=complete_zsh %(prog_name)s)"
}

if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
  _%(prog_name)s "$@"
else
  compdef _%(prog_name)s %(prog_name)s
fi"""


def prepare_completion() -> None:
    """Register the shells, replace the script for zsh, and complete `--flag=VALUE` in all of them."""
    _completion_shared._completion_scripts["zsh"] = _ZSH
    _completion_classes.ZshComplete.source_template = _ZSH
    # Help is not markup, and rich is slow to import.
    _completion_classes._sanitize_help_text = lambda text: text
    complete = ShellComplete.get_completions

    def get_completions(self: ShellComplete, args: list[str], incomplete: str) -> list[Any]:
        # It is one word, except in bash.
        flag, equals, _ = incomplete.partition("=")
        found = complete(self, [arg for arg in args if arg != "="], incomplete)
        found = [item for item in found if item.value not in ALIASES]
        if equals and flag.startswith("--"):
            for item in found:
                item.value = f"{flag}={item.value}"
        return found

    ShellComplete.get_completions = get_completions  # type: ignore[method-assign]
    _completion_classes.completion_init()


def completion_script(shell: str) -> str:
    """Return the script that makes a shell complete `coca`."""
    return _completion_shared.get_completion_script(prog_name="coca", complete_var="_COCA_COMPLETE", shell=shell)


def install_completion(shell: str) -> Path:
    """Write the completion script where a shell loads it, and return where that is."""
    return _completion_shared.install(shell=shell, prog_name="coca", complete_var="_COCA_COMPLETE")[1]


def named_shell(context: typer.Context) -> str:
    """Return the shell that the command line names, else the one that the command runs in; empty if unknown."""
    named = [word for word in context.meta[ARGUMENTS] if word in SHELLS]
    return named[0] if named else _completion_shared._get_shell_name() or ""
