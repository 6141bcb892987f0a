"""Requirements on every platform that is supported, and the program without those that some lack."""

import ast
import email
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import cococli

ROOT = Path(__file__).parents[1]
URL = "https://git.example/me/coca"
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
    names = {"umap": "umap-learn"}  # where a package that the tests do without has another name than its module
    providers = {
        name: {canonicalize_name(one) for one in distributions.get(name, [names.get(name, name)])} for name in modules
    }
    assert {name for name, packages in providers.items() if not packages & declared} == set()


def imported(path: Path) -> Iterator[str]:
    """Top-level packages that a module imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel and the source distribution, as a clone builds them for a repository."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone")
    clone, dist = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in tracked(ROOT):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    code = f"from setuptools import build_meta as b; b.build_sdist({str(dist)!r}); b.build_wheel({str(dist)!r})"
    environment = os.environ | {"COCA_URL": URL}
    subprocess.run([sys.executable, "-c", code], cwd=clone, env=environment, check=True, stdout=subprocess.DEVNULL)
    return dist


def tracked(folder: Path) -> list[str]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in listed if (folder / name).exists()]


def wheel(built: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(next(built.glob("*.whl")))


def test_source_distribution_has_every_file(built: Path) -> None:
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        files = {name.partition("/")[2] for name in archive.getnames()}
    assert {*tracked(ROOT)} - {".gitignore"} <= files
    assert not [name for name in files if name.endswith(".pyc")]


def test_wheel_has_package_clips_licenses_and_manual(built: Path) -> None:
    files = set(wheel(built).namelist())
    assert {name for name in tracked(ROOT) if name.startswith("cococli/")} <= files
    assert {"licenses/LICENSE", "share/man/man1/coca.1"} <= {name.split("/", 1)[1].split("data/")[-1] for name in files}
    assert not [name for name in files if name.startswith(("tests/", "docs/", "setup"))]


def test_metadata_has_one_version_and_absolute_links(built: Path) -> None:
    [name] = (name for name in wheel(built).namelist() if name.endswith("/METADATA"))
    metadata = email.message_from_bytes(wheel(built).read(name))
    assert metadata["Version"] == cococli.__version__
    text = metadata.get_payload()
    assert "<!--" not in text
    targets = re.findall(r"\]\((.*?)\)", text)
    assert f"{URL}/raw/v{cococli.__version__}/docs/images/demo.svg" in targets
    assert f"{URL}/blob/v{cococli.__version__}/docs/captions.md" in targets
    assert all(target.startswith("https://") for target in [*targets, *(
        line.partition(", ")[2] for line in metadata.get_all("Project-URL"))])  # fmt: skip
    assert metadata["License-Expression"] == "MIT" and metadata["Keywords"]
    supported = {line.rpartition(" ")[2] for line in metadata.get_all("Classifier") if "Python :: 3." in line}
    assert supported == {python for python in ("3.11", "3.12", "3.13", "3.14") if python in SpecifierSet(
        metadata["Requires-Python"])}  # fmt: skip


def test_version_is_written_in_one_place() -> None:
    """The man page is generated, the changelog a history."""
    pages = [
        path for path in tracked(ROOT) if path.endswith((".toml", ".cff", ".yml", ".py", "Makefile", "Dockerfile"))
    ]
    assigned = re.compile(r"^\s*(version|__version__)\s*[:=]\s*[\"']?\d", re.MULTILINE)
    found = [path for path in pages if not path.startswith("tests/") and assigned.search((ROOT / path).read_text())]
    assert found == ["cococli/__init__.py"]


def test_readme_has_no_dead_links_without_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COCA_URL", raising=False)
    arguments: dict[str, Any] = {}
    monkeypatch.setattr("setuptools.setup", lambda **given: arguments.update(given))
    runpy.run_path(str(ROOT / "setup.py"))
    targets = re.findall(r"\]\((.*?)\)", arguments["long_description"])
    assert targets and all(target.startswith("https://") for target in targets)
    assert "Captions and subtitles" in arguments["long_description"] and arguments["project_urls"] == {}


def test_licenses_of_bundled_files_are_named() -> None:
    text = (ROOT / "LICENSE").read_text()
    own = ("cococli/assets/models/shapes/", "cococli/assets/examples/", "cococli/report/assets/")
    files = [name for name in tracked(ROOT) if name.startswith("cococli/") and not name.endswith((".py", "py.typed"))]
    assert [name for name in files if not name.startswith(own) and Path(name).parent.as_posix() not in text
            and name not in text] == []  # fmt: skip
    assert all(folder.rstrip("/") in text for folder in own)


def test_docker_context_has_what_the_build_needs(tmp_path: Path) -> None:
    kept = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"]
    for name in [name for entry in kept for path in ROOT.glob(entry) for name in files_below(path)]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    code = "from setuptools import build_meta as b; b.build_wheel('dist')"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    files = {name.split("/", 1)[1] for name in wheel(tmp_path / "dist").namelist()}
    assert {"__main__.py", "assets/models/shapes/shapes.ckpt.xz", "data/share/man/man1/coca.1"} <= files
    copied = re.findall(r"^COPY (?!--from)(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert copied == ["."]


def files_below(path: Path) -> list[str]:
    files = [path] if path.is_file() else path.rglob("*")
    return [str(file.relative_to(ROOT)) for file in files if file.is_file() and "__pycache__" not in file.parts]


def test_workflows_run_what_the_makefile_has() -> None:
    for path in (ROOT / ".github/workflows").glob("*.yml"):
        jobs = yaml.safe_load(path.read_text())["jobs"]
        runs = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        targets = [run.split()[1] for run in runs if run.startswith("make ")]
        assert any(".ci/run" in run for run in runs) or targets
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text() for target in targets)
    assert {system for system in ("ubuntu", "macos", "windows") if f"{system}-latest" in
            (ROOT / ".github/workflows/ci.yml").read_text()} == {"ubuntu", "macos", "windows"}  # fmt: skip


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
