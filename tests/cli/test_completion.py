"""Completion in real shells, and the scripts that come with the program."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints.stored_models import add, add_run
from typer import _completion_shared

from cococli.cli.completion import SCRIPTS
from cococli.cli.main import app
from cococli.errors import UsageError

ROOT = Path(__file__).parents[2]


@pytest.fixture
def shell_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that has `coca` on the path and one video."""
    command = tmp_path / "bin/coca"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m cococli "$@"\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent), prepend=":")
    (tmp_path / "video.mp4").touch()
    return tmp_path


def ask(shell: str, code: str, folder: Path) -> list[str]:
    """Return the lines that a shell prints."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    run = subprocess.run([shell, "-c", code], cwd=folder, capture_output=True, text=True, timeout=900)
    assert run.stderr == ""
    return run.stdout.split("\n")[:-1]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_scripts_are_up_to_date(coca, shell: str) -> None:
    """When this fails: `make completions`."""
    run = coca("--show-completion", shell)
    assert (run.stdout, run.stderr) == ((ROOT / "completions" / SCRIPTS[shell]).read_text(), "")


def test_unknown_shell_must_be_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No parent of the process is a shell in a container, or after the shell ended."""
    monkeypatch.setattr(_completion_shared, "_get_shell_name", lambda: None)
    with pytest.raises(UsageError, match="cannot tell which shell you use"):
        app(["--show-completion"], standalone_mode=False)
    app(["--show-completion", "fish"], standalone_mode=False)
    assert capsys.readouterr().out.startswith("complete --command coca")


def bash(words: str, folder: Path) -> list[str]:
    code = f"""source {ROOT}/completions/coca.bash
    COMP_WORDS=(coca {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _coca_completion coca
    printf '%s\\n' "${{COMPREPLY[@]}}" """
    return ask("bash", code, folder)


def test_bash_completes_commands_options_and_models(shell_folder: Path) -> None:
    add("mine", content=b"")
    assert bash("c", shell_folder) == ["caption", "convert", "config"]
    assert bash("caption --num", shell_folder) == ["--num-frames"]
    assert bash("caption --frames ''", shell_folder) == ["middle", "multi"]
    assert bash("caption --model ''", shell_folder) == ["shapes", "mine"]
    add_run("better", 1)
    assert bash("caption --model r", shell_folder) == ["run:better"]
    assert "vit-l-14" in bash("convert a.bin --config vit", shell_folder)
    assert bash("caption --model = sh", shell_folder) == ["shapes"]  # bash splits words at =
    assert bash("embed --segments ''", shell_folder) == ["none", "scene"]
    assert bash("caption --device c", shell_folder) == ["cpu", "cuda"]
    assert bash("evaluate --templates s", shell_folder) == ["simple"]


def test_bash_leaves_paths_to_itself(shell_folder: Path) -> None:
    assert bash("caption vi", shell_folder) == [""]  # none of ours, and then `-o default` completes files
    assert "complete -o default -F _coca_completion coca" in (ROOT / "completions/coca.bash").read_text()


def test_fish_completes_choices_models_and_paths(shell_folder: Path) -> None:
    source = f"source {ROOT}/completions/coca.fish; complete -C"
    assert ask("fish", f"{source} 'coca caption --frames '", shell_folder) == ["middle", "multi"]
    assert ask("fish", f"{source} 'coca caption --model '", shell_folder) == ["shapes"]
    assert ask("fish", f"{source} 'coca caption --model=sh'", shell_folder) == ["--model=shapes"]
    assert "video.mp4" in ask("fish", f"{source} 'coca caption vi'", shell_folder)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("caption --frames mi", "caption --frames middle"),
        ("caption --model s", "caption --model shapes"),
        ("caption --model=sh", "caption --model=shapes"),
        ("caption --device m", "caption --device mps"),
        ("caption --segments s", "caption --segments scene"),
        ("caption --segments=s", "caption --segments=scene"),
        ("caption --num", "caption --num-frames"),
        ("caption --model r", "caption --model run:"),
        ("capt", "caption"),
        ("caption vi", "caption video.mp4"),
    ],
)
def test_zsh_completes_at_first_tab(shell_folder: Path, typed: str, shown: str) -> None:
    complete_in_zsh(shell_folder, typed, shown, sourced=False)


def test_zsh_completes_after_sourcing_script(shell_folder: Path) -> None:
    complete_in_zsh(shell_folder, "caption --model=sh", "caption --model=shapes", sourced=True)


def complete_in_zsh(shell_folder: Path, typed: str, shown: str, sourced: bool) -> None:
    add_run("better", 1)
    script = ROOT / "completions/coca.zsh"
    (shell_folder / "functions").mkdir()
    shutil.copy(script, shell_folder / "functions/_coca")
    setup = "PS1='ready '; autoload -U compinit; "
    setup += "compinit -u -D" if sourced else "fpath=(~+/functions $fpath); compinit -u -D"
    setup += f"; source {script}" if sourced else ""
    (shell_folder / ".zshrc").write_text(setup)
    # An interactive zsh on a terminal of its own: type, press TAB, and wait for what should appear.
    code = f"""
    zmodload zsh/zpty
    wait_for() {{
        for i in {{1..200}}; do
            while zpty -r -t z chunk; do screen+=$chunk; done
            [[ $screen == *"$1"* ]] && return
            sleep 0.1
        done
    }}
    export TERM=dumb ZDOTDIR=$PWD
    zpty -b z zsh -d -i
    wait_for ready
    zpty -w -n z "coca {typed}"$'\t'
    wait_for "{shown}"
    print -r -- ${{(V)screen}}
    zpty -d z"""
    assert f"coca {shown}" in "".join(ask("zsh", code, shell_folder))


def test_zsh_completes_at_every_tab(shell_folder: Path) -> None:
    """The autoloaded function is replaced by the one that its file defines."""
    functions = shell_folder / "functions"
    functions.mkdir()
    shutil.copy(ROOT / "completions/coca.zsh", functions / "_coca")
    command = shell_folder / "bin/coca"
    command.write_text('#!/bin/sh\necho asked >>"$PWD/asked"\n')
    code = f"fpath=({functions} $fpath); autoload -Uz compinit; compinit -D -u; (( $+_comps[coca] )) && echo known"
    code += "; words=(coca cap); CURRENT=2; $_comps[coca]; $_comps[coca]; $_comps[coca]"
    assert ask("zsh", code, shell_folder) == ["known"]
    assert (shell_folder / "asked").read_text().split() == ["asked"] * 3


def test_scripts_are_installed_where_shells_look(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    places = {"bash": ".bash_completions/coca.sh", "zsh": ".zfunc/_coca", "fish": ".config/fish/completions/coca.fish"}
    for shell, place in places.items():
        run = coca("--install-completion", shell)
        assert run.stdout == f"installed completion for {shell} in {tmp_path / place}\n"
        assert (tmp_path / place).read_text().strip() == (ROOT / "completions" / SCRIPTS[shell]).read_text().strip()
