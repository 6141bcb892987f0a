"""`coca models`, as a user runs it."""

import json
import os
import pty
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from checkpoints.stored_models import COMMIT, LOCAL, PARAMETERS, add, add_run

from cococli.catalog import MODELS
from cococli.checkpoints import cache
from cococli.cli import main

ROOT = Path(__file__).parents[2]
LIST_KEYS = {"name", "path", "size", "default", "added", "used", "problem", "mend"} | {
    *("source", "files", "dtype", "parameters", "program", "date"),
}


def on_terminal(*arguments: str, answer: str = "", interrupt: bool = False) -> tuple[list[str], int]:
    """The lines that a terminal of 80 columns shows of `coca`, and the exit code; a question is answered."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"COLUMNS": "80", "TERM": "dumb", "PYTHONPATH": str(ROOT)}
        os.execv(sys.executable, [sys.executable, "-m", "cococli", *arguments])
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 65536)
        except OSError:  # how Linux ends a terminal
            break
        if b"[y/N]" in shown and (answer or interrupt):
            os.write(terminal, answer.encode()) if answer else os.kill(child, signal.SIGINT)
            answer, interrupt = "", False
    return shown.decode().replace("\r\n", "\n").splitlines(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture
def coca_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run `coca` in this process, which is quicker than in one of its own."""

    def run(*arguments: object) -> SimpleNamespace:
        try:
            code = main.app([*map(str, arguments)], prog_name="coca", standalone_mode=False) or 0
        except Exception as error:
            code = main._report(error)
        return SimpleNamespace(**capsys.readouterr()._asdict(), code=code)

    return run


def cells(line: str) -> list[str]:
    """What stands in the columns of a table."""
    return re.split(r" {2,}", line.strip())


def break_weights(name: str) -> None:
    weights = cache.find(name).folder / "model.ckpt"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")


def test_empty_cache_names_fetch_command(coca_here) -> None:
    run = coca_here("models")
    assert run.out == ""
    assert run.err == "no model is here yet: coca fetch vit-l-14-coco (2.55 GB)\n"
    assert (coca_here("models", "--json").out, run.code) == ("[]\n", 0)


def test_list_shows_models_in_cache(coca_here, monkeypatch: pytest.MonkeyPatch) -> None:
    add("mine", LOCAL, b"x" * 3_000_000)
    (add("other", content=b"12 bytes of.") / "config.json").unlink()
    monkeypatch.setenv("COCA_MODEL", "mine")
    run = coca_here("models")
    assert [cells(line) for line in run.out.splitlines()] == [
        ["name", "size", "source", "last used"],
        ["mine", "3.0 MB", "/data/my model.bin", "never", "default"],
        ["other", cells(run.out.splitlines()[2])[1], "org/repo@0123456", "never", "damaged"],
    ]
    mend = f"coca fetch org/repo@{COMMIT}:open_clip_pytorch_model.bin --name other --force"
    assert run.err == f"warning: the model other is damaged: config.json is missing; to restore it: {mend}\n"
    mine, other = json.loads(coca_here("models", "--json").out)
    assert mine.keys() == other.keys() == LIST_KEYS
    assert (mine["default"], mine["problem"], mine["source"]["file"]) == (True, None, "/data/my model.bin")
    assert (other["default"], other["problem"], other["mend"]) == (False, "config.json is missing", mend)


def test_list_includes_runs(coca_here) -> None:
    add("mine", LOCAL, b"x")
    folder = add_run("better", 100)
    rows = [cells(line) for line in coca_here("models").out.splitlines()]
    assert rows[2] == ["run:better", "1.5 MB", "run", "never"]
    mine, better = json.loads(coca_here("models", "--json").out)
    assert mine.keys() == better.keys() == LIST_KEYS
    assert (better["name"], better["path"], better["problem"]) == ("run:better", str(folder), None)
    assert (better["source"], better["files"]) == (None, None)


def test_run_is_shown_and_removed(coca_here) -> None:
    folder = add_run("better", 100)
    assert coca_here("models", "path", "run:better").out == f"{folder}\n"
    rows = {cells(line)[0]: cells(line)[1] for line in coca_here("models", "show", "run:better").out.splitlines()}
    assert rows == {
        "name": "run:better",
        "folder": str(folder),
        "size": "1.5 MB",
        "source": "run",
        "last used": "never",
    }
    run = coca_here("models", "rm", "run:better", "--yes")
    assert (run.out, run.err, run.code) == (f"{folder}\n", "1.5 MB removed\n", 0)
    assert not folder.exists()
    run = coca_here("models", "rm", "run:better", "--yes")
    assert run.err == "error: there is no run 'better'\nhint: coca models lists them\n"
    assert run.code == 3


