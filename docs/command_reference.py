"""MkDocs hook that writes commands.md from the declarations of the command line."""

from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from cococli.cli.command import prepare_help
from cococli.cli.main import app

INTRODUCTION = """# Command reference

Every command prints this with `--help`. Options can also be set in `config.toml` and by environment variables, see
[Configuration](configuration.md).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root, info_name="coca")
    sections = [section for name, command in root.commands.items() for section in describe(name, command, context)]
    files.append(File.generated(config, "commands.md", content="\n".join([INTRODUCTION, *sections])))
    return files


def describe(name: str, command: Any, parent: typer.Context) -> Iterator[str]:
    """Yield the section of a command, and those of the commands below it."""
    context = typer.Context(command, parent=parent, info_name=name)
    prepare_help(command, context)
    yield f"## {context.command_path}\n\n{command.help}\n"
    yield f"```text\n{' '.join(usage(command, context))}\n```\n"
    panels = dict.fromkeys(map(panel_of, command.params))
    for panel in sorted(panels, key=lambda panel: (panel != "Arguments", panel == "Options")):
        yield f"**{panel}**\n\n| | |\n| --- | --- |"
        rows = [each for each in command.params if panel_of(each) == panel]
        yield from (f"| {signature(each, context)} | {explanation(each, context)} |" for each in rows)
        yield ""
    examples = command.epilog.replace("\\[", "[").splitlines()[1:]
    yield "\n".join(("```console", *(f"$ {line.strip()}" for line in examples), "```", ""))
    for inner, command_below in getattr(command, "commands", {}).items():
        yield from describe(inner, command_below, context)


def usage(command: Any, context: typer.Context) -> list[str]:
    return [context.command_path, "[OPTIONS]", *(name_of(each) for each in command.params if is_argument(each))]


def panel_of(parameter: Any) -> str:
    return "Arguments" if is_argument(parameter) else parameter.rich_help_panel or "Options"


def signature(parameter: Any, context: typer.Context) -> str:
    """Return the flags of a parameter, and what stands for its value."""
    if is_argument(parameter):
        return f"`{name_of(parameter)}`"
    flags = ", ".join(f"`{flag}`" for flag in (*parameter.opts, *parameter.secondary_opts))
    metavar = "" if parameter.is_flag else parameter.metavar or parameter.display_type(context).strip("<>")
    return f"{flags} `{metavar}`" if metavar else flags


def explanation(parameter: Any, context: typer.Context) -> str:
    """Return the help of a parameter with its default and environment variable."""
    parts = [cell(" ".join((parameter.help or "").split()))]
    shown = getattr(parameter, "show_default", False)
    if isinstance(shown, str):
        parts.append(f"Default: {cell(shown)}.")
    elif shown and not (parameter.required or parameter.is_flag) and parameter.default not in (None, ""):
        parts.append(f"Default: `{parameter.default}`.")
    if variable := getattr(parameter, "envvar", None):
        parts.append(f"Environment: `{variable}`.")
    return " ".join(parts)


def is_argument(parameter: Any) -> bool:
    return bool(parameter.param_type_name == "argument")


def name_of(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return f"{name}..." if argument.nargs != 1 and not name.endswith("...") else name


def cell(text: str) -> str:
    """Return text as a cell of a Markdown table holds it."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;") if text else text
