"""Shell completion: what the shells ask while a command is typed, and the scripts that ask it.

`python -m cococli.cli.completion` writes the scripts into completions/.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SCRIPTS = {"bash": "coca.bash", "zsh": "coca.zsh", "fish": "coca.fish"}


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
    from ..checkpoints.cache import names
    from ..checkpoints.runs import runs

    return (name for name in (*names(), *(run.name for run in runs())) if name.startswith(incomplete))


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
