"""The man page, which is generated from the declarations of the command line."""

import shutil
import subprocess
from pathlib import Path

import pytest

from cococli.cli.manual import _escape, man_page, pages

PAGE = Path(__file__).parents[2] / "man" / "coca.1"


def test_man_page_is_up_to_date() -> None:
    """When this fails: `make completions`."""
    assert man_page() == PAGE.read_text()


def test_manual_has_every_command_and_flag() -> None:
    found = {page.command: page for page in pages()}
    assert {"coca", "coca caption", "coca models", "coca models rm"} <= found.keys()
    flags = [flags for rows in found["coca caption"].panels.values() for flags, _ in rows]
    assert "-m, --model NAME|PATH" in flags
    assert all(page.examples and page.usage.startswith(name) for name, page in found.items())


def test_man_page_is_formatted_without_warnings() -> None:
    if not shutil.which("groff"):
        pytest.skip("groff is not installed")
    run = subprocess.run(["groff", "-man", "-Tutf8", "-ww", PAGE], capture_output=True, text=True)
    assert (run.stderr, run.returncode) == ("", 0)
    assert "--num-frames" in run.stdout


def test_control_lines_are_escaped() -> None:
    assert _escape(".TH -x\\y") == "\\&.TH \\-x\\ey"
