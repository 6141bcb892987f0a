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


def debugging() -> bool:
    """Whether errors show their traceback (`COCA_DEBUG=1`)."""
    return os.environ.get("COCA_DEBUG", "") not in ("", "0")
