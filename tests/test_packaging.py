"""Requirements on every platform that is supported, and the program without those that some lack."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def required(system: str, machine: str, python: str) -> set[str]:
    """What pip installs there."""
    environment = {"sys_platform": system, "platform_machine": machine, "python_version": python, "extra": ""}
    return {
        requirement.name
        for requirement in map(Requirement, PROJECT["dependencies"])
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize(
    ("system", "machine", "decord", "mindspore"),
    [
        ("linux", "x86_64", True, True),
        ("linux", "aarch64", False, True),
        ("darwin", "arm64", False, True),
        ("win32", "AMD64", True, True),
        ("win32", "ARM64", False, False),
    ],
)
def test_packages_are_required_where_they_have_wheels(
    system: str, machine: str, decord: bool, mindspore: bool, python: str
) -> None:
    names = required(system, machine, python)
    assert ("decord" in names) is decord
    assert ("mindspore" in names) is (mindspore and python != "3.13")
    assert {"torch", "av", "numpy"} <= names


def test_one_numpy_is_required_for_each_python() -> None:
    numpys = [Requirement(line) for line in PROJECT["dependencies"] if line.startswith("numpy")]
    for python, fits in (("3.11", "1.26.4"), ("3.12", "1.26.4"), ("3.13", "2.4.6")):
        [only] = [one for one in numpys if one.marker and one.marker.evaluate({"python_version": python})]
        assert fits in only.specifier


def test_every_import_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for name, lines in extras.items() if name != "dev" for line in lines)]
    declared = {canonicalize_name(Requirement(line).name) for line in lines}
    modules = {name for path in (ROOT / "cococli").rglob("*.py") for name in imported(path)} - sys.stdlib_module_names
    modules -= {"triton"}  # comes with torch where it can be used
    distributions = packages_distributions()
    providers = {name: {canonicalize_name(one) for one in distributions.get(name, [name])} for name in modules}
    assert {name for name, packages in providers.items() if not packages & declared} == set()


def imported(path: Path) -> Iterator[str]:
    """Top-level packages that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def without(package: str, folder: Path, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run `coca` in a Python that has all packages but one."""
    for entry in {Path(place) for place in sys.path if "site-packages" in place}:
        for file in entry.iterdir():
            if not file.name.lower().startswith(package) and not (folder / file.name).exists():
                (folder / file.name).symlink_to(file)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)])}
    command = [getattr(sys, "_base_executable", sys.executable), "-S", "-m", "cococli", *map(str, arguments)]
    return subprocess.run(command, text=True, timeout=120, capture_output=True, env=environment, cwd=ROOT)


def test_only_what_needs_mindspore_fails_without_it(tmp_path: Path) -> None:
    def run(*arguments: Any) -> "subprocess.CompletedProcess[str]":
        return without("mindspore", tmp_path, *arguments)

    captioned = run("caption", "examples/moves.mp4", "--model", "shapes", "--quiet", "--engine", "torch")
    assert (captioned.stderr, captioned.returncode) == ("", 0)
    assert "a large yellow circle" in captioned.stdout
    assert run("models").returncode == 0
    for arguments in (
        ["finetune", "--data", "examples", "--engine", "mindspore"],
        ["caption", "examples/", "--engine", "mindspore"],
    ):
        refused = run(*arguments)
        error, hint = refused.stderr.splitlines()
        assert error.endswith(" needs MindSpore, which is not installed")
        assert hint == "hint: pip install mindspore" or sys.version_info >= (3, 13)
        assert (refused.stdout, refused.returncode) == ("", 2)


def test_videos_are_read_without_decord(tmp_path: Path) -> None:
    run = without("decord", tmp_path, "caption", "examples/moves.mp4", "--model", "shapes", "-q", "--engine", "torch")
    assert (run.stderr, run.returncode) == ("", 0)
    assert "a large yellow circle" in run.stdout


def test_doctor_names_missing_extras(tmp_path: Path) -> None:
    run = without("openvino", tmp_path, "doctor", "--json")
    checks = {(check["section"], check["name"]): check for check in json.loads(run.stdout)["checks"]}
    for section in ("engines", "extras"):
        check = checks[section, "openvino"]
        assert (check["value"], check["status"]) == ("not installed", "missing")
        assert check["fix"] == "pip install 'cococli[openvino]'"
    assert "--engine torch" in checks["engines", "auto"]["value"]
    assert run.returncode == 0


def test_a_missing_package_is_named_with_the_command(tmp_path: Path) -> None:
    run = without("torch", tmp_path, "caption", "examples/moves.mp4", "--model", "shapes", "--engine", "torch", "-q")
    assert run.stderr.splitlines() == [
        "error: this needs torch, which is not installed",
        "hint: pip install torch",
    ]
    assert (run.stdout, run.returncode) == ("", 1)
