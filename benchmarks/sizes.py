"""Sizes of the package and of environments: `make bench ONLY=sizes`. Needs the package index."""

import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from words import gigabytes

ROOT = Path(__file__).parents[1]
BUILD = "from setuptools import build_meta as b; b.build_wheel({0!r}); b.build_sdist({0!r})"


def size_of(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if not file.is_dir())


def build(work: Path) -> Path:
    """Build the wheel and the source distribution of the files that git knows, in an empty folder."""
    copy, dist = work / "sizes" / "source", work / "sizes" / "dist"
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    dist.mkdir()
    code = BUILD.format(str(dist))
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, stdout=subprocess.DEVNULL)
    return dist


def measure(work: Path, quick: bool) -> dict[str, Any]:
    shutil.rmtree(work / "sizes", ignore_errors=True)
    try:
        dist = build(work)
        [wheel], [source] = dist.glob("*.whl"), dist.glob("*.tar.gz")
        found = {
            "wheel": wheel.stat().st_size,
            "source": source.stat().st_size,
            "model": size_of(ROOT / "cococli/assets/models/shapes"),
        }
        return found if quick else found | environments(work, wheel)
    finally:
        shutil.rmtree(work / "sizes", ignore_errors=True)


def environments(work: Path, wheel: Path) -> dict[str, int]:
    """Install into empty environments with uv: on the CPU, without MindSpore, and torch alone with CUDA."""
    uv = uv_of(work)
    torch = version("torch").partition("+")[0]
    home = work / "sizes"
    # Where torch's builds for CPUs do not come from its own index, they are in a folder that pip is told of.
    links = os.environ.get("PIP_FIND_LINKS")
    source = ["--find-links", links, f"torch=={torch}+cpu"] if links else ["--torch-backend", "cpu", f"torch=={torch}"]

    def environment(name: str, *packages: object) -> tuple[Path, int]:
        print(f"  installing {name}", flush=True)
        folder = home / name
        subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, folder], check=True)
        install = [uv, "pip", "install", "--quiet", "--python", folder / "bin/python", "--compile-bytecode"]
        subprocess.run([*install, *map(str, packages)], check=True)
        return folder, size_of(folder)

    folder, cpu = environment("cpu", wheel, *source)
    found = {"cpu": cpu}
    subprocess.run([folder / "bin/coca", "demo"], check=True, stdout=subprocess.DEVNULL)  # it works
    uninstall = [uv, "pip", "uninstall", "--quiet", "--python", folder / "bin/python", "mindspore"]
    subprocess.run(uninstall, check=True)
    found["without"] = size_of(folder)
    found["mindspore"] = found["cpu"] - found["without"]
    _, torch_cpu = environment("torch-cpu", *source)
    _, torch_cuda = environment("torch-cuda", f"torch=={torch}")
    return found | {"cuda": torch_cuda - torch_cpu}


def uv_of(work: Path) -> str:
    if found := shutil.which("uv"):
        return found
    folder = work / "tools"
    if not (folder / "bin/uv").exists():
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "--target", folder, "uv"], check=True)
    return str(folder / "bin/uv")


def render(values: dict[str, Any]) -> dict[str, str]:
    found = {name: gigabytes(size) for name, size in values.items()}
    both = {"cpu.cuda": "cpu", "without.cuda": "without"}
    return found | {name: gigabytes(values[base] + values["cuda"]) for name, base in both.items()}
