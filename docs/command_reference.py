"""MkDocs hook that writes commands.md from the declarations of the command line."""

from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from cococli.cli.manual import Page, pages

INTRODUCTION = """# Command reference

Every command prints this with `--help`. Options can also be set in `config.toml` and by environment variables, see
[Configuration](configuration.md).
"""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page to the site."""
    _, *commands = pages()
    sections = [line for page in commands for line in describe(page)]
    files.append(File.generated(config, "commands.md", content="\n".join([INTRODUCTION, *sections])))
    return files


def describe(page: Page) -> Iterator[str]:
    """Yield the section of a command."""
    text = "\n\n".join(page.paragraphs)
    yield f"## {page.command}\n\n{text}\n\n```text\n{page.usage}\n```\n"
    for heading, rows in page.panels.items():
        yield f"**{heading}**\n\n| | |\n| --- | --- |"
        yield from (f"| `{flags}` | {cell(text)} |" for flags, text in rows)
        yield ""
    yield "\n".join(("```console", *(f"$ {line}" for line in page.examples), "```", ""))


def cell(text: str) -> str:
    """Return text as a cell of a Markdown table holds it."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