@pytest.mark.parametrize("arguments", [["verify", "run:better"], ["export", "run:better", "better.tar"]])
def test_run_must_be_fetched_before_export(coca_here, arguments: list[str]) -> None:
    folder = add_run("better", 100)
    run = coca_here("models", *arguments)
    command = f"coca fetch {folder}/checkpoints/100/model.ckpt --name better"
    assert run.err.splitlines() == [
        "error: run:better is a training run, not a model in the cache",
        f"hint: {command} adds its model to the cache",
    ]
    assert (run.out, run.code) == ("", 2)
    assert coca_here(*command.split()[1:]).code == 0
    assert coca_here("models", "verify", "better").out == "better: intact\n"


def test_the_default_may_come_from_the_config_file(coca_here) -> None:
    add("mine", content=b"")
    add("other", content=b"")
    Path(os.environ["COCA_CONFIG"]).write_text('model = "other"')
    assert [model["name"] for model in json.loads(coca_here("models", "--json").out) if model["default"]] == ["other"]


@pytest.mark.parametrize("arguments", [[], ["available"], ["show", "laion--a-model-of-a-long-name"]])
def test_tables_fit_a_terminal_of_80_columns(arguments: list[str]) -> None:
    add("laion--a-model-of-a-long-name", LOCAL, b"")
    lines, code = on_terminal("models", *arguments)
    assert code == 0
    assert len(lines) > 1 and max(map(len, lines)) <= 80


def test_available_shows_scores_and_local_models(coca_here) -> None:
    add("vit-b-32")
    run = coca_here("models", "available")
    rows = {cells(line)[0]: cells(line) for line in run.out.splitlines()}
    assert rows["name"] == ["name", "size", "top-1", "recall@1", "captions", "license", "here"]
    assert rows["shapes"] == ["shapes", "43.4 MB", "-", "-", "of drawn shapes", "MIT", "yes"]
    assert rows["vit-b-32"] == ["vit-b-32", "1.01 GB", "63.3", "36.2/54.6", "weak", "MIT", "yes"]
    assert rows["vit-l-14-coco"][1:] == ["2.55 GB", "72.0", "53.7/66.8", "CIDEr 125.3, B@4 35.6", "MIT", "no"]
    assert "vit-b-32-coco: its embeddings are useless" in run.err
    facts = {model["name"]: model for model in json.loads(coca_here("models", "available", "--json").out)}
    assert facts.keys() == MODELS.keys()
    assert facts["vit-l-14"]["size"] == 4 * 638_450_177
    assert facts["vit-l-14"]["sha256"]["open_clip_pytorch_model.bin"].startswith("73725652298a")
    assert (facts["vit-b-32"]["here"], facts["vit-l-14"]["here"]) == (True, False)


def test_show_prints_all_details(coca_here) -> None:
    folder = add("vit-b-32-coco")
    run = coca_here("models", "show", "vit-b-32-coco")
    rows = {cells(line)[0]: cells(line)[1] for line in run.out.splitlines()}
    assert rows["folder"] == str(folder)
    assert rows["weights"] == "0.4 million, float32"
    assert rows["source"] == f"org/repo@{COMMIT}:open_clip_pytorch_model.bin"
    assert rows["warning"].startswith("its embeddings are useless")
    facts = json.loads(coca_here("models", "show", "vit-b-32-coco", "--json").out)
    assert facts.keys() == LIST_KEYS
    assert facts["parameters"] == PARAMETERS
    assert json.loads(coca_here("models", "--json", "show", "vit-b-32-coco").out) == facts


def test_bundled_model_is_shown_but_kept(coca_here) -> None:
    rows = dict(cells(line) for line in coca_here("models", "show", "shapes").out.splitlines())
    assert (rows["name"], rows["source"], rows["license"]) == ("shapes", "the program", "MIT")
    assert Path(rows["folder"], "shapes.json").is_file()
    assert json.loads(coca_here("models", "show", "shapes", "--json").out).keys() == LIST_KEYS
    run = coca_here("models", "rm", "shapes", "--yes")
    assert run.err == "error: the model shapes comes with the program and cannot be removed\n"
    assert (run.out, run.code) == ("", 2)


@pytest.mark.parametrize("command", ["show", "rm", "verify", "path"])
def test_missing_name_is_exit_code_3(coca_here, command: str) -> None:
    add("mine", content=b"")
    run = coca_here("models", command, "mime")
    assert run.err.splitlines() == ["error: no model in the cache is called 'mime'", "hint: close: mine"]
    assert (run.out, run.code) == ("", 3)


def test_verify_names_damage_and_remedy(coca_here, coca) -> None:
    for name in ("mine", "other"):
        add(name, LOCAL, b"weights")
    assert coca_here("models", "verify").out == "mine: intact\nother: intact\n"
    break_weights("other")
    run = coca_here("models", "verify")
    assert (run.out, run.code) == ("mine: intact\n", 3)
    error, hint = run.err.splitlines()
    assert error.startswith("error: the model other is damaged: model.ckpt has the sha256 ")
    assert hint == "hint: coca fetch '/data/my model.bin' --name other --force"
    run = coca_here("models", "verify", "other", "--json")
    (told,) = json.loads(run.out)
    assert told["name"] == "other" and len(told["problems"]) == 1 and told["mend"] in hint
    assert run.code == 3
    assert coca_here("models", "verify", "mine").code == 0
    assert coca("models", "verify").returncode == 3  # of a real process, too


