"""Shell completion: what the shells ask while a command is typed, and the scripts that ask it.

`python -m cococli.cli.completion` writes the scripts into completions/.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from typer import _completion_classes, _completion_shared
from typer._click.shell_completion import ShellComplete

SCRIPTS = {"bash": "coca.bash", "zsh": "coca.zsh", "fish": "coca.fish"}


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


def improve_typer() -> None:
    """Replace Typer's script for zsh, and complete `--flag=VALUE` in all shells."""
    _completion_shared._completion_scripts["zsh"] = _ZSH
    _completion_classes.ZshComplete.source_template = _ZSH
    complete = ShellComplete.get_completions

    def get_completions(self: ShellComplete, args: list[str], incomplete: str) -> list[Any]:
        flag, equals, _ = incomplete.partition("=")  # one word, except in bash
        found = complete(self, [arg for arg in args if arg != "="], incomplete)
        if equals and flag.startswith("--"):
            for item in found:
                item.value = f"{flag}={item.value}"
        return found

    ShellComplete.get_completions = get_completions  # type: ignore[method-assign]


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


def script(shell: str) -> str:
    """The completion script of a shell, as the program itself prints it."""
    asked = {**os.environ, "_COCA_COMPLETE": f"source_{shell}"}
    return subprocess.run(
        [sys.executable, "-m", "cococli"], env=asked, check=True, capture_output=True, text=True
    ).stdout


def write_scripts(folder: Path) -> None:
    """Write the script of every shell into a folder."""
    for shell, name in SCRIPTS.items():
        (folder / name).write_text(script(shell), encoding="utf-8")


if __name__ == "__main__":
    write_scripts(Path(__file__).parents[2] / "completions")
