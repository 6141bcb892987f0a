"""Locations of the program's files."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import platformdirs

from .errors import UsageError


def home() -> Path:
    """Return the folder of everything the program can rebuild: `COCA_HOME`, else the user's cache folder.

    Raises:
        UsageError: `COCA_HOME` is not set and the user has no home folder.
    """
    return _place("COCA_HOME", lambda: platformdirs.user_cache_path("coca", appauthor=False), "a folder")


def models_folder() -> Path:
    """Return the folder of converted models, one subfolder each."""
    return home() / "models"


def config_file() -> Path:
    """Return the file of default options, which may not exist: `COCA_CONFIG`, else config.toml in the config folder.

    Raises:
        UsageError: `COCA_CONFIG` is not set and the user has no home folder.
    """
    return _place(
        "COCA_CONFIG", lambda: platformdirs.user_config_path("coca", appauthor=False) / "config.toml", "a file"
    )


def provide_home() -> None:
    """Make the cache folder the home folder of a user who has none, as in `docker run --user 12345`.

    Some libraries cannot be imported without one.
    """
    with suppress(UsageError):
        if os.path.expanduser("~") == "~":  # noqa: PTH111 (pathlib raises)
            os.environ["HOME"] = str(home().absolute())


def debugging() -> bool:
    """Return whether errors show their traceback (`COCA_DEBUG=1`)."""
    return os.environ.get("COCA_DEBUG", "") not in ("", "0")


def _place(variable: str, default: Callable[[], Path], kind: str) -> Path:
    """Return the path that an environment variable holds, or else a default below the user's home folder."""
    given = os.environ.get(variable)
    try:
        return Path(given).expanduser() if given else default()
    except RuntimeError:  # HOME is not set and the user is not in /etc/passwd, or there is no such user
        problem = f"the home folder in {variable}={given} is unknown" if given else "you have no home folder"
        raise UsageError(problem, f"set {variable} to the full path of {kind}") from None
