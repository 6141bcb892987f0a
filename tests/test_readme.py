"""The commands and Python of the README and the documentation, as they are written there."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import cococli.cli.main
from cococli.catalog import MODELS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def commands(page: str) -> Iterator[list[str]]:
    """Yield the commands of console blocks, word by word; those that are chained or piped one by one."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    for line in lines:
        if line.startswith("$ "):
            words: list[str] = []
            for word in [*shlex.split(line[2:], comments=True), ";"]:
                if word not in (";", "&&", "|"):
                    words.append(word)
                else:
                    yield words
                    words = []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example clips, where the default model is the bundled one."""
    for name in ("examples", "videos"):
        shutil.copytree(ROOT / "examples", tmp_path / name, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    for name, value in (("MODEL", "shapes"), ("ENGINE", "torch"), ("PRECISION", "fp32")):
        monkeypatch.setenv(f"COCA_{name}", value)
    return tmp_path


def test_readme_commands_run(folder: Path) -> None:
    offline = [words for words in commands(README) if words[0] == "coca" and words[1] not in ("demo", "fetch")]
    assert [words[1] for words in offline] == ["caption", "search"]
    for words in offline:
        run = subprocess.run([sys.executable, "-m", "cococli", *words[1:]], text=True, capture_output=True, timeout=900)
        assert run.returncode == 0, run.stderr
    assert len((folder / "captions.jsonl").read_text().splitlines()) == 5
    assert len(run.stdout.splitlines()) == 6  # a heading and the clips


@pytest.mark.parametrize("page", ["README.md", pytest.param("docs/python.md", marks=pytest.mark.slow)])
def test_documented_python_runs(page: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks((ROOT / page).read_text(), "python"):
        exec(block, {})
        printed = capsys.readouterr().out
        assert all(comment in printed for comment in re.findall(r"print\(.*  # (.*)", block))


def test_readme_links_lead_to_files() -> None:
    targets = [target.partition("#")[0] for target in re.findall(r"\]\((?!http)(.*?)\)", README)]
    assert targets and all((ROOT / target).is_file() for target in targets)


def test_readme_models_can_be_fetched() -> None:
    fetched = [words[2] for words in commands(README) if words[:2] == ["coca", "fetch"]]
    assert fetched and all(name in MODELS for name in fetched)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_documented_commands_parse(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for words in commands(page.read_text()):
        if words[0] == "coca":
            parse(words[1:])
        elif words[0] == "make":
            assert set(words[1:]) <= set(targets)
        elif "install" in words:
            assert all(set(names.split(",")) <= extras.keys() for names in re.findall(r"\[(.*?)\]", " ".join(words)))


def parse(words: list[str]) -> None:
    """Parse the words of a command without running it; wrong ones raise."""
    root: Any = typer.main.get_command(cococli.cli.main.app)
    for command in walk(root):
        command.callback = None
    root(words, standalone_mode=False)


def walk(command: Any) -> Iterator[Any]:
    yield command
    for inner in getattr(command, "commands", {}).values():
        yield from walk(inner)


def test_kuberay_job_is_complete() -> None:
    job = yaml.safe_load((ROOT / "examples/cluster/rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:2] == ["coca", "caption"] and "--ray" in words
    parse(words[1:])
    cluster = job["spec"]["rayClusterSpec"]
    head, workers = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert [group["maxReplicas"] for group in workers] == [16, 16]
    assert f"1:{workers[0]['maxReplicas']}" in words
    for group in (head, *workers):
        (container,) = group["template"]["spec"]["containers"]
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data"}
        assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
    constraints = (ROOT / "constraints.txt").read_text()
    assert f"ray=={cluster['rayVersion']}" in constraints


def test_slurm_script_is_valid_bash() -> None:
    subprocess.run(["bash", "-n", ROOT / "examples/cluster/slurm.sh"], check=True)