def test_removing_without_terminal_needs_yes(coca_here) -> None:
    add("mine", content=b"")
    add("org--repo", content=b"")
    run = coca_here("models", "rm", "mine")
    assert run.err.splitlines() == [
        "error: removing needs confirmation, but stdin is not a terminal",
        "hint: coca models rm NAME --yes",
    ]
    assert (cache.names(), run.code) == (["mine", "org--repo"], 2)
    run = coca_here("models", "rm", "mine", "missing", "--yes")
    assert (cache.names(), run.code) == (["mine", "org--repo"], 3)
    folder = cache.find("mine").folder
    run = coca_here("models", "rm", "mine", "org/repo", "mine", "--yes")
    assert run.out.splitlines() == [str(folder), str(folder.with_name("org--repo"))]
    assert re.fullmatch(r"\d\.\d kB removed\n", run.err)
    assert (cache.names(), run.code) == ([], 0)


@pytest.mark.parametrize(
    ("answer", "left", "code", "last"),
    [("y\n", [], 0, r"\d+ bytes removed|\d\.\d kB removed"), ("\n", ["mine"], 1, "nothing was removed")],
)
def test_removing_asks_for_confirmation(answer: str, left: list[str], code: int, last: str) -> None:
    add("mine", content=b"")
    lines, exit_code = on_terminal("models", "rm", "mine", answer=answer)
    assert re.fullmatch(r"remove mine \(\S+ kB\)\? \[y/N\]", lines[0])
    assert re.fullmatch(last, lines[-1])
    assert (cache.names(), exit_code) == (left, code)


def test_interrupted_confirmation_removes_nothing() -> None:
    add("mine", content=b"")
    lines, code = on_terminal("models", "rm", "mine", interrupt=True)
    assert "error: interrupted" in lines
    assert (cache.names(), code) == (["mine"], 130)


def test_prune_lists_removed_files(coca_here, home: Path) -> None:
    for name in ("one", "two"):
        left = home / "downloads" / name / "abc.incomplete"
        left.parent.mkdir(parents=True)
        left.write_bytes(bytes(1000))
    run = coca_here("models", "prune")
    assert sorted(run.out.splitlines()) == [str(home / "downloads" / name) for name in ("one", "two")]
    assert run.err == "2.0 kB removed\n"
    run = coca_here("models", "prune")
    assert (run.out, run.err) == ("", "nothing to remove\n")
    assert coca_here("models", "prune", "--json").out == "[]\n"


def test_path_prints_folders(coca_here, home: Path) -> None:
    folder = add("org--repo", content=b"")
    assert coca_here("models", "path").out == f"{home}\n"
    assert coca_here("models", "path", "org/repo").out == f"{folder}\n"
    assert json.loads(coca_here("models", "path", "--json").out) == {"path": str(home)}


def test_exported_model_is_imported_elsewhere(coca_here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("mine")
    run = coca_here("models", "export", "mine", tmp_path / "mine.tar")
    assert (run.out, run.err, run.code) == (f"{tmp_path}/mine.tar\n", "", 0)
    monkeypatch.setenv("COCA_HOME", str(tmp_path / "another"))
    run = coca_here("models", "import", tmp_path / "mine.tar")
    assert (run.out, run.err, run.code) == ("mine\n", "", 0)
    assert coca_here("models", "verify").out == "mine: intact\n"
    run = coca_here("models", "import", tmp_path / "mine.tar", "--json")
    assert json.loads(run.out) == {"name": "mine", "added": False}
    assert run.err == "an identical mine is in the cache already\n"
    assert coca_here("models", "import", tmp_path / "mine.tar", "--name", "../x").code == 2
    assert coca_here("models", "import", tmp_path / "mine.tar", "--name", "yours").out == "yours\n"
    assert cache.names() == ["mine", "yours"]


def test_names_are_completed(coca, monkeypatch: pytest.MonkeyPatch) -> None:
    (add("mine", content=b"") / "model.ckpt").unlink()  # damaged, and to be removed
    add_run("better", 1)
    monkeypatch.setenv("_COCA_COMPLETE", "complete_bash")
    for typed in ("show ", "rm "):
        monkeypatch.setenv("COMP_WORDS", f"coca models {typed}")
        monkeypatch.setenv("COMP_CWORD", "3")
        assert coca().stdout == "mine\nrun:better\n"


def test_leftovers_of_killed_commands_are_removed(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, output = tmp_path / "home", tmp_path / "output"
    monkeypatch.setenv("COCA_HOME", str(home))
    leftover = ".coca-0123456789abcdef.part"
    for folder in (home / "journals", output):
        folder.mkdir(parents=True)
        (folder / leftover).write_bytes(b"half")
    assert coca("convert", "shapes", output / "out.safetensors", "--to", "open_clip").returncode == 0
    assert not (output / leftover).exists()
    assert json.loads(coca("models", "prune", "--json").stdout) == [
        {"path": str(home / "journals" / leftover), "size": 4},
    ]
