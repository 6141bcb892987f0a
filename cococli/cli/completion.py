"""Shell completion: words that complete options, and the scripts that shells load.

`python -m cococli.cli.completion` writes the scripts into completions/.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from .. import console
from ..errors import UsageError
from .typer_internals import SHELLS, completion_script, install_completion, named_shell, prepare_completion

SCRIPTS = {"bash": "coca.bash", "zsh": "coca.zsh", "fish": "coca.fish"}


def _install(context: typer.Context, requested: bool) -> None:
    if requested:
        shell = _shell(context)
        console.result(f"installed completion for {shell} in {install_completion(shell)}")
        console.note("open a new terminal to use it")
        raise typer.Exit


def _show(context: typer.Context, requested: bool) -> None:
    if requested:
        console.result(completion_script(_shell(context)))
        raise typer.Exit


def _shell(context: typer.Context) -> str:
    """Return the shell that the command line names, else the one that `coca` runs in, which it may not find."""
    shell = named_shell(context)
    if shell not in SHELLS:
        raise UsageError("cannot tell which shell you use", "coca --show-completion bash, zsh or fish")
    return shell


InstallCompletion = Annotated[
    bool,
    typer.Option(
        "--install-completion",
        callback=_install,
        is_eager=True,
        help="Install shell completion for this shell, or for the one that is named after the flag.",
    ),
]
ShowCompletion = Annotated[
    bool,
    typer.Option(
        "--show-completion", callback=_show, is_eager=True, help="Print the script that completes commands in a shell."
    ),
]


def completer(words: tuple[str, ...] | str) -> Callable[[str], list[str]]:
    """Return a function that completes one of these words, or the names of models: see `Option.complete`."""
    return lambda incomplete: [
        word for word in (_model_names(words) if isinstance(words, str) else words) if word.startswith(incomplete)
    ]


def _model_names(kind: str) -> list[str]:
    from ..catalog import MODELS
    from ..checkpoints.store import model_names, stored_models

    if kind == "model":
        return model_names()
    if kind == "stored":
        return [model.name for model in stored_models()]
    if kind == "fetchable":
        return [name for name, model in MODELS.items() if not model.bundled]
    return [name for name, model in MODELS.items() if model.config]


def write_scripts(folder: Path) -> None:
    """Write the script of every shell into a folder."""
    prepare_completion()
    for shell, name in SCRIPTS.items():
        (folder / name).write_text(completion_script(shell) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_scripts(Path(__file__).parents[2] / "completions")
