"""The manual: every command and its options, for the website and the man page.

`python -m cococli.cli.manual` writes man/coca.1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from .. import __version__
from .typer_internals import examples_of, help_panels, help_paragraphs, subcommands, usage

_EXIT_CODES = {
    "0": "All done.",
    "1": "Some inputs failed; the rest is written.",
    "2": "Wrong usage; nothing was done.",
    "3": "There is no such model, or it is damaged.",
    "129": "The terminal was closed; what was done is kept.",
    "130": "Interrupted; what was done is kept.",
}


@dataclass(frozen=True)
class Page:
    """Contents of the help page of a command."""

    command: str
    paragraphs: list[str]
    usage: str
    panels: Mapping[str, list[tuple[str, str]]]  # rows of flags and their help, by heading
    examples: list[str]


def pages() -> Iterator[Page]:
    """Yield the page of `coca`, then that of every command and those below it."""
    from .main import app

    root: Any = typer.main.get_command(app)
    yield from _pages(typer.Context(root, info_name="coca", **root.context_settings))


def _pages(context: typer.Context) -> Iterator[Page]:
    command = context.command
    paragraphs, examples = help_paragraphs(command), examples_of(command)
    yield Page(context.command_path, paragraphs, usage(context), help_panels(context), examples)
    for child in subcommands(context).values():
        yield from _pages(child)


def man_page() -> str:
    """Return the man page of all commands."""
    root, *commands = pages()
    lines = [f'.TH COCA 1 "" "coca {__version__}" "User Commands"']
    lines += [".SH NAME", f"coca \\- {_escape(root.paragraphs[0].rstrip('.').lower().replace('coca', 'CoCa'))}"]
    lines += [".SH SYNOPSIS", *(line for page in commands for line in (f".B {_escape(page.usage)}", ".br"))]
    lines += [".SH DESCRIPTION", *map(_escape, root.paragraphs), ".PP"]
    lines += ["Options can also be set in config.toml and by environment variables: see", '.BR "coca config" .']
    lines += _options(root)
    for page in commands:
        lines += [f'.SH "{_escape(page.command.upper())}"']
        lines += [line for text in page.paragraphs for line in (_escape(text), ".PP")]
        lines += [f".B {_escape(page.usage)}", *_options(page)]
        lines += [".SS Examples", ".nf", *(_escape(line) for line in page.examples), ".fi"]
    lines += [".SH EXIT STATUS", *(line for code, text in _EXIT_CODES.items() for line in (".TP", f".B {code}", text))]
    return "\n".join(lines) + "\n"


def _options(page: Page) -> Iterator[str]:
    for heading, rows in page.panels.items():
        yield f'.SS "{heading}"'
        for flags, text in rows:
            yield from (".TP", f".B {_escape(flags)}", _escape(text) or "\\&")


def _escape(text: str) -> str:
    """Escape what the formatter would read as a command, and keep the dashes of flags."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{text}" if text.startswith((".", "'")) else text


if __name__ == "__main__":
    (Path(__file__).parents[2] / "man" / "coca.1").write_text(man_page(), encoding="utf-8")
