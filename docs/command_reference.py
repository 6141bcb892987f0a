"""MkDocs hook that writes commands.md from the declarations of the command line."""

from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from cococli.cli.main import app
from cococli.cli.typer_internals import examples_of, help_panels, help_paragraphs, subcommands, usage

INTRODUCTION = """# Command reference

Every command prints this with `--help`. Options can also be set in `config.toml` and by environment variables, see
[Configuration](configuration.md).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root, info_name="coca", **root.context_settings)
    sections = [section for child in subcommands(context).values() for section in describe(child)]
    files.append(File.generated(config, "commands.md", content="\n".join([INTRODUCTION, *sections])))
    return files


def describe(context: typer.Context) -> Iterator[str]:
    """Yield the section of a command, and those of the commands below it."""
    text = "\n\n".join(help_paragraphs(context.command))
    yield f"## {context.command_path}\n\n{text}\n\n```text\n{usage(context)}\n```\n"
    for heading, rows in help_panels(context).items():
        yield f"**{heading}**\n\n| | |\n| --- | --- |"
        yield from (f"| `{flags}` | {cell(text)} |" for flags, text in rows)
        yield ""
    yield "\n".join(("```console", *(f"$ {line}" for line in examples_of(context.command)), "```", ""))
    for child in subcommands(context).values():
        yield from describe(child)


def cell(text: str) -> str:
    """Return text as a cell of a Markdown table holds it."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
