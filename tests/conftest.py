"""Every test has a cache folder and a config file of its own."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `COCA_HOME`, no config file, and no model or debugging chosen by whoever runs the tests."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("COCA_HOME", str(folder))
    monkeypatch.setenv("COCA_CONFIG", str(tmp_path_factory.mktemp("config") / "config.toml"))
    for name in ("COCA_MODEL", "COCA_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return folder
