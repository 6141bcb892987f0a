"""Where the program keeps its files."""

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """Folder of everything the program may rebuild: `COCA_HOME`, else the user's cache folder."""
    return Path(os.environ.get("COCA_HOME") or platformdirs.user_cache_dir("coca", appauthor=False)).expanduser()


def models_folder() -> Path:
    """Folder of converted models, one sub-folder each."""
    return home() / "models"


def config_file() -> Path:
    """The user's defaults for flags: `COCA_CONFIG`, else config.toml in the user's config folder. It may not exist."""
    folder = Path(platformdirs.user_config_dir("coca", appauthor=False))
    return Path(os.environ.get("COCA_CONFIG") or folder / "config.toml").expanduser()


def debugging() -> bool:
    """Whether errors show their traceback (`COCA_DEBUG=1`)."""
    return os.environ.get("COCA_DEBUG", "") not in ("", "0")
