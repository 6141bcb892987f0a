"""Errors, interrupts and exit codes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli.fork_server import COMMAND

from cococli import __version__, interrupts


def run_with(body: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run the command line with this code in place of the commands."""
    code = f"from cococli.cli import main\ndef app(**settings):\n    {body}\nmain.app = app\nmain.run()"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options)


def test_version_matches_package(coca) -> None:
    run = coca("--version")
    assert (run.stdout, run.stderr, run.returncode) == (f"coca {__version__}\n", "", 0)


@pytest.mark.parametrize("arguments", [["models", "available"], ["capture"], ["caption", "missing.mp4"]], ids=" ".join)
def test_forked_commands_act_as_fresh_ones(coca, arguments: list[str], tmp_path: Path) -> None:
    fresh = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert vars(coca(*arguments, cwd=tmp_path)) == vars(fresh)


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
def test_usage_errors_are_two_lines(coca, arguments, error, hint) -> None:
    run = coca(*arguments)
    first, second = run.stderr.splitlines()
    assert first.startswith(f"error: {error}")
    assert second == f"hint: {hint}"
    assert (run.stdout, run.returncode) == ("", 2)


def test_unexpected_error_is_one_line_with_hint() -> None:
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


def test_error_after_interrupt_is_an_interrupt() -> None:
    body = """
    import signal
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        raise ImportError("initialization failed")"""
    run = run_with(body)
    assert run.stderr.splitlines()[0] == "error: interrupted"
    assert run.returncode == 130


def test_held_block_delays_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_received", [])
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.held():
        interrupts._on_signal(2, None)
        done.append("the rest of the block")
    assert done
    assert interrupts.came()


@pytest.mark.parametrize("stream", [1, 2])
def test_library_output_is_shown_only_when_debugging(stream: int, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f'import os; os.write({stream}, b"noise\\n"); main.console.result("result"); main.console.note("note")'
    run = run_with(code)
    assert (run.stdout, run.stderr) == ("result\n", "note\n")
    monkeypatch.setenv("COCA_DEBUG", "1")
    run = run_with(code)
    assert (run.stdout, run.stderr) == ("result\n", "noise\nnote\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_streams_are_accepted(closed: str) -> None:
    code = 'from cococli.cli import main; main.app = lambda **s: main.console.note("n") or main.console.result("r")'
    run = subprocess.run(["sh", "-c", f'{sys.executable} -c "$0; main.run()" {closed}', code])
    assert run.returncode == 0


def test_closed_pipe_ends_command_quietly() -> None:
    body = 'any(main.console.result("x" * 99) for _ in range(99999))'
    code = f"from cococli.cli import main; main.app = lambda **s: {body}; main.run()"
    run = subprocess.run(["sh", "-c", f'{sys.executable} -c "$0" | head -1', code], capture_output=True, text=True)
    assert run.stdout == "x" * 99 + "\n"
    assert run.stderr == ""


def test_full_disk_is_one_clear_error() -> None:
    with Path("/dev/full").open("w") as full:
        code = 'from cococli.cli import main; main.app = lambda **s: main.console.result("r"); main.run()'
        run = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert run.stderr.splitlines() == [
        "error: cannot write to stdout: No space left on device",
        "hint: what was written so far is kept",
    ]
    assert run.returncode == 1


@pytest.mark.parametrize("arguments", ["--help", "caption --help", "models available", "config --all"])
def test_full_disk_fails_every_command(coca, arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        run = coca(*arguments.split(), capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert run.stderr.splitlines()[0] == "error: cannot write to stdout: No space left on device"
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 2)


@pytest.mark.parametrize(("arguments", "code"), [("models available", 0), ("caption --help", 0), ("capture", 2)])
@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-", "2> >(:)"])
def test_lost_messages_keep_exit_code(arguments: str, code: int, stderr: str) -> None:
    command = f"{sys.executable} -m cococli {arguments} {stderr}"
    run = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, text=True)
    assert run.returncode == code
    assert bool(run.stdout) == (code == 0)


def test_log_records_failure_of_stderr(tmp_path: Path) -> None:
    log = f"from pathlib import Path; main.console.log_to(Path({str(tmp_path / 'log')!r}))"
    with Path("/dev/full").open("w") as full:
        code = f"{log}; main.console.note('one'); main.console.note('two')"
        body = f"from cococli.cli import main; main.app = lambda **s: exec({code!r}); main.run()"
        assert subprocess.run([sys.executable, "-c", body], stderr=full).returncode == 0
    lines = [line.split(" ", 2)[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert lines == ["one", "warning: cannot write to stderr: No space left on device", "two"]


BY_NOBODY = ["unshare", "--user", "--map-user=12345"]  # a user without an entry in /etc/passwd


@pytest.mark.skipif(
    subprocess.run([*BY_NOBODY, "true"], capture_output=True).returncode != 0, reason="needs user namespaces"
)
def test_user_without_home_needs_only_coca_home(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(*arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        command = [*BY_NOBODY, sys.executable, "-m", "cococli", *arguments]
        return subprocess.run(command, env=environment | variables, capture_output=True, text=True)

    assert run("models", "path", COCA_HOME="/cache").stdout == "/cache\n"
    assert run("config", "--path", COCA_HOME="/cache").returncode == 0
    for arguments in ("--version", "finetune --help", "--show-completion bash"):
        assert (run(*arguments.split()).returncode, run(*arguments.split()).stderr) == (0, "")
    refused = run("models")
    assert refused.stderr.splitlines() == [
        "error: you have no home folder",
        "hint: set COCA_HOME to the full path of a folder",
    ]
    assert refused.returncode == 2
    unknown = run("models", COCA_HOME="~nobody-of-this-name/cache")
    assert unknown.stderr.splitlines()[0] == (
        "error: the home folder in COCA_HOME=~nobody-of-this-name/cache is unknown"
    )


INTERRUPTING = """
import os, signal, sys, types
class Finder:
    def find_spec(name, path=None, target=None):
        if name == MODULE:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder)
from cococli.__main__ import run
run()
"""


@pytest.mark.parametrize(
    "module",
    ["cococli.cli", "typer", "cococli.cli.config", "cococli.captioning.outputs", "numpy", "rich.console"],
)
def test_interrupt_while_importing_prints_no_traceback(module: str, tmp_path: Path) -> None:
    code = INTERRUPTING.replace("MODULE", repr(module))
    command = [sys.executable, "-c", code, "caption", str(tmp_path / "missing.mp4")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode in (-signal.SIGINT, 130)
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGHUP, 129)])
def test_fatal_signals_unwind(number: int, code: int) -> None:
    body = f"""
    import signal
    try:
        signal.raise_signal({int(number)})
    finally:
        main.console.result("cleaned up")"""
    run = run_with(body, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # nohup ignores SIGHUP
    assert run.stdout == "cleaned up\n"
    assert run.stderr.splitlines()[0] == "error: interrupted"
    assert run.returncode == code


def test_nohup_is_respected() -> None:
    body = "import signal; signal.raise_signal(signal.SIGHUP); main.console.result('done')"
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\nfrom cococli.cli import main\n"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}main.app = lambda **s: exec({body!r}, globals())\nmain.run()"],
        capture_output=True,
        text=True,
    )
    assert (run.stdout, run.returncode) == ("done\n", 0)


def test_interrupt_in_destructor_is_quiet() -> None:
    body = """
    import signal
    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)
    Interrupted()"""
    assert run_with(body).stderr == ""
