"""Shared parts of embed and search. They disappear once the library runs their requests, as for caption."""

from collections.abc import Sequence
from pathlib import Path

import typer

from .. import console
from ..errors import CocaError
from ..overwrite import check_log
from .command import warn_of_flags


def tell_as_wanted(as_json: bool, log_file: Path | None) -> None:
    """Heed --json and --log-file."""
    if as_json:
        console.speak_json()
    if log_file:
        check_log(log_file)
        console.log_to(log_file)


def warn_before_start(context: typer.Context, problems: Sequence[CocaError] = ()) -> None:
    """Warn of arguments that stand for no file, and of flags without effect."""
    warn_of_flags(context)
    for problem in problems:
        console.warning(f"{problem.message}; {problem.hint}")
