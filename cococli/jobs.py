"""Shared steps of commands over many files: find inputs, protect files, load the model, summarize."""

from collections import Counter
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import interrupts
from .catalog import MODELS
from .checkpoints.architecture import find_config
from .checkpoints.store import ModelFiles, default_model, find_model
from .engines.choice import Choice, open_engine
from .media.lists import locate_list
from .overwrite import check_log, check_paths
from .reporting import Reporter
from .settings import config_file
from .urls import RemotePath

if TYPE_CHECKING:
    from .engines.base import Engine


@dataclass
class Summary:
    """Result of a run."""

    total: int  # inputs, those of earlier runs included
    failures: list[str] = field(default_factory=list)  # why inputs failed, one reason each
    incomplete: bool = False  # some arguments matched nothing, or some results could not be written

    @property
    def exit_code(self) -> int:
        """0 if everything succeeded, else 1."""
        return int(bool(self.failures) or self.incomplete)


def protect_files(
    written: Iterable[tuple[str, Path]],
    read: Iterable[Path],
    model: ModelFiles | None = None,
    log_file: Path | None = None,
    reporter: Reporter | None = None,
) -> None:
    """Refuse to write to a file that is read, then start the log file.

    Args:
        written: Every file that may be written apart from the log, with how the user named it.
        read: Every file that is read apart from the model and config.toml.

    Raises:
        UsageError: A file would be overwritten.
    """
    log = [(f"--log-file {log_file}", log_file)] if log_file else []
    weights = [model.weights, find_config(model.weights) or model.weights] if model else []
    local = (path for path in read if not isinstance(path, RemotePath))
    check_paths([*written, *log], chain([config_file(), *weights], local))
    if log_file and reporter:
        check_log(log_file)
        reporter.log_to(log_file)


def list_files(arguments: Iterable[str]) -> list[Path]:
    """Return the files that `@list.txt`, `@list.csv:column` and `-` are read from."""
    named = [locate_list(argument[1:])[0] for argument in arguments if argument.startswith("@")]
    return [*named, *(Path("/dev/stdin") for argument in arguments if argument == "-")]


def choose_model(name: str | None) -> ModelFiles:
    """Find a model by name or path; without one, the model fetched last.

    Raises:
        ModelError: The model does not exist, none was fetched yet, or the cache is damaged.
    """
    return find_model(name or default_model())


def warn_of_embeddings(model: str, reporter: Reporter) -> None:
    """Warn where the embeddings of a model are known to be useless."""
    if (known := MODELS.get(model)) and known.warning:
        reporter.warning(f"{model}: {known.warning}")


def load_engine(model: ModelFiles, choice: Choice, reporter: Reporter) -> "Engine[Any]":
    """Load the weights of a model."""
    for note in filter(None, (choice.note, model.note)):
        reporter.note(note)
    guard = interrupts.held() if choice.engine == "mindspore" else nullcontext()  # an interrupt would crash it
    with reporter.progress(f"loading {model.name}") as progress, guard:
        return open_engine(model, choice, progress)


def precision_key(precision: str) -> tuple[str, ...]:
    """Return the part of a run's key that depends on `--precision`.

    With auto a run resumes although another machine, or what was installed since, might compute the rest in another
    precision: auto never selects int8, and the others differ by little.
    """
    return () if precision == "auto" else (precision,)


def report_failures(reasons: Iterable[str], reporter: Reporter) -> list[str]:
    """Report how many inputs failed, grouped by reason; return the reasons."""
    failures = list(reasons)
    if failures:
        counts = Counter(failures).most_common()
        reporter.note(f"failed: {'; '.join(f'{count} {reason}' for reason, count in counts)}")
    return failures
