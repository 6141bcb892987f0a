"""Shell completion: words that complete options, and the scripts that shells load.

`python -m cococli.cli.completion` writes the scripts into completions/.
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from .. import console
from ..errors import UsageError
from .typer_internals import SHELLS, completion_script, install_completion, named_shell, prepare_completion

SCRIPTS = {"bash": "coca.bash", "zsh": "coca.zsh", "fish": "coca.fish"}


def _install(context: typer.Context, asked: bool) -> None:
    if asked:
        shell = _shell(context)
        console.result(f"installed completion for {shell} in {install_completion(shell)}")
        console.note("open a new terminal to use it")
        raise typer.Exit


def _show(context: typer.Context, asked: bool) -> None:
    if asked:
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


def complete_from(*words: str) -> Callable[[str], list[str]]:
    """Complete one of these words."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def completer(words: tuple[str, ...] | str) -> Callable[[str], Iterable[str]]:
    """Return what completes one of these words, or the names of models: see `Option.complete`."""
    if isinstance(words, tuple):
        return complete_from(*words)
    named = {
        "model": complete_model,
        "stored": complete_stored,
        "fetchable": complete_fetchable,
        "architecture": complete_architecture,
    }
    return named[words]


def complete_model(incomplete: str) -> Iterator[str]:
    """Names of the models that can be used. Paths are the shell's own business."""
    from ..checkpoints.store import model_names

    return (name for name in model_names() if name.startswith(incomplete))


def complete_fetchable(incomplete: str) -> Iterator[str]:
    """Names of the models that can be fetched."""
    from ..catalog import MODELS

    return (name for name, model in MODELS.items() if not model.bundled and name.startswith(incomplete))


def complete_stored(incomplete: str) -> Iterator[str]:
    """Names of the models in the cache, damaged ones included, and of training runs."""
    from ..checkpoints.store import stored_models

    return (model.name for model in stored_models() if model.name.startswith(incomplete))


def complete_architecture(incomplete: str) -> Iterator[str]:
    """Names of the architectures that are known."""
    from ..catalog import MODELS

    return (name for name, model in MODELS.items() if model.config and name.startswith(incomplete))


def write_scripts(folder: Path) -> None:
    """Write the script of every shell into a folder."""
    prepare_completion()
    for shell, name in SCRIPTS.items():
        (folder / name).write_text(completion_script(shell) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_scripts(Path(__file__).parents[2] / "completions")
