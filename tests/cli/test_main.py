"""What becomes of errors, and the exit codes."""

import subprocess
import sys
from pathlib import Path

import pytest

from cococli import __version__
from cococli.cli import interrupts


def run_with(body: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run the command line with this in place of the commands."""
    code = f"from cococli.cli import main\ndef app(**settings):\n    {body}\nmain.app = app\nmain.run()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def test_version_is_the_packages(coca) -> None:
    run = coca("--version")
    assert (run.stdout, run.stderr, run.returncode) == (f"coca {__version__}\n", "", 0)


def test_no_command_shows_the_help(coca) -> None:
    run = coca()
    assert "caption" in run.stdout and "convert" in run.stdout
    assert (run.stderr, run.returncode) == ("", 2)


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (["capture"], "No such command 'capture'", "coca --help"),
        (["caption", "--beans", "3", "a.mp4"], "No such option: --beans", "coca caption --help"),
        (["caption", "--seed", "x", "a.mp4"], "Invalid value for '--seed'", "coca caption --help"),
    ],
)
def test_what_cannot_be_parsed_is_two_lines_and_exit_code_2(coca, arguments, error, hint) -> None:
    run = coca(*arguments)
    first, second = run.stderr.splitlines()
    assert first.startswith(f"error: {error}")
    assert second == f"hint: {hint}"
    assert (run.stdout, run.returncode) == ("", 2)


def test_a_bug_is_one_line_and_how_to_see_more() -> None:
    run = run_with("1 / 0")
    assert run.stderr.splitlines() == [
        "error: unexpected ZeroDivisionError: division by zero",
        "hint: this is a bug in coca; COCA_DEBUG=1 shows where",
    ]
    assert run.returncode == 1


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COCA_DEBUG", "1")
    run = run_with("1 / 0")
    assert run.stderr.startswith("Traceback (most recent call last):")
    assert run.stderr.endswith("error: unexpected ZeroDivisionError: division by zero\n")


def test_a_library_that_breaks_because_it_was_interrupted_is_an_interrupt() -> None:
    body = """
    import signal
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("initialization failed")"""
    run = run_with(body)
    assert run.stderr.splitlines()[0] == "error: interrupted"
    assert run.returncode == 130


def test_an_interrupt_waits_for_the_end_of_a_held_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_caught", [])
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        interrupts._on_signal(2, None)
        done.append("the rest of the block")
    assert done
    assert interrupts.came()


@pytest.mark.parametrize("stream", [1, 2])
def test_what_a_library_prints_is_shown_only_when_debugging(stream: int, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f'import os; os.write({stream}, b"noise\\n"); main.console.result("result"); main.console.note("note")'
    run = run_with(code)
    assert (run.stdout, run.stderr) == ("result\n", "note\n")
    monkeypatch.setenv("COCA_DEBUG", "1")
    run = run_with(code)
    assert (run.stdout, run.stderr) == ("result\n", "noise\nnote\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    code = 'from cococli.cli import main; main.app = lambda **s: main.console.note("n") or main.console.result("r")'
    run = subprocess.run(["sh", "-c", f'{sys.executable} -c "$0; main.run()" {closed}', code])
    assert run.returncode == 0


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    body = 'any(main.console.result("x" * 99) for _ in range(99999))'
    code = f"from cococli.cli import main; main.app = lambda **s: {body}; main.run()"
    run = subprocess.run(["sh", "-c", f'{sys.executable} -c "$0" | head -1', code], capture_output=True, text=True)
    assert run.stdout == "x" * 99 + "\n"
    assert run.stderr == ""


def test_a_full_disk_under_stdout_is_one_clear_line() -> None:
    with Path("/dev/full").open("w") as full:
        code = 'from cococli.cli import main; main.app = lambda **s: main.console.result("r"); main.run()'
        run = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.stderr.splitlines() == [
        "error: cannot write to stdout: No space left on device",
        "hint: what was written so far is kept",
    ]
    assert run.returncode == 1
